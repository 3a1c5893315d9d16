"""The path check on assembly: what compilers seldom make, and what no source makes."""

from __future__ import annotations

import pytest

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


LOAD = "mov rbx, [rdi+0x10]; movzx ebx, byte ptr [rbx+0x203]"
COUNT = f"je .Lout; call {CALLEE}; .Lout:"
# What looks like a guard, and with enable_pmu 0 comes to the callee: the value that is tested may have been changed,
# or is only in a part of what is tested.
NO_GUARDS = {
    "through an address on the stack at an unknown index": f"""sub rsp, 32; {LOAD}; mov [rsp+8], rbx
        lea rcx, [rsp+rsi*8]; mov qword ptr [rcx], 1; cmp qword ptr [rsp+8], 0; {COUNT} add rsp, 32; ret""",
    "through a sum with the stack pointer": f"""sub rsp, 32; {LOAD}; mov [rsp+8], rbx
        mov rcx, rsi; add rcx, rsp; mov qword ptr [rcx], 1; cmp qword ptr [rsp+8], 0; {COUNT} add rsp, 32; ret""",
    "at a negative index": f"""sub rsp, 32; {LOAD}; mov [rsp+8], rbx
        mov qword ptr [rsp+rsi*8+24], 1; cmp qword ptr [rsp+8], 0; {COUNT} add rsp, 32; ret""",
    "at an index from the frame": f"""push rbp; mov rbp, rsp; sub rsp, 32; {LOAD}; mov [rbp-8], rbx
        mov qword ptr [rsi+rbp-16], 1; cmp qword ptr [rbp-8], 0; {COUNT} leave; ret""",
    "through an address that was chosen": f"""sub rsp, 32; {LOAD}; mov [rsp+8], rbx; add rsp, 8; test rsi, rsi
        cmovne rcx, rsp; mov qword ptr [rcx], 1; cmp qword ptr [rsp], 0; {COUNT} add rsp, 24; ret""",
    "by another function, which finds the address in the vCPU": f"""sub rsp, 40; {LOAD}; mov [rsp], rbx
        mov [rdi+0x50], rsp; call kvm_make_request; cmp qword ptr [rsp], 0; {COUNT} add rsp, 40; ret""",
    "by another function below the stack pointer": f"""{LOAD}; push rbx; add rsp, 8; call kvm_make_request
        sub rsp, 8; cmp qword ptr [rsp], 0; {COUNT} add rsp, 8; ret""",
    "one bit of many, at an unknown index": f"""sub rsp, 32; {LOAD}; mov [rsp+8], rbx
        bts qword ptr [rsp], rsi; cmp qword ptr [rsp+8], 0; {COUNT} add rsp, 32; ret""",
    "one byte was loaded, four are tested": f"""mov rax, [rdi+0x10]; mov rbx, rsi; mov bl, [rax+0x203]
        push rbx; mov ecx, [rsp]; add rsp, 8; test ecx, ecx; {COUNT} ret""",
    "the place is counted down by a loop": f"""sub rsp, 48; {LOAD}; mov ecx, 2; .Ltop: mov [rsp+rcx*8], rbx
        mov ebx, 1; loop .Ltop; cmp qword ptr [rsp+16], 0; {COUNT} add rsp, 48; ret""",
    "a function that is jumped to has its arguments elsewhere": f"""sub rsp, 24; {LOAD}; mov [rsp+8], rbx
        call jumps; cmp qword ptr [rsp+8], 0; {COUNT} add rsp, 24; ret
        jumps: jmp writes
        writes: mov qword ptr [rsp+16], 1; ret""",
    "a word of the stack": f"""sub rsp, 8; {LOAD}; push rbx; mov cx, 1; push cx; mov ebx, [rsp]; add rsp, 2
        add rsp, 16; test ebx, ebx; {COUNT} ret""",
    "the address of a frame that is lost where paths meet": f"""push rbp; sub rsp, 32; {LOAD}; mov [rsp+8], rbx
        mov rbp, rsp; test rsi, rsi; je .Lmeet; lea rbp, [rsp+8]; .Lmeet: mov qword ptr [rbp], 1
        cmp qword ptr [rsp+8], 0; {COUNT} add rsp, 32; pop rbp; ret""",
    "a number is chosen whose low byte is zero": f"""mov rax, [rdi+0x10]; mov rbx, rsi; mov bl, [rax+0x203]
        xor bl, 1; mov rcx, 0x100000000; test rdx, rdx; cmovne rbx, rcx; test bl, bl
        jne .Lout; call {CALLEE}; .Lout: ret""",
    "an interrupt returns": f"{GUARD}; je .Lback; jmp {CALLEE}; .Lback: iretq",
    "a far return": f"{GUARD}; je .Lback; jmp {CALLEE}; .Lback: retf",
    "a transaction": f"{GUARD}; je .Lback; jmp {CALLEE}; .Lback: xbegin .Lto; ret; .Lto: ret",
    "a function that takes its arguments away": f"""{LOAD}; push rbx; push 1; call takes; cmp qword ptr [rsp], 0
        {COUNT} add rsp, 16; ret
        takes: ret 8""",
}


