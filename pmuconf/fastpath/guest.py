"""What is known of a VM besides its host, and what follows of it for its next boot. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from pmuconf.domain.definition import Domain, PmuState
from pmuconf.hostfacts import LiveVm, Qemu
from pmuconf.policy import Decision

__all__ = ["Guest", "overridden"]


@dataclass(frozen=True)
class Guest:
    """What is known of a VM besides its host.

    :param domain: the definition to judge: of the running guest, or of the next boot if it does not run.
    :param vm: its process as the probes found it; None if they did not.
    :param next_qemu: the binary that is now at the path from which its own was started.
    :param obeyed: whether the next boot gets what its ``<pmu>`` says, on or off; None: unknown.
    :param next_effective: what the next boot gets if it is not obeyed for sure; None: unknown.
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
    def wanted(self) -> PmuState | None:
        """The state that the policy wants written; None: it wants none."""
        return None if self.decision is None else self.decision.state

    @property
    def differs(self) -> bool:
        """Whether the CPU of its process is not what its definition says: something in between decides."""
        by_definition = self.domain.effective_pmu
        has_pmu = None if self.vm is None else self.vm.pmu_property
        if not self.running or by_definition is None or has_pmu is None:
            return False
        return has_pmu is not (by_definition is PmuState.ON)

    @property
    def heeded(self) -> bool | None:
        """As ``obeyed``; a definition that is not obeyed now will not be obeyed at the next start."""
        return False if self.differs else self.obeyed

    @property
    def has_pmu(self) -> bool | None:
        """Whether the CPU of the running guest has a PMU, by its process or else by its definition; None: unknown."""
        if self.vm is not None and self.vm.pmu_property is not None:
            return self.vm.pmu_property
        by_definition = self.domain.effective_pmu
        return None if by_definition is None else by_definition is PmuState.ON

    def will_get(self, state: PmuState) -> PmuState | None:
        """What the next boot gets if its ``<pmu>`` says ``state``; None: unknown."""
        if self.heeded and state is not PmuState.DEFAULT:
            return state
        return None if self.differs else self.next_effective


def overridden(guest: Guest) -> bool:
    """Whether the next boot has the state that the policy wants, and the guest will not get it."""
    wanted = guest.wanted
    if wanted is None or guest.next_boot is not wanted or guest.heeded is not False:
        return False
    if guest.differs:  # the next start gives the same PMU again
        return guest.has_pmu is not (wanted is PmuState.ON)
    return guest.will_get(wanted) is not wanted
