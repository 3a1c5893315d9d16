"""The verdict on a VM, against a model of what KVM does: worlds whose truth is known, seen as well as one can.

Every world is a kernel, a KVM, a QEMU and a guest. The oracle runs the exit path of that world by hand; what pmuconf is
told is never false, but may leave anything out. It must never say yes where the world is slow, nor no where it is fast.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import pytest

from pmuconf.audit.remedy import remedies
from pmuconf.audit.vm import Vm
from pmuconf.domain.definition import Domain, Nova, PmuState
from pmuconf.fastpath.cases import CASES, FastPath
from pmuconf.fastpath.guest import Guest
from pmuconf.fastpath.inkernel import WHY_UNKNOWN, in_kernel_pmu, loses_pmu
from pmuconf.fastpath.verdict import Answer, answer, delivers
from pmuconf.hostfacts import Evidence, GuardFinding, HostFacts, KernelPmu, LiveVm, Qemu, Verdict
from pmuconf.policy import Decision

ON, OFF, DEFAULT = PmuState.ON, PmuState.OFF, PmuState.DEFAULT
NOVA = Nova("m1", None, "p", {}, {})
REMEDY = "a kernel with the guard"


def domain(pmu: PmuState = OFF, cpu: str = "host-passthrough", kind: str = "kvm", arch: str = "x86_64") -> Domain:
    return Domain("web", "uuid", kind, arch, pmu, cpu, None, running=True)


def host(
    verdict: Verdict = Verdict.GUARDED,
    cause: str = "guard-in-caller",
    evidence: Evidence = Evidence.OBSERVED,
    parameter: bool | None = True,
    mediated: bool | None = False,
) -> HostFacts:
    if verdict is Verdict.UNKNOWN:
        evidence = Evidence.NONE
    guard = GuardFinding(verdict, cause, "said", evidence=evidence, remedy=REMEDY)
    return HostFacts(guard, enable_pmu=parameter, mediated_pmu=mediated)


def qemu(disables: bool | None) -> Qemu:
    return Qemu("/usr/bin/qemu", None, disables, "for-the-test")


def process(
    pmu: KernelPmu = KernelPmu.DISABLED, *, has_pmu: bool | None = False, disables: bool | None = True
) -> LiveVm:
    return LiveVm(1, uuid="uuid", kernel_pmu=pmu, pmu_property=has_pmu, qemu=qemu(disables))


def guest(vm: LiveVm | None, state: PmuState = OFF, next_boot: PmuState | None = OFF) -> Guest:
    return Guest(domain(state), running=True, next_boot=next_boot, decision=Decision.OFF, vm=vm)


def to_do(facts: HostFacts | None, one: Guest, needing: int | None = None) -> str:
    """What is to be done about the VM, as a person reads it."""
    vm = Vm(
        "web",
        "uuid",
        decision=one.decision,
        live=one.domain.pmu if one.running else None,
        next_boot=one.next_boot,
        saved=one.saved,
        nova=one.domain.nova is not None,
        domain=one.domain,
        process=one.vm,
        answer=answer(facts, one),
    )
    return "; ".join(remedy.text for remedy in remedies(vm, facts, needing))


# ---- the model -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class World:
    """What is really so."""

    kernel: str
    parameter: bool
    has_pmu: bool
    qemu_disables: bool
    counting: bool
    mediated: bool = False
    irqchip: bool = True
    """Whether the VM's interrupt controller is KVM's own."""
    intel: bool = False

    @property
    def enabled(self) -> bool:
        """kvm->arch.enable_pmu, as kvm_arch_init_vm() and KVM_CAP_PMU_CAPABILITY leave it."""
        taken = self.mediated and not self.irqchip
        return self.parameter and not taken and (self.has_pmu or not self.qemu_disables)

    @property
    def work(self) -> bool:
        """Whether KVM does the PMU's work for this VM: kvm_skip_emulated_instruction() in its own text, or a switch."""
        return self.counts or (self.mediated and self.shown)

    @property
    def shown(self) -> bool:
        """Whether pmu->version is not 0, as intel_pmu_refresh() and amd_pmu_refresh() make it."""
        return self.enabled and (self.has_pmu or not self.intel)

    @property
    def counts(self) -> bool:
        if self.kernel == "no-call":
            return False
        if self.kernel in ("guarded", "partial"):
            return self.enabled
        if self.kernel == "early-out":
            return self.enabled and self.counting
        return True

    @property
    def truth(self) -> FastPath:
        if self.work:
            return FastPath.NO
        return FastPath.PARTIAL if self.kernel == "partial" else FastPath.YES

    def seen(self) -> Iterator[tuple[HostFacts, LiveVm | None, bool]]:
        """Every way to be told of it, none of them false; and whether all was told."""
        verdicts = (Verdict(self.kernel), Verdict.UNKNOWN)
        parameters, switches = (self.parameter, None), (self.mediated, None)
        for verdict, parameter, mediated, found in product(verdicts, parameters, switches, (True, False)):
            facts = host(verdict, parameter=parameter, mediated=mediated)
            if not found:
                yield facts, None, False
                continue
            truly = KernelPmu.ENABLED if self.enabled else KernelPmu.DISABLED
            hidden = self.enabled and not self.shown  # who reads that it is enabled reads this too
            for pmu, has_pmu, disables, in_use, shown in product(
                (truly, KernelPmu.UNKNOWN),
                (self.has_pmu, None),
                (self.qemu_disables, None),
                (self.enabled and self.counting, None),
                (self.shown,) if hidden or not self.mediated else (self.shown, None),
            ):
                vm = LiveVm(1, uuid="uuid", kernel_pmu=pmu, in_use=in_use, pmu_property=has_pmu, qemu=qemu(disables))
                vm = replace(vm, pmu_shown=shown)
                told = verdict is not Verdict.UNKNOWN and pmu is truly and None not in (in_use, mediated)
                yield facts, vm, told


