"""One change of one domain: from the text that was read to the look at what its define led to.

libvirt has no compare-and-swap. So the text is read with its secrets and written down, read again and compared,
defined, and read once more. Nothing is ever put back or undefined here. A difference outside ``features/pmu`` is
libvirt's own doing or somebody else's edit, and is reported (see Aftermath). If somebody else's define took the PMU
state back, the change is planned anew on top of it.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace

from pmuconf.change.aftermath import SENTENCES, Aftermath, FollowUp, lasting, overwrote, with_findings
from pmuconf.change.entry import ChangeStatus
from pmuconf.change.journal import Journal
from pmuconf.change.limits import Brake
from pmuconf.change.plan import Goal, Plan, result_of
from pmuconf.change.result import Outcome, Result
from pmuconf.domain.definition import PmuState
from pmuconf.domain.libvirttext import LibvirtText
from pmuconf.domain.reading import read_libvirt
from pmuconf.domain.xmltext import DomainXmlError
from pmuconf.errors import DefineRefused, DomainVanished, PmuconfError
from pmuconf.hypervisor.hypervisor import Hypervisor
from pmuconf.hypervisor.listing import Listed
from pmuconf.hypervisor.watch import DefineWatch, Mark
from pmuconf.wording import counted

__all__ = ["Attempt", "Draft", "Ended", "Workshop", "draft"]


@dataclass(frozen=True)
class Draft:
    """A plan with the text that it starts from, and the text that is to be defined."""

    plan: Plan
    goal: Goal
    text: LibvirtText
    new_xml: str

    @property
    def old(self) -> PmuState:
        """The PMU state before the change."""
        return self.text.definition.pmu


@dataclass(frozen=True)
class Ended:
    """A change's result, and how its journal entry ends; with None as its status it stays in flight."""

    result: Result
    status: ChangeStatus | None


@dataclass(frozen=True)
class Workshop:
    """The tools of every change of a run."""

    hypervisor: Hypervisor
    journal: Journal
    watch: DefineWatch
    brake: Brake

    def read(self, listed: Listed) -> LibvirtText:
        """The domain's next boot, with its secrets."""
        return LibvirtText(self.hypervisor.next_boot_xml(listed, secrets=True))


def draft(workshop: Workshop, plan: Plan) -> Draft | Result:
    """The draft of a plan, by the domain as it is now; or its result, if there is nothing to define."""
    if workshop.brake.reason:
        return workshop.brake.not_begun(plan)
    try:
        return _drafted(plan, workshop.read(plan.listed))
    except DomainVanished:
        return result_of(plan, Outcome.VANISHED, "domain-vanished", "it went away before it was changed")
    except PmuconfError as error:
        return workshop.brake.failed(plan, error)


def _drafted(plan: Plan, text: LibvirtText) -> Draft | Result:
    goal = plan.aim(text.definition)
    if goal is None or goal.state is text.definition.pmu:
        return result_of(plan, Outcome.ALREADY, "no-change", "there is nothing to change any more")
    return Draft(plan, goal, text, text.rewritten(goal.state))


