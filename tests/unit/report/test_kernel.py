"""The answer about a kernel: what is said, in which order, and with which exit status."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pmuconf.host.cpu import Cpu
from pmuconf.host.kvm import Kvm
from pmuconf.host.prove.guard import EXITS, Proof
from pmuconf.hostfacts import GuardFinding, Verdict
from pmuconf.report.kernel import KernelAnswer

FINDING = GuardFinding(Verdict.GUARDED, "guard-in-caller", "it asks", remedy="nothing")
KVM = Kvm(loaded=True, vendor_module="kvm_amd", enable_pmu=True, nested=True, mediated_pmu=False, release="6.1")
MITIGATIONS = (("spec_rstack_overflow", "Mitigation: Safe RET"), ("spectre_v2", "Mitigation: Retpolines"))
CPU = Cpu("AuthenticAMD", 0x17, 0x31, "AMD EPYC 7302", MITIGATIONS)


@pytest.mark.parametrize(("agrees", "status"), [(True, 0), (None, 0), (False, 1)])
def test_a_proof_against_the_verdict_is_a_warning(agrees: bool | None, status: int) -> None:
    assert KernelAnswer(FINDING, KVM, CPU, Proof(EXITS, 7, "callee", agrees)).severity == status


def test_a_proof_makes_no_finding_less() -> None:
    slow = replace(FINDING, verdict=Verdict.UNGUARDED)
    assert KernelAnswer(slow, proof=Proof(EXITS, 0, "callee", agrees=False)).severity == 2


def test_the_verdict_comes_first_and_what_to_do_last() -> None:
    answer = KernelAnswer(FINDING, replace(KVM, mediated_pmu=True), CPU, Proof(EXITS, 0, "callee", agrees=True))
    first, mediated, like, proof, last = answer.sentences()
    assert (first, last) == ("guarded: it asks", "nothing")
    assert mediated.startswith("KVM uses a mediated PMU")
    assert "about 57 cycles per exit" in like
    assert proof.startswith("callee was called 0 times")


def test_of_a_file_nothing_is_said_about_this_host() -> None:
    answer = KernelAnswer(FINDING)
    assert answer.sentences() == ["guarded: it asks", "nothing"]
    assert {"kvm", "cpu", "proof"}.isdisjoint(answer.record())
    assert {"kvm", "cpu", "proof"} <= KernelAnswer(FINDING, KVM, CPU, Proof(EXITS, 0, "x", agrees=True)).record().keys()


def test_a_mediated_pmu_that_can_not_be_read_is_said_only_of_a_kvm_that_is_loaded() -> None:
    unknown = replace(KVM, mediated_pmu=None)
    assert "can't read" in KernelAnswer(FINDING, unknown).sentences()[1]
    assert KernelAnswer(FINDING, replace(unknown, loaded=False)).sentences() == ["guarded: it asks", "nothing"]
