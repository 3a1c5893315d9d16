"""Whether a VM has the fast path, and why: host facts, domain facts and live facts, joined.

Pure. KVM spares a VM the PMU's work at an exit if the VM's PMU is disabled in the kernel (``kvm->arch.enable_pmu`` is
false) and the kernel asks for that; or if there is no such work (before 5.17); or, since 6.18, as long as nothing of
the VM counts instructions. The last two only where KVM does not switch the hardware's counters for it: a mediated PMU
(7.0) is work of its own. Everything else is the slow path, and what is not known stays unknown: a yes stands on facts
about this kernel and this VM, each observed or inferred, and its evidence is that of the weakest.
"""

from __future__ import annotations

from dataclasses import dataclass

from pmuconf.domain.definition import PmuState
from pmuconf.drift import drifts
from pmuconf.fastpath.cases import CASES, WANTED, Basis, FastPath
from pmuconf.fastpath.guest import Guest, overridden
from pmuconf.fastpath.inkernel import WHY_UNKNOWN, InKernel, in_kernel_pmu
from pmuconf.hostfacts import Evidence, HostFacts, KernelPmu, Verdict
from pmuconf.policy import Decision

__all__ = ["Answer", "answer", "delivers"]


@dataclass(frozen=True)
class Answer:
    """The verdict on one VM.

    :param cause: the first of ``causes``, a key of CASES.
    :param causes: all that stand in the way, in the order in which to remove them; for a yes, the reason alone.
    :param evidence: of the weakest fact that the verdict stands on; for unknown, none.
    :param wanted_on: the policy wants a PMU here, or leaves the one that is there.
    """

    fast_path: FastPath
    causes: tuple[str, ...]
    evidence: Evidence
    message: str
    in_kernel: InKernel
    wanted_on: bool = False

    @property
    def cause(self) -> str:
        return self.causes[0]

    @property
    def severity(self) -> int:
        """The exit status that it becomes: 0 as wanted, 1 waits or can't be known, 2 slow path."""
        return 0 if self.wanted_on else CASES[self.cause].severity


def answer(host: HostFacts | None, guest: Guest) -> Answer:
    """Judge one VM.

    :param host: None: the VM's host can't be looked at from here.
    """
    held = in_kernel_pmu(host, guest)
    causes = _causes(host, guest, held)
    case = CASES[causes[0]]
    message = case.message
    if causes[0] == "pmu-unknown":
        message = f"{message}: {WHY_UNKNOWN.get(held.cause, held.cause)}"
    elif causes[0] == "kernel-unknown" and host is not None:
        message = f"{message}: {host.guard.message}"
    return Answer(
        fast_path=case.fast_path,
        causes=causes,
        evidence=_evidence(case.basis, host, held),
        message=message,
        in_kernel=held,
        wanted_on=guest.decision is Decision.ON or any(cause in WANTED for cause in causes),
    )


def _causes(host: HostFacts | None, guest: Guest, held: InKernel) -> tuple[str, ...]:
    """The cases, in order: the first that holds is the cause, what follows it stands in the way as well."""
    if not guest.domain.x86:
        return ("not-x86",)
    if guest.domain.virt_type != "kvm":
        return ("not-kvm", *_beside(guest))
    wanted = None if guest.decision is None else guest.decision.state
    if not guest.running:
        other = wanted is not None and guest.saved not in (None, wanted)
        return ("saved-image" if other else "not-running", *_beside(guest))
    if host is None:
        return ("remote-host",)
    verdict = host.guard.verdict
    if verdict is Verdict.NO_CALL:
        if guest.vm is None:  # whatever its PMU is, but of this kernel only: it must be seen to run here
            return ("pmu-unknown",)
        if host.mediated_pmu is False or held.pmu is KernelPmu.DISABLED:
            return ("no-call",)
    in_the_way = _in_the_way(guest) if held.pmu is KernelPmu.ENABLED else ()
    if verdict is Verdict.UNKNOWN:
        return ("kernel-unknown", *in_the_way)
    if verdict is Verdict.UNGUARDED:
        if in_the_way and in_the_way[0] in WANTED:
            return in_the_way
        return ("kernel-unguarded", *in_the_way)
    if held.pmu is KernelPmu.DISABLED:
        return (_why_disabled(host, guest, verdict),)
    if verdict in (Verdict.EARLY_OUT, Verdict.NO_CALL):
        return _though_enabled(host, guest, held, in_the_way)
    if held.pmu is KernelPmu.UNKNOWN:
        return ("pmu-unknown",)
    return in_the_way