@pytest.mark.parametrize("body", NO_GUARDS.values(), ids=NO_GUARDS)
def test_is_no_guard(body: str) -> None:
    verdict, _ = verdict_on(f"{STUBS}kvm_make_request: ret\n{FUNCTION}: {body}")
    assert verdict in (Verdict.UNGUARDED, Verdict.UNKNOWN)


# What a guard may be compiled to, beside a test and a branch.
GUARDS = {
    "less 1": f"{LOAD}; sub ebx, 1; jb .Lout; call {CALLEE}; .Lout: ret",
    "decremented": f"{LOAD}; dec ebx; jne .Lout; call {CALLEE}; .Lout: ret",
    "negated": f"{LOAD}; neg ebx; {COUNT} ret",
    "negated, by its carry": f"{LOAD}; neg ebx; jae .Lout; call {CALLEE}; .Lout: ret",
    "a mask of the carry": f"{LOAD}; neg ebx; sbb eax, eax; test eax, eax; {COUNT} ret",
    "a mask of what is less than 1": f"{LOAD}; cmp ebx, 1; sbb eax, eax; jne .Lout; call {CALLEE}; .Lout: ret",
    "its bit": f"{LOAD}; bt ebx, 0; jae .Lout; call {CALLEE}; .Lout: ret",
    "greater than 0": f"{LOAD}; test ebx, ebx; jle .Lout; call {CALLEE}; .Lout: ret",
    "a number if it is set": f"""{LOAD}; xor eax, eax; mov ecx, 8; test bl, bl; cmovne eax, ecx; test eax, eax
        {COUNT} ret""",
    "something unknown if it is set": f"""{LOAD}; xor eax, eax; test bl, bl; cmovne rax, rsi; test rax, rax
        {COUNT} ret""",
    "itself, or 0": f"{LOAD}; xor eax, eax; test rsi, rsi; cmove ebx, eax; test ebx, ebx; {COUNT} ret",
    "itself, or 0 where paths meet": f"""{LOAD}; test rsi, rsi; je .Lmeet; xor ebx, ebx; .Lmeet: test ebx, ebx
        {COUNT} ret""",
    "a byte of a register": f"mov rax, [rdi+0x10]; mov sil, [rax+0x203]; test esi, 1; {COUNT} ret",
    "a call of a known address": f"{LOAD}; test bl, bl; je .Lout; lea rax, {CALLEE}[rip]; call rax; .Lout: ret",
}
# The same, the wrong way round.
WRONG_WAY = {
    "less 1": f"{LOAD}; sub ebx, 1; jae .Lout; call {CALLEE}; .Lout: ret",
    "decremented": f"{LOAD}; dec ebx; je .Lout; call {CALLEE}; .Lout: ret",
    "negated": f"{LOAD}; neg ebx; jne .Lout; call {CALLEE}; .Lout: ret",
    "a mask of the carry": f"{LOAD}; neg ebx; sbb eax, eax; jne .Lout; call {CALLEE}; .Lout: ret",
    "its bit": f"{LOAD}; bt ebx, 0; jb .Lout; call {CALLEE}; .Lout: ret",
    "greater than 0": f"{LOAD}; test ebx, ebx; jg .Lout; call {CALLEE}; .Lout: ret",
    "a number if it is clear": f"""{LOAD}; xor eax, eax; mov ecx, 8; test bl, bl; cmove eax, ecx; test eax, eax
        {COUNT} ret""",
    "itself, or 1": f"{LOAD}; mov eax, 1; test rsi, rsi; cmove ebx, eax; test ebx, ebx; {COUNT} ret",
    "itself, or 1 where paths meet": f"""{LOAD}; test rsi, rsi; je .Lmeet; mov ebx, 1; .Lmeet: test ebx, ebx
        {COUNT} ret""",
    "a byte of a register, and more": f"mov rax, [rdi+0x10]; mov sil, [rax+0x203]; test esi, 0x101; {COUNT} ret",
    "a call of a known address": f"{LOAD}; lea rax, {CALLEE}[rip]; call rax; ret",
    "a thunk that is called with its own address": """lea rax, __x86_indirect_thunk_rax[rip]
        call __x86_indirect_thunk_rax; ret""",
}
MORE = "__x86_indirect_thunk_rax: jmp rax\n"


@pytest.mark.parametrize("body", GUARDS.values(), ids=GUARDS)
def test_is_a_guard(body: str) -> None:
    assert verdict_on(f"{STUBS}{FUNCTION}: {body}") == (Verdict.GUARDED, "guard-in-caller")


@pytest.mark.parametrize("body", WRONG_WAY.values(), ids=WRONG_WAY)
def test_is_no_guard_the_wrong_way_round(body: str) -> None:
    verdict, _ = verdict_on(f"{STUBS}{MORE}{FUNCTION}: {body}")
    assert verdict in (Verdict.UNGUARDED, Verdict.UNKNOWN)


