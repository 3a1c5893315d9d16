"""Which changes a run makes: with limits, a canary, and domains that libvirt refused the last time."""

from __future__ import annotations

import pytest

from pmuconf.change.entry import ChangeKind
from pmuconf.change.limits import Brake, Course, Limits
from pmuconf.change.plan import Goal, Plan
from pmuconf.change.result import Outcome, Result
from pmuconf.domain.definition import Manager, PmuState
from pmuconf.domain.xmltext import DomainXmlError
from pmuconf.errors import DefineRefused, PmuconfError
from pmuconf.hypervisor.listing import Listed


def plan(name: str) -> Plan:
    listed = Listed(name, name, active=False, persistent=True, saved=False, snapshots=False)
    goal = Goal(PmuState.OFF, "default")
    return Plan(listed, PmuState.ON, goal, manager=Manager.LIBVIRT, pending=False, caveat=None, aim=lambda _: goal)


PLANS = list(map(plan, "abcdef"))


@pytest.mark.parametrize(
    ("limits", "refused", "stages", "left", "reason"),
    [
        (Limits(), "", ["abcdef"], "", ""),
        (Limits(max_changes=2), "", ["ab"], "cdef", "max-changes"),
        (Limits(max_changes=6), "", ["abcdef"], "", ""),
        (Limits(max_changes=2), "a", ["bc"], "defa", "max-changes"),
        (Limits(canary=2), "", ["ab"], "cdef", "canary"),
        (Limits(canary=2, go_on=True), "", ["ab", "cdef"], "", ""),
        (Limits(canary=1, max_changes=3, go_on=True), "", ["a", "bc"], "def", "max-changes"),
        (Limits(canary=3, max_changes=3), "", ["abc"], "def", "max-changes"),
        (Limits(canary=2), "ab", ["cd"], "efab", "canary"),
        (Limits(canary=9), "abcde", ["f"], "abcde", "canary"),
        (Limits(canary=2), "abcdef", ["ab"], "cdef", "canary"),
        (Limits(canary=9), "", ["abcdef"], "", ""),
    ],
)
def test_the_stages_and_what_is_left(limits: Limits, refused: str, stages: list[str], left: str, reason: str) -> None:
    course = Course.of(PLANS, limits, set(refused), ChangeKind.APPLY)
    assert ["".join(one.listed.name for one in chosen) for _, chosen in course.stages] == stages
    assert "".join(one.listed.name for one in course.left) == left
    assert course.reason == reason or not left
    kinds = [kind for kind, _ in course.stages]
    assert kinds == ([ChangeKind.CANARY, ChangeKind.APPLY] if limits.canary else [ChangeKind.APPLY])[: len(kinds)]


# ---- what ends a run early -------------------------------------------------------------------------------------------


OF_ONE = [
    DefineRefused("no such machine", cause="refused-by-libvirt"),
    PmuconfError("it was refused", cause="libvirt-error"),
    PmuconfError("its storage hangs", cause="domain-timeout"),
    PmuconfError("not this one", cause="libvirt-permission"),
    DomainXmlError("it is no XML", cause="xml-syntax", source="web"),
]


@pytest.mark.parametrize("error", OF_ONE, ids=lambda error: error.cause)
def test_an_error_of_one_domain_stops_the_run_only_beyond_the_limit(error: PmuconfError) -> None:
    brake = Brake(Limits(max_failures=1))
    assert brake.failed(PLANS[0], error, 7) == failed("a", error, change=7)
    assert brake.reason == ""
    assert brake.failed(PLANS[1], error) == failed("b", error)
    assert (brake.failures, brake.reason) == (2, "too-many-failures")
    assert not_reached(brake, PLANS[2]) == (
        "too-many-failures",
        "not begun: domains failed, or differ in more than the PMU; the limit is 1",
    )


@pytest.mark.parametrize("cause", ["libvirt-lost", "libvirt-timeout", "verify-failed", "journal-full"])
def test_an_error_that_may_hold_for_all_stops_the_run_at_once(cause: str) -> None:
    brake, error = Brake(Limits()), PmuconfError("it is gone", cause=cause)
    assert brake.failed(PLANS[0], error) == failed("a", error)
    assert (brake.failures, brake.reason) == (0, "stopped-by-failure")
    assert not_reached(brake, PLANS[1]) == ("stopped-by-failure", "not begun: a failure stopped the run")


def test_the_first_reason_for_which_a_run_stopped_counts() -> None:
    brake = Brake(Limits(max_failures=0))
    brake.stop("canary-failed")
    brake.stop("stopped-by-failure")
    brake.count_failure()
    assert not_reached(brake, PLANS[0]) == (
        "canary-failed",
        "not begun: a change of the canary failed, or left more changed than the PMU",
    )
    assert brake.not_begun(PLANS[0], "max-changes").cause == "max-changes"


def failed(name: str, error: PmuconfError, change: int | None = None) -> Result:
    return Result(
        name,
        name,
        Outcome.FAILED,
        PmuState.ON,
        PmuState.OFF,
        rule="default",
        cause=error.cause,
        notes=(error.message,),
        change=change,
    )


def not_reached(brake: Brake, plan: Plan) -> tuple[str, str]:
    result = brake.not_begun(plan)
    assert result.outcome is Outcome.NOT_REACHED
    return result.cause, result.note
