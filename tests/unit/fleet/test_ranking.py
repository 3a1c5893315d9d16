"""The order of what to do: nothing is promised that is not so, and each round is the best there is."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pmuconf.fleet.aggregate import Gain
from pmuconf.fleet.outlook import Change
from pmuconf.fleet.ranking import by_step, rounds, to_settle
from pmuconf.fleet.steps import CampaignStep
from tests.unit.fleet.naive import promised

KERNELS = [CampaignStep(Change.KERNEL, (f"6.{number}", "")) for number in range(3)]
QEMUS = [CampaignStep(Change.QEMU, (f"/qemu-{number}", "")) for number in range(3)]
SETTLE = CampaignStep(Change.SETTLE, ("pmu-unknown",))


def _steps(kernel: int, qemu: int, cycle: bool) -> tuple[CampaignStep, ...]:
    found = [*KERNELS[kernel : kernel + 1], *QEMUS[qemu : qemu + 1]]
    if cycle or not found:
        found.append(CampaignStep(Change.CYCLE, ("stop-start",), tuple(QEMUS[qemu : qemu + 1])))
    return tuple(found)


SETS = st.builds(_steps, st.integers(0, 3), st.integers(0, 3), st.booleans())
WAITING = st.dictionaries(SETS, st.integers(1, 50), max_size=12)


def gains(waiting: dict[tuple[CampaignStep, ...], int]) -> dict[tuple[CampaignStep, ...], Gain]:
    return {steps: Gain(number, 1, number, 10 * number) for steps, number in waiting.items()}


@given(WAITING)
def test_every_round_brings_just_those_vms_that_have_nothing_else_in_their_way(
    waiting: dict[tuple[CampaignStep, ...], int],
) -> None:
    done: list[CampaignStep] = []
    before = 0
    for one in rounds(gains(waiting)):
        done += one.steps
        now = promised(waiting, done)
        assert one.gain.vms == now - before > 0
        assert one.total.vms == now
        assert one.total.cycles == 10 * now
        before = now
    assert before == sum(waiting.values())
    assert len(set(done)) == len(done)


@given(WAITING)
def test_no_other_steps_that_vms_wait_for_would_bring_more_vms_a_step(
    waiting: dict[tuple[CampaignStep, ...], int],
) -> None:
    done: set[CampaignStep] = set()
    for one in rounds(gains(waiting)):
        already = promised(waiting, done)
        every = [set(steps) - done for steps in waiting if set(steps) - done]
        best = max((promised(waiting, done | some) - already) / len(some) for some in every)
        assert one.gain.vms / len(one.steps) == best
        done |= set(one.steps)


@given(WAITING)
def test_alone_and_together(waiting: dict[tuple[CampaignStep, ...], int]) -> None:
    for step, (alone, together) in by_step(gains(waiting)).items():
        assert alone.vms == promised(waiting, [step])
        assert together.vms == sum(number for steps, number in waiting.items() if step in steps)


def test_what_needs_three_things_is_not_claimed_by_one() -> None:
    three = (KERNELS[0], QEMUS[0], CampaignStep(Change.CYCLE, ("stop-start",), (QEMUS[0],)))
    waiting = gains({three: 9400, (KERNELS[0],): 10})
    (only,) = rounds(waiting)
    assert (only.steps, only.gain.vms) == (three, 9410)  # 3,137 VMs a step, against 10
    assert by_step(waiting)[KERNELS[0]][0].vms == 10


def test_what_must_be_settled_is_promised_nothing() -> None:
    waiting = gains({(KERNELS[0], SETTLE): 5, (SETTLE,): 7})
    assert rounds(waiting) == []
    assert by_step(waiting) == {KERNELS[0]: (Gain(), Gain(5, 1, 5, 50))}
    assert {cause: gain.vms for cause, gain in to_settle(waiting).items()} == {"pmu-unknown": 12}


def test_a_power_cycle_comes_behind_what_it_needs_and_is_another_step_than_one_that_needs_nothing() -> None:
    free, bound = CampaignStep(Change.CYCLE, ("stop-start",)), CampaignStep(Change.CYCLE, ("stop-start",), (QEMUS[0],))
    waiting = gains({(free,): 870, (QEMUS[0], bound): 3100})
    first, second = rounds(waiting)
    assert [step.kind for step in first.steps] == [Change.QEMU, Change.CYCLE]
    assert (first.gain.vms, second.gain.vms) == (3100, 870)
    assert free.id != bound.id


def test_thousands_of_kinds_are_ranked_within_reason() -> None:
    waiting = gains({(CampaignStep(Change.KERNEL, (f"6.{number}", "")),): 1 + number for number in range(5000)})
    ranked = rounds(waiting)
    assert [one.gain.vms for one in ranked[:2]] == [5000, 4999]
    assert len(ranked) == 40
