"""The tables of cases: an example for each row, and that no verdict which spares a VM stands above a doubt."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

import pmuconf
from pmuconf.host.guard.cases import (
    FUNCTION,
    KERNEL,
    GuardCase,
    case_of_function,
    case_of_kernel,
    findings_of,
)
from pmuconf.host.guard.cases import FunctionFindings as F
from pmuconf.host.guard.cases import KernelFindings as K
from pmuconf.host.guard.events import Event, Kind, Obstacle, Walk
from pmuconf.hostfacts import Verdict
from tests.causes import guard_causes

BEFORE = [(obstacle.value, F(obstacle=obstacle, late_obstacle=obstacle)) for obstacle in Obstacle]
LATE = [(obstacle.value, F(late_obstacle=obstacle, trace=True, pmu_known=False)) for obstacle in Obstacle]
ALL = F(True, True, True, Obstacle.HOOKED, True, True, True, True, True, True, Obstacle.HOOKED, False, True)

# In the order of the table. Each has what the rows below ask for too, where that can be.
FLAGS = [name for name in F._fields if "obstacle" not in name]
ON_FUNCTION = [
    ("test-does-not-decide", ALL),
    ("no-test", ALL._replace(tested=False)),
    ("test-not-understood", ALL._replace(untested_work=False)),
    *BEFORE,
    ("pmu-touched", F(reads=True, work=True, enabled_work=True, counting_work=True, entry=True, call=True, trace=True)),
    ("tests-differ", F(enabled_work=True, counting_work=True, work=True, entry=True, call=True, trace=True)),
    ("nothing-counted", F(counting_work=True, work=True, entry=True, call=True, trace=True)),
    ("guard-in-callee", F(work=True, entry=True, call=True, trace=True)),
    ("callee-idle", F(entry=True, call=True, trace=True)),
    ("guard-in-caller", F(call=True, late_obstacle=Obstacle.STACK_LOST, trace=True)),
    *LATE,
    ("no-offsets", F(pmu_known=False, trace=True)),
    ("pmu-touched", F(trace=True)),
    ("no-pmu-call", F()),
]
ON_KERNEL = [
    ("switched", K(Verdict.UNKNOWN, switched=True, unguarded_copy=True, complete=False)),
    ("unguarded-copies", K(Verdict.GUARDED, unguarded_copy=True, complete=False, unread_module=True, replaced=True)),
    ("unread-copies", K(Verdict.EARLY_OUT, complete=False, unread_module=True, replaced=True)),
    ("unread-modules", K(Verdict.GUARDED, unread_copy=True, unread_module=True, replaced=True)),
    ("livepatched", K(Verdict.NO_CALL, replaced=True)),
]


def numbered(examples: Iterable[tuple[str, object]]) -> list[Any]:
    return [pytest.param(n, cause, findings, id=f"{n}-{cause}") for n, (cause, findings) in enumerate(examples)]


@pytest.mark.parametrize(("number", "cause", "findings"), numbered(ON_FUNCTION))
def test_each_row_on_a_function_is_reached(number: int, cause: str, findings: F) -> None:
    assert case_of_function(findings) is FUNCTION[number]
    assert FUNCTION[number].cause == cause


@pytest.mark.parametrize(("number", "cause", "findings"), numbered(ON_KERNEL))
def test_each_row_on_a_kernel_is_reached(number: int, cause: str, findings: K) -> None:
    assert case_of_kernel(findings) is KERNEL[number]
    assert KERNEL[number].cause == cause


def test_every_row_has_an_example() -> None:
    assert (len(ON_FUNCTION), len(ON_KERNEL)) == (len(FUNCTION), len(KERNEL))


@pytest.mark.parametrize("case", [*FUNCTION, *KERNEL], ids=lambda case: case.cause)
def test_a_row_says_why(case: GuardCase[F] | GuardCase[K]) -> None:
    assert case.why.endswith(".")
    assert not case.message.endswith(".")


def test_each_cause_is_documented() -> None:
    page = (Path(pmuconf.__file__).parents[1] / "docs" / "host.md").read_text(encoding="utf-8")
    assert [cause for cause in sorted(guard_causes()) if f"`{cause}`" not in page] == []


def all_findings() -> Iterator[F]:
    for flags in itertools.product((False, True), repeat=11):
        values: dict[str, Any] = dict(zip(FLAGS, flags))
        for early, late in itertools.product((None, Obstacle.HOOKED, Obstacle.INDIRECT_CALL), repeat=2):
            yield F(obstacle=early, late_obstacle=late)._replace(**values)


def test_whatever_a_function_shows_it_is_not_spared_where_there_is_a_doubt() -> None:
    """Asked of every combination, by what each verdict promises and not by the table."""
    for f in all_findings():
        verdict = case_of_function(f).verdict
        doubt = f.untested_work or f.murky_work or f.obstacle is not None or f.reads
        if verdict is Verdict.GUARDED:
            assert not doubt
            assert not f.counting_work
            assert f.work or f.call
        elif verdict is Verdict.EARLY_OUT:
            assert not doubt
            assert not f.enabled_work
        elif verdict is Verdict.NO_CALL:
            assert f._replace(tested=False, enabled_work=False) == F()  # there is no such work without work or a call
        elif verdict is Verdict.UNGUARDED:
            assert f.untested_work
        assert (verdict is Verdict.UNGUARDED) == f.untested_work


def test_whatever_else_a_kernel_runs_it_is_not_spared_where_there_is_a_doubt() -> None:
    for verdict, flags in itertools.product(Verdict, itertools.product((False, True), repeat=7)):
        k = K(verdict, *flags)
        if k.silent and verdict is not Verdict.NO_CALL:
            continue
        case = case_of_kernel(k)
        final = verdict if case is None else case.verdict
        if final in (Verdict.GUARDED, Verdict.EARLY_OUT, Verdict.NO_CALL):
            assert not any((k.switched, k.unguarded_copy, k.replaced))
            assert k.complete or (verdict is Verdict.NO_CALL and not k.silent)
            assert not (k.unread_module and (verdict is Verdict.GUARDED or k.silent))
        if verdict is Verdict.UNGUARDED and not k.switched:
            assert final is Verdict.UNGUARDED


class TestFindings:
    """What is made of events."""

    @staticmethod
    def of(*events: Event) -> F:
        return findings_of(Walk(set(events)), pmu_known=True)

    @pytest.mark.parametrize("enabled", [None, False])
    @pytest.mark.parametrize("counting", [None, False])
    def test_work_behind_no_test_is_untested(self, enabled: bool | None, counting: bool | None) -> None:
        found = self.of(Event(Kind.WORK, 1, enabled, counting, False))
        assert found == F(untested_work=True, work=True)

    def test_murky_work_counts_only_if_none_is_untested(self) -> None:
        murky = Event(Kind.WORK, 1, None, None, True)
        assert self.of(murky) == F(murky_work=True, work=True, trace=True)
        assert self.of(murky, Event(Kind.WORK, 2, None, None, False)).untested_work

    def test_an_obstacle_behind_the_guard_is_a_late_one(self) -> None:
        behind = Event(Kind.UNRESOLVED, 1, True, None, False, Obstacle.INDIRECT_CALL)
        assert self.of(behind) == F(late_obstacle=Obstacle.INDIRECT_CALL)

    def test_a_hook_outweighs_other_obstacles(self) -> None:
        first = Event(Kind.UNRESOLVED, 1, None, None, False, Obstacle.STACK_LOST)
        hook = Event(Kind.UNRESOLVED, 2, None, None, False, Obstacle.HOOKED)
        assert self.of(first).obstacle is Obstacle.STACK_LOST
        assert self.of(first, hook).obstacle is Obstacle.HOOKED

    def test_a_read_is_a_doubt_and_behind_the_bitmap_it_is_like_work(self) -> None:
        assert self.of(Event(Kind.READ, 1, None, None, False)) == F(reads=True, trace=True)
        assert self.of(Event(Kind.READ, 1, False, True, False)) == F(counting_work=True, trace=True)
        assert self.of(Event(Kind.READ, 1, True, None, False)) == F(enabled_work=True, trace=True)

    def test_a_look_at_the_bitmap_is_a_trace_alone(self) -> None:
        assert self.of(Event(Kind.LOOK, 1, None, None, False)) == F(trace=True)