# Whether a definition says what its guest gets; if not: options in it decide, something hides behind its emulator's
# name, or it has options that can't be followed.
SAID = ("obeyed", "options", "hidden", "unknown")


def told(said: str, state: PmuState, world: World) -> tuple[Domain, bool | None, PmuState | None]:
    """A definition of that world's guest, whether its next boot is seen to heed <pmu>, and what that is seen to get."""
    gets = ON if world.has_pmu else OFF
    one = domain(state, "host-passthrough" if world.has_pmu else "host-model")
    if said == "options":
        return replace(one, arguments=("-cpu", f"Any,pmu={gets.value}")), False, gets
    if said == "unknown":
        return replace(one, arguments=("-readconfig", "vm.conf")), None, None
    return one, True, None


KERNELS = ("no-call", "guarded", "partial", "early-out", "unguarded")
SWITCHES = ((False, True, False), (True, True, False), (True, False, False), (True, True, True))
"""Whether there is a mediated PMU, whether the VM has KVM's interrupt controller, and whether the host is Intel's."""
ALL_WORLDS = [
    replace(World(kernel, *bits), mediated=mediated, irqchip=irqchip, intel=intel)
    for kernel in KERNELS
    for bits in product((False, True), repeat=4)
    for mediated, irqchip, intel in SWITCHES
]
# A guest that is shown no PMU has no counters on Intel.
WORLDS = [world for world in ALL_WORLDS if world.shown or not (world.intel and world.enabled and world.counting)]
SOME = [world for world in WORLDS if world.kernel in ("guarded", "early-out") and not world.mediated]
DECISIONS = (*Decision, None)


def judged(world: World, said: str) -> Iterator[tuple[Answer, bool, HostFacts, Guest]]:
    """Every answer about that world, with whether the one who gave it was told all, and what was told."""
    for facts, vm, all_told in world.seen():
        for state, next_boot, decision in product((ON, OFF, DEFAULT), (ON, OFF, DEFAULT, None), DECISIONS):
            if said == "obeyed" and state is (OFF if world.has_pmu else ON):
                continue  # QEMU does what the definition says
            definition, obeyed, gets = told(said, state, world)
            one = Guest(definition, True, next_boot, None, decision, vm, obeyed=obeyed, next_effective=gets)
            yield answer(facts, one), all_told, facts, one


@pytest.mark.parametrize(("world", "said"), [*product(WORLDS, SAID[:1]), *product(SOME, SAID[1:])], ids=str)
def test_the_answer_is_the_truth_or_unknown(world: World, said: str) -> None:
    for given, told, facts, one in judged(world, said):
        assert given.fast_path in (world.truth, FastPath.UNKNOWN), given
        if told and not (world.kernel == "early-out" and world.counts and not world.mediated):
            assert given.fast_path is world.truth, given
        assert CASES[given.cause].fast_path is given.fast_path
        assert set(given.causes) <= set(CASES)
        assert len(set(given.causes)) == len(given.causes)
        assert (given.evidence is Evidence.NONE) == (given.fast_path is FastPath.UNKNOWN)
        if given.fast_path in (FastPath.YES, FastPath.PARTIAL):
            assert len(given.causes) == 1
        if given.severity:
            assert to_do(facts, one), given
        else:
            assert given.fast_path is FastPath.YES or given.wanted_on


@pytest.mark.parametrize("said", SAID[1:])
@pytest.mark.parametrize("world", [world for world in SOME if world.has_pmu], ids=str)
def test_no_power_cycle_is_asked_for_where_the_guest_would_have_its_pmu_again(world: World, said: str) -> None:
    """Where options decide, whatever the definition says, the next start gives the guest what it has now."""
    for given, _, _, one in judged(world, said):
        if one.differs or said != "hidden":  # behind a name that is a QEMU's only the process shows it
            assert "pending-power-cycle" not in given.causes, one


@pytest.mark.parametrize("said", SAID[1:])
@pytest.mark.parametrize("world", [world for world in SOME if not world.has_pmu], ids=str)
def test_a_guest_without_a_pmu_is_never_said_to_wait_for_a_power_cycle(world: World, said: str) -> None:
    for given, _, _, one in judged(world, said):
        if said != "hidden" or (one.vm is not None and one.vm.pmu_property is not None):
            assert "pending-power-cycle" not in given.causes, one


def test_the_model_has_all_truths() -> None:
    assert {world.truth for world in WORLDS} == {FastPath.YES, FastPath.NO, FastPath.PARTIAL}


# ---- each cause by example -----------------------------------------------------------------------------------------

DISABLED, ENABLED, UNKNOWN = KernelPmu.DISABLED, KernelPmu.ENABLED, KernelPmu.UNKNOWN
EARLY = host(Verdict.EARLY_OUT, "nothing-counted")
MEDIATED = replace(EARLY, mediated_pmu=True)
HAS_PMU = process(ENABLED, has_pmu=True)
OLD_QEMU = process(ENABLED, disables=False)
TURNED_ON = Guest(domain(ON), True, ON, decision=Decision.ON, vm=HAS_PMU)

