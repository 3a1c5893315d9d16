"""The few steps that would bring the most VMs onto the fast path. Pure.

A VM counts for a step only if nothing else stands in its way. One that needs a kernel, a QEMU and a power cycle counts
for the three together. So steps are chosen in rounds. Each round takes a set of steps that some VMs wait for together:
the set that brings the most VMs a step.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from heapq import nlargest
from itertools import combinations
from typing import Final

from pmuconf.fleet.aggregate import Gain
from pmuconf.fleet.outlook import Change
from pmuconf.fleet.steps import CampaignStep

__all__ = ["Round", "by_step", "rounds", "to_settle"]

ROUNDS: Final = 40
_CANDIDATES: Final = 2048  # more than any real fleet has; each round looks at all of them
_ORDER: Final = list(Change)


@dataclass(frozen=True)
class Round:
    """Steps that are taken together, what they bring, and what all rounds up to this one have brought."""

    steps: tuple[CampaignStep, ...]
    gain: Gain
    total: Gain


def by_step(waiting: Mapping[tuple[CampaignStep, ...], Gain]) -> dict[CampaignStep, tuple[Gain, Gain]]:
    """For each step, the gain of VMs that wait for it alone, and of all that wait for it; the most VMs first.

    The second gain includes VMs that wait for other steps as well, or for something that has to be settled first.
    """
    gains: dict[CampaignStep, tuple[Gain, Gain]] = {}
    for steps, gain in waiting.items():
        for step in steps:
            if step.kind is not Change.SETTLE:
                alone, together = gains.get(step, (Gain(), Gain()))
                gains[step] = (alone + gain if len(steps) == 1 else alone, together + gain)
    return dict(sorted(gains.items(), key=lambda item: (-item[1][1].vms, item[0].id)))


def to_settle(waiting: Mapping[tuple[CampaignStep, ...], Gain]) -> dict[str, Gain]:
    """By cause, the VMs for which something has to be found out or decided first; the most VMs first."""
    gains: dict[str, Gain] = {}
    for steps, gain in waiting.items():
        if steps[-1].kind is Change.SETTLE:
            (cause,) = steps[-1].subject
            gains[cause] = gains.get(cause, Gain()) + gain
    return dict(sorted(gains.items(), key=lambda item: (-item[1].vms, item[0])))


def rounds(waiting: Mapping[tuple[CampaignStep, ...], Gain], limit: int = ROUNDS) -> Sequence[Round]:
    """The rounds, best first. Each is the best of the moment: to stop after any of them is a good choice."""
    left = {frozenset(steps): gain for steps, gain in waiting.items() if steps[-1].kind is not Change.SETTLE}
    chosen: list[Round] = []
    total = Gain()
    while left and len(chosen) < limit:
        best, gain = _best(left)
        total = total + gain
        chosen.append(Round(tuple(sorted(best, key=_place)), gain, total))
        left = _without(left, best)
    return chosen


def _best(left: Mapping[frozenset[CampaignStep], Gain]) -> tuple[frozenset[CampaignStep], Gain]:
    """The set of steps that brings the most VMs a step; of equal ones, the smaller set."""
    candidates = list(left)
    if len(candidates) > _CANDIDATES:
        candidates = nlargest(_CANDIDATES, left, key=lambda steps: (left[steps].vms, _names(steps)))
    gains = {steps: _gain(steps, left) for steps in candidates}
    best = max(candidates, key=lambda steps: (gains[steps].vms / len(steps), -len(steps), _names(steps)))
    return best, gains[best]


def _gain(steps: frozenset[CampaignStep], left: Mapping[frozenset[CampaignStep], Gain]) -> Gain:
    """The gain of all VMs that wait for these steps, or for some of them, and for nothing else."""
    gain = Gain()
    for subset in _subsets(steps):
        if subset in left:
            gain = gain + left[subset]
    return gain


def _without(
    left: Mapping[frozenset[CampaignStep], Gain], done: frozenset[CampaignStep]
) -> dict[frozenset[CampaignStep], Gain]:
    """What is still waited for when these steps are done."""
    remaining: dict[frozenset[CampaignStep], Gain] = {}
    for steps, gain in left.items():
        rest = steps - done
        if rest:
            remaining[rest] = remaining.get(rest, Gain()) + gain
    return remaining


def _subsets(steps: frozenset[CampaignStep]) -> Iterator[frozenset[CampaignStep]]:
    for size in range(1, len(steps) + 1):
        yield from map(frozenset, combinations(steps, size))


def _place(step: CampaignStep) -> tuple[int, str]:
    return _ORDER.index(step.kind), step.id


def _names(steps: frozenset[CampaignStep]) -> list[str]:
    return sorted(step.id for step in steps)
