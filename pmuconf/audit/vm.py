"""One VM of an audit: its PMU states, the decision of the policy, and how they differ. Pure."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from pmuconf.domain.definition import Domain, Manager, PmuState
from pmuconf.drift import drifts, guest_waits, image_waits, stuck
from pmuconf.errors import PmuconfError
from pmuconf.fastpath.guest import Guest, overridden
from pmuconf.fastpath.verdict import Answer
from pmuconf.hostfacts import LiveVm
from pmuconf.policy import Decision, FlavorImageConflict, Policy, Ruling, Subject, decide

__all__ = ["Severity", "Status", "Unjudged", "Vm", "guest_of", "judge"]


class Severity(enum.IntEnum):
    """How far a VM is from wanted, as the exit status of a command says it."""

    OK = 0
    WARNING = 1
    FINDING = 2


class Status(enum.Enum):
    """How a VM stands with the policy: of all that holds, the gravest."""

    ERROR = "error"
    DRIFT = "drift"
    OVERRIDDEN = "overridden"
    PENDING = "pending"
    STUCK = "stuck"
    """It runs with another state than the policy wants, and has no next boot: transient, or a dump of a guest."""
    UNDECIDED = "undecided"
    OK = "ok"


_SEVERITIES: Final = {
    Status.ERROR: Severity.FINDING,
    Status.DRIFT: Severity.FINDING,
    Status.OVERRIDDEN: Severity.FINDING,
    Status.PENDING: Severity.WARNING,
    Status.STUCK: Severity.WARNING,
    Status.UNDECIDED: Severity.WARNING,
    Status.OK: Severity.OK,
}


@dataclass(frozen=True)
class Unjudged:
    """Why a domain could not be judged: a cause code, a sentence, and what to do next, where that is known."""

    cause: str
    message: str
    hint: str = ""

    @classmethod
    def of(cls, error: PmuconfError) -> Unjudged:
        """The same as an error says it."""
        return cls(error.cause, error.message, error.hint)


@dataclass(frozen=True)
class Vm:
    """One domain of the report.

    :param live: the state of the running guest; None: it does not run.
    :param next_boot: the state of the next start; None: the domain is transient, and nothing can be written for it.
    :param saved: the state in the managed save image; None: there is none.
    :param snapshots: how many would bring back another PMU state than the next boot has.
    :param effective_pmu: what the guest gets, by its process if that is known, or by its definition; None: unknown.
    :param domain: the definition of the running guest, or of the next boot if it does not run.
    :param next_domain: the definition of the next boot.
    :param process: its QEMU; None: the host was not asked, or the process was not found.
    :param answer: whether it has the fast path; None: the host was not asked.
    :param exits_per_second: all its VM exits, of which an unknown part gains by the fast path; None: not counted.
    :param by_process: libvirt does not know it: all that is known of it is from its process and from KVM.
    """

    name: str
    uuid: str | None
    flavor: str | None = None
    decision: Decision | None = None
    rule: str | None = None
    reason: str | None = None
    live: PmuState | None = None
    next_boot: PmuState | None = None
    saved: PmuState | None = None
    snapshots: int = 0
    effective_pmu: PmuState | None = None
    nova: bool = False
    transient: bool = False
    error: Unjudged | None = None
    domain: Domain | None = None
    next_domain: Domain | None = None
    process: LiveVm | None = None
    answer: Answer | None = None
    exits_per_second: float | None = None
    by_process: bool = False

    @property
    def manager(self) -> Manager | None:
        """Who writes it, or who started its process; None: it could not be read."""
        return None if self.domain is None else self.domain.manager

    @property
    def writer(self) -> Manager:
        """Who writes its definition; libvirt's tools, if that is not known."""
        return Manager.NOVA if self.nova else self.manager or Manager.LIBVIRT

    @property
    def drift(self) -> bool:
        """The next boot is not what the policy wants."""
        return drifts(self.decision, self.next_boot)

    @property
    def pending(self) -> bool:
        """The next boot is right; the running guest, or the saved image that it starts from, is not yet."""
        wanted = self._wanted
        return wanted is not None and self.next_boot is wanted and self.waits(wanted)

    def waits(self, wanted: PmuState) -> bool:
        """Whether the guest or the saved image has another state than ``wanted``, once that is written."""
        return self.image_waits(wanted) or self.guest_waits(wanted)

    def guest_waits(self, wanted: PmuState) -> bool:
        """Whether the running guest has another state, and a new start brings ``wanted``, once that is written."""
        return guest_waits(wanted, self.live, self.domain, self.next_domain)

    def image_waits(self, wanted: PmuState) -> bool:
        """Whether the saved image, from which the next start goes on, has another state."""
        return image_waits(wanted, self.saved)

    @property
    def obeyed(self) -> bool | None:
        """Whether the next boot gets what its ``<pmu>`` says, on or off; None: unknown."""
        return True if self._guest is None else self._guest.heeded

    @property
    def next_effective(self) -> PmuState | None:
        """The PMU that the next boot gets; None: there is no next boot, or it is unknown."""
        guest = self._guest
        return None if guest is None or self.next_boot is None else guest.will_get(self.next_boot)

    @property
    def may_be_recreated(self) -> bool | None:
        """Whether its PMU in KVM after a start depends on more than its QEMU; None: no process was found.

        A reset gives confidential guests another VM of KVM. For TDX guests, some kernels decide.
        """
        if self.process is None:
            return None
        tdx = any(definition is not None and definition.tdx for definition in (self.domain, self.next_domain))
        return self.process.may_be_recreated or self.process.tdx is not False or tdx

    @property
    def overridden(self) -> bool:
        """The next boot has the state that the policy wants, but the guest will not get it: options decide."""
        return self._guest is not None and overridden(self._guest)

    @cached_property
    def _guest(self) -> Guest | None:
        return guest_of(self)

    @property
    def status(self) -> Status:
        """How the VM stands with the policy, whatever the verdict on its fast path is."""
        if self.error is not None:
            return Status.ERROR
        if self.drift:
            return Status.DRIFT
        if self.overridden:
            return Status.OVERRIDDEN
        if self.pending:
            return Status.PENDING
        if stuck(self.decision, self.live, self.next_boot):
            return Status.STUCK
        return Status.UNDECIDED if self.decision is Decision.UNDECIDED else Status.OK

    @property
    def severity(self) -> Severity:
        """The graver of what the status and what the verdict on the fast path deserve."""
        verdict = Severity.OK if self.answer is None else Severity(self.answer.severity)
        return max(_SEVERITIES[self.status], verdict)

    @property
    def _wanted(self) -> PmuState | None:
        return None if self.decision is None else self.decision.state


