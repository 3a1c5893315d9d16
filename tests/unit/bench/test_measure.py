"""How a run is made: pairs of VMs, random order, net of the empty loop; and what a run's statistics bear."""

from __future__ import annotations

import itertools
import random
from collections import Counter

import pytest

from pmuconf.bench.difference import Direction, paired
from pmuconf.bench.loops import Loop
from pmuconf.bench.measure import BATCH, Arm, Effort, Pair, measure
from tests.unit.bench.fake import Host

SMALL = Effort(pairs=24, rounds=9, turns=50)


def found(host: Host, effort: Effort = SMALL) -> tuple[Pair, ...]:
    return measure(host.opener, effort, chance=random.Random(2))


def direction(pairs: tuple[Pair, ...]) -> Direction:
    return paired([pair.difference() for pair in pairs], 2000).direction


def test_exits_are_net_of_the_empty_loop() -> None:
    (pair,) = found(Host({Arm.ON: 2157, Arm.OFF: 2100}, empty=4), Effort(pairs=1, rounds=3, turns=50))
    assert pair.exit == {Arm.ON: (2157, 2157, 2157), Arm.OFF: (2100, 2100, 2100)}
    assert pair.fault == {Arm.ON: (3000,) * 3, Arm.OFF: (3000,) * 3}
    assert (pair.difference(), pair.control_difference()) == (57, 0)
    assert (pair.value(Arm.ON), pair.control(Arm.OFF)) == (2157, 3000)
    assert len(pair.clock) == 4
    assert all(abs(clock - 4) < 0.01 for clock in pair.clock)


def test_every_pair_is_of_new_vms_in_random_order() -> None:
    host = Host({Arm.ON: 2100, Arm.OFF: 2100})
    found(host)
    orders = Counter(zip(host.opened[::2], host.opened[1::2]))
    assert set(orders) == {(Arm.ON, Arm.OFF), (Arm.OFF, Arm.ON)}
    assert sum(orders.values()) == 24


def test_each_round_runs_every_loop_in_both_vms_in_random_order() -> None:
    host = Host({Arm.ON: 2100, Arm.OFF: 2100})
    found(host, Effort(pairs=1, rounds=60, turns=50))
    timed = [(arm, loop) for arm, loop, turns in host.batches if turns == 50][12:]  # after the warm-up
    rounds = [tuple(timed[at : at + 6]) for at in range(0, len(timed), 6)]
    assert len(rounds) == 60
    assert all(set(one) == set(itertools.product(Arm, Loop)) for one in rounds)
    assert len(set(rounds)) > 30
    assert {one[0] for one in rounds} == set(itertools.product(Arm, Loop))


def test_one_arm_alone() -> None:
    pairs = found(Host({Arm.OFF: 2100}), Effort(arms=(Arm.OFF,), pairs=3, rounds=2, turns=10))
    assert [set(pair.exit) for pair in pairs] == [{Arm.OFF}] * 3


def test_batches_are_scaled_to_their_time_and_the_run_to_its_own() -> None:
    clock = 0.0

    host = Host({Arm.ON: 3000, Arm.OFF: 3000})

    def now() -> float:  # a GHz, and only loops take time
        nonlocal clock
        taken = host.batches[len(seen) :]
        seen.extend(taken)
        clock += sum(turns * (4 if loop is Loop.EMPTY else 3004) for _, loop, turns in taken) / 1e9
        return clock

    seen: list[object] = []
    pairs = measure(host.opener, Effort(seconds=1, pairs=10), now=now, chance=random.Random(3))
    turns = Counter(turns for _, loop, turns in host.batches if loop is Loop.EXIT)
    assert turns.most_common(1)[0][0] == pytest.approx(BATCH / 3e-6, rel=0.02)
    assert len(pairs) == 10
    assert 0.9 < clock < 1.3
    assert min(len(pair.exit[Arm.ON]) for pair in pairs) > 10


def test_progress_is_called_after_each_pair() -> None:
    host = Host({Arm.ON: 1, Arm.OFF: 1})
    opened: list[int] = []
    measure(host.opener, Effort(pairs=3, rounds=1, turns=1), progress=lambda: opened.append(len(host.opened)))
    assert opened == [2, 4, 6]


@pytest.mark.parametrize(
    "host",
    [
        Host({Arm.ON: 2100, Arm.OFF: 2100}, noise=8),
        Host({Arm.ON: 2100, Arm.OFF: 2100}, noise=8, drift=0.05),
        Host({Arm.ON: 2100, Arm.OFF: 2100}, noise=8, spikes=0.2),
        Host({Arm.ON: 2100, Arm.OFF: 2100}, noise=1, layout=12),
    ],
    ids=["noise", "drift", "spikes", "layout"],
)
def test_equal_vms_do_not_differ(host: Host) -> None:
    for _ in range(12):
        assert direction(found(host)) is Direction.NONE


def test_one_pair_of_vms_would_have_been_fooled_by_where_its_memory_lies() -> None:
    """Without new VMs for each value, the layout is the same in all of them: this is why pairs are made anew."""
    host = Host({Arm.ON: 2100, Arm.OFF: 2100}, noise=1, layout=12)
    fooled = 0
    for pair in found(host, Effort(pairs=10, rounds=60, turns=50)):
        rounds = [on - off for on, off in zip(pair.exit[Arm.ON], pair.exit[Arm.OFF])]
        fooled += paired(rounds, 2100).direction in (Direction.SAVES, Direction.COSTS)
    assert fooled >= 7


def test_a_batch_begins_with_turns_that_do_not_count() -> None:
    """A CPU that comes from another VM has cold branch predictors."""
    host = Host({Arm.ON: 2100, Arm.OFF: 2100})
    found(host, Effort(pairs=2, rounds=5, turns=50))
    following = zip(host.batches, host.batches[1:])
    settled = [(before, batch) for before, batch in following if before[2] < 50 and batch[2] == 50]
    assert len(settled) == 2 * 5 * 6  # pairs, rounds, loops
    assert all(before[:2] == batch[:2] for before, batch in settled)


@pytest.mark.parametrize("trouble", [{"noise": 8}, {"drift": 0.05}, {"spikes": 0.05}, {"layout": 6.0}])
def test_a_saving_is_found_in_spite_of(trouble: dict[str, float]) -> None:
    pairs = found(Host({Arm.ON: 2157, Arm.OFF: 2100}, **trouble))  # type: ignore[arg-type]
    difference = paired([pair.difference() for pair in pairs], 2157)
    assert difference.direction is Direction.SAVES
    assert difference.whole.lower <= 57 <= difference.whole.upper
