"""Which few steps would bring the most VMs onto the fast path. Pure.

A VM counts for a step only if nothing else stands in its way; one that needs a kernel, a QEMU and a power cycle counts
for the three together. So steps are chosen in rounds: in each, of all that VMs wait for together, that which brings the
most VMs a step.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from heapq import nlargest
from itertools import combinations
from typing import Final

from pmuconf.fleet.aggregate import Gain
from pmuconf.fleet.outlook import Change
from pmuconf.fleet.steps import Step

__all__ = ["Round", "by_step", "rounds", "to_settle"]

ROUNDS: Final = 40
_CANDIDATES: Final = 2048  # as many as there are in any fleet but a made-up one; each round looks at all of them
_ORDER: Final = list(Change)


@dataclass(frozen=True)
class Round:
    """Steps that are taken together, what they bring, and what all rounds up to this one have brought."""

    steps: tuple[Step, ...]
    gain: Gain
    total: Gain


def by_step(waiting: Mapping[tuple[Step, ...], Gain]) -> dict[Step, tuple[Gain, Gain]]:
    """For each step what it brings alone, and all that wait for it with whatever else; that first which most wait for.

    What must be settled is no step that anything is promised for; VMs that wait for that too are in the second gain.
    """
    found: dict[Step, tuple[Gain, Gain]] = {}
    for steps, gain in waiting.items():
        for step in steps:
            if step.kind is not Change.SETTLE:
                alone, together = found.get(step, (Gain(), Gain()))
                found[step] = (alone + gain if len(steps) == 1 else alone, together + gain)
    return dict(sorted(found.items(), key=lambda item: (-item[1][1].vms, item[0].id)))


def to_settle(waiting: Mapping[tuple[Step, ...], Gain]) -> dict[str, Gain]:
    """By cause, the VMs of which something has to be found out or decided first; the most first."""
    found: dict[str, Gain] = {}
    for steps, gain in waiting.items():
        if steps[-1].kind is Change.SETTLE:
            (cause,) = steps[-1].subject
            found[cause] = found.get(cause, Gain()) + gain
    return dict(sorted(found.items(), key=lambda item: (-item[1].vms, item[0])))


def rounds(waiting: Mapping[tuple[Step, ...], Gain], limit: int = ROUNDS) -> Sequence[Round]:
    """The rounds, best first; greedily, so that stopping after any of them is a good choice of that many steps."""
    left = {frozenset(steps): gain for steps, gain in waiting.items() if steps[-1].kind is not Change.SETTLE}
    chosen: list[Round] = []
    total = Gain()
    while left and len(chosen) < limit:
        candidates = list(left)
        if len(candidates) > _CANDIDATES:
            candidates = nlargest(_CANDIDATES, left, key=lambda steps: (left[steps].vms, _names(steps)))
        gains = {steps: _gain(steps, left) for steps in candidates}
        best = max(candidates, key=lambda steps: (gains[steps].vms / len(steps), -len(steps), _names(steps)))
        total = total + gains[best]
        chosen.append(Round(tuple(sorted(best, key=_place)), gains[best], total))
        remaining: dict[frozenset[Step], Gain] = {}
        for steps, gain in left.items():
            if rest := steps - best:
                remaining[rest] = remaining.get(rest, Gain()) + gain
        left = remaining
    return chosen


def _gain(steps: frozenset[Step], left: Mapping[frozenset[Step], Gain]) -> Gain:
    found = Gain()
    for some in _subsets(steps):
        if some in left:
            found = found + left[some]
    return found


def _subsets(steps: frozenset[Step]) -> Iterator[frozenset[Step]]:
    for size in range(1, len(steps) + 1):
        yield from map(frozenset, combinations(steps, size))


def _place(step: Step) -> tuple[int, str]:
    return _ORDER.index(step.kind), step.id


def _names(steps: frozenset[Step]) -> list[str]:
    return sorted(step.id for step in steps)
