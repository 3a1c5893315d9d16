"""Apply and verify: the only place that changes a domain.

libvirt has no compare-and-swap, so each change reads the domain with its secrets, writes down what it is about to
do, reads again and compares, defines, and reads once more to verify. Nothing is ever put back or undefined here: what
differs then outside ``features/pmu`` is libvirt's own doing or somebody else's edit, and is reported (see Aftermath).
Where somebody else's define took the PMU state back, the change is planned anew on top of it.
"""

from __future__ import annotations

import random
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final

from pmuconf.change.aftermath import LASTING, SENTENCES, Aftermath, overwrote
from pmuconf.change.journal import ChangeKind, ChangeStatus, Intent, Journal
from pmuconf.change.plan import NOVA_NOTE, Goal, Plan, result_of
from pmuconf.change.result import Outcome, Result
from pmuconf.domain.definition import PmuState
from pmuconf.domain.reading import read_libvirt
from pmuconf.domain.rewriting import rewrite_libvirt
from pmuconf.domain.xmltext import DomainXmlError
from pmuconf.errors import DefineRefused, DomainVanished, PmuconfError
from pmuconf.hypervisor.history import Happening
from pmuconf.hypervisor.hypervisor import Hypervisor, Listed
from pmuconf.hypervisor.watch import DefineWatch, Mark

__all__ = ["Limits", "apply"]

# What libvirt hands out on the way of a change was within the configured limit when it was planned.
_ANY_SIZE: Final = sys.maxsize

_BATCH: Final = 32  # changes that share one transaction of the journal

# What libvirt did not do for one domain concerns that one alone. Anything else may hold for all, and ends the run.
_OF_ONE: Final = frozenset({"libvirt-error", "domain-timeout", "refused-by-libvirt", "libvirt-permission"})
_REFUSED: Final = frozenset({"refused-by-libvirt", "libvirt-permission"})

_NOT_BEGUN: Final = {
    "stopped-by-failure": "not begun: a failure stopped the run",
    "canary-failed": "not begun: a change of the canary failed, or left more changed than the PMU",
    "too-many-failures": "not begun: more than {0.max_failures} domains failed, or differ in more than the PMU",
    "canary": "not begun: the canary comes first; --continue goes on",
    "max-changes": "not begun: the limit is {0.max_changes} changes a run",
}


@dataclass(frozen=True)
class Limits:
    """How far one run may go: ``max_changes`` 0 means no limit, ``canary`` 0 none.

    With a canary the run stops behind that many changes; with ``go_on`` it continues once they are verified. It also
    stops when more than ``max_failures`` domains failed, or differ in more than their PMU and nobody knows why.
    """

    max_changes: int = 0
    canary: int = 0
    go_on: bool = False
    attempts: int = 5
    max_failures: int = 3


def apply(
    hypervisor: Hypervisor, journal: Journal, plans: Sequence[Plan], limits: Limits, kind: ChangeKind = ChangeKind.APPLY
) -> Iterator[Result]:
    """Make the changes, within the limits; a result for each plan, as it is known.

    In the order of the plans, but those last that libvirt refused the last time; no canary is chosen among them.
    A domain that fails stops nobody else, up to the limit of failures; what may hold for all ends the run.

    :raises PmuconfError: the journal can't be written; nothing that is not written down has been changed.
    """
    refused = journal.refused(hypervisor.driver, _REFUSED)
    plans = sorted(plans, key=lambda one: one.listed.uuid in refused)
    allowed = len(plans) if limits.max_changes == 0 else min(limits.max_changes, len(plans))
    canary = min(limits.canary, sum(one.listed.uuid not in refused for one in plans[:allowed]) or allowed)
    stages = [(kind, plans[:allowed])]
    if canary:
        stages = [(ChangeKind.CANARY, plans[:canary])]
        if limits.go_on:
            stages.append((kind, plans[canary:allowed]))
    reached = 0
    with hypervisor.watch() as watch:
        worker = _Worker(hypervisor, journal, watch, limits)
        for stage, chosen in stages:
            for at in range(0, len(chosen), _BATCH):
                if worker.stopped:
                    break
                for result in worker.batch(chosen[at : at + _BATCH], stage):
                    reached += 1
                    yield result
            if stage is ChangeKind.CANARY and worker.failures:
                worker.stop("canary-failed")
    why = worker.stopped or ("canary" if reached < allowed else "max-changes")
    for left in plans[reached:]:
        yield _not_begun(left, why, limits)


