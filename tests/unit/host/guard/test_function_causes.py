"""Each cause of the verdict on one function, brought about by code: the rows of the table as the walk fills them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pmuconf.host.guard.cases import FUNCTION as ROWS
from pmuconf.host.guard.events import Obstacle
from pmuconf.host.guard.paths import walk
from pmuconf.host.guard.verdict import judge
from pmuconf.host.names import FUNCTION
from pmuconf.hostfacts import Verdict
from tests.unit.host.guard.assembled import CALLEE, OFFSETS, assemble, verdict_on

PMU_CALL = "call __SCT__kvm_x86_pmu_isr"
STUBS = "__SCT__kvm_x86_pmu_isr: ret\n__x86_indirect_thunk_rax: jmp rax\nftrace_caller: ret"
COUNTS = f"{CALLEE}: {PMU_CALL}; ret"
TEST = "mov rax, [rdi+0x10]; cmp byte ptr [rax+0x203], 0"
BITMAP = "cmp qword ptr [rdi+0x340], 0"
MIXED = "mov rax, [rdi+0x10]; movzx eax, byte ptr [rax+0x203]; add rax, rsi; test rax, rax"
EARLY = f"{CALLEE}: {BITMAP}; je .Lnone; {PMU_CALL}; .Lnone: ret"
READS = "mov rcx, [rdi+0x300]"

DECIDED = {
    "test-does-not-decide": (Verdict.UNGUARDED, f"{TEST}; je .La; nop; .La: call {CALLEE}; ret", COUNTS),
    "no-test": (Verdict.UNGUARDED, f"call {CALLEE}; ret", COUNTS),
    "test-not-understood": (Verdict.UNKNOWN, f"{MIXED}; je .Lout; call {CALLEE}; .Lout: ret", COUNTS),
    "pmu-touched": (Verdict.UNKNOWN, f"{READS}; {TEST}; je .Lout; call {CALLEE}; .Lout: ret", COUNTS),
    "tests-differ": (Verdict.UNKNOWN, f"{TEST}; je .Lnot; {PMU_CALL}; .Lnot: jmp {CALLEE}", EARLY),
    "nothing-counted": (Verdict.EARLY_OUT, f"jmp {CALLEE}", EARLY),
    "guard-in-callee": (Verdict.GUARDED, f"jmp {CALLEE}", f"{CALLEE}: {TEST}; je .Lnone; {PMU_CALL}; .Lnone: ret"),
    "callee-idle": (Verdict.UNKNOWN, f"jmp {CALLEE}", f"{CALLEE}: ret"),
    "guard-in-caller": (Verdict.GUARDED, f"{TEST}; je .Lout; call {CALLEE}; .Lout: ret", COUNTS),
    "no-pmu-call": (Verdict.NO_CALL, "mov rax, [rdi+0x50]; ret", ""),
}
BLOCKED = {
    "hooked": ("int3", ""),
    "unresolved-call": ("nop; call .Lnameless; ret; .Lnameless: ret", ""),  # at the start it would be a hook
    "unknown-callee": ("call gone; ret", "gone:"),
    "callee-unreadable": (f"call {CALLEE}; ret", f"{CALLEE}:"),
    "indirect-call": ("call rax; ret", ""),
    "indirect-jump": ("jmp rax", ""),
    "unreadable-code": (".byte 0x06; ret", ""),
    "stack-lost": ("mov rsp, rsi; ret", ""),
    "falls-through": ("nop", "next_function: ret"),
    "too-complex": (f"{'nop;' * 10_000} ret", ""),
}
"""The code that a path comes to, and what lies behind the function: behind the last byte, nothing can be read."""


def said(body: str, behind: str) -> tuple[Verdict, str]:
    return verdict_on(f"{STUBS}\n{FUNCTION}: {body}\n{behind}")


@pytest.mark.parametrize("cause", DECIDED)
def test_what_is_found_decides(cause: str) -> None:
    verdict, body, callee = DECIDED[cause]
    assert said(body, callee) == (verdict, cause)


def test_pmu_state_is_read_and_nothing_is_called() -> None:
    assert said(f"{READS}; ret", "") == (Verdict.UNKNOWN, "pmu-touched")
    assert said(f"{TEST}; ret", "") == (Verdict.UNKNOWN, "pmu-touched")


def test_without_the_place_of_the_pmu_a_function_without_a_call_is_unknown() -> None:
    unplaced = replace(OFFSETS, pmu=None)
    for body, expected in (
        ("ret", (Verdict.UNKNOWN, "no-offsets")),
        (f"{TEST}; je .Lout; call {CALLEE}; .Lout: ret\n{COUNTS}", (Verdict.GUARDED, "guard-in-caller")),
    ):
        image = assemble(f"{STUBS}\n{FUNCTION}: {body}")
        (entry,) = image.symbols.addresses(FUNCTION)
        assert judge(walk(image, entry, unplaced), unplaced) == expected


@pytest.mark.parametrize("cause", BLOCKED)
class TestWhereAPathCantBeFollowed:
    """With enable_pmu found set, nothing is lost: with it not found, or not set, everything may be there."""

    def test_before_a_test(self, cause: str) -> None:
        body, behind = BLOCKED[cause]
        assert said(body, behind) == (Verdict.UNKNOWN, cause)

    def test_where_enable_pmu_was_found_zero(self, cause: str) -> None:
        body, behind = BLOCKED[cause]
        callee = behind if cause == "callee-unreadable" else f"{COUNTS}\n{behind}"
        if cause == "falls-through":
            callee = f"{behind}\n{COUNTS}"
        guarded = f"{TEST}; je .Lother; jmp {CALLEE}; .Lother: {body}"
        assert said(guarded, callee) == (Verdict.UNKNOWN, cause)

    def test_where_enable_pmu_was_found_set(self, cause: str) -> None:
        """Then the function need not be followed, but no-call it is not."""
        body, behind = BLOCKED[cause]
        tested = f"{TEST}; je .Lout; {body}\n.Lout: ret"
        if cause == "falls-through":
            tested = f"{TEST}; jne .Lon; ret; .Lon: nop"
        if cause == "callee-unreadable":  # it is called, and that is only so where enable_pmu was found set
            assert said(tested, behind) == (Verdict.GUARDED, "guard-in-caller")
        else:
            assert said(tested, behind) == (Verdict.UNKNOWN, cause)


def test_behind_a_guarded_call_the_code_need_not_be_followed() -> None:
    assert said(f"{TEST}; je .Lout; call {CALLEE}; call rax; .Lout: ret", COUNTS) == (
        Verdict.GUARDED,
        "guard-in-caller",
    )


@pytest.mark.parametrize("at", ["call ftrace_caller", "endbr64; call ftrace_caller", "call .Ltrampoline"])
def test_ftrace_hooks_a_function_at_its_start(at: str) -> None:
    body = f"{at}; {TEST}; je .Lout; call {CALLEE}; .Lout: ret; .Ltrampoline: ret"
    assert said(body, COUNTS) == (Verdict.UNKNOWN, "hooked")
    watched = assemble(f"{STUBS}\n{FUNCTION}: {body}\n{COUNTS}")
    (entry,) = watched.symbols.addresses(FUNCTION)
    path = walk(watched, entry, OFFSETS, watched=frozenset({FUNCTION}))
    assert judge(path, OFFSETS) == (Verdict.GUARDED, "guard-in-caller")
    assert path.hooks == {FUNCTION}


@pytest.mark.parametrize("depth", [3, 4])
def test_helpers_are_followed_three_deep(depth: int) -> None:
    helpers = "\n".join(f"helper{n}: call helper{n + 1}; ret" for n in range(1, depth))
    expected = (Verdict.NO_CALL, "no-pmu-call") if depth == 3 else (Verdict.UNKNOWN, "unknown-callee")
    assert said("call helper1; ret", f"{helpers}\nhelper{depth}: ret") == expected


@pytest.mark.parametrize(
    ("body", "cause"),
    [
        (f"jmp {CALLEE}", "no-test"),
        (f"mov rdi, rsi; jmp {CALLEE}", "other-vcpu"),
        (f"mov rdi, [rdi]; jmp {CALLEE}", "other-vcpu"),
    ],
)
def test_a_copy_has_to_count_for_its_own_vcpu(body: str, cause: str) -> None:
    image = assemble(f"{STUBS}\nkvm_fast_pio: {body}\n{COUNTS}")
    (entry,) = image.symbols.addresses("kvm_fast_pio")
    assert judge(walk(image, entry, OFFSETS, copy=True), OFFSETS)[1] == cause


def test_each_cause_of_the_table_and_each_obstacle_is_brought_about() -> None:
    assert {row.cause for row in ROWS} == {*DECIDED, *BLOCKED, "no-offsets", "other-vcpu"}
    assert {obstacle.value for obstacle in Obstacle} == {*BLOCKED, "other-vcpu"}