EXAMPLES: list[tuple[str, HostFacts | None, Guest]] = [
    ("no-call", host(Verdict.NO_CALL, "no-pmu-call"), guest(process(UNKNOWN, has_pmu=None, disables=None))),
    ("guarded-disabled", host(), guest(process())),
    ("guard-in-callee", host(cause="guard-in-callee"), guest(process())),
    ("disabled-by-parameter", host(parameter=False), guest(process(UNKNOWN))),
    ("disabled-by-default", host(), replace(guest(process()), domain=domain(DEFAULT, "host-model"))),
    ("migrated-in", host(), guest(replace(process(), incoming=True))),
    ("early-out-disabled", EARLY, guest(process())),
    ("early-out-idle", EARLY, guest(replace(OLD_QEMU, in_use=False))),
    ("partial-guard", host(Verdict.PARTIAL), guest(process())),
    ("not-x86", host(), Guest(domain(arch="ppc64le"), True, OFF)),
    ("not-kvm", host(), Guest(domain(kind="qemu"), True, OFF)),
    ("not-running", host(), Guest(domain(), False, OFF, decision=Decision.OFF)),
    ("not-running", host(), Guest(domain(), False, OFF, saved=OFF, decision=Decision.OFF)),
    ("saved-image", host(), Guest(domain(), False, OFF, saved=ON, decision=Decision.OFF)),
    ("pmu-on-by-policy", host(), TURNED_ON),
    ("pmu-on-by-policy", host(Verdict.UNGUARDED, "no-test"), TURNED_ON),
    ("pmu-kept", host(), replace(TURNED_ON, decision=Decision.KEEP)),
    ("undecided", host(), replace(TURNED_ON, decision=Decision.UNDECIDED)),
    ("kernel-unguarded", host(Verdict.UNGUARDED, "no-test"), guest(process())),
    ("kernel-unguarded", host(Verdict.UNGUARDED, "no-test"), guest(OLD_QEMU)),
    ("qemu-keeps-pmu", host(), guest(OLD_QEMU)),
    ("qemu-keeps-pmu", host(), guest(process(ENABLED, disables=None))),
    ("qemu-upgraded", host(), replace(guest(OLD_QEMU), next_qemu=qemu(True))),
    ("qemu-did-not", host(), guest(process(ENABLED))),
    ("transient", host(), guest(HAS_PMU, ON, None)),
    ("cpu-overridden", host(), guest(HAS_PMU, OFF)),
    ("cpu-overridden", host(), replace(guest(HAS_PMU, OFF, DEFAULT), obeyed=False, next_effective=ON)),
    ("cpu-overridden", host(), replace(guest(HAS_PMU, ON), obeyed=False, next_effective=ON)),
    ("cpu-overridden", host(), replace(guest(HAS_PMU, ON, None), obeyed=False)),
    ("cpu-overridden", host(), replace(guest(OLD_QEMU, ON, ON), decision=Decision.ON)),
    ("next-boot-unknown", host(), replace(guest(HAS_PMU, ON), obeyed=None)),
    ("next-boot-unknown", host(), replace(guest(HAS_PMU, ON, ON), obeyed=None)),
    ("pending-power-cycle", host(), replace(guest(HAS_PMU, ON), obeyed=False, next_effective=OFF)),
    ("drift", host(), replace(guest(HAS_PMU, ON, ON), obeyed=False, next_effective=OFF)),
    ("drift", host(), guest(HAS_PMU, ON, ON)),
    ("drift", host(), guest(HAS_PMU, ON, DEFAULT)),
    ("pending-power-cycle", host(), guest(HAS_PMU, ON, OFF)),
    ("kernel-unknown", host(Verdict.UNKNOWN, "kcore-refused"), guest(process())),
    ("pmu-unknown", host(), guest(None)),
    ("pmu-unknown", host(parameter=False), guest(None)),  # it may run elsewhere, behind a forwarded socket
    ("pmu-unknown", host(Verdict.NO_CALL, "no-pmu-call"), guest(None)),
    ("pmu-unknown", host(), guest(replace(process(UNKNOWN), cause="several-vms"))),
    ("pmu-unknown", host(parameter=False), guest(replace(process(UNKNOWN), cause="kernel-memory-odd"))),
    ("pmu-unknown", host(), guest(replace(process(UNKNOWN), may_be_recreated=True))),
    ("guarded-disabled", host(), guest(replace(process(), may_be_recreated=True))),
    ("qemu-keeps-pmu", host(), guest(replace(process(UNKNOWN, disables=False), may_be_recreated=True))),
    ("disabled-by-parameter", host(parameter=False), guest(replace(process(UNKNOWN), may_be_recreated=True))),
    ("pmu-unknown", host(), guest(process(UNKNOWN, disables=None))),
    ("pmu-unknown", host(), guest(process(UNKNOWN, has_pmu=None))),
    ("pmu-unknown", host(parameter=None), guest(process(UNKNOWN))),
    ("pmu-unknown", replace(host(), mediated_pmu=True), guest(process(UNKNOWN, has_pmu=True))),
    ("pmu-unknown", replace(host(), mediated_pmu=None), guest(process(UNKNOWN, has_pmu=True))),
    ("pmu-unknown", replace(host(), mediated_pmu=True), guest(process(UNKNOWN, disables=False))),
    ("mediated-pmu", MEDIATED, guest(replace(HAS_PMU, in_use=False), ON)),
    ("mediated-pmu", MEDIATED, guest(replace(HAS_PMU, in_use=True), ON)),
    ("mediated-pmu", MEDIATED, guest(replace(OLD_QEMU, in_use=False))),
    ("mediated-pmu", replace(MEDIATED, guard=host(Verdict.NO_CALL).guard), guest(HAS_PMU, ON)),
    ("pmu-unknown", MEDIATED, guest(replace(process(UNKNOWN, has_pmu=None), in_use=False))),
    ("pmu-unknown", replace(MEDIATED, guard=host(Verdict.NO_CALL).guard), guest(process(UNKNOWN, disables=None))),
    ("early-out-disabled", MEDIATED, guest(process())),
    ("no-call", replace(MEDIATED, guard=host(Verdict.NO_CALL).guard), guest(process())),
    ("guarded-disabled", host(mediated=True), guest(process())),
    ("drift", host(mediated=True), guest(HAS_PMU, ON, ON)),
    ("partial-guard", host(Verdict.PARTIAL, mediated=True), guest(process())),
    ("kernel-unguarded", host(Verdict.UNGUARDED, "no-test", mediated=True), guest(HAS_PMU, ON)),
    ("early-out-idle", MEDIATED, guest(replace(OLD_QEMU, in_use=False, pmu_shown=False))),
    ("depends-on-guest", MEDIATED, guest(replace(OLD_QEMU, pmu_shown=False))),
    ("mediated-pmu", MEDIATED, guest(replace(OLD_QEMU, in_use=False, pmu_shown=True))),
    ("pmu-on-by-policy", MEDIATED, TURNED_ON),
    ("pmu-kept", MEDIATED, replace(TURNED_ON, decision=Decision.KEEP)),
    ("mediated-unknown", replace(EARLY, mediated_pmu=None), guest(replace(HAS_PMU, in_use=False), ON)),
    ("mediated-unknown", host(Verdict.NO_CALL, mediated=None), guest(HAS_PMU, ON)),
    ("early-out-disabled", replace(EARLY, mediated_pmu=None), guest(process())),
    ("depends-on-guest", replace(EARLY, mediated_pmu=None), guest(HAS_PMU, ON)),
    ("depends-on-guest", EARLY, guest(OLD_QEMU)),
    ("depends-on-guest", EARLY, guest(replace(OLD_QEMU, in_use=True))),
    ("remote-host", None, guest(None)),
]


