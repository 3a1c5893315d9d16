"""Whether two sets of values differ, by how much, and how sure that is. Pure arithmetic, no randomness.

The estimate is a median, so that a few wild values change nothing. Its interval is that of the percentile bootstrap,
without drawing samples: the median of a resample is one of the values, and the probability of each follows from the
binomial distribution (Efron 1979, "Bootstrap methods: another look at the jackknife", section 3). For one sample the
interval is never narrower than the order statistics require: they hold the median of any distribution with at least the
stated confidence.

A difference is stated only if the first half and the second half of a measurement each show it by themselves at that
confidence. What disturbs a host for some seconds, or drifts, is in one of them alone.
"""

from __future__ import annotations

import enum
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import comb
from statistics import median
from typing import Final

__all__ = [
    "CONFIDENCE",
    "Difference",
    "Direction",
    "Interval",
    "fewest",
    "mad",
    "of_pairs",
    "of_samples",
    "paired",
    "unpaired",
]

CONFIDENCE: Final = 0.999
"""How often, at least, an interval holds the true value, unless another is asked for."""


class Direction(enum.Enum):
    """The direction of a difference between a higher and a lower cost, in that order."""

    SAVES = "saves"
    COSTS = "costs"
    NONE = "none"
    UNCLEAR = "unclear"


@dataclass(frozen=True)
class Interval:
    """An estimate with the interval about it, in the unit of the values."""

    estimate: float
    lower: float
    upper: float

    @property
    def margin(self) -> float:
        """The distance from the estimate to the farther end of the interval."""
        return max(self.upper - self.estimate, self.estimate - self.lower)

    @property
    def largest(self) -> float:
        """The largest difference, of either sign, that the interval does not rule out."""
        return max(abs(self.lower), abs(self.upper))

    @property
    def sign(self) -> int:
        """1 or -1 if the whole interval is on that side of zero; otherwise 0."""
        return (self.lower > 0) - (self.upper < 0)


@dataclass(frozen=True)
class Difference:
    """The difference over a whole measurement, and over its halves.

    :param base: the median of the higher cost, to which ``share`` relates.
    """

    whole: Interval
    halves: tuple[Interval, Interval]
    base: float
    confidence: float

    @property
    def direction(self) -> Direction:
        """The direction. UNCLEAR: the whole shows a difference that not both of its halves show."""
        if self.whole.sign == 0:
            return Direction.NONE
        if any(half.sign != self.whole.sign for half in self.halves):
            return Direction.UNCLEAR
        return Direction.SAVES if self.whole.sign > 0 else Direction.COSTS

    @property
    def share(self) -> float | None:
        """The difference as a fraction of the base; None if the base is 0."""
        return self.whole.estimate / self.base if self.base > 0 else None


def fewest(confidence: float) -> int:
    """The fewest values that an interval requires; a difference requires twice as many."""
    number = 1
    while 0.5**number > (1 - confidence) / 2:
        number += 1
    return number


def mad(values: Sequence[float]) -> float:
    """The median absolute deviation from the median, in the unit of the values."""
    middle = median(values)
    return median(abs(value - middle) for value in values)


def of_pairs(differences: Sequence[float], confidence: float = CONFIDENCE) -> Interval:
    """The median of differences that were measured pair by pair.

    :raises ValueError: there are fewer than fewest().
    """
    at = _rank(len(differences), confidence)
    ordered = sorted(differences)
    return Interval(median(ordered), ordered[at], ordered[-1 - at])


def of_samples(higher: Sequence[float], lower: Sequence[float], confidence: float = CONFIDENCE) -> Interval:
    """The difference between the medians of two independent samples.

    :raises ValueError: one has fewer values than fewest().
    """
    for sample in (higher, lower):
        _rank(len(sample), confidence)
    least = _quantile(_differences(higher, lower), (1 - confidence) / 2)
    most = -_quantile(_differences(lower, higher), (1 - confidence) / 2)
    estimate = median(higher) - median(lower)
    return Interval(estimate, min(least, estimate), max(most, estimate))


def paired(differences: Sequence[float], base: float, confidence: float = CONFIDENCE) -> Difference:
    """The difference by values that were measured pair by pair, in the order of measurement.

    :raises ValueError: a half has fewer values than fewest().
    """
    first, second = (of_pairs(half, confidence) for half in _halves(differences))
    return Difference(of_pairs(differences, confidence), (first, second), base, confidence)


def unpaired(higher: Sequence[float], lower: Sequence[float], confidence: float = CONFIDENCE) -> Difference:
    """The difference between two independent samples, each in the order of measurement.

    :raises ValueError: a half has fewer values than fewest().
    """
    first, second = (of_samples(*halves, confidence) for halves in zip(_halves(higher), _halves(lower)))
    return Difference(of_samples(higher, lower, confidence), (first, second), median(higher), confidence)


def _halves(values: Sequence[float]) -> tuple[Sequence[float], Sequence[float]]:
    middle = len(values) // 2
    return values[:middle], values[middle:]


@lru_cache(maxsize=256)
def _rank(number: int, confidence: float) -> int:
    """The number of ordered values that lie outside of the median's interval, at each end."""
    tail = (1 - confidence) / 2
    outside, below = -1, 0.0
    while outside + 1 < number:
        below += comb(number, outside + 1) * 0.5**number
        if below > tail:
            break
        outside += 1
    if outside < 0:
        raise ValueError(f"{number} values are too few: an interval requires {fewest(confidence)}")
    bootstrap = next(at for at, weight in enumerate(itertools.accumulate(_weights(number))) if weight > tail)
    return min(outside, bootstrap)


@lru_cache(maxsize=256)
def _weights(number: int) -> tuple[float, ...]:
    """For each ordered value the probability that it is a resample's median: the lower one of an even number."""
    needed = (number + 1) // 2
    reached = [_at_least(number, needed, at / number) for at in range(number + 1)]
    return tuple(after - before for before, after in zip(reached, reached[1:]))


def _at_least(number: int, needed: int, chance: float) -> float:
    """The probability of at least ``needed`` successes in ``number`` trials."""
    return sum(comb(number, k) * chance**k * (1 - chance) ** (number - k) for k in range(needed, number + 1))


def _differences(minuend: Sequence[float], subtrahend: Sequence[float]) -> list[tuple[float, float]]:
    """The bootstrap distribution of the difference of two medians: each value with its weight.

    With an even number of values the median lies between two. Here it is the lower one of the minuend and the upper
    one of the subtrahend, so that the low end of the distribution is no higher than it should be. Values that are next
    to impossible are left out; _quantile() counts them as the lowest.
    """
    lower_medians = _likely(sorted(minuend))
    upper_medians = _likely(sorted(subtrahend, reverse=True))
    return [(a - b, p * q) for a, p in lower_medians for b, q in upper_medians]


def _likely(ordered: Sequence[float]) -> list[tuple[float, float]]:
    """The values that a resample's median may have, each with its probability."""
    return [(value, weight) for value, weight in zip(ordered, _weights(len(ordered))) if weight > _NEGLIGIBLE]


_NEGLIGIBLE: Final = 1e-7


def _quantile(distribution: list[tuple[float, float]], tail: float) -> float:
    """The largest value below which no more than ``tail`` of the distribution lies."""
    below = 1 - sum(weight for _, weight in distribution)
    for value, weight in sorted(distribution):
        below += weight
        if below > tail:
            return value
    return max(distribution)[0]
