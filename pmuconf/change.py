"""Apply and verify: the only place that changes a domain.

libvirt has no compare-and-swap, so each change reads the domain with its secrets, writes down what it is about to
do, reads again and compares, defines, and reads once more to verify that nothing but ``features/pmu`` differs.
Where somebody else edits the same domain meanwhile, it plans anew; an edit that fell into the moment between our
last look and our define is told by libvirt's define events and reported (see DefineWatch).
"""

from __future__ import annotations

import random
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from pmuconf.domain import PmuState, read_libvirt, same_but_pmu
from pmuconf.errors import DomainVanished, PmuconfError
from pmuconf.hypervisor import DefineWatch, Hypervisor, Listed
from pmuconf.journal import Intent, Journal, Kind, Status
from pmuconf.plan import NOVA_NOTE, Goal, Outcome, Plan, Result, result_of
from pmuconf.rewriting import rewrite_libvirt

__all__ = ["Limits", "apply"]

# What libvirt hands out on the way of a change was within the configured limit when it was planned.
_ANY_SIZE: Final = sys.maxsize

_BATCH: Final = 32  # changes that share one transaction of the journal


@dataclass(frozen=True)
class Limits:
    """How far one run may go: ``max_changes`` 0 means no limit, ``canary`` 0 none.

    With a canary the run stops behind that many changes; with ``go_on`` it continues once they are verified.
    """

    max_changes: int = 0
    canary: int = 0
    go_on: bool = False
    attempts: int = 5


def apply(
    hypervisor: Hypervisor, journal: Journal, plans: Sequence[Plan], limits: Limits, kind: Kind = Kind.APPLY
) -> Iterator[Result]:
    """Make the changes, within the limits; a result for each plan, in order, as it is known.

    Stops at the first failure: what was not begun by then is not reached.

    :raises PmuconfError: the journal can't be written; nothing that is not written down has been changed.
    """
    allowed = len(plans) if limits.max_changes == 0 else min(limits.max_changes, len(plans))
    canary = min(limits.canary, allowed)
    stages = [(kind, plans[:allowed])]
    if canary:
        stages = [(Kind.CANARY, plans[:canary])]
        if limits.go_on:
            stages.append((kind, plans[canary:allowed]))
    reached = 0
    stopped_by = ""
    with hypervisor.watch() as watch:
        worker = _Worker(hypervisor, journal, watch, limits.attempts)
        for stage, chosen in stages:
            for at in range(0, len(chosen), _BATCH):
                if stopped_by:
                    break
                for result in worker.batch(chosen[at : at + _BATCH], stage):
                    reached += 1
                    if result.outcome is Outcome.FAILED:
                        stopped_by = "stopped-by-failure"
                    yield result
    if not stopped_by:
        stopped_by = "canary" if reached < allowed else "max-changes"
    notes = {
        "stopped-by-failure": "not begun: a failure stopped the run",
        "canary": "not begun: the canary comes first; --continue goes on",
        "max-changes": f"not begun: the limit is {limits.max_changes} changes a run",
    }
    for left in plans[reached:]:
        yield result_of(left, Outcome.NOT_REACHED, stopped_by, notes[stopped_by])


@dataclass(frozen=True)
class _Draft:
    plan: Plan
    old: PmuState
    goal: Goal
    xml: str
    new_xml: str