@pytest.mark.parametrize(("cause", "facts", "one"), EXAMPLES)
def test_each_cause_by_example(cause: str, facts: HostFacts | None, one: Guest) -> None:
    assert answer(facts, one).cause == cause


def test_every_cause_has_an_example() -> None:
    assert {cause for cause, _, _ in EXAMPLES} == set(CASES)


NEW_QEMU = "a QEMU that disables the PMU in KVM (11.0, or a backport), and a power cycle under it"
NEW_START = "stop and start it (virsh shutdown, virsh start): a reboot from inside keeps the PMU"
TO_DO = {
    "no-call": (FastPath.YES, 0, ""),
    "guarded-disabled": (FastPath.YES, 0, ""),
    "guard-in-callee": (FastPath.YES, 0, ""),
    "disabled-by-parameter": (FastPath.YES, 0, ""),
    "disabled-by-default": (FastPath.YES, 0, NEW_START),  # of its status: the example is off policy
    "migrated-in": (FastPath.YES, 0, ""),
    "early-out-disabled": (FastPath.YES, 0, ""),
    "early-out-idle": (FastPath.YES, 0, ""),
    "mediated-pmu": (FastPath.NO, 2, "its PMU must be off in KVM; "),
    "partial-guard": (FastPath.PARTIAL, 1, REMEDY),
    "not-x86": (FastPath.NO, 0, ""),
    "not-kvm": (FastPath.NO, 0, ""),
    "not-running": (FastPath.NO, 0, ""),
    "saved-image": (FastPath.NO, 1, "start it from the image and then stop and start it, or give the image up"),
    "pmu-on-by-policy": (FastPath.NO, 0, ""),
    "pmu-kept": (FastPath.NO, 0, ""),
    "undecided": (FastPath.NO, 1, "'pmuconf policy explain' says what the policy lacks"),
    "kernel-unguarded": (FastPath.NO, 2, REMEDY),
    "qemu-keeps-pmu": (FastPath.NO, 2, NEW_QEMU),
    "qemu-upgraded": (FastPath.NO, 1, NEW_START),
    "qemu-did-not": (FastPath.NO, 2, NEW_START),
    "transient": (FastPath.NO, 1, "the tool that starts it must ask for <pmu state='off'/>"),
    "cpu-overridden": (
        FastPath.NO,
        2,
        "take -cpu and -global out of its <qemu:commandline> (virsh edit), or write pmu=o",
    ),
    "next-boot-unknown": (FastPath.NO, 1, "take -cpu, -global, -set and -readconfig out of its <qemu:commandline>"),
    "drift": (FastPath.NO, 2, f"pmuconf apply, then {NEW_START}"),
    "pending-power-cycle": (FastPath.NO, 1, NEW_START),
    "kernel-unknown": (FastPath.UNKNOWN, 1, REMEDY),
    "pmu-unknown": (FastPath.UNKNOWN, 1, "run pmuconf as root"),
    "depends-on-guest": (FastPath.UNKNOWN, 1, ""),
    "mediated-unknown": (FastPath.UNKNOWN, 1, "run pmuconf as root: enable_mediated_pmu of kvm_amd or kvm_intel can't"),
    "remote-host": (FastPath.UNKNOWN, 1, "run pmuconf on that host"),
}
"""The fast path of each cause, the exit status that it deserves where no PMU is wanted, and how its remedy begins."""


@pytest.mark.parametrize(("cause", "facts", "one"), EXAMPLES)
def test_each_cause_has_its_fast_path_its_severity_and_its_remedy(
    cause: str, facts: HostFacts | None, one: Guest
) -> None:
    given, (fast_path, severity, words) = answer(facts, one), TO_DO[cause]
    wanted = one.decision is Decision.ON or cause in ("pmu-on-by-policy", "pmu-kept")
    assert (given.fast_path, given.severity, given.wanted_on) == (fast_path, 0 if wanted else severity, wanted)
    text = to_do(facts, one)
    assert text.startswith(words)
    if not words and cause != "depends-on-guest":
        assert text == ""
    nothing_certain = fast_path is FastPath.UNKNOWN
    assert (given.evidence is Evidence.NONE) is nothing_certain


