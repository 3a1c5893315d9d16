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
from pmuconf.drift import drifts, image_waits
from pmuconf.fastpath.cases import CASES, WANTED, Basis, FastPath
from pmuconf.fastpath.guest import Guest, overridden
from pmuconf.fastpath.inkernel import WHY_UNKNOWN, InKernel, in_kernel_pmu
from pmuconf.hostfacts import Evidence, HostFacts, KernelPmu, Verdict
from pmuconf.policy import Decision

__all__ = ["Answer", "answer", "delivers"]


@dataclass(frozen=True)
class Answer:
    """The verdict on one VM.

    :param causes: keys of CASES: everything that stands in the way, in the order in which to remove it. For a yes, the
        reason alone.
    :param evidence: that of the weakest fact that the verdict stands on; for unknown, none.
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
        """The first of the causes."""
        return self.causes[0]

    @property
    def severity(self) -> int:
        """The exit status that it deserves: 0 as wanted, 1 waits or is unknown, 2 slow path."""
        return 0 if self.wanted_on else CASES[self.cause].severity


def answer(host: HostFacts | None, guest: Guest) -> Answer:
    """The verdict on one VM.

    :param host: the VM's host; None: it can't be looked at from here.
    """
    in_kernel = in_kernel_pmu(host, guest)
    causes = _causes(host, guest, in_kernel)
    case = CASES[causes[0]]
    message = case.message
    if causes[0] == "pmu-unknown":
        message = f"{message}: {WHY_UNKNOWN.get(in_kernel.cause, in_kernel.cause)}"
    elif causes[0] == "kernel-unknown" and host is not None:
        message = f"{message}: {host.guard.message}"
    return Answer(
        fast_path=case.fast_path,
        causes=causes,
        evidence=_evidence(case.basis, host, in_kernel),
        message=message,
        in_kernel=in_kernel,
        wanted_on=guest.decision is Decision.ON or any(cause in WANTED for cause in causes),
    )


def _causes(host: HostFacts | None, guest: Guest, in_kernel: InKernel) -> tuple[str, ...]:
    """The cause, and behind it what else stands in the way.

    A VM that has no exits of KVM's is told apart first: its kernel does not matter. Then the kernel decides, and only
    where it asks for the VM's PMU does that PMU decide.
    """
    if not guest.domain.x86:
        return ("not-x86",)
    if guest.domain.virt_type != "kvm":
        return ("not-kvm", *_beside(guest))
    if not guest.running:
        waits = guest.wanted is not None and image_waits(guest.wanted, guest.saved)
        return ("saved-image" if waits else "not-running", *_beside(guest))
    if host is None:
        return ("remote-host",)
    return _by_kernel(host, guest, in_kernel)


def _by_kernel(host: HostFacts, guest: Guest, in_kernel: InKernel) -> tuple[str, ...]:
    """The causes of a VM that runs under KVM on this host."""
    verdict = host.guard.verdict
    if verdict is Verdict.NO_CALL:
        if guest.vm is None:  # the verdict is on this kernel: nothing shows that the VM runs under it
            return ("pmu-unknown",)
        if host.mediated_pmu is False or in_kernel.pmu is KernelPmu.DISABLED:
            return ("no-call",)
    in_the_way = _in_the_way(guest) if in_kernel.pmu is KernelPmu.ENABLED else ()
    if verdict is Verdict.UNKNOWN:
        return ("kernel-unknown", *in_the_way)
    if verdict is Verdict.UNGUARDED:
        return _unless_wanted("kernel-unguarded", in_the_way)
    if in_kernel.pmu is KernelPmu.DISABLED:
        return (_why_disabled(host, guest, verdict),)
    if verdict in (Verdict.EARLY_OUT, Verdict.NO_CALL):
        return _though_enabled(host, guest, in_kernel, in_the_way)
    return ("pmu-unknown",) if in_kernel.pmu is KernelPmu.UNKNOWN else in_the_way


def _unless_wanted(cause: str, in_the_way: tuple[str, ...]) -> tuple[str, ...]:
    """The cause before what else stands in the way; a VM that is to have its PMU has no cause but that."""
    return in_the_way if in_the_way and in_the_way[0] in WANTED else (cause, *in_the_way)


def _though_enabled(host: HostFacts, guest: Guest, in_kernel: InKernel, in_the_way: tuple[str, ...]) -> tuple[str, ...]:
    """The causes where the kernel may spare a VM the counting, although its PMU is not known to be disabled.

    Counting is not all the work. Since Linux 7.0 KVM switches a mediated PMU at every exit that leaves its inner loop,
    for every VM whose PMU has a version, whatever it counts (kvm_mediated_pmu_load, kvm_mediated_pmu_put). So the
    switching is asked for first, and the counting after it.
    """
    counts_nothing = guest.vm is not None and guest.vm.in_use is False
    switched = host.mediated_pmu
    if guest.vm is not None and guest.vm.pmu_shown is False:
        # On Intel, a PMU that QEMU does not show to the guest has no version, though KVM has it enabled. That was seen
        # with the use of the counters, or it is older: then it may be otherwise by now.
        switched = False if counts_nothing or switched is False else None
    if switched:
        return _unless_wanted("mediated-pmu", in_the_way) if in_kernel.pmu is KernelPmu.ENABLED else ("pmu-unknown",)
    no_call = host.guard.verdict is Verdict.NO_CALL
    if no_call and switched is False:
        return ("no-call",)
    if switched is None and (counts_nothing or no_call):
        return ("mediated-unknown", *in_the_way)
    return ("early-out-idle",) if counts_nothing or no_call else ("depends-on-guest", *in_the_way)


def _why_disabled(host: HostFacts, guest: Guest, verdict: Verdict) -> str:
    """The cause of a VM whose PMU is disabled in a kernel that asks for that."""
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


def _in_the_way(guest: Guest) -> tuple[str, ...]:
    """Why the PMU of a running VM is enabled in the kernel, in the order in which to remove the reasons.

    First the policy: if it does not want the PMU gone, nothing stands in the way. Then its QEMU, and then its next
    boot, because a new start helps only under the right QEMU.
    """
    if guest.decision is None or guest.decision is Decision.UNDECIDED:
        return ("undecided",)
    if guest.decision is Decision.ON:
        return _beside(guest) if guest.has_pmu is False and overridden(guest) else ("pmu-on-by-policy",)
    if guest.decision is Decision.KEEP:
        return _by_qemu(guest) if guest.has_pmu is False else ("pmu-kept",)
    return (*_by_qemu(guest), *_by_next_boot(guest))


def _by_qemu(guest: Guest) -> tuple[str, ...]:
    """How its QEMU keeps the PMU enabled, or would."""
    disables = None if guest.vm is None or guest.vm.qemu is None else guest.vm.qemu.disables
    next_disables = guest.next_qemu is not None and bool(guest.next_qemu.disables)
    if guest.has_pmu is not False:
        return ("qemu-keeps-pmu",) if disables is False and not next_disables else ()
    if disables:
        return ("qemu-did-not",)
    return ("qemu-upgraded",) if next_disables else ("qemu-keeps-pmu",)


def _by_next_boot(guest: Guest) -> tuple[str, ...]:
    """How its next boot would leave a PMU to a guest that is to have none."""
    causes = [] if guest.has_pmu is False else [*_after_off(guest)]
    if guest.next_boot is None and guest.has_pmu is not False:
        causes.append("transient")
    elif drifts(guest.decision, guest.next_boot):
        causes.append("drift")
    return tuple(causes)


def _after_off(guest: Guest) -> tuple[str, ...]:
    """What stands between the guest and a start without a PMU, apart from writing ``off``."""
    if guest.will_get(PmuState.OFF) is PmuState.OFF:
        return ("pending-power-cycle",) if guest.next_boot is PmuState.OFF else ()
    return ("cpu-overridden",) if guest.heeded is False else ("next-boot-unknown",)


def _evidence(basis: Basis, host: HostFacts | None, in_kernel: InKernel) -> Evidence:
    """The evidence of the weakest fact that the verdict stands on."""
    if basis is Basis.LIBVIRT:
        return Evidence.OBSERVED
    if basis is Basis.NOTHING or host is None:
        return Evidence.NONE
    if basis is Basis.PMU:
        return in_kernel.evidence
    if basis is Basis.KERNEL or host.guard.verdict is Verdict.UNGUARDED:
        return host.guard.evidence  # whatever the VM's PMU is
    return host.guard.evidence.weaker(in_kernel.evidence)


def delivers(facts: HostFacts) -> bool:
    """Whether a VM whose PMU is off has the fast path on this host: what the trait CUSTOM_PMU_FASTPATH promises.

    The kernel has to spare it, and its PMU has to be disabled: by KVM's parameter, or by every QEMU that libvirt would
    start, if there is one.
    """
    guard = facts.guard
    if guard.evidence is Evidence.NONE or guard.verdict.severity:
        return False
    if facts.enable_pmu is False or (guard.verdict is Verdict.NO_CALL and facts.mediated_pmu is False):
        return True
    return bool(facts.qemus) and all(qemu.disables is True for qemu in facts.qemus)
