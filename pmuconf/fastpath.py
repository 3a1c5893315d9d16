"""Whether a VM has the fast path, why, and what would change it: host facts, domain facts and live facts, joined.

Pure. KVM spares a VM the PMU's work at an exit if the VM's PMU is disabled in the kernel (``kvm->arch.enable_pmu`` is
false) and the kernel asks for that; or if there is no such work (before 5.17); or, since 6.18, as long as nothing of
the VM counts instructions. The last two only where KVM does not switch the hardware's counters for it: a mediated PMU
(7.0) is work of its own. Everything else is the slow path, and what is not known stays unknown: a yes stands on facts
about this kernel and this VM, each observed or inferred, and its evidence is that of the weakest.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

from pmuconf.domain.definition import Domain, PmuState
from pmuconf.hostfacts import CONTRADICTORY, Evidence, HostFacts, KernelPmu, LiveVm, Qemu, Verdict
from pmuconf.policy import Decision
from pmuconf.remedy import remedies

__all__ = [
    "CASES",
    "Answer",
    "Case",
    "FastPath",
    "Guest",
    "InKernel",
    "answer",
    "delivers",
    "in_kernel_pmu",
    "loses_pmu",
    "overridden",
]


class FastPath(enum.Enum):
    """Whether KVM skips the PMU's work at this VM's exits."""

    YES = "yes"
    PARTIAL = "partial"
    NO = "no"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Case:
    """One cause: its answer, the sentence for a person, and the exit status that a VM in it deserves."""

    fast_path: FastPath
    message: str
    severity: int


_YES, _PARTIAL, _NO, _UNKNOWN = FastPath.YES, FastPath.PARTIAL, FastPath.NO, FastPath.UNKNOWN

CASES: Final = {
    "no-call": Case(_YES, "this kernel does nothing for the PMU there", 0),
    "guarded-disabled": Case(_YES, "its PMU is disabled in the kernel, which asks before it counts", 0),
    "guard-in-callee": Case(_YES, "its PMU is disabled in the kernel, and the function that counts asks first", 0),
    "disabled-by-parameter": Case(_YES, "kvm.enable_pmu=N: the PMU of every VM is disabled in the kernel", 0),
    "disabled-by-default": Case(_YES, "no state is written; this QEMU disables the PMU of such a CPU model", 0),
    "migrated-in": Case(_YES, "it came by migration or restore, to a QEMU that disables its PMU in the kernel", 0),
    "early-out-disabled": Case(_YES, "its PMU is disabled in the kernel, which returns while nothing counts", 0),
    "early-out-idle": Case(_YES, "its PMU is there but counts nothing now, so the kernel returns at once", 0),
    "mediated-pmu": Case(_NO, "it has a PMU, and KVM switches the hardware's counters at its exits, idle or not", 2),
    "partial-guard": Case(_PARTIAL, "the kernel asks in one place, copies of the code elsewhere do not", 1),
    "not-x86": Case(_NO, "it is no x86 VM", 0),
    "not-kvm": Case(_NO, "KVM does not run it", 0),
    "not-running": Case(_NO, "it is not running", 0),
    "saved-image": Case(_NO, "its saved image brings another PMU state back at the next start", 1),
    "pmu-on-by-policy": Case(_NO, "it has a PMU, as the policy wants", 0),
    "pmu-kept": Case(_NO, "it has a PMU, and the policy leaves it as it is", 0),
    "undecided": Case(_NO, "it has a PMU, and the policy could not decide", 1),
    "kernel-unguarded": Case(_NO, "the kernel does the PMU's work for every VM", 2),
    "qemu-keeps-pmu": Case(_NO, "it must not have a PMU, but its QEMU leaves the PMU enabled in KVM", 2),
    "qemu-upgraded": Case(_NO, "it still runs under an older QEMU, which leaves the PMU enabled in KVM", 1),
    "qemu-did-not": Case(_NO, "its QEMU should have disabled the PMU in KVM and did not", 2),
    "transient": Case(_NO, "it is transient: only a new definition can take its PMU away", 1),
    "cpu-overridden": Case(_NO, "its <pmu> is without effect: other options of its QEMU decide about the PMU", 2),
    "next-boot-unknown": Case(_NO, "it has a PMU, and it is not known whether its next boot has one", 1),
    "drift": Case(_NO, "its next boot is not what the policy wants", 2),
    "pending-power-cycle": Case(_NO, "its next boot is right, the running guest still has a PMU", 1),
    "kernel-unknown": Case(_UNKNOWN, "it is not known what this kernel does", 1),
    "pmu-unknown": Case(_UNKNOWN, "it is not known whether its PMU is disabled in the kernel", 1),
    "depends-on-guest": Case(_UNKNOWN, "the kernel returns early only while this guest counts nothing", 1),
    "mediated-unknown": Case(_UNKNOWN, "it has a PMU, and it is not known whether KVM switches counters for it", 1),
    "remote-host": Case(_UNKNOWN, "it runs on another host, whose kernel can't be looked at from here", 1),
}
"""Every cause there is, by its code."""

_WANTED: Final = ("pmu-on-by-policy", "pmu-kept")


@dataclass(frozen=True)
class InKernel:
    """The PMU of a VM in the kernel, how that is known, and from what (or why it is not)."""

    pmu: KernelPmu
    evidence: Evidence
    cause: str


@dataclass(frozen=True)
class Guest:
    """What is known of a VM besides its host.

    ``domain`` is the definition to judge: the running one, or the next boot of a domain that does not run. ``vm`` is
    its process as the probes found it, None if they did not. ``next_qemu`` is the binary that is now where its own was
    started from.

    :param obeyed: whether the next boot gets what its ``<pmu>`` says, on or off; None: it can't be said.
    :param next_effective: what the next boot gets if that is not sure; None: unknown.
    """

    domain: Domain
    running: bool
    next_boot: PmuState | None
    saved: PmuState | None = None
    decision: Decision | None = None
    vm: LiveVm | None = None
    next_qemu: Qemu | None = None
    obeyed: bool | None = True
    next_effective: PmuState | None = None

    @property
    def differs(self) -> bool:
        """Whether the CPU of its process is not what its definition says: something in between decides."""
        said = self.domain.effective_pmu
        has_pmu = None if self.vm is None else self.vm.pmu_property
        return self.running and None not in (said, has_pmu) and has_pmu is not (said is PmuState.ON)

    @property
    def heeded(self) -> bool | None:
        """As ``obeyed``; a definition that is not obeyed now will not be obeyed at the next start."""
        return False if self.differs else self.obeyed

    def will_get(self, state: PmuState) -> PmuState | None:
        """What the next boot gets if its ``<pmu>`` says that; None: unknown."""
        if self.heeded and state is not PmuState.DEFAULT:
            return state
        return None if self.differs else self.next_effective


@dataclass(frozen=True)
class Answer:
    """The verdict on one VM.

    :param cause: the first of ``causes``, a key of CASES.
    :param causes: all that stand in the way, in the order in which to remove them; for a yes, the reason alone.
    :param evidence: of the weakest fact that the verdict stands on; for unknown, none.
    :param remedy: what would change it, in the manager's own words; empty where nothing is to be done.
    :param wanted_on: the policy wants a PMU here, or leaves the one that is there.
    """

    fast_path: FastPath
    causes: tuple[str, ...]
    evidence: Evidence
    message: str
    remedy: str
    in_kernel: InKernel
    wanted_on: bool = False

    @property
    def cause(self) -> str:
        return self.causes[0]

    @property
    def severity(self) -> int:
        """The exit status that it becomes: 0 as wanted, 1 waits or can't be known, 2 slow path."""
        return 0 if self.wanted_on else CASES[self.cause].severity