OPTIONS_DECIDE: dict[str, Any] = {"decision": Decision.OFF, "obeyed": False, "next_effective": ON}
LEFT = [
    (("kernel-unguarded", "qemu-keeps-pmu"), host(Verdict.UNGUARDED, "no-test"), guest(OLD_QEMU)),
    (("cpu-overridden", "drift"), host(), replace(guest(HAS_PMU, OFF, DEFAULT), obeyed=False, next_effective=ON)),
    (("cpu-overridden", "transient"), host(), replace(guest(HAS_PMU, ON, None), obeyed=False)),
    (("next-boot-unknown", "drift"), host(), replace(guest(HAS_PMU, ON, ON), obeyed=None)),
    (("qemu-keeps-pmu", "pending-power-cycle"), host(), guest(process(ENABLED, has_pmu=True, disables=False), ON)),
    (("qemu-did-not", "drift"), host(), guest(process(ENABLED), OFF, ON)),
    (("mediated-pmu", "pending-power-cycle"), MEDIATED, guest(replace(HAS_PMU, in_use=False), ON)),
    (("mediated-unknown", "pending-power-cycle"), host(Verdict.NO_CALL, mediated=None), guest(HAS_PMU, ON)),
    (("depends-on-guest", "qemu-keeps-pmu"), EARLY, guest(OLD_QEMU)),
    (("kernel-unknown", "qemu-did-not"), host(Verdict.UNKNOWN, "no-kcore"), guest(process(ENABLED))),
    (("qemu-keeps-pmu",), host(), guest(replace(process(ENABLED), qemu=None))),
    (
        ("no-call",),
        replace(MEDIATED, guard=host(Verdict.NO_CALL).guard),
        guest(replace(OLD_QEMU, pmu_shown=False, in_use=False)),
    ),
    (("not-kvm", "cpu-overridden"), host(), replace(Guest(domain(kind="qemu"), True, OFF), **OPTIONS_DECIDE)),
    (("not-running", "cpu-overridden"), host(), replace(Guest(domain(), False, OFF), **OPTIONS_DECIDE)),
]


@pytest.mark.parametrize(("causes", "facts", "one"), LEFT)
def test_everything_that_stands_in_the_way_is_a_cause(causes: tuple[str, ...], facts: HostFacts, one: Guest) -> None:
    assert answer(facts, one).causes == causes


@pytest.mark.parametrize(
    ("facts", "one", "evidence"),
    [
        (host(), guest(process()), Evidence.OBSERVED),
        (host(), guest(process(UNKNOWN)), Evidence.INFERRED),  # of the PMU
        (host(evidence=Evidence.INFERRED), guest(process()), Evidence.INFERRED),  # of the kernel
        (host(Verdict.UNGUARDED, "no-test"), guest(process(UNKNOWN, disables=None)), Evidence.OBSERVED),
        (host(Verdict.NO_CALL, evidence=Evidence.INFERRED), guest(process()), Evidence.INFERRED),
        (MEDIATED, guest(process(UNKNOWN, has_pmu=True), ON), Evidence.NONE),
        (
            replace(MEDIATED, guard=host(Verdict.EARLY_OUT, evidence=Evidence.INFERRED).guard),
            guest(HAS_PMU, ON),
            Evidence.OBSERVED,
        ),
        (host(evidence=Evidence.INFERRED), Guest(domain(), False, OFF), Evidence.OBSERVED),  # of libvirt
        (None, guest(process()), Evidence.NONE),
    ],
)
def test_a_verdict_has_the_evidence_of_its_weakest_fact(
    facts: HostFacts | None, one: Guest, evidence: Evidence
) -> None:
    assert answer(facts, one).evidence is evidence


def test_what_is_unknown_says_why() -> None:
    kernel = answer(host(Verdict.UNKNOWN, "kcore-refused"), guest(process()))
    assert kernel.message == "it is not known what this kernel does: said"
    pmu = answer(host(), guest(process(UNKNOWN, disables=None)))
    assert pmu.message == (
        "it is not known whether its PMU is disabled in the kernel: its QEMU may disable the PMU or not"
    )


def test_what_else_stands_in_the_way_is_said_in_the_order_in_which_to_remove_it() -> None:
    facts, one = host(Verdict.UNGUARDED, "no-test"), guest(process(ENABLED, has_pmu=True, disables=False), ON, ON)
    assert answer(facts, one).causes == ("kernel-unguarded", "qemu-keeps-pmu", "drift")
    text = to_do(facts, one)
    assert text.index(REMEDY) < text.index("QEMU") < text.index("pmuconf apply")


@pytest.mark.parametrize(
    ("vm", "state", "next_boot", "nova", "words"),
    [
        (HAS_PMU, ON, ON, None, "pmuconf apply, then stop and start it"),
        (HAS_PMU, ON, ON, NOVA, "pmuconf-nova, or hw:pmu=false in the flavor"),
        (HAS_PMU, ON, OFF, None, "virsh shutdown, virsh start"),
        (HAS_PMU, ON, OFF, NOVA, "openstack server reboot"),
        (HAS_PMU, ON, None, None, "must ask for <pmu state='off'/>"),
        (OLD_QEMU, OFF, OFF, None, "a QEMU that disables the PMU in KVM"),
    ],
)
def test_what_ends_the_switching_of_counters_is_said_in_the_managers_words(
    vm: LiveVm, state: PmuState, next_boot: PmuState | None, nova: Nova | None, words: str
) -> None:
    one = guest(replace(vm, in_use=False), state, next_boot)
    one = replace(one, domain=replace(one.domain, nova=nova))
    given, text = answer(MEDIATED, one), to_do(MEDIATED, one)
    assert (given.fast_path, given.evidence, given.severity) == (FastPath.NO, Evidence.OBSERVED, 2)
    assert text.startswith("its PMU must be off in KVM; ")
    assert words in text


