"""The path check on assembly: what compilers seldom make, and what no source makes."""

from __future__ import annotations

from pmuconf.host.names import FUNCTION
from pmuconf.hostfacts import Verdict
from tests.unit.host.guard.assembled import CALLEE, verdict_on

STUBS = f"""
__SCT__kvm_x86_pmu_isr: ret
{CALLEE}: call __SCT__kvm_x86_pmu_isr
    ret
"""
GUARD = "mov rax, [rdi+0x10]; cmp byte ptr [rax+0x203], 0"


def test_steps_that_run_out_leave_no_path_unsaid() -> None:
    """The guarded side of a branch takes all steps: the other side, which waits, is no more known for that."""
    source = f"{STUBS}{FUNCTION}: {GUARD}; je .Lother; call {CALLEE}; {'nop;' * 10_000} ret\n.Lother: jmp {CALLEE}"
    assert verdict_on(source) == (Verdict.UNKNOWN, "too-complex")
    short = source.replace("nop;" * 10_000, "")
    assert verdict_on(short) == (Verdict.UNGUARDED, "test-does-not-decide")


def test_nor_in_a_function_that_is_entered() -> None:
    source = (
        f"{STUBS}helper: {'nop;' * 10_000} ret\n"
        f"{FUNCTION}: {GUARD}; je .Lother; call {CALLEE}; call helper; ret\n.Lother: jmp {CALLEE}"
    )
    assert verdict_on(source) == (Verdict.UNKNOWN, "too-complex")