def answer(host: HostFacts | None, guest: Guest, *, needing: int | None = None) -> Answer:
    """Judge one VM.

    :param host: None: the VM's host can't be looked at from here.
    :param needing: how many VMs of the host keep a PMU: what speaks against a module parameter for all. None: unknown.
    """
    held = in_kernel_pmu(host, guest)
    causes = _causes(host, guest, held)
    case = CASES[causes[0]]
    message = case.message
    if causes[0] == "pmu-unknown":
        message = f"{message}: {_WHY_UNKNOWN.get(held.cause, held.cause)}"
    elif causes[0] == "kernel-unknown" and host is not None:
        message = f"{message}: {host.guard.message}"
    return Answer(
        fast_path=case.fast_path,
        causes=causes,
        evidence=_evidence(case.fast_path, causes[0], host, held),
        message=message,
        remedy="; ".join(remedies(causes, host, guest, held, needing)),
        in_kernel=held,
        wanted_on=guest.decision is Decision.ON or any(cause in _WANTED for cause in causes),
    )


def in_kernel_pmu(host: HostFacts | None, guest: Guest) -> InKernel:
    """The VM's PMU in the kernel: what kernel memory says, else what follows from KVM, the process and its QEMU."""
    vm = guest.vm
    if not guest.running or guest.domain.virt_type != "kvm" or not guest.domain.x86:
        return InKernel(KernelPmu.UNKNOWN, Evidence.NONE, "not-running" if not guest.running else "not-kvm")
    if vm is not None and vm.kernel_pmu is not KernelPmu.UNKNOWN:
        return InKernel(vm.kernel_pmu, Evidence.OBSERVED, "kernel-memory")
    if host is None:
        return InKernel(KernelPmu.UNKNOWN, Evidence.NONE, "remote-host")
    if vm is None:  # nothing shows that it runs here: the facts of this host may not be those of its own
        return InKernel(KernelPmu.UNKNOWN, Evidence.NONE, "process-unknown")
    if vm.cause in CONTRADICTORY:
        return InKernel(KernelPmu.UNKNOWN, Evidence.NONE, vm.cause)
    if host.enable_pmu is None:
        return InKernel(KernelPmu.UNKNOWN, Evidence.NONE, "parameter-unknown")
    if not host.enable_pmu:
        return InKernel(KernelPmu.DISABLED, Evidence.INFERRED, "module-parameter")
    if vm.tdx and host.guard.protected_pmu:  # from birth, whatever its QEMU asks for
        return InKernel(KernelPmu.DISABLED, Evidence.INFERRED, "tdx-guest")
    if vm.tdx is not False or guest.domain.tdx:
        return InKernel(KernelPmu.UNKNOWN, Evidence.NONE, "tdx-guest")
    if vm.pmu_property is None:
        return InKernel(KernelPmu.UNKNOWN, Evidence.NONE, "cpu-unknown")
    if not vm.pmu_property and vm.qemu is not None and vm.qemu.disables and not vm.may_be_recreated:
        return InKernel(KernelPmu.DISABLED, Evidence.INFERRED, "qemu-disables")
    if not vm.pmu_property and (vm.qemu is None or vm.qemu.disables is None):
        return InKernel(KernelPmu.UNKNOWN, Evidence.NONE, "qemu-unknown")
    if host.mediated_pmu is not False:  # it takes the PMU from VMs without an in-kernel irqchip, whatever QEMU does
        return InKernel(KernelPmu.UNKNOWN, Evidence.NONE, "mediated-pmu")
    if vm.pmu_property:
        return InKernel(KernelPmu.ENABLED, Evidence.INFERRED, "qemu-property")
    if vm.qemu is not None and vm.qemu.disables:
        # It makes the call before its first vCPU; not, as far as is known, once more for the VM that a reset gives it.
        return InKernel(KernelPmu.UNKNOWN, Evidence.NONE, "vm-remade")
    return InKernel(KernelPmu.ENABLED, Evidence.INFERRED, "qemu-keeps")