@pytest.mark.parametrize("decision", [Decision.ON, Decision.KEEP])
def test_a_pmu_that_is_wanted_is_no_finding_where_counters_are_switched(decision: Decision) -> None:
    one = replace(TURNED_ON, decision=decision)
    given = answer(MEDIATED, one)
    assert (given.fast_path, given.wanted_on, given.severity, to_do(MEDIATED, one)) == (FastPath.NO, True, 0, "")


IN_KERNEL = [
    ("not-running", UNKNOWN, host(), replace(guest(HAS_PMU), running=False)),
    ("not-kvm", UNKNOWN, host(), replace(guest(HAS_PMU), domain=domain(kind="qemu"))),
    ("not-kvm", UNKNOWN, host(), replace(guest(HAS_PMU), domain=domain(arch="aarch64"))),
    ("kernel-memory", ENABLED, None, guest(HAS_PMU)),
    ("kernel-memory", DISABLED, host(parameter=None), guest(process())),
    ("remote-host", UNKNOWN, None, guest(process(UNKNOWN))),
    ("process-unknown", UNKNOWN, host(parameter=False), guest(None)),
    ("several-vms", UNKNOWN, host(parameter=False), guest(replace(process(UNKNOWN), cause="several-vms"))),
    ("kernel-memory-odd", UNKNOWN, host(parameter=False), guest(replace(process(UNKNOWN), cause="kernel-memory-odd"))),
    ("parameter-unknown", UNKNOWN, host(parameter=None), guest(process(UNKNOWN))),
    ("module-parameter", DISABLED, host(parameter=False), guest(process(UNKNOWN, has_pmu=True))),
    ("tdx-guest", UNKNOWN, host(), guest(replace(process(UNKNOWN), tdx=True))),
    ("no-qemu", UNKNOWN, host(), guest(replace(process(UNKNOWN, has_pmu=None), qemu=None))),
    ("cpu-unknown", UNKNOWN, host(), guest(process(UNKNOWN, has_pmu=None))),
    ("qemu-unknown", UNKNOWN, host(), guest(process(UNKNOWN, disables=None))),
    ("qemu-unknown", UNKNOWN, host(), guest(replace(process(UNKNOWN), qemu=None))),
    ("qemu-disables", DISABLED, host(mediated=None), guest(process(UNKNOWN))),
    ("mediated-pmu", UNKNOWN, host(mediated=None), guest(process(UNKNOWN, disables=False))),
    ("mediated-pmu", UNKNOWN, host(mediated=True), guest(process(UNKNOWN, has_pmu=True))),
    ("qemu-property", ENABLED, host(), guest(process(UNKNOWN, has_pmu=True))),
    ("vm-remade", UNKNOWN, host(), guest(replace(process(UNKNOWN), may_be_recreated=True))),
    ("qemu-keeps", ENABLED, host(), guest(process(UNKNOWN, disables=False))),
]
"""In the order of what is asked: each row but the last ones would have another answer further down."""


@pytest.mark.parametrize(("cause", "pmu", "facts", "one"), IN_KERNEL)
def test_a_vm_s_pmu_in_the_kernel_and_how_that_is_known(
    cause: str, pmu: KernelPmu, facts: HostFacts | None, one: Guest
) -> None:
    held = in_kernel_pmu(facts, one)
    assert (held.pmu, held.cause) == (pmu, cause)
    evidence = {UNKNOWN: Evidence.NONE}.get(pmu, Evidence.INFERRED)
    assert held.evidence is (Evidence.OBSERVED if cause == "kernel-memory" else evidence)
    if pmu is UNKNOWN and one.running and cause not in ("not-kvm", "remote-host"):
        assert WHY_UNKNOWN[cause]


# ---- TDX: KVM of 7.3 gives such a guest no PMU (kvm->arch.has_protected_pmu) -----------------------------------------

PROTECTED = replace(host(), guard=replace(host().guard, protected_pmu=True))


@pytest.mark.parametrize("has_pmu", [True, False, None])
@pytest.mark.parametrize("disables", [True, False, None])
@pytest.mark.parametrize("tdx", [True, None])
def test_of_a_tdx_guest_the_command_line_does_not_tell_what_kvm_holds(
    has_pmu: bool | None, disables: bool | None, tdx: bool | None
) -> None:
    held = in_kernel_pmu(host(), guest(replace(process(UNKNOWN, has_pmu=has_pmu, disables=disables), tdx=tdx)))
    assert (held.pmu, held.cause) == (UNKNOWN, "tdx-guest")


@pytest.mark.parametrize("mediated", [True, None])
def test_a_pmu_without_a_version_is_no_yes_where_nobody_looked_whether_it_counts(mediated: bool | None) -> None:
    """As facts from a file have it: what was seen of its version is older than what is asked."""
    vm = replace(process(KernelPmu.ENABLED, disables=False), pmu_shown=False, in_use=None)
    for verdict in (Verdict.NO_CALL, Verdict.EARLY_OUT):
        assert answer(host(verdict, mediated=mediated), guest(vm)).fast_path is FastPath.UNKNOWN


def test_nor_of_one_that_only_its_definition_calls_so() -> None:
    one = guest(process(UNKNOWN, has_pmu=True), ON)
    held = in_kernel_pmu(host(), replace(one, domain=replace(one.domain, tdx=True)))
    assert (held.pmu, held.cause) == (UNKNOWN, "tdx-guest")


@pytest.mark.parametrize("has_pmu", [True, False, None])
def test_where_kvm_protects_the_pmu_a_tdx_guest_has_none_in_the_kernel(has_pmu: bool | None) -> None:
    held = in_kernel_pmu(PROTECTED, guest(replace(process(UNKNOWN, has_pmu=has_pmu, disables=None), tdx=True)))
    assert (held.pmu, held.evidence, held.cause) == (DISABLED, Evidence.INFERRED, "tdx-guest")


