"""What is said of a run and of two: the sentence, when there is none, and what the report may take from it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pmuconf.bench.conclusion import Quantity, between_arms, between_measurements
from pmuconf.bench.conditions import Spoil
from pmuconf.bench.difference import Direction
from pmuconf.bench.loops import Exit
from pmuconf.errors import PmuconfError
from pmuconf.hostfacts import Verdict
from tests.unit.bench.fake import KEY, measurement_of

NESTED = Spoil("nested", "this host is itself a virtual machine")
NO_PMU = Spoil("enable-pmu-n", "kvm.enable_pmu is N", arms_only=True)


def test_a_saving_on_one_kernel() -> None:
    said = between_arms(measurement_of(2157, 2100))
    assert (said.quantity, said.direction, said.severity) == (Quantity.ARMS, Direction.SAVES, 0)
    assert said.sentence.startswith("on this kernel PMU off saves 57 +- ")
    assert said.sentence.endswith(" cycles per CPUID exit (2.6 %)")


def test_no_difference_has_a_bound() -> None:
    said = between_arms(measurement_of(2100, 2100))
    assert (said.direction, said.severity) == (Direction.NONE, 0)
    assert said.difference is not None
    assert f"no difference larger than {said.difference.whole.largest:.1f} cycles" in said.sentence


def test_pmu_off_that_costs_more_is_a_finding() -> None:
    said = between_arms(measurement_of(2000, 2100))
    assert (said.direction, said.severity, said.saving) == (Direction.COSTS, 2, None)
    assert said.sentence.startswith("on this kernel PMU off costs 100 +- ")


@pytest.mark.parametrize("spoils", [(NESTED,), (NESTED, NO_PMU), (NO_PMU,)])
def test_what_spoils_a_run_leaves_no_conclusion(spoils: tuple[Spoil, ...]) -> None:
    said = between_arms(replace(measurement_of(2157, 2100), spoils=spoils))
    assert (said.direction, said.severity, said.saving) == (None, 1, None)
    assert said.sentence == "no conclusion: " + "; ".join(spoil.message for spoil in spoils)
    assert said.difference is not None  # what was measured is there all the same


def test_nothing_measured_is_no_figure() -> None:
    said = between_arms(replace(measurement_of(None, 2100), pairs=(), spoils=(NESTED,)))
    assert (said.difference, said.control, said.direction) == (None, None, None)
    few = between_arms(measurement_of(2157, 2100, pairs=21))
    assert [spoil.cause for spoil in few.spoils] == ["too-few-pairs"]
    assert few.sentence == ("no conclusion: too little was measured: a difference requires at least 22 pairs of VMs")
    assert between_arms(measurement_of(None, 2100)).difference is None


def test_a_control_that_differs_too_spoils_it() -> None:
    said = between_arms(measurement_of(2157, 2100, control=3000, control_on=3060))
    assert (said.direction, [spoil.cause for spoil in said.spoils]) == (None, ["control-differs"])
    assert "an exit that the guard does not touch differs by +60" in said.sentence
    assert between_arms(measurement_of(2157, 2100, control=3000, control_on=3010)).direction is Direction.SAVES
    assert between_arms(measurement_of(2100, 2100, control=3000, control_on=3060)).direction is None


@pytest.mark.parametrize(
    ("guard", "on", "cycles"),
    [
        (Verdict.GUARDED, 2157, 57),
        (Verdict.GUARDED, 2100, 0),  # nothing is saved: better known than expected
        (Verdict.UNGUARDED, 2157, None),  # off is cheaper, but not by the guard
        (Verdict.EARLY_OUT, 2157, None),
        (Verdict.UNKNOWN, 2157, None),
    ],
)
def test_what_the_report_may_take_from_one_kernel(guard: Verdict, on: float, cycles: float | None) -> None:
    saving = between_arms(measurement_of(on, 2100, guard=guard)).saving
    assert (saving and round(saving.cycles)) == cycles
    if saving:
        assert (saving.quantity, saving.exit, saving.confidence) == ("pmu-on-against-off", "cpuid", 0.999)


def test_kernel_before_against_after() -> None:
    old, new = measurement_of(None, 2776, guard=Verdict.UNGUARDED), measurement_of(None, 2549)
    said = between_measurements(old, new)
    assert (said.quantity, said.direction, said.severity) == (Quantity.KERNELS, Direction.SAVES, 0)
    assert said.sentence.startswith("with the PMU off, the new kernel saves 227 +- ")
    assert said.sentence.endswith("(8.2 %)")
    assert said.saving is not None
    assert (round(said.saving.cycles), said.saving.quantity) == (227, "kernel-before-against-after")
    assert between_measurements(new, old).severity == 2


@pytest.mark.parametrize(
    ("old", "new"),
    [(Verdict.GUARDED, Verdict.GUARDED), (Verdict.UNKNOWN, Verdict.GUARDED), (Verdict.UNGUARDED, Verdict.UNGUARDED)],
)
def test_what_two_kernels_say_without_the_guard_is_not_for_the_report(old: Verdict, new: Verdict) -> None:
    said = between_measurements(measurement_of(None, 2776, guard=old), measurement_of(None, 2549, guard=new))
    assert (said.direction, said.saving) == (Direction.SAVES, None)


def test_without_a_pmu_on_either_side_kernels_can_still_be_compared() -> None:
    old, new = (replace(measurement_of(None, cost), spoils=(NO_PMU,)) for cost in (2776, 2549))
    assert between_measurements(old, new).direction is Direction.SAVES
    assert between_measurements(old, replace(new, spoils=(NESTED,))).sentence == f"no conclusion: {NESTED.message}"


def test_another_kernel_may_be_slower_all_over() -> None:
    said = between_measurements(measurement_of(None, 2776, control=3200), measurement_of(None, 2549, control=3000))
    assert [spoil.cause for spoil in said.spoils] == ["control-differs"]


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"exit": Exit.MSR}, "kinds of exit"),
        ({"counters": 4}, "numbers of counters"),
        ({"host": replace(KEY, cpu="another")}, "CPUs"),
        ({"host": replace(KEY, microcode="0x1")}, "microcode revisions"),
        ({"host": replace(KEY, mitigations=())}, "mitigations"),
    ],
)
def test_runs_that_differ_in_more_than_the_kernel(change: dict[str, object], what: str) -> None:
    with pytest.raises(PmuconfError, match=what) as caught:
        between_measurements(measurement_of(None, 2776), replace(measurement_of(None, 2549), **change))  # type: ignore[arg-type]
    assert caught.value.cause == "runs-differ"
    between_measurements(
        measurement_of(None, 2776), replace(measurement_of(None, 2549), host=replace(KEY, kernel="x", kvm="y"))
    )
