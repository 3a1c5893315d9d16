"""Copies of the code in other functions of KVM: found by their calls, each judged on its own."""

from __future__ import annotations

import pytest

from pmuconf.host.code.btf import Btf
from pmuconf.host.code.elf import ObjectFile
from pmuconf.host.code.members import offsets_of
from pmuconf.host.code.running import CodeSource, in_file
from pmuconf.host.guard.verdict import judge_code
from pmuconf.hostfacts import GuardFinding, Verdict
from tests.unit.host.shapes import CALLEE, COUNT, HEADER, OPTIMIZATIONS, PMU, RETIRED, RETPOLINES, SKIP, compiled

GUARDED = f"if ({PMU}) {COUNT}"
COPIES = """
int kvm_emulate_halt(struct kvm_vcpu *vcpu, int reason) {{ {halt} return reason; }}
int kvm_fast_pio(struct kvm_vcpu *vcpu, int size) {{ if (size) {{ {pio} }} return size; }}
int x86_emulate_instruction(struct kvm_vcpu *vcpu) {{ {count} return 1; }}
int nested_vmx_run(struct kvm_vcpu *vcpu) {{ {count} return 1; }}
int complete_other(struct kvm_vcpu **vcpus) {{ struct kvm_vcpu *vcpu = vcpus[3]; {count} return 1; }}
"""


def finding_of(flags: tuple[str, ...], work: str, halt: str, pio: str, guard: str = "") -> GuardFinding:
    source = HEADER + CALLEE.format(guard=guard) + SKIP.format(work=work, before="")
    return finding(compiled(source + COPIES.format(halt=halt, pio=pio, count=COUNT), flags))


def finding(data: bytes) -> GuardFinding:
    file = ObjectFile(data, "kvm.ko")
    section = file.section(".BTF")
    assert section is not None
    return judge_code(
        in_file(file, offsets_of(Btf(section)), "BTF", CodeSource("kvm.ko", observed=False, build_id=None))
    )


@pytest.mark.parametrize("level", OPTIMIZATIONS)
@pytest.mark.parametrize("extra", [(), RETPOLINES], ids=["plain", "retpolines"])
class TestCopies:
    def test_all_guarded(self, level: str, extra: tuple[str, ...]) -> None:
        found = finding_of((level, *extra), GUARDED, GUARDED, GUARDED)
        assert found.verdict is Verdict.GUARDED
        assert found.copies.guarded == ("kvm_emulate_halt", "kvm_fast_pio")
        assert found.copies.unguarded == ()

    def test_one_unguarded_makes_it_partial(self, level: str, extra: tuple[str, ...]) -> None:
        found = finding_of((level, *extra), GUARDED, GUARDED, COUNT)
        assert (found.verdict, found.cause) == (Verdict.PARTIAL, "unguarded-copies")
        assert found.copies.guarded == ("kvm_emulate_halt",)
        assert found.copies.unguarded == ("kvm_fast_pio",)

    def test_a_guard_in_the_callee_serves_all(self, level: str, extra: tuple[str, ...]) -> None:
        found = finding_of((level, *extra), COUNT, COUNT, COUNT, guard=f"if (!{PMU}) return;")
        assert (found.verdict, found.cause) == (Verdict.GUARDED, "guard-in-callee")
        assert found.copies.unguarded == ()

    def test_none_guarded(self, level: str, extra: tuple[str, ...]) -> None:
        found = finding_of((level, *extra), COUNT, COUNT, COUNT)
        assert found.verdict is Verdict.UNGUARDED
        assert found.copies.unguarded == ("kvm_emulate_halt", "kvm_fast_pio")

    def test_what_does_not_take_a_vcpu_is_unread(self, level: str, extra: tuple[str, ...]) -> None:
        assert finding_of((level, *extra), GUARDED, GUARDED, COUNT).copies.unread == ("complete_other",)


@pytest.mark.parametrize("level", OPTIMIZATIONS)
def test_an_early_out_serves_its_callers_and_no_others(level: str) -> None:
    callee = RETIRED.format(early="if (!bitmap) return;", bitmap="pmc_counting_instructions")
    source = HEADER + callee + SKIP.format(work="kvm_pmu_instruction_retired(vcpu);", before="")
    source += """
    int kvm_emulate_halt(struct kvm_vcpu *vcpu) { kvm_pmu_instruction_retired(vcpu); return 1; }
    int kvm_emulate_jump(struct kvm_vcpu *vcpu) { kvm_pmu_branch_retired(vcpu); return 1; }
    """
    found = finding(compiled(source, (level,)))
    assert (found.verdict, found.cause) == (Verdict.PARTIAL, "unguarded-copies")
    assert (found.copies.guarded, found.copies.unguarded) == (("kvm_emulate_halt",), ("kvm_emulate_jump",))