def test_whether_a_vm_loses_its_pmu_is_unknown_where_it_is_unknown_what_it_has() -> None:
    assert loses_pmu(host(), guest(None), qemu(True)) is None
    hidden = replace(domain(), arguments=("-readconfig", "vm.conf"))
    stopped = Guest(hidden, False, OFF, next_qemu=qemu(False))
    assert loses_pmu(host(), stopped, qemu(True)) is None
    assert loses_pmu(host(), replace(stopped, domain=domain()), qemu(True)) is True


def test_one_that_may_be_a_tdx_guest_is_not_called_so() -> None:
    assert in_kernel_pmu(PROTECTED, guest(replace(process(UNKNOWN, has_pmu=True), tdx=None))).pmu is UNKNOWN


def test_kvms_parameter_and_kernel_memory_tell_of_tdx_guests_too() -> None:
    of_parameter = in_kernel_pmu(host(parameter=False), guest(replace(process(UNKNOWN, has_pmu=True), tdx=True)))
    assert (of_parameter.pmu, of_parameter.evidence) == (DISABLED, Evidence.INFERRED)
    seen = in_kernel_pmu(host(), guest(replace(HAS_PMU, tdx=True)))
    assert (seen.pmu, seen.evidence) == (ENABLED, Evidence.OBSERVED)


# ---- the trait -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mediated", "disables", "promised"),
    [(False, None, True), (True, None, False), (None, None, False), (True, True, True), (None, True, True)],
)
def test_without_a_call_the_trait_needs_a_qemu_only_if_counters_may_be_switched(
    mediated: bool | None, disables: bool | None, promised: bool
) -> None:
    facts = host(Verdict.NO_CALL, mediated=mediated)
    assert delivers(replace(facts, qemus=(qemu(disables),))) is promised


NOT_SPARING = (Verdict.UNGUARDED, Verdict.PARTIAL, Verdict.UNKNOWN)


@pytest.mark.parametrize(
    ("facts", "qemus", "promised"),
    [
        (host(), (qemu(True),), True),
        (host(), (qemu(True), qemu(True)), True),
        (host(), (qemu(True), qemu(False)), False),
        (host(), (qemu(True), qemu(None)), False),
        (host(), (), False),
        (host(evidence=Evidence.INFERRED), (qemu(True),), True),
        (host(evidence=Evidence.NONE), (qemu(True),), False),
        (host(parameter=False), (), True),
        (host(parameter=None), (), False),
        (host(Verdict.NO_CALL), (), True),
        (host(Verdict.EARLY_OUT), (), False),
        (host(Verdict.EARLY_OUT), (qemu(True),), True),
        *((host(verdict, parameter=False), (qemu(True),), False) for verdict in NOT_SPARING),
    ],
)
def test_the_trait_is_promised_where_kernel_and_every_qemu_are_sure(
    facts: HostFacts, qemus: tuple[Qemu, ...], promised: bool
) -> None:
    assert delivers(replace(facts, qemus=qemus)) is promised


# ---- evidence ------------------------------------------------------------------------------------------------------

OBSERVED, INFERRED = Evidence.OBSERVED, Evidence.INFERRED


@pytest.mark.parametrize(
    ("kernel", "vm", "expected"),
    [
        (OBSERVED, process(), OBSERVED),
        (INFERRED, process(), INFERRED),
        (OBSERVED, process(UNKNOWN), INFERRED),
        (INFERRED, process(UNKNOWN), INFERRED),
        (OBSERVED, process(ENABLED), OBSERVED),
        (OBSERVED, process(UNKNOWN, disables=False), INFERRED),
        (OBSERVED, process(UNKNOWN, has_pmu=True), INFERRED),
    ],
)
def test_a_joined_verdict_has_the_evidence_of_its_weakest_fact(
    kernel: Evidence, vm: LiveVm, expected: Evidence
) -> None:
    assert answer(host(evidence=kernel), guest(vm)).evidence is expected


@pytest.mark.parametrize("kernel", [OBSERVED, INFERRED])
@pytest.mark.parametrize(("verdict", "cause"), [(Verdict.NO_CALL, "no-pmu-call"), (Verdict.UNGUARDED, "no-test")])
def test_where_the_kernel_alone_decides_its_evidence_counts_alone(
    kernel: Evidence, verdict: Verdict, cause: str
) -> None:
    assert answer(host(verdict, cause, kernel), guest(process(UNKNOWN))).evidence is kernel


@pytest.mark.parametrize("other", [domain(kind="qemu"), domain(arch="aarch64")])
def test_what_kvm_holds_of_a_guest_that_is_none_of_its_x86_ones_is_not_said(other: Domain) -> None:
    held = answer(host(parameter=False), Guest(other, True, OFF, vm=process(UNKNOWN))).in_kernel
    assert (held.pmu, held.cause) == (UNKNOWN, "not-kvm")


def test_kernel_memory_outranks_what_would_follow() -> None:
    given = answer(host(), guest(process(ENABLED, disables=True)))
    assert (given.fast_path, given.evidence) == (FastPath.NO, OBSERVED)


# ---- remedies ------------------------------------------------------------------------------------------------------


def test_a_parameter_for_all_names_those_who_need_a_pmu() -> None:
    assert "from every VM of it" in to_do(host(), guest(OLD_QEMU))
    assert "no VM keeps a PMU" in to_do(host(), guest(OLD_QEMU), needing=0)
    assert "takes the PMU from 2 VMs here" in to_do(host(), guest(OLD_QEMU), needing=2)
    assert "takes the PMU from 1 VM here" in to_do(host(), guest(OLD_QEMU), needing=1)