class Attempt:
    """A change that the journal has in flight, under this number.

    ``_defined`` says that a define of ours was asked for and not refused: an error then leaves open whether it was
    made. ``_quiet`` is what was found if nobody else seemed to be at the domain (see listen_once_more()).
    """

    def __init__(self, workshop: Workshop, number: int, draft: Draft) -> None:
        self.number = number
        self._workshop = workshop
        self._hypervisor = workshop.hypervisor
        self._watch = workshop.watch
        self._draft = draft
        self._listed = draft.plan.listed
        self._defined = False
        self._findings: dict[str, str] = {}
        self._quiet: tuple[Mark, Aftermath] | None = None

    def carry_out(self) -> Ended:
        """Change the domain."""
        plan, brake = self._draft.plan, self._workshop.brake
        if brake.reason:
            return Ended(brake.not_begun(plan), ChangeStatus.ABANDONED)
        try:
            return self._until_made()
        except DomainVanished:
            result = result_of(plan, Outcome.VANISHED, "domain-vanished", "it went away meanwhile")
            return Ended(result, ChangeStatus.ABANDONED)
        except PmuconfError as error:
            if not self._defined:
                return Ended(brake.failed(plan, error, self.number), ChangeStatus.ABANDONED)
            if isinstance(error, DomainXmlError) or error.cause in ("libvirt-error", "libvirt-permission"):
                error = PmuconfError(f"it was changed and can't be looked at: {error.message}", cause="verify-failed")
            return Ended(brake.failed(plan, error, self.number), self._status_after_error())

    @property
    def quiet(self) -> bool:
        """Whether nobody else seemed to be at the domain."""
        return self._quiet is not None

    def listen_once_more(self) -> None:
        """Look again at a change that seemed undisturbed, if libvirt reports only now that somebody edited the domain.

        libvirt lets go of a domain before it queues the event of a define, so an edit that ours overwrote may be
        reported behind ours. Whatever else differs by now came after our look.
        """
        if self._quiet is None:
            return
        mark, aftermath = self._quiet
        events = self._watch.since(self._listed.uuid, mark)
        if events != aftermath.events:
            with suppress(DomainVanished):
                late = replace(aftermath, events=events, text=self._workshop.read(self._listed))
                self._note(lasting(late.findings()))

    def with_findings(self, result: Result) -> Result:
        """The result, with what was found behind our defines."""
        return with_findings(result, self._findings)

    def _until_made(self) -> Ended:
        """Define, until the domain has its state or somebody else gives it another once too often."""
        attempts = self._workshop.brake.limits.attempts
        for attempt in range(attempts):
            if attempt:
                time.sleep(random.uniform(0, 0.01 * 2 ** min(attempt, 6)))  # out of step with the other writer
                self._watch.fence()
            mark = self._watch.mark(self._listed.uuid)
            text = self._next_boot()
            if text is None:
                return self._transient()
            if text == self._draft.text:
                if not self._define():
                    continue
                aftermath = self._look(mark)
                persistent = not aftermath.undefined or self._hypervisor.is_persistent(self._listed)
                step = aftermath.step(persistent=persistent)
                if step is FollowUp.TRANSIENT:
                    return self._transient()
                if step is FollowUp.DONE:
                    return self._changed(aftermath)
                self._defined = False
                text = aftermath.text
            answer = _drafted(self._draft.plan, text)
            if isinstance(answer, Result):
                return Ended(answer, ChangeStatus.ABANDONED)
            self._draft = answer
            goal = answer.goal
            self._workshop.journal.replan(self.number, answer.old, goal.state, goal.rule, answer.text.xml)
        note = f"somebody else edits it all the time: given up after {counted(attempts, 'attempt')}"
        return Ended(result_of(self._draft.plan, Outcome.BUSY, "busy", note, self.number), ChangeStatus.ABANDONED)

    def _next_boot(self) -> LibvirtText | None:
        """The text right before the define; None if the domain has no next boot, which a define would give it.

        A running domain is asked again behind the read: its text would be that of the guest if somebody undefined it
        in between.
        """
        persistent = self._hypervisor.is_persistent(self._listed)
        text = self._workshop.read(self._listed)
        if persistent and self._listed.active:
            persistent = self._hypervisor.is_persistent(self._listed)
        return text if persistent else None

    def _define(self) -> bool:
        """Make the define; False if somebody else is at the domain, which has to be looked at anew then.

        :raises DefineRefused: libvirt does not take this very text: nothing was changed.
        """
        self._defined = True
        try:
            self._hypervisor.define(self._listed, self._draft.new_xml)
        except DomainVanished:
            self._defined = False
        except DefineRefused:
            self._defined = False
            if self._workshop.read(self._listed) == self._draft.text:
                raise
        return self._defined

    def _look(self, mark: Mark) -> Aftermath:
        """Look at what our define led to: everything that happened since the mark, and the text behind it."""
        uuid = self._listed.uuid
        events = self._watch.wait(uuid, mark)
        if overwrote(events):  # whatever becomes of the domain then
            self._note({"edit-overwritten": SENTENCES["edit-overwritten"]})
        aftermath = Aftermath(
            self._draft.text, self._draft.goal.state, events, events, self._workshop.read(self._listed)
        )
        if aftermath.quiet:
            self._quiet = mark, aftermath
            return aftermath
        if aftermath.unsettled:
            self._watch.wait_for_another(uuid, mark)
        text = aftermath.text
        for _ in range(self._workshop.brake.limits.attempts):  # until there is a moment between two edits
            text = self._workshop.read(self._listed)
            self._watch.fence()
            before, events = events, self._watch.since(uuid, mark)
            if events == before:
                break
        aftermath = replace(aftermath, events=events, text=text)
        self._note(aftermath.findings())
        return aftermath

    def _note(self, findings: Mapping[str, str]) -> None:
        """Keep these findings, and of earlier ones those that stay true."""
        self._findings = {**lasting(self._findings), **findings}

    def _changed(self, aftermath: Aftermath) -> Ended:
        if aftermath.unexplained:
            self._workshop.brake.count_failure()
        plan = replace(self._draft.plan, old=self._draft.old, goal=self._draft.goal)
        result = result_of(plan, Outcome.CHANGED, change=self.number)
        return Ended(replace(result, pending=self._pending()), ChangeStatus.DONE)

    def _pending(self) -> bool:
        """Whether the guest runs, or has a saved image, with another state as of now.

        A guest that is started later gets the new state.
        """
        wanted = self._draft.goal.state
        try:
            if self._hypervisor.is_saved(self._listed):
                image = self._hypervisor.saved_xml(self._listed)
                if image is not None and read_libvirt(image, max_bytes=sys.maxsize).pmu is not wanted:
                    return True
            if not self._hypervisor.is_active(self._listed):
                return False
            live = read_libvirt(self._hypervisor.live_xml(self._listed), max_bytes=sys.maxsize)
            return live.awaits(self._draft.text.definition, wanted)
        except DomainVanished:
            return False
        except PmuconfError:  # the change is verified all the same
            return self._draft.plan.pending

    def _status_after_error(self) -> ChangeStatus | None:
        """How a change ended that an error interrupted, by what the domain says; None if it can't be read either."""
        try:
            state = self._workshop.read(self._listed).definition.pmu
        except DomainVanished:
            return ChangeStatus.ABANDONED
        except PmuconfError:
            return None
        return ChangeStatus.DONE if state is self._draft.goal.state else ChangeStatus.ABANDONED

    def _transient(self) -> Ended:
        note = "it became transient: it has no next boot any more"
        return Ended(result_of(self._draft.plan, Outcome.TRANSIENT, "transient", note), ChangeStatus.ABANDONED)
