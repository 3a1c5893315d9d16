"""Which changes of a domain are undone as one, and which domains stay as they are."""

from __future__ import annotations

from datetime import datetime, timezone

import pytest

from pmuconf.audit.vm import Unjudged, Vm, judge
from pmuconf.change.entry import ChangeKind, ChangeStatus, Entry
from pmuconf.change.plan import Seen, plan_rollback
from pmuconf.change.result import Outcome
from pmuconf.domain.definition import PmuState
from pmuconf.domain.reading import read
from pmuconf.hypervisor.listing import Listed
from pmuconf.policy import Policy
from tests.support.domains import plain_domain

AT = datetime(2024, 1, 1, tzinfo=timezone.utc)
ON, OFF, DEFAULT = PmuState.ON, PmuState.OFF, PmuState.DEFAULT
LISTED = Listed("web", "u-1", active=False, persistent=True, saved=False, snapshots=False)


def entries(*changes: tuple[PmuState, PmuState]) -> list[Entry]:
    """Changes of one domain, the newest first, with numbers that grow with time."""
    numbered = zip(range(len(changes), 0, -1), changes)
    return [
        Entry(number, AT, "me", ChangeKind.APPLY, "q", "u-1", "web", old, new, "r", ChangeStatus.DONE, "", undone=False)
        for number, (old, new) in numbered
    ]


def seen(pmu: PmuState) -> Seen:
    xml = plain_domain("web", pmu=None if pmu is DEFAULT else pmu.value)
    return Seen(LISTED, judge(Policy(), next_boot=read(xml)))


@pytest.mark.parametrize(
    ("changes", "state", "undoes"),
    [
        ([(ON, OFF)], ON, (1,)),
        ([(ON, OFF), (DEFAULT, ON)], DEFAULT, (2, 1)),
        ([(ON, OFF), (DEFAULT, OFF)], ON, (2,)),  # somebody else put it on in between
        ([(ON, OFF), (DEFAULT, ON), (OFF, ON)], DEFAULT, (3, 2)),
    ],
)
def test_changes_that_follow_each_other_are_undone_as_one(
    changes: list[tuple[PmuState, PmuState]], state: PmuState, undoes: tuple[int, ...]
) -> None:
    (plan,), results = plan_rollback(entries(*changes), lambda _: seen(OFF))
    assert results == []
    assert (plan.goal.state, plan.goal.undoes, plan.old) == (state, undoes, OFF)
    assert plan.aim(read(plain_domain("web", pmu="off"))) == plan.goal
    assert plan.aim(read(plain_domain("web", pmu="on"))) is None


@pytest.mark.parametrize(
    ("changes", "domain", "outcome", "cause"),
    [
        ([(ON, OFF)], None, Outcome.VANISHED, "domain-vanished"),
        ([(ON, OFF)], seen(DEFAULT), Outcome.ALREADY, "changed-since"),
        ([(ON, OFF), (OFF, ON)], seen(OFF), Outcome.ALREADY, "no-change"),
        (
            [(ON, OFF)],
            Seen(LISTED, Vm("web", "u-1", error=Unjudged("xml-syntax", "broken"))),
            Outcome.NOT_JUDGED,
            "xml-syntax",
        ),
    ],
)
def test_a_domain_that_can_t_be_put_back_stays(
    changes: list[tuple[PmuState, PmuState]], domain: Seen | None, outcome: Outcome, cause: str
) -> None:
    plans, (result,) = plan_rollback(entries(*changes), lambda _: domain)
    assert plans == []
    assert (result.outcome, result.cause) == (outcome, cause)