def loses_pmu(host: HostFacts, guest: Guest, qemu: Qemu) -> bool | None:
    """Whether a VM would lose a PMU that it has in the kernel by going on under that QEMU; None: it can't be said.

    A running VM by live migration, restore, or a cold start with the same definition; one that does not run by its
    next start, if ``guest.next_qemu``, under which it would start today, leaves it one.
    """
    if not guest.domain.x86 or guest.domain.virt_type != "kvm" or qemu.disables is False or host.enable_pmu is False:
        return False
    effective = guest.domain.effective_pmu
    has_pmu = None if effective is None else effective is PmuState.ON
    if guest.running:
        held = in_kernel_pmu(host, guest).pmu
        has_pmu = guest.vm.pmu_property if guest.vm is not None else has_pmu
    else:
        leaves = None if guest.next_qemu is None or guest.domain.tdx else guest.next_qemu.disables
        held = {True: KernelPmu.DISABLED, False: KernelPmu.ENABLED, None: KernelPmu.UNKNOWN}[leaves]
    if has_pmu is True or held is KernelPmu.DISABLED:
        return False
    if has_pmu is None or held is KernelPmu.UNKNOWN or qemu.disables is None:
        return None
    return True


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
        if in_the_way and in_the_way[0] in _WANTED:
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
        return in_the_way if in_the_way[:1] and in_the_way[0] in _WANTED else ("mediated-pmu", *in_the_way)
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