def test_a_thunk_with_a_known_address_is_a_call_of_it() -> None:
    call = f"lea rax, {CALLEE}[rip]; call __x86_indirect_thunk_rax"
    assert verdict_on(f"{STUBS}{MORE}{FUNCTION}: {call}; ret") == (Verdict.UNGUARDED, "no-test")
    guarded = f"{LOAD}; test bl, bl; je .Lout; {call}; .Lout: ret"
    assert verdict_on(f"{STUBS}{MORE}{FUNCTION}: {guarded}") == (Verdict.GUARDED, "guard-in-caller")


@pytest.mark.parametrize("access", ["inc qword ptr [rbx+0x360]", "mov rax, [rbx+0x340]"])
def test_the_pmu_may_be_behind_a_pointer_that_was_lost(access: str) -> None:
    """The vCPU's address is as before, and no longer known to be it."""
    assert verdict_on(f"{FUNCTION}: mov rbx, rdi; mov bh, 0; {access}; ret") == (Verdict.UNKNOWN, "pmu-touched")


EARLY = f"{CALLEE}: mov rax, [rdi+0x340]; test rax, rax; je .Lback; inc qword ptr [rdi+0x360]; .Lback: ret\n"
OTHER = "kvm_pmu_branch_retired: inc qword ptr [rdi+0x360]; ret\n"


@pytest.mark.parametrize(
    ("work", "verdict", "cause"),
    [
        ("inc qword ptr [rdi+0x368]", Verdict.UNKNOWN, "tests-differ"),
        ("call kvm_pmu_branch_retired", Verdict.UNKNOWN, "tests-differ"),
        (f"call {CALLEE}", Verdict.EARLY_OUT, "nothing-counted"),
    ],
)
def test_an_early_out_does_not_serve_work_behind_a_guard(work: str, verdict: Verdict, cause: str) -> None:
    """A VM with a PMU that counts nothing does that work."""
    early = f"mov rbx, rdi; call {CALLEE}; mov rdi, rbx"
    source = f"{EARLY}{OTHER}{FUNCTION}: {early}; {GUARD}; je .Lout; {work}; .Lout: ret"
    assert verdict_on(source) == (verdict, cause)


# A counter is written to, of which the PMU state has the address, as it stands there and by an index.
COUNTS = {
    "one": "mov rax, [rdi+0x368]; inc qword ptr [rax+8]",
    "of a table": "mov rax, [rdi+rsi*8+0x368]; inc qword ptr [rax+8]",
    "of a table, by a pointer into the state": "lea rcx, [rdi+0x300]; mov rax, [rcx+rsi*8+0x68]; inc qword ptr [rax+8]",
    "by a sum": "add rdi, 0x300; mov rax, [rdi+rsi*8+0x68]; add rax, 8; lock inc qword ptr [rax]",
}


@pytest.mark.parametrize("work", COUNTS.values(), ids=COUNTS)
def test_what_counts_may_be_inlined(work: str) -> None:
    assert verdict_on(f"{FUNCTION}: {work}; ret") == (Verdict.UNGUARDED, "no-test")
    assert verdict_on(f"{FUNCTION}: {GUARD}; je .Lout; {work}; .Lout: ret")[0] is Verdict.GUARDED
    late = f"{FUNCTION}: {work}; {GUARD}; je .Lout; {work}; .Lout: ret"
    assert verdict_on(late)[0] is Verdict.UNGUARDED
    early = f"{FUNCTION}: cmp qword ptr [rdi+0x340], 0; je .Lout; {work}; .Lout: ret"
    assert verdict_on(early) == (Verdict.EARLY_OUT, "nothing-counted")


@pytest.mark.parametrize(
    "look",
    [
        "mov rax, [rdi+0x340]",
        "lea rax, [rdi+0x340]",
        "mov rax, [rdi+0x348]",
        "lea rcx, [rdi+8]; mov rax, [rcx+rsi*8+0x340]",
    ],
)
def test_a_look_at_the_pmu_is_no_work_and_no_kernel_without_one(look: str) -> None:
    assert verdict_on(f"{FUNCTION}: {look}; ret") == (Verdict.UNKNOWN, "pmu-touched")


def test_a_look_at_the_pmu_before_the_guard_is_a_doubt_and_one_at_the_bitmap_is_none() -> None:
    work = f"{GUARD}; je .Lout; {COUNTS['one']}; .Lout: ret"
    assert verdict_on(f"{FUNCTION}: mov rcx, [rdi+0x348]; {work}") == (Verdict.UNKNOWN, "pmu-touched")
    assert verdict_on(f"{FUNCTION}: mov rcx, [rdi+0x340]; {work}")[0] is Verdict.GUARDED


def test_the_address_of_a_counter_may_be_one_of_the_stack_after_all() -> None:
    body = f"""sub rsp, 32; {LOAD}; mov [rsp+8], rbx; lea rcx, [rsp+8]; mov [rdi+0x368], rcx; mov rcx, [rdi+0x368]
        mov qword ptr [rcx], 1; cmp qword ptr [rsp+8], 0; {COUNT} add rsp, 32; ret"""
    verdict, _ = verdict_on(f"{STUBS}{FUNCTION}: {body}")
    assert verdict in (Verdict.UNGUARDED, Verdict.UNKNOWN)
