"""What counting calls says about a verdict. The counting itself is tested in the lab, where there is a KVM."""

from __future__ import annotations

import os

import capstone
import pytest

from pmuconf.host.prove.guard import _LOOP, EXITS, Proof, agrees, run_micro_vm
from pmuconf.hostfacts import GuardFinding, Verdict


@pytest.mark.parametrize(
    ("verdict", "cause", "calls", "expected"),
    [
        (Verdict.GUARDED, "guard-in-caller", 0, True),
        (Verdict.GUARDED, "guard-in-caller", EXITS, False),
        (Verdict.GUARDED, "guard-in-callee", EXITS + 1, True),
        (Verdict.GUARDED, "guard-in-callee", 0, False),
        (Verdict.EARLY_OUT, "nothing-counted", EXITS, True),
        (Verdict.PARTIAL, "unguarded-copies", 1, True),
        (Verdict.PARTIAL, "unguarded-copies", EXITS, False),
        (Verdict.NO_CALL, "no-pmu-call", 0, True),
        (Verdict.UNGUARDED, "no-test", EXITS + 1, True),
        (Verdict.UNGUARDED, "no-test", 0, False),
        (Verdict.UNKNOWN, "hooked", 0, None),
    ],
)
def test_agreement(verdict: Verdict, cause: str, calls: int, expected: bool | None) -> None:
    assert agrees(GuardFinding(verdict, cause, ""), calls) is expected


def test_the_sentence() -> None:
    said = Proof(EXITS, 201, "kvm_pmu_trigger_event", False).sentence
    assert (
        said == "kvm_pmu_trigger_event was called 201 times in 200 CPUID exits and one HLT: against what the code says"
    )


@pytest.mark.skipif(not os.access("/dev/kvm", os.R_OK | os.W_OK), reason="needs /dev/kvm")
def test_the_micro_vm_runs_to_its_end() -> None:
    run_micro_vm()


def test_its_loop_makes_as_many_exits_as_it_says() -> None:
    code = list(capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64).disasm(_LOOP, 0))
    assert [one.mnemonic for one in code] == ["mov", "xor", "xor", "cpuid", "dec", "jne", "hlt"]
    assert code[0].op_str == f"esi, {EXITS:#x}"
    assert int(code[5].op_str, 16) == code[1].address