def _though_enabled(host: HostFacts, guest: Guest, held: InKernel, in_the_way: tuple[str, ...]) -> tuple[str, ...]:
    """The cases of a kernel that may spare a VM the counting though its PMU is not known to be disabled.

    Counting is not all that there is: since 7.0 a mediated PMU is switched at every exit that leaves KVM's inner loop,
    for every VM whose PMU has a version, whatever it counts (kvm_mediated_pmu_load, kvm_mediated_pmu_put).
    """
    mediated, idle = host.mediated_pmu, guest.vm is not None and guest.vm.in_use is False
    if guest.vm is not None and guest.vm.pmu_shown is False:
        # On Intel, where QEMU shows the guest no PMU and KVM holds one nevertheless. As long as it is started, perhaps.
        mediated = False if idle or mediated is False else None
    if mediated and held.pmu is KernelPmu.ENABLED:
        return in_the_way if in_the_way[:1] and in_the_way[0] in WANTED else ("mediated-pmu", *in_the_way)
    if mediated:
        return ("pmu-unknown",)
    if host.guard.verdict is Verdict.NO_CALL and mediated is False:
        return ("no-call",)
    idle = idle or host.guard.verdict is Verdict.NO_CALL
    if idle and mediated is None:
        return ("mediated-unknown", *in_the_way)
    return ("early-out-idle",) if idle else ("depends-on-guest", *in_the_way)


def _why_disabled(host: HostFacts, guest: Guest, verdict: Verdict) -> str:
    if verdict is Verdict.PARTIAL:
        return "partial-guard"
    if verdict is Verdict.EARLY_OUT:
        return "early-out-disabled"
    if host.enable_pmu is False:
        return "disabled-by-parameter"
    if guest.vm is not None and guest.vm.incoming:
        return "migrated-in"
    if guest.domain.pmu is PmuState.DEFAULT and not guest.domain.arguments:
        return "disabled-by-default"
    return "guard-in-callee" if host.guard.cause == "guard-in-callee" else "guarded-disabled"


def _beside(guest: Guest) -> tuple[str, ...]:
    return ("cpu-overridden",) if overridden(guest) else ()


def _has_pmu(guest: Guest) -> bool | None:
    """Whether the running guest's CPU has a PMU: by its process, else by its definition."""
    if guest.vm is not None and guest.vm.pmu_property is not None:
        return guest.vm.pmu_property
    said = guest.domain.effective_pmu
    return None if said is None else said is PmuState.ON


def _in_the_way(guest: Guest) -> tuple[str, ...]:
    """Why a running VM's PMU is enabled in the kernel, and what has to go before it would not be."""
    if guest.decision is None or guest.decision is Decision.UNDECIDED:
        return ("undecided",)
    has_pmu = _has_pmu(guest)
    if guest.decision is Decision.ON:
        return (has_pmu is False and _beside(guest)) or ("pmu-on-by-policy",)
    vm = guest.vm
    if guest.decision is Decision.KEEP and has_pmu is not False:
        return ("pmu-kept",)
    causes = []
    qemu, next_qemu = None if vm is None else vm.qemu, guest.next_qemu
    if has_pmu is False and qemu is not None and qemu.disables:
        causes.append("qemu-did-not")
    elif (has_pmu is False or (qemu is not None and qemu.disables is False)) and not (next_qemu and next_qemu.disables):
        causes.append("qemu-keeps-pmu")
    elif has_pmu is False:
        causes.append("qemu-upgraded")
    if guest.decision is not Decision.OFF:
        return tuple(causes)
    if has_pmu is not False:
        causes += _what_off_does(guest)
    if guest.next_boot is None and has_pmu is not False:
        causes.append("transient")
    elif drifts(guest.decision, guest.next_boot):
        causes.append("drift")
    return tuple(causes)


def _what_off_does(guest: Guest) -> tuple[str, ...]:
    """Of a guest that is to lose its PMU: whether a power cycle takes it away, once ``off`` is written."""
    will_get = guest.will_get(PmuState.OFF)
    if will_get is PmuState.OFF:
        return ("pending-power-cycle",) if guest.next_boot is PmuState.OFF else ()
    return ("cpu-overridden",) if guest.heeded is False else ("next-boot-unknown",)


def _evidence(basis: Basis, host: HostFacts | None, held: InKernel) -> Evidence:
    """That of the weakest fact that the verdict stands on."""
    if basis is Basis.LIBVIRT:
        return Evidence.OBSERVED
    if basis is Basis.NOTHING or host is None:
        return Evidence.NONE
    if basis is Basis.PMU:
        return held.evidence
    if basis is Basis.KERNEL or host.guard.verdict is Verdict.UNGUARDED:
        return host.guard.evidence  # whatever the VM's PMU is
    return host.guard.evidence.weaker(held.evidence)


def delivers(facts: HostFacts) -> bool:
    """Whether a VM whose PMU is off has the fast path on this host: what the trait CUSTOM_PMU_FASTPATH promises.

    The kernel spares it, and KVM's parameter, or each QEMU that libvirt would start and at least one, disables its PMU.
    """
    guard = facts.guard
    if guard.evidence is Evidence.NONE or guard.verdict.severity:
        return False
    if facts.enable_pmu is False or (guard.verdict is Verdict.NO_CALL and facts.mediated_pmu is False):
        return True
    return bool(facts.qemus) and all(qemu.disables is True for qemu in facts.qemus)