def overridden(guest: Guest) -> bool:
    """Whether the next boot has the state that the policy wants, and the guest will not get it nevertheless."""
    wanted = None if guest.decision is None else guest.decision.state
    if wanted is None or guest.next_boot is not wanted or guest.heeded is not False:
        return False
    seen = guest.vm.pmu_property if guest.differs and guest.vm is not None else None
    gets = guest.will_get(wanted) if seen is None else PmuState.ON if seen else PmuState.OFF
    return gets is not wanted


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
    elif guest.next_boot not in (PmuState.OFF, None):
        causes.append("drift")
    return tuple(causes)


def _what_off_does(guest: Guest) -> tuple[str, ...]:
    """Of a guest that is to lose its PMU: whether a power cycle takes it away, once ``off`` is written."""
    will_get = guest.will_get(PmuState.OFF)
    if will_get is PmuState.OFF:
        return ("pending-power-cycle",) if guest.next_boot is PmuState.OFF else ()
    return ("cpu-overridden",) if guest.heeded is False else ("next-boot-unknown",)


def _evidence(verdict: FastPath, cause: str, host: HostFacts | None, held: InKernel) -> Evidence:
    """That of the weakest fact that this verdict needs."""
    if cause in ("not-x86", "not-kvm", "not-running", "saved-image"):
        return Evidence.OBSERVED  # by libvirt
    if verdict is FastPath.UNKNOWN or host is None:
        return Evidence.NONE
    if cause in ("no-call", "kernel-unguarded") or host.guard.verdict is Verdict.UNGUARDED:
        return host.guard.evidence  # whatever the VM's PMU is
    if cause == "early-out-idle":
        return host.guard.evidence  # what counts is observed, or it is not this case
    if cause == "mediated-pmu":
        return held.evidence  # whatever the kernel does beside
    return host.guard.evidence.weaker(held.evidence)


_WHY_UNKNOWN: Final = {
    "parameter-unknown": "kvm.enable_pmu can't be read",
    "process-unknown": "its process was not found on this host",
    "several-vms": "its process has several VMs in KVM, which differ",
    "kernel-memory-odd": "what kernel memory holds of it contradicts itself, or kvm.enable_pmu",
    "cpu-unknown": "its QEMU's command line does not tell",
    "mediated-pmu": "with mediated PMUs, or where that is not known, it depends on its interrupt controller",
    "tdx-guest": "it is a TDX guest, or may be one: newer kernels give those no PMU, older ones may",
    "qemu-unknown": "its QEMU may disable the PMU or not",
    "vm-remade": "a reset may have given this confidential guest another VM of KVM, with its PMU enabled",
}


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