@pytest.mark.parametrize(("nova", "words"), [(None, "virsh shutdown, virsh start"), (NOVA, "openstack server reboot")])
def test_a_power_cycle_is_named_by_its_manager(nova: Nova | None, words: str) -> None:
    one = guest(HAS_PMU, ON, OFF)
    one = replace(one, domain=replace(one.domain, nova=nova))
    assert words in to_do(host(), one)


def test_drift_of_novas_is_novas_to_mend_for_good() -> None:
    one = guest(HAS_PMU, ON, ON)
    assert "pmuconf-nova" in to_do(host(), replace(one, domain=replace(one.domain, nova=NOVA)))
    assert to_do(host(), one).startswith("pmuconf apply")


def test_a_yes_that_hangs_on_a_default_says_so() -> None:
    one = replace(guest(process(), DEFAULT, DEFAULT), domain=domain(DEFAULT, "host-model"))
    assert "pmuconf apply" in to_do(host(), one)


@pytest.mark.parametrize("arguments", [("-cpu", "host,pmu=off"), ("-global", "host-x86_64-cpu.pmu=off")])
def test_a_yes_that_hangs_on_options_is_not_said_to_hang_on_a_default(arguments: tuple[str, ...]) -> None:
    one = guest(process(), DEFAULT, DEFAULT)
    given = answer(host(), replace(one, domain=replace(one.domain, arguments=arguments)))
    assert (given.fast_path, given.cause) == (FastPath.YES, "guarded-disabled")


@pytest.mark.parametrize("running", [True, False])
def test_a_next_boot_that_options_take_from_the_policy_is_named_beside_the_cause(running: bool) -> None:
    one = Guest(domain(kind="qemu" if running else "kvm"), running, OFF, None, Decision.OFF)
    one = replace(one, obeyed=False, next_effective=ON)
    given = answer(host(), one)
    assert given.causes == ("not-kvm" if running else "not-running", "cpu-overridden")
    assert "pmu=off" in to_do(host(), one)
    assert answer(host(), replace(one, next_effective=OFF)).causes == given.causes[:1]


def test_a_qemu_is_not_accused_where_it_is_not_known_whether_the_cpu_has_a_pmu() -> None:
    one = guest(process(ENABLED, has_pmu=None), OFF)
    one = replace(one, domain=replace(one.domain, arguments=("-readconfig", "vm.conf")), obeyed=None)
    assert answer(host(), one).causes == ("next-boot-unknown",)


# ---- who loses a PMU under another QEMU ----------------------------------------------------------------------------


@pytest.mark.parametrize("world", [world for world in WORLDS if world.kernel == "guarded"], ids=str)
@pytest.mark.parametrize("disables", [True, False, None])
def test_the_upgrade_hazard_against_the_model(world: World, disables: bool | None) -> None:
    """A VM loses its PMU if it has one in the kernel now, and would not if it began under that QEMU."""
    after = replace(world, qemu_disables=bool(disables))
    truth = None if disables is None and world.enabled and not world.has_pmu else world.enabled and not after.enabled
    for facts, vm, _ in world.seen():
        cpu = "host-passthrough" if world.has_pmu else "host-model"
        said = loses_pmu(facts, Guest(domain(DEFAULT, cpu), True, OFF, vm=vm), qemu(disables))
        assert said is None or said == bool(truth)
        if vm is not None and None not in (vm.pmu_property, disables) and vm.kernel_pmu is not UNKNOWN:
            assert said == truth


NEW, OLD, UNSURE = map(qemu, (True, False, None))


@pytest.mark.parametrize(
    ("kernel", "own", "has_pmu", "new", "loses"),
    [
        (ENABLED, OLD, False, NEW, True),
        (ENABLED, OLD, True, NEW, False),
        (ENABLED, OLD, None, NEW, None),
        (ENABLED, OLD, False, OLD, False),
        (ENABLED, OLD, None, OLD, False),
        (ENABLED, OLD, False, UNSURE, None),
        (ENABLED, None, False, NEW, True),
        (DISABLED, OLD, False, NEW, False),
        (DISABLED, None, None, UNSURE, False),
        (UNKNOWN, OLD, False, NEW, True),
        (UNKNOWN, NEW, False, NEW, False),
        (UNKNOWN, NEW, None, NEW, None),
        (UNKNOWN, UNSURE, False, NEW, None),
        (UNKNOWN, None, False, NEW, None),
        (UNKNOWN, None, True, NEW, False),
    ],
)
def test_the_upgrade_hazard_by_example(
    kernel: KernelPmu, own: Qemu | None, has_pmu: bool | None, new: Qemu, loses: bool | None
) -> None:
    one = guest(LiveVm(1, kernel_pmu=kernel, qemu=own, pmu_property=has_pmu))
    assert loses_pmu(host(), one, new) is loses


@pytest.mark.parametrize("disables", [True, False, None])
@pytest.mark.parametrize("now", [True, False, None])
@pytest.mark.parametrize("cpu", ["host-passthrough", "host-model"])
def test_the_upgrade_hazard_of_a_vm_that_does_not_run(disables: bool | None, now: bool | None, cpu: str) -> None:
    one = Guest(domain(DEFAULT, cpu), False, DEFAULT, next_qemu=None if now is None else qemu(now))
    said = loses_pmu(host(), one, qemu(disables))
    if cpu == "host-passthrough" or disables is False or now is True:
        assert said is False
    else:
        assert said is (True if disables and now is False else None)


def test_what_kvm_does_not_run_loses_nothing() -> None:
    assert loses_pmu(host(), Guest(domain(kind="qemu"), True, OFF), qemu(True)) is False
    assert loses_pmu(host(parameter=False), guest(OLD_QEMU), qemu(True)) is False
