"""Which changes a run makes: with limits, a canary, and domains that libvirt refused the last time."""

from __future__ import annotations

import pytest

from pmuconf.change.entry import ChangeKind
from pmuconf.change.limits import Course, Limits
from pmuconf.change.plan import Goal, Plan
from pmuconf.domain.definition import PmuState
from pmuconf.hypervisor.listing import Listed


def plan(name: str) -> Plan:
    listed = Listed(name, name, active=False, persistent=True, saved=False, snapshots=False)
    goal = Goal(PmuState.OFF, "default")
    return Plan(listed, PmuState.ON, goal, nova=False, pending=False, caveat=None, aim=lambda _: goal)


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
