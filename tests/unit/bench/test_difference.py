"""When a difference may be stated: never of equal distributions, whatever disturbs them, and always of a real one."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable
from statistics import median

import pytest

from pmuconf.bench.difference import (
    CONFIDENCE,
    Difference,
    Direction,
    Interval,
    fewest,
    mad,
    of_pairs,
    of_samples,
    paired,
    unpaired,
)

PAIRS = 60
EXIT = 2100.0


def normal(chance: random.Random) -> float:
    return chance.gauss(0, 5)


def heavy_tailed(chance: random.Random) -> float:
    """Cauchy's distribution: it has no mean, and an interval about one would mean nothing."""
    return 5 * math.tan(math.pi * (chance.random() - 0.5))


def spiked(chance: random.Random) -> float:
    """A fifth of the values is hit by something that takes long, to one side: the mean is off, the median is not."""
    return chance.gauss(0, 5) + (chance.expovariate(1 / 900) if chance.random() < 0.2 else 0.0)


@pytest.mark.parametrize("noise", [normal, heavy_tailed, spiked])
def test_equal_distributions_never_save_in_10000_runs(noise: Callable[[random.Random], float]) -> None:
    chance = random.Random(20260522)
    outcomes: Counter[Direction] = Counter()
    for _ in range(10_000):
        differences = [noise(chance) - noise(chance) for _ in range(30)]  # on - off
        outcomes[paired(differences, EXIT).direction] += 1
    assert outcomes[Direction.SAVES] == 0
    assert outcomes[Direction.COSTS] == 0
    assert outcomes[Direction.UNCLEAR] <= 10_000 * (1 - CONFIDENCE)  # the whole run's interval alone


def test_nor_do_two_runs_of_equal_kernels() -> None:
    chance = random.Random(7)
    outcomes = Counter(
        unpaired([normal(chance) for _ in range(PAIRS)], [normal(chance) for _ in range(PAIRS)]).direction
        for _ in range(300)
    )
    assert outcomes == {Direction.NONE: 300}


@pytest.mark.parametrize("noise", [normal, heavy_tailed])
@pytest.mark.parametrize("confidence", [0.9, 0.99])
def test_the_interval_holds_the_truth_as_often_as_it_says(
    noise: Callable[[random.Random], float], confidence: float
) -> None:
    chance = random.Random(11)
    hits = 0
    for _ in range(2000):
        interval = of_pairs([57 + noise(chance) for _ in range(41)], confidence)
        hits += interval.lower <= 57 <= interval.upper
    assert hits / 2000 >= confidence - 0.007  # three standard deviations of 2,000 runs at 0.99


def test_that_of_two_samples_too() -> None:
    chance = random.Random(12)
    hits = 0
    for _ in range(500):
        old, new = ([shift + normal(chance) for _ in range(31)] for shift in (57.0, 0.0))
        interval = of_samples(old, new, 0.9)
        hits += interval.lower <= 57 <= interval.upper
    assert hits / 500 >= 0.87


def test_it_is_the_bootstrap_interval() -> None:
    """Against resampling with random numbers, where the bootstrap is the wider of the two."""
    chance = random.Random(3)
    values = [chance.gauss(0, 1) for _ in range(25)]
    medians = sorted(median(chance.choices(values, k=25)) for _ in range(20_000))
    drawn = medians[int(0.025 * 20_000)], medians[int(0.975 * 20_000)]
    exact = of_pairs(values, 0.95)
    ordered = sorted(values)
    for end, by_chance in ((exact.lower, drawn[0]), (exact.upper, drawn[1])):
        assert abs(ordered.index(end) - ordered.index(by_chance)) <= 1
    assert exact.lower <= drawn[0]
    assert exact.upper >= drawn[1]


def test_that_of_two_samples_is_the_bootstraps_too() -> None:
    chance = random.Random(4)
    old, new = [chance.gauss(50, 4) for _ in range(25)], [chance.gauss(0, 4) for _ in range(25)]
    drawn = sorted(median(chance.choices(old, k=25)) - median(chance.choices(new, k=25)) for _ in range(20_000))
    interval = of_samples(old, new, 0.95)
    assert interval.lower == pytest.approx(drawn[int(0.025 * 20_000)], abs=0.6)
    assert interval.upper == pytest.approx(drawn[int(0.975 * 20_000)], abs=0.6)


def test_a_real_saving_is_found_with_its_size() -> None:
    chance = random.Random(5)
    for _ in range(200):
        found = paired([57 + spiked(chance) - normal(chance) for _ in range(PAIRS)], EXIT)
        assert found.direction is Direction.SAVES
        assert found.whole.lower <= 62
        assert found.whole.upper >= 52
        assert found.share is not None
        assert 0.02 < found.share < 0.04


def test_a_cost_is_one() -> None:
    chance = random.Random(6)
    assert paired([normal(chance) - 40 for _ in range(PAIRS)], EXIT).direction is Direction.COSTS


def test_what_disturbs_a_part_of_the_run_saves_nothing() -> None:
    """Something runs during the first half: the whole run's interval is above zero, and the second half's is not."""
    chance = random.Random(8)
    values = [normal(chance) + (40 if at < 40 else 0) for at in range(PAIRS)]
    assert of_pairs(values).sign == 1
    assert paired(values, EXIT).direction is Direction.UNCLEAR


def test_two_runs_that_drift_apart_save_nothing() -> None:
    chance = random.Random(9)
    old = [EXIT + normal(chance) + (60 if at < 40 else 0) for at in range(PAIRS)]
    new = [EXIT + normal(chance) for _ in range(PAIRS)]
    assert of_samples(old, new).sign == 1
    assert unpaired(old, new).direction is Direction.UNCLEAR


def test_constant_values_have_no_width() -> None:
    found = paired([227.0] * 22, 2776)
    assert (found.whole, found.direction) == (Interval(227, 227, 227), Direction.SAVES)
    assert found.share == pytest.approx(0.0818, abs=1e-4)
    assert unpaired([2776.0] * 22, [2549.0] * 22).whole == Interval(227, 227, 227)


def test_too_few() -> None:
    assert fewest(0.999) == 11  # 2 * 0.5 ** 11 <= 0.001 < 2 * 0.5 ** 10
    assert of_pairs(range(11)) == Interval(5, 0, 10)
    with pytest.raises(ValueError, match="too few"):
        of_pairs(range(10))
    with pytest.raises(ValueError, match="too few"):
        paired([1.0] * 21, 1)
    with pytest.raises(ValueError, match="too few"):
        of_samples([1.0] * 11, [1.0] * 10)


def test_an_interval_in_numbers() -> None:
    interval = Interval(57, 53, 60)
    assert (interval.margin, interval.largest, interval.sign) == (4, 60, 1)
    assert (Interval(-2, -9, 1).largest, Interval(-2, -9, 1).sign, Interval(-5, -9, -1).sign) == (9, 0, -1)
    assert Difference(interval, (interval, interval), 0, 0.9).share is None


def test_one_wild_value_in_ten_moves_no_spread() -> None:
    assert mad([1, 2, 3, 4, 5, 6, 7, 8, 9, 1e9]) == 2.5
