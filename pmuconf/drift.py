"""How far a VM's definitions are from what the policy wants. Pure.

No other file says what drift and pending are; the words are those of docs/vocabulary.md. A VM is pending if its
next boot does not drift, and its guest or its saved image waits.
"""

from __future__ import annotations

from pmuconf.domain.definition import Domain, PmuState
from pmuconf.policy import Decision

__all__ = ["drifts", "guest_waits", "image_waits", "stuck"]


def drifts(decision: Decision | None, next_boot: PmuState | None) -> bool:
    """Whether the next boot has another state than the policy wants; a VM without a next boot never drifts."""
    wanted = _wanted(decision)
    return wanted is not None and next_boot not in (None, wanted)


def stuck(decision: Decision | None, live: PmuState | None, next_boot: PmuState | None) -> bool:
    """Whether the VM runs with another state than the policy wants, and has no next boot that could be written."""
    return next_boot is None and _wanted(decision) not in (None, live)


def guest_waits(
    wanted: PmuState, live: PmuState | None, definition: Domain | None, next_definition: Domain | None
) -> bool:
    """Whether the running guest has another state, and a new start gives it ``wanted`` once that is written.

    :param definition: by which the guest runs; None: it is not known, so its state alone is compared.
    :param next_definition: of the next boot, as it is now.
    """
    if live is None or definition is None:
        return live not in (None, wanted)
    return definition.awaits(next_definition, wanted)


def image_waits(wanted: PmuState, saved: PmuState | None) -> bool:
    """Whether the next start would go on from a saved image with another state."""
    return saved not in (None, wanted)


def _wanted(decision: Decision | None) -> PmuState | None:
    return None if decision is None else decision.state
