"""Which finished changes the journal may forget. Pure: decides, deletes nothing.

A clock may be wrong at any run, by years. The numbers of changes are never wrong: they grow. So a change counts as made
no earlier than those before it. Nothing is forgotten by itself unless it is also old beside the newest change. Some
changes are kept however old they look.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Final

from pmuconf.wording import counted

__all__ = ["Aged", "forgettable", "nothing_old", "older", "too_old"]

NEWEST: Final = 1000
"""So many of the newest changes are kept, however old they look."""
REVOCABLE: Final = 10_000
"""Among so many of the newest changes, those that can be taken back are kept."""

_NEVER: Final = datetime.min.replace(tzinfo=timezone.utc)


def too_old(number: int, days: int) -> str:
    """The sentence about so many changes that the journal has dropped."""
    return f"the journal dropped {counted(number, 'change')} older than {counted(days, 'day')}"


@dataclass(frozen=True)
class Aged:
    """The facts that decide about a change. ``at`` is None where the journal has no time that can be read."""

    id: int
    at: datetime | None
    revocable: bool
    in_flight: bool


def forgettable(changes: Sequence[Aged], now: datetime, days: int) -> list[int]:
    """The numbers of the changes that may go by themselves.

    :param changes: all that there are, by number.
    """
    times = [change.at for change in changes if change.at is not None]
    if not times:
        return []
    floor = {change.id for change in changes[-NEWEST:]}
    floor |= {change.id for change in changes[-REVOCABLE:] if change.revocable}
    return [number for number in older(changes, _before(min(now, times[-1]), days)) if number not in floor]


def nothing_old(first: Aged, newest: Aged, now: datetime, days: int) -> bool:
    """Whether the first and the newest change alone show that forgettable() would give none: the rest need not be read.

    A change counts as made no earlier than those before it, so if the first is young, all are.
    """
    if newest.at is None:
        return False
    return first.at is not None and first.at >= _before(min(now, newest.at), days)


def older(changes: Iterable[Aged], than: datetime) -> Iterator[int]:
    """The numbers of the finished changes that were made before that, whatever a clock said meanwhile."""
    latest = _NEVER
    for change in changes:
        latest = max(latest, change.at or _NEVER)
        if latest < than and not change.in_flight:
            yield change.id


def _before(now: datetime, days: int) -> datetime:
    try:
        return now - timedelta(days=days)
    except OverflowError:  # before the year 1
        return _NEVER
