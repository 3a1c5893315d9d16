"""Static keys: code that the kernel switches on and off as it runs. A file has it as it was compiled."""

from __future__ import annotations

import pytest

from pmuconf.host.code.btf import Btf
from pmuconf.host.code.elf import ObjectFile
from pmuconf.host.code.members import offsets_of
from pmuconf.host.code.running import CodeSource, in_file
from pmuconf.host.guard.verdict import judge_code
from pmuconf.hostfacts import GuardFinding, Verdict
from tests.unit.host.shapes import CALLEE, COUNT, HEADER, OPTIMIZATIONS, PMU, SKIP, compiled
from tests.unit.host.sysroot import link_file

# As arch/x86/include/asm/jump_label.h writes it: a jump, or a nop of its length, and where it is and goes to.
KEY = """
static inline __attribute__((always_inline)) bool {name}(void)
{{
    asm goto("1: {code}\\n"
             ".pushsection __jump_table, \\"aw\\"\\n .balign 8\\n .long 1b - ., %l[yes] - .\\n .quad 0\\n .popsection"
             : : : : yes);
    return {otherwise};
yes:
    return !{otherwise};
}}
"""
OFF = KEY.format(name="off_at_first", code=".byte 0x0f, 0x1f, 0x44, 0x00, 0x00", otherwise="0")
ON = KEY.format(name="on_at_first", code="jmp %l[yes]", otherwise="0")
TRACE = "if (off_at_first()) __traceiter_kvm_exit(vcpu);"


def compile_(work: str, level: str) -> bytes:
    before = OFF + ON + "void __traceiter_kvm_exit(struct kvm_vcpu *vcpu);"
    return compiled(HEADER + CALLEE.format(guard="") + SKIP.format(work=work, before=before), (level,))


def finding(data: bytes, types: bytes) -> GuardFinding:
    file, section = ObjectFile(data, "kvm.ko"), ObjectFile(types, "kvm.ko").section(".BTF")
    assert section is not None
    return judge_code(
        in_file(file, offsets_of(Btf(section)), "BTF", CodeSource("kvm.ko", observed=False, build_id=None))
    )


@pytest.mark.parametrize("linked", [False, True], ids=["module", "vmlinux"])
@pytest.mark.parametrize("level", OPTIMIZATIONS)
@pytest.mark.parametrize(
    ("work", "verdict", "cause"),
    [
        (f"if (off_at_first()) {COUNT}", "unknown", "switched"),  # else there would be no call
        (f"if (on_at_first()) {COUNT}", "unguarded", "no-test"),  # as it is compiled, and as it may be
        (f"if (off_at_first() || {PMU}) {COUNT}", "unknown", "switched"),
        (f"if (on_at_first()) {{ if ({PMU}) {COUNT} }} else {COUNT}", "unknown", "switched"),
        (f"if (off_at_first()) {{ if ({PMU}) {COUNT} }}", "unknown", "switched"),
        (f"{TRACE} if ({PMU}) {COUNT}", "guarded", "guard-in-caller"),
        (f"if ({PMU}) {{ {TRACE} {COUNT} }}", "guarded", "guard-in-caller"),
        (f"{TRACE} {COUNT}", "unguarded", "no-test"),
        (TRACE, "no-call", "no-pmu-call"),
    ],
)
def test_a_file_does_not_tell_how_a_key_is_set(work: str, verdict: str, cause: str, level: str, linked: bool) -> None:
    data = compile_(work, level)
    found = finding(link_file(data)[0] if linked else data, data)
    assert (found.verdict, found.cause) == (Verdict(verdict), cause)
