"""One VM of an audit: what it has, what it should have, and how far that is apart. Pure."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from pmuconf.domain.definition import Domain, PmuState
from pmuconf.fastpath.guest import Guest, overridden
from pmuconf.fastpath.verdict import Answer
from pmuconf.hostfacts import LiveVm
from pmuconf.policy import Decision, FlavorImageConflict, Policy, Ruling, Subject, decide

__all__ = ["Severity", "Unjudged", "Vm", "guest_of", "judge"]


class Severity(enum.IntEnum):
    """How far from wanted, as the exit status of a command says it."""

    OK = 0
    WARNING = 1
    FINDING = 2


@dataclass(frozen=True)
class Unjudged:
    """Why a domain could not be judged: a cause code and a sentence."""

    cause: str
    message: str


@dataclass(frozen=True)
class Vm:
    """One domain of the report.

    ``live``, ``next_boot`` and ``saved`` are None where there is no such thing: a domain that is not running, a
    transient one (nothing can be written for it), one without a managed save image. ``snapshots`` counts those that
    would bring another PMU state back than the next boot has.

    ``domain`` is the definition that the guest has, or will have if it does not run; ``next_domain`` that of the next
    boot. ``effective_pmu`` is what the guest gets, by its process if that tells. ``process`` is what runs it, and
    ``answer`` whether it has the fast path: None where the host was not asked. ``exits_per_second`` are all its VM
    exits, of which an unknown part gains by the fast path; None where they were not counted.
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

    @property
    def drift(self) -> bool:
        """The next boot differs from the decision."""
        wanted = self._wanted
        return wanted is not None and self.next_boot not in (None, wanted)

    @property
    def pending(self) -> bool:
        """The next boot is right; the running guest, or the saved image that it starts from, is not yet."""
        wanted = self._wanted
        return wanted is not None and self.next_boot is wanted and self.waits(wanted)

    def waits(self, wanted: PmuState) -> bool:
        """Whether its live or saved state is another, and a new start brings that state, once it is written."""
        if self.saved not in (None, wanted):
            return True
        if self.live is None or self.domain is None:
            return self.live not in (None, wanted)
        return self.domain.awaits(self.next_domain, wanted)

    @property
    def obeyed(self) -> bool | None:
        """Whether the next boot gets what its ``<pmu>`` says, on or off; None: it can't be said."""
        return True if self._guest is None else self._guest.heeded

    @property
    def next_effective(self) -> PmuState | None:
        """What the next boot gets; None: there is none, or it is unknown."""
        guest = self._guest
        return None if guest is None or self.next_boot is None else guest.will_get(self.next_boot)

    @property
    def may_be_recreated(self) -> bool | None:
        """Whether its QEMU alone does not tell what KVM will hold of it after a start; None: no process was found.

        A reset gives confidential guests another VM of KVM. Of TDX guests some kernels decide.
        """
        if self.process is None:
            return None
        tdx = any(one is not None and one.tdx for one in (self.domain, self.next_domain))
        return self.process.may_be_recreated or self.process.tdx is not False or tdx

    @property
    def overridden(self) -> bool:
        """The next boot has the state that the policy wants, and the guest will not get it: options decide."""
        return self._guest is not None and overridden(self._guest)

    @cached_property
    def _guest(self) -> Guest | None:
        return guest_of(self)

    @property
    def severity(self) -> Severity:
        """2 for drift and what can't be judged, 1 for what waits for someone, 0 for as wanted."""
        if self.drift or self.error is not None or self.overridden:
            return Severity.FINDING
        if self.answer is not None and self.answer.severity == Severity.FINDING:
            return Severity.FINDING
        stuck = self.next_boot is None and self._wanted not in (None, self.live)
        slow = self.answer is not None and self.answer.severity == Severity.WARNING
        if self.pending or stuck or slow or self.decision is Decision.UNDECIDED:
            return Severity.WARNING
        return Severity.OK

    @property
    def _wanted(self) -> PmuState | None:
        return None if self.decision is None else self.decision.state


def guest_of(vm: Vm) -> Guest | None:
    """What the verdict asks of a VM; None if its definition could not be read."""
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
) -> Vm:
    """Join the states of one domain with what the policy wants. Pure; at least one of live and next_boot is given."""
    definition = next_boot or live
    if definition is None:
        raise ValueError("neither a live nor a next-boot definition")
    ruling, error = _ruling(policy, definition)
    return Vm(
        name=definition.name,
        uuid=definition.uuid,
        flavor=definition.nova.flavor if definition.nova else None,
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


def _ruling(policy: Policy, definition: Domain) -> tuple[Ruling | None, Unjudged | None]:
    try:
        return decide(policy, Subject.of_domain(definition)), None
    except FlavorImageConflict as conflict:
        return None, Unjudged(conflict.cause, str(conflict.message))