class _Worker:
    """Carries plans out, batch by batch."""

    def __init__(self, hypervisor: Hypervisor, journal: Journal, watch: DefineWatch, attempts: int) -> None:
        self._hypervisor = hypervisor
        self._journal = journal
        self._watch = watch
        self._attempts = attempts
        self._stop = threading.Event()
        self._overwritten: set[str] = set()

    def batch(self, plans: Sequence[Plan], kind: Kind) -> list[Result]:
        """The results of these plans: written down together, carried out side by side, settled together."""
        drafted = list(self._hypervisor.map(self._draft, plans))
        drafts = [draft for draft in drafted if isinstance(draft, _Draft)]
        self._watch.fence()
        numbers = self._journal.begin([self._intent(draft, kind) for draft in drafts])
        done = dict(zip(numbers, self._hypervisor.map(self._carry_out, list(zip(numbers, drafts)))))
        self._journal.settle((number, status, result.cause) for number, (result, status) in done.items() if status)
        carried = iter(result for result, _ in done.values())
        return [next(carried) if isinstance(one, _Draft) else one for one in drafted]

    def _intent(self, draft: _Draft, kind: Kind) -> Intent:
        listed, driver = draft.plan.listed, self._hypervisor.driver
        return Intent(
            kind=kind,
            uri=driver.uri,
            uuid=listed.uuid,
            name=listed.name,
            old=draft.old,
            new=draft.goal.state,
            rule=draft.goal.rule,
            preimage=draft.xml,
            undoes=draft.goal.undoes,
            machine=driver.machine,
            host_uuid=driver.host_uuid,
        )

    def _draft(self, plan: Plan) -> _Draft | Result:
        try:
            return self._drafted(plan, self._read(plan.listed))
        except DomainVanished:
            return result_of(plan, Outcome.VANISHED, "domain-vanished", "it went away before it was changed")
        except PmuconfError as error:
            self._stop.set()
            return result_of(plan, Outcome.FAILED, error.cause, error.message)

    def _drafted(self, plan: Plan, xml: str) -> _Draft | Result:
        facts = read_libvirt(xml, max_bytes=_ANY_SIZE)
        goal = plan.aim(facts)
        if goal is None or goal.state is facts.pmu:
            return result_of(plan, Outcome.ALREADY, "no-change", "there is nothing to change any more")
        return _Draft(plan, facts.pmu, goal, xml, rewrite_libvirt(xml, goal.state, max_bytes=_ANY_SIZE))

    def _read(self, listed: Listed) -> str:
        return self._hypervisor.next_boot_xml(listed, secrets=True)

    def _carry_out(self, numbered: tuple[int, _Draft]) -> tuple[Result, Status | None]:
        """Change one domain; its result, and how its journal entry ends (None: it stays in flight)."""
        number, draft = numbered
        plan = draft.plan
        status: Status | None
        try:
            if self._stop.is_set():
                note = "not begun: a failure stopped the run"
                return result_of(plan, Outcome.NOT_REACHED, "stopped-by-failure", note), Status.ABANDONED
            result, status = self._attempt(number, draft)
        except DomainVanished:
            note = "it went away meanwhile"
            result, status = result_of(plan, Outcome.VANISHED, "domain-vanished", note), Status.ABANDONED
        except PmuconfError as error:
            self._stop.set()
            result, status = result_of(plan, Outcome.FAILED, error.cause, error.message, number), self._ended(draft)
        if plan.listed.uuid in self._overwritten:
            note = "somebody else defined it in the very moment of the change: look whether that edit is lost"
            if result.outcome is Outcome.FAILED:
                note = f"{result.note}; and {note}"
            result = replace(result, cause="edit-overwritten", note=note)
        return result, status

    def _attempt(self, number: int, draft: _Draft) -> tuple[Result, Status]:
        plan = draft.plan
        for attempt in range(self._attempts):
            if attempt:
                time.sleep(random.uniform(0, 0.01 * 2 ** min(attempt, 6)))  # out of step with the other writer
                self._watch.fence()
            mark = self._watch.mark(plan.listed.uuid)
            xml = self._read(plan.listed)
            if xml == draft.xml:
                if not self._hypervisor.is_persistent(plan.listed):
                    note = "it became transient: it has no next boot any more"
                    return result_of(plan, Outcome.TRANSIENT, "transient", note), Status.ABANDONED
                self._hypervisor.define(plan.listed, draft.new_xml)
                ended = self._verified(number, draft, mark)
                if isinstance(ended, tuple):
                    return ended
                xml = ended
            again = self._drafted(plan, xml)
            if isinstance(again, Result):
                return again, Status.ABANDONED
            draft = again
            self._journal.replan(number, draft.old, draft.goal.state, draft.goal.rule, draft.xml)
        note = f"somebody else edits it all the time: given up after {self._attempts} attempts"
        return result_of(plan, Outcome.BUSY, "busy", note, number), self._ended(draft) or Status.ABANDONED

    def _verified(self, number: int, draft: _Draft, mark: int) -> tuple[Result, Status] | str:
        """Look at what our define made; the text to plan anew from, if somebody else's define took it back."""
        plan, uuid = draft.plan, draft.plan.listed.uuid
        after = self._read(plan.listed)
        right = read_libvirt(after, max_bytes=_ANY_SIZE).pmu is draft.goal.state and same_but_pmu(draft.xml, after)
        events = self._watch.wait(uuid, mark)
        now = after
        if not right and events == (DefineWatch.DEFINED,):
            events = self._watch.wait_for_another(uuid, mark)
        if not right or events != (DefineWatch.DEFINED,):
            events, now = self._still(plan.listed, mark, events)
        defines = [what for what in events if what in (DefineWatch.DEFINED, DefineWatch.ADDED)]
        others = len(defines) - 1
        if others == 0 and _made_anew(events):
            # It was undefined between our last look and our define, which made it anew: take that back.
            self._hypervisor.undefine(plan.listed)
            note = "somebody undefined it in the moment of the change: undefined again"
            return result_of(plan, Outcome.VANISHED, "domain-vanished", note, number), Status.ABANDONED
        # An edit behind ours shows in the text. Of several, one may have come before and be overwritten.
        ours = right and now == after
        if others > (0 if ours else 1):
            self._overwritten.add(uuid)
        state = read_libvirt(now, max_bytes=_ANY_SIZE).pmu
        if state is draft.goal.state and (ours or others > 0):
            changed = replace(plan, old=draft.old, goal=draft.goal)
            result = result_of(changed, Outcome.CHANGED, "", NOVA_NOTE if plan.nova else "", number)
            return replace(result, pending=plan.pending), Status.DONE
        if others > 0 or now != after or state is not draft.goal.state:
            return now  # only somebody else can have taken the PMU state back
        self._hypervisor.define(plan.listed, draft.xml)
        self._stop.set()
        note = "more than features/pmu differed after the define: put back as it was"
        return result_of(plan, Outcome.FAILED, "verify-failed", note, number), Status.RESTORED

    def _still(self, listed: Listed, mark: int, events: tuple[str, ...]) -> tuple[tuple[str, ...], str]:
        """A moment between two edits: all that happened since the mark, and the text that it led to."""
        for _ in range(self._attempts):
            xml = self._read(listed)
            before, events = events, self._watch.wait(listed.uuid, mark)
            if events == before:
                break
        return events, xml

    def _ended(self, draft: _Draft) -> Status | None:
        """How a change ended that an error interrupted: by what the domain says; None if even that can't be read."""
        try:
            state = read_libvirt(self._read(draft.plan.listed), max_bytes=_ANY_SIZE).pmu
        except DomainVanished:
            return Status.ABANDONED
        except PmuconfError:
            return None
        return Status.DONE if state is draft.goal.state else Status.ABANDONED


def _made_anew(events: tuple[str, ...]) -> bool:
    """Whether our define, the only one, came behind an undefine.

    A running domain that is undefined lives on without a next boot, and a define then counts as an update.
    """
    if DefineWatch.ADDED in events:
        return True
    first = events.index(DefineWatch.DEFINED)
    return DefineWatch.UNDEFINED in events[:first]
