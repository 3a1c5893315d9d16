"""Which domains are to be looked at next, and how many changed. Pure: the time is a parameter, in seconds."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterable
from typing import Final

__all__ = ["Agenda", "Allowance", "Backoff"]


class Agenda:
    """Which domains are to be looked at again, by UUID, and when.

    A domain is due so many seconds after its first event, whatever comes meanwhile: a stream of events can't put it off
    for ever. Each change of our own takes one event away, its own, whether that comes before or after. So somebody
    else's event beside it is never missed.
    """

    def __init__(self, debounce: float) -> None:
        self.debounce = debounce
        self._heard: dict[str, tuple[int, float]] = {}
        self._later: dict[str, float] = {}

    def __len__(self) -> int:
        return len({uuid for uuid, (count, _) in self._heard.items() if count > 0} | self._later.keys())

    def heard(self, uuid: str, now: float) -> None:
        """Something happened to this domain."""
        self._count(uuid, 1, now)

    def ours(self, uuid: str, now: float) -> None:
        """One event of this domain is of our own making."""
        self._count(uuid, -1, now)

    def later(self, uuids: Iterable[str], at: float) -> None:
        """These are to be looked at again at that time, if nothing is heard of them before."""
        for uuid in uuids:
            self._later[uuid] = at

    def take(self, now: float) -> dict[str, float | None]:
        """The domains that are due, each with when it was first heard of; None for those of later()."""
        due: dict[str, float | None] = {uuid: None for uuid, at in self._later.items() if at <= now}
        for uuid, (count, first) in self._heard.items():
            if count > 0 and first + self.debounce <= now:
                due[uuid] = first
        for uuid in due:
            self._later.pop(uuid, None)
            if self._heard.get(uuid, (0, 0.0))[0] > 0:
                del self._heard[uuid]
        return due

    def next(self) -> float | None:
        """When something will be due, None if nothing will."""
        times = [first + self.debounce for count, first in self._heard.values() if count > 0]
        return min([*times, *self._later.values()], default=None)

    def clear(self) -> None:
        """Forget it all: every domain is about to be looked at."""
        self._heard.clear()
        self._later.clear()

    def _count(self, uuid: str, number: int, now: float) -> None:
        count, first = self._heard.get(uuid, (0, now))
        count += number
        if count == 0:
            del self._heard[uuid]
        else:
            self._heard[uuid] = (count, first if count > number else now)


class Allowance:
    """How many changes may be made now: ``most`` at once, ``per_minute`` in the long run, 0 for no limit.

    With no limit at once (most 0) it is what a minute brings.
    """

    def __init__(self, most: int, per_minute: int, now: float) -> None:
        self._most = most or per_minute
        self._rate = per_minute / 60
        self._left = float(self._most)
        self._at = now

    def left(self, now: float) -> int:
        """How many may be made now."""
        if not self._rate:
            return sys.maxsize
        self._left = min(self._most, self._left + (now - self._at) * self._rate)
        self._at = now
        return max(0, int(self._left))

    def use(self, number: int) -> None:
        """So many were made, or tried."""
        self._left -= number

    def when(self, number: int, now: float) -> float:
        """The time from which so many may be made, or the most that ever may."""
        if self.left(now) >= number:
            return now
        return now + (min(number, self._most) - self._left) / self._rate


class Backoff:
    """How long to wait before the next try: twice as long each time, within bounds, and never in step with others."""

    _FIRST: Final = 0.25
    _MOST: Final = 10.0

    def __init__(self, chance: random.Random | None = None) -> None:
        self._chance = chance or random.Random()
        self.tries = 0

    def next(self) -> float:
        """Seconds to wait now."""
        longest = min(self._MOST, self._FIRST * 2 ** min(self.tries, 16))
        self.tries += 1
        return self._chance.uniform(longest / 2, longest)

    def reset(self) -> None:
        """It worked: the next trouble starts anew."""
        self.tries = 0
