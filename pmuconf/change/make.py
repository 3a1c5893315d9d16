"""Make changes, within limits: the only way by which a domain is changed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Final

from pmuconf.change.attempt import Attempt, Draft, Workshop, draft
from pmuconf.change.entry import ChangeKind, Intent
from pmuconf.change.journal import Journal
from pmuconf.change.limits import REFUSED, Brake, Course, Limits
from pmuconf.change.plan import Plan
from pmuconf.change.result import Result
from pmuconf.errors import PmuconfError
from pmuconf.hypervisor.driver import Driver
from pmuconf.hypervisor.hypervisor import Hypervisor

__all__ = ["Limits", "apply"]

_BATCH: Final = 32  # changes that share one transaction of the journal


def apply(
    hypervisor: Hypervisor,
    journal: Journal,
    plans: Sequence[Plan],
    limits: Limits,
    kind: ChangeKind = ChangeKind.APPLY,
) -> Iterator[Result]:
    """Make the changes, within the limits; a result for each plan, as it is known.

    In the order of the plans, but those last that libvirt refused the last time; no canary is chosen among them.
    A domain that fails stops no other, up to the limit of failures. An error that may concern all ends the run.

    :raises PmuconfError: the journal can't be written. Then no change is made that is not in the journal.
    """
    course = Course.of(plans, limits, journal.refused(hypervisor.driver, REFUSED), kind)
    brake = Brake(limits)
    chosen = [plan for _, stage in course.stages for plan in stage]
    reached = 0
    with hypervisor.watch() as watch:
        workshop = Workshop(hypervisor, journal, watch, brake)
        for stage, its_plans in course.stages:
            for result in _carried_out(workshop, its_plans, stage):
                reached += 1
                yield result
            if stage is ChangeKind.CANARY and brake.failures:
                brake.stop("canary-failed")
    for plan in (*chosen[reached:], *course.left):
        yield brake.not_begun(plan, brake.reason or course.reason)


def _carried_out(workshop: Workshop, plans: Sequence[Plan], kind: ChangeKind) -> Iterator[Result]:
    """The results of these plans, batch by batch, until the run stops."""
    for at in range(0, len(plans), _BATCH):
        if workshop.brake.reason:
            return
        yield from _batch(workshop, plans[at : at + _BATCH], kind)


def _batch(workshop: Workshop, plans: Sequence[Plan], kind: ChangeKind) -> list[Result]:
    """The results of these plans: written down together, carried out side by side, settled together."""
    drafted = list(workshop.hypervisor.map_once(lambda plan: draft(workshop, plan), plans))
    drafts = [answer for answer in drafted if isinstance(answer, Draft)]
    workshop.watch.fence()
    numbers = workshop.journal.begin([_intent(answer, kind, workshop.hypervisor.driver) for answer in drafts])
    attempts = [Attempt(workshop, number, answer) for number, answer in zip(numbers, drafts)]
    ended = list(workshop.hypervisor.map_once(Attempt.carry_out, attempts))
    if any(attempt.quiet for attempt in attempts):
        with suppress(PmuconfError):  # nothing can be heard any more: the next step says so
            workshop.watch.fence()
            for attempt in attempts:
                attempt.listen_once_more()
    results = [attempt.with_findings(end.result) for attempt, end in zip(attempts, ended)]
    workshop.journal.settle(
        (attempt.number, end.status, result.cause)
        for attempt, end, result in zip(attempts, ended, results)
        if end.status is not None
    )
    of_drafts = iter(results)
    return [next(of_drafts) if isinstance(answer, Draft) else answer for answer in drafted]


def _intent(draft: Draft, kind: ChangeKind, driver: Driver) -> Intent:
    listed, goal = draft.plan.listed, draft.goal
    return Intent(
        kind=kind,
        uri=driver.uri,
        uuid=listed.uuid,
        name=listed.name,
        old=draft.old,
        new=goal.state,
        rule=goal.rule,
        preimage=draft.text.xml,
        undoes=goal.undoes,
        machine=driver.machine,
        host_uuid=driver.host_uuid,
    )