def guest_of(vm: Vm) -> Guest | None:
    """The facts of a VM that the verdict needs; None: its definition could not be read."""
    if vm.domain is None:
        return None
    return Guest(
        domain=vm.domain,
        running=vm.live is not None,
        next_boot=vm.next_boot,
        saved=vm.saved,
        decision=vm.decision,
        vm=vm.process,
        next_qemu=vm.process.next_qemu if vm.process else None,
        obeyed=(vm.next_domain or vm.domain).obeyed,
        next_effective=None if vm.next_domain is None else vm.next_domain.effective_pmu,
    )


def judge(
    policy: Policy,
    *,
    live: Domain | None = None,
    next_boot: Domain | None = None,
    saved: Domain | None = None,
    snapshots: Iterable[Domain | None] = (),
    subject: Subject | None = None,
) -> Vm:
    """One domain with the decision of the policy about it.

    :param live: at least one of live and next_boot is given.
    :param subject: what the policy decides by; None: what the definition says.
    """
    definition = next_boot or live
    if definition is None:
        raise ValueError("neither a live nor a next-boot definition")
    ruling, error = _ruling(policy, subject or Subject.of_domain(definition))
    return Vm(
        name=definition.name,
        uuid=definition.uuid,
        flavor=definition.flavor,
        decision=ruling.decision if ruling else None,
        rule=ruling.rule if ruling else None,
        reason=ruling.reason if ruling else None,
        live=live.pmu if live else None,
        next_boot=next_boot.pmu if next_boot else None,
        saved=saved.pmu if saved else None,
        snapshots=sum(kept is not None and kept.pmu is not definition.pmu for kept in snapshots),
        effective_pmu=(live or definition).effective_pmu,
        domain=live or definition,
        next_domain=next_boot,
        nova=definition.nova is not None,
        error=error,
    )


def _ruling(policy: Policy, subject: Subject) -> tuple[Ruling | None, Unjudged | None]:
    try:
        return decide(policy, subject), None
    except FlavorImageConflict as conflict:
        return None, Unjudged.of(conflict)
