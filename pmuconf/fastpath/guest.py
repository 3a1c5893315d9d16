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


def overridden(guest: Guest) -> bool:
    """Whether the next boot has the state that the policy wants, and the guest will not get it nevertheless."""
    wanted = None if guest.decision is None else guest.decision.state
    if wanted is None or guest.next_boot is not wanted or guest.heeded is not False:
        return False
    seen = guest.vm.pmu_property if guest.differs and guest.vm is not None else None
    gets = guest.will_get(wanted) if seen is None else PmuState.ON if seen else PmuState.OFF
    return gets is not wanted