def _not_begun(plan: Plan, why: str, limits: Limits) -> Result:
    return result_of(plan, Outcome.NOT_REACHED, why, _NOT_BEGUN[why].format(limits))


@dataclass(frozen=True)
class _Draft:
    plan: Plan
    old: PmuState
    goal: Goal
    xml: str
    new_xml: str


class _Worker:
    """Carries plans out, batch by batch.

    ``failures`` counts the domains that failed or differ inexplicably, ``stopped`` says why no more is begun.
    """

    def __init__(self, hypervisor: Hypervisor, journal: Journal, watch: DefineWatch, limits: Limits) -> None:
        self._hypervisor = hypervisor
        self._journal = journal
        self._watch = watch
        self._limits = limits
        self._counting = threading.Lock()
        self._made: set[int] = set()
        self._found: dict[int, dict[str, str]] = {}
        self._quiet: dict[int, tuple[Mark, Aftermath]] = {}
        self.failures = 0
        self.stopped = ""

    def stop(self, why: str) -> None:
        """Begin nothing more; the first reason counts."""
        with self._counting:
            self.stopped = self.stopped or why

    def batch(self, plans: Sequence[Plan], kind: ChangeKind) -> list[Result]:
        """The results of these plans: written down together, carried out side by side, settled together."""
        drafted = list(self._hypervisor.map(self._draft, plans))
        drafts = [draft for draft in drafted if isinstance(draft, _Draft)]
        self._watch.fence()
        numbers = self._journal.begin([self._intent(draft, kind) for draft in drafts])
        done = dict(zip(numbers, self._hypervisor.map(self._carry_out, list(zip(numbers, drafts)))))
        self._listen_once_more({number: draft.plan.listed for number, draft in zip(numbers, drafts)})
        results = {number: self._with_findings(number, result) for number, (result, _) in done.items()}
        self._journal.settle((number, status, results[number].cause) for number, (_, status) in done.items() if status)
        carried = iter(results.values())
        return [next(carried) if isinstance(one, _Draft) else one for one in drafted]

    def _intent(self, draft: _Draft, kind: ChangeKind) -> Intent:
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
        if self.stopped:
            return _not_begun(plan, self.stopped, self._limits)
        try:
            return self._drafted(plan, self._read(plan.listed))
        except DomainVanished:
            return result_of(plan, Outcome.VANISHED, "domain-vanished", "it went away before it was changed")
        except PmuconfError as error:
            return self._failed(plan, error)

    def _drafted(self, plan: Plan, xml: str) -> _Draft | Result:
        definition = read_libvirt(xml, max_bytes=_ANY_SIZE)
        goal = plan.aim(definition)
        if goal is None or goal.state is definition.pmu:
            return result_of(plan, Outcome.ALREADY, "no-change", "there is nothing to change any more")
        return _Draft(plan, definition.pmu, goal, xml, rewrite_libvirt(xml, goal.state, max_bytes=_ANY_SIZE))

    def _read(self, listed: Listed) -> str:
        return self._hypervisor.next_boot_xml(listed, secrets=True)

    def _failed(self, plan: Plan, error: PmuconfError, number: int | None = None) -> Result:
        """The result of a plan that failed; ends the run if that may hold for others too."""
        if isinstance(error, DomainXmlError) or error.cause in _OF_ONE:
            self._count_failure()
        else:
            self.stop("stopped-by-failure")
        return result_of(plan, Outcome.FAILED, error.cause, error.message, number)

    def _count_failure(self) -> None:
        with self._counting:
            self.failures += 1
            if self.failures > self._limits.max_failures:
                self.stopped = self.stopped or "too-many-failures"

    def _carry_out(self, numbered: tuple[int, _Draft]) -> tuple[Result, ChangeStatus | None]:
        """Change one domain; its result, and how its journal entry ends (None: it stays in flight)."""
        number, draft = numbered
        plan = draft.plan
        if self.stopped:
            return _not_begun(plan, self.stopped, self._limits), ChangeStatus.ABANDONED
        try:
            return self._attempt(number, draft)
        except DomainVanished:
            return result_of(
                plan, Outcome.VANISHED, "domain-vanished", "it went away meanwhile"
            ), ChangeStatus.ABANDONED
        except PmuconfError as error:
            if number not in self._made:
                return self._failed(plan, error, number), ChangeStatus.ABANDONED
            if isinstance(error, DomainXmlError) or error.cause in ("libvirt-error", "libvirt-permission"):
                error = PmuconfError(f"it was changed and can't be looked at: {error.message}", cause="verify-failed")
            return self._failed(plan, error, number), self._ended(draft)

    def _attempt(self, number: int, draft: _Draft) -> tuple[Result, ChangeStatus]:
        plan, listed = draft.plan, draft.plan.listed
        for attempt in range(self._limits.attempts):
            if attempt:
                time.sleep(random.uniform(0, 0.01 * 2 ** min(attempt, 6)))  # out of step with the other writer
                self._watch.fence()
            mark = self._watch.mark(listed.uuid)
            persistent = self._hypervisor.is_persistent(listed)
            xml = self._read(listed)
            if not persistent or (listed.active and not self._hypervisor.is_persistent(listed)):
                return self._transient(plan)
            if xml == draft.xml:
                made = self._define(number, draft)
                if not made:
                    continue
                found = self._looked(number, draft, mark)
                if Happening.UNDEFINED in found.events and not self._hypervisor.is_persistent(listed):
                    return self._transient(plan)
                if found.state is draft.goal.state:
                    return self._changed(number, draft, found), ChangeStatus.DONE
                self._made.discard(number)  # somebody else's define took the PMU state back
                xml = found.text
            again = self._drafted(plan, xml)
            if isinstance(again, Result):
                return again, ChangeStatus.ABANDONED
            draft = again
            self._journal.replan(number, draft.old, draft.goal.state, draft.goal.rule, draft.xml)
        note = f"somebody else edits it all the time: given up after {self._limits.attempts} attempts"
        return result_of(plan, Outcome.BUSY, "busy", note, number), ChangeStatus.ABANDONED

    def _define(self, number: int, draft: _Draft) -> bool:
        """Make the define; False if somebody else is at the domain, which has to be looked at anew then.

        :raises DefineRefused: libvirt does not take this very text: nothing was changed.
        """
        self._made.add(number)  # from here on an error leaves open whether it was
        try:
            self._hypervisor.define(draft.plan.listed, draft.new_xml)
        except DomainVanished:
            self._made.discard(number)
            return False
        except DefineRefused:
            self._made.discard(number)
            if self._read(draft.plan.listed) == draft.xml:
                raise
            return False
        return True

    def _looked(self, number: int, draft: _Draft, mark: Mark) -> Aftermath:
        """Look at what our define led to: everything that happened since the mark, and the text behind it."""
        listed = draft.plan.listed
        events = self._watch.wait(listed.uuid, mark)
        if overwrote(events):  # whatever becomes of the domain then
            self._note(number, {"edit-overwritten": SENTENCES["edit-overwritten"]})
        found = Aftermath(draft.xml, draft.goal.state, events, events, self._read(listed))
        if found.quiet:
            self._quiet[number] = mark, found
            return found
        if found.unexplained or found.state is not draft.goal.state:
            self._watch.wait_for_another(listed.uuid, mark)
        for _ in range(self._limits.attempts):  # until there is a moment between two edits
            text = self._read(listed)
            self._watch.fence()
            before, events = events, self._watch.since(listed.uuid, mark)
            if events == before:
                break
        found = replace(found, events=events, text=text)
        self._note(number, found.findings())
        return found

    def _note(self, number: int, findings: Mapping[str, str]) -> None:
        lasting = {cause: told for cause, told in self._found.get(number, {}).items() if cause in LASTING}
        self._found[number] = {**lasting, **findings}

    def _listen_once_more(self, listed: Mapping[int, Listed]) -> None:
        """Look again at changes that seemed undisturbed, if libvirt tells only now of another edit.

        It lets go of a domain before it queues the event of a define: one that ours overwrote may be told of behind it.
        Whatever else differs by now came behind our look.
        """
        quiet, self._quiet = self._quiet, {}
        with suppress(PmuconfError):  # nothing can be heard any more: the next step says so
            if quiet:
                self._watch.fence()
            for number, (mark, found) in quiet.items():
                events = self._watch.since(listed[number].uuid, mark)
                if events != found.events:
                    with suppress(DomainVanished):
                        late = replace(found, events=events, text=self._read(listed[number])).findings()
                        self._note(number, {cause: told for cause, told in late.items() if cause in LASTING})

    def _changed(self, number: int, draft: _Draft, found: Aftermath) -> Result:
        if found.unexplained:
            self._count_failure()
        changed = replace(draft.plan, old=draft.old, goal=draft.goal)
        result = result_of(changed, Outcome.CHANGED, "", NOVA_NOTE if draft.plan.nova else "", number)
        return replace(result, pending=self._pending(draft))

    def _pending(self, draft: _Draft) -> bool:
        """Whether its guest runs, or has a saved image, with another state as of now.

        A guest that is started later gets the new state.
        """
        listed = draft.plan.listed
        try:
            wanted, next_boot = draft.goal.state, read_libvirt(draft.new_xml, max_bytes=_ANY_SIZE)
            if self._hypervisor.is_saved(listed):
                image = self._hypervisor.saved_xml(listed)
                if image is not None and read_libvirt(image, max_bytes=_ANY_SIZE).pmu is not wanted:
                    return True
            live = self._hypervisor.live_xml(listed) if self._hypervisor.is_active(listed) else None
            return live is not None and read_libvirt(live, max_bytes=_ANY_SIZE).awaits(next_boot, wanted)
        except DomainVanished:
            return False
        except PmuconfError:  # the change is verified all the same
            return draft.plan.pending

    def _with_findings(self, number: int, result: Result) -> Result:
        """The result with what was found behind its define."""
        found = self._found.get(number, {})
        if result.outcome in (Outcome.ALREADY, Outcome.BUSY, Outcome.VANISHED, Outcome.FAILED, Outcome.TRANSIENT):
            found = {cause: told for cause, told in found.items() if cause in LASTING}
        if not found:
            return result
        told = [found[cause] for cause in SENTENCES if cause in found]
        cause = next(cause for cause in SENTENCES if cause in found)
        if result.outcome is Outcome.FAILED:  # that is the graver cause
            told = [f"{SENTENCES[cause]} ({cause})" for cause in SENTENCES if cause in found]
            return replace(result, note="; and ".join([result.note, *told]))
        kept = [result.note] if result.outcome is Outcome.CHANGED and result.note else []
        return replace(result, cause=cause or result.cause, note="; ".join([*told, *kept]))

    def _ended(self, draft: _Draft) -> ChangeStatus | None:
        """How a change ended that an error interrupted: by what the domain says; None if even that can't be read."""
        try:
            state = read_libvirt(self._read(draft.plan.listed), max_bytes=_ANY_SIZE).pmu
        except DomainVanished:
            return ChangeStatus.ABANDONED
        except PmuconfError:
            return None
        return ChangeStatus.DONE if state is draft.goal.state else ChangeStatus.ABANDONED

    @staticmethod
    def _transient(plan: Plan) -> tuple[Result, ChangeStatus]:
        note = "it became transient: it has no next boot any more"
        return result_of(plan, Outcome.TRANSIENT, "transient", note), ChangeStatus.ABANDONED
