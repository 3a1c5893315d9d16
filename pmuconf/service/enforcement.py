"""Brings on policy what the service has seen off it: as far as its mode and its limits allow, and the rest later.

A read-write connection is opened, and the lock of all writers held, only while there is something to change.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from pmuconf.change.domains import Writer
from pmuconf.change.limits import Limits
from pmuconf.change.plan import Goal, Plan, Seen, plan
from pmuconf.change.result import Outcome, Result
from pmuconf.conf import Mode, Settings
from pmuconf.errors import PmuconfError
from pmuconf.hypervisor.hypervisor import Hypervisor
from pmuconf.hypervisor.listing import Listed
from pmuconf.service.agenda import Allowance
from pmuconf.service.announcer import Announcer
from pmuconf.service.failures import FailedChanges
from pmuconf.service.notes import Notes
from pmuconf.wording import counted

__all__ = ["Enforcement", "to_be_changed"]

_LOCKED_SECONDS: Final = 2.0
_REST_SECONDS: Final = 1.0  # until those are tried that a failure kept from their turn
_AGAIN_SECONDS: Final = 30.0
_AT_ONCE: Final = 10  # changes that are worth a connection, where the allowance is used up
_CONNECTION: Final = frozenset({"libvirt-lost", "libvirt-unreachable", "libvirt-timeout"})


class Enforcement:
    """The changes of the service, and the accounting of them.

    ``_tripped``: too many failed, and nothing is changed until the configuration is read anew.
    """

    def __init__(self, chosen: Settings, notes: Notes, announcer: Announcer) -> None:
        self.failures = FailedChanges()
        self._notes = notes
        self._announcer = announcer
        self.configure(chosen)

    def configure(self, chosen: Settings) -> None:
        """Take this configuration; what failed before is tried again."""
        self._chosen = chosen
        self._allowance = Allowance(chosen.max_changes, chosen.service.changes_per_minute, time.monotonic())
        self._tripped = False
        self.failures.clear()

    def bring(
        self, seen: Iterable[Seen], since: Mapping[str, float | None], *, settle: bool, failed_too: bool
    ) -> list[Listed]:
        """Bring these domains on policy; those that were changed, or tried, are to be looked at again.

        :param since: when each domain was first heard of, of those that an event was about.
        :param settle: settle what was left in flight, even if nothing else is to be done.
        :param failed_too: try those again whose last change failed.
        """
        if not self._chosen.service.enforces or self._tripped:
            return []
        plans = self._within_allowance(seen, failed_too=failed_too)
        if not plans and not settle:
            return []
        began = time.monotonic()
        waiting = {plan.listed.uuid for plan in plans}
        try:
            self._write(plans, since, waiting)
        except PmuconfError as error:
            if error.cause == "locked":
                self._notes.later(waiting, began + _LOCKED_SECONDS)
            else:
                self._announcer.trouble("changes", error)
                self._notes.later(waiting, time.monotonic() + _AGAIN_SECONDS)
        else:
            self._announcer.well("changes")
            self._notes.later(waiting, time.monotonic() + _REST_SECONDS)
        return [plan.listed for plan in plans if plan.listed.uuid not in waiting]

    def _within_allowance(self, seen: Iterable[Seen], *, failed_too: bool) -> list[Plan]:
        """The plans that may be carried out now; the domains of the others wait.

        Those that failed come last, so that they take nothing from the allowance of the others.
        """
        plans = to_be_changed(self._chosen, seen)
        plans = sorted((plan for plan in plans if failed_too or not self._failed(plan)), key=self._failed)
        now = time.monotonic()
        allowed = self._allowance.left(now)
        waiting = plans[allowed:]
        if waiting:
            at = self._allowance.when(min(len(waiting), _AT_ONCE), now)
            self._notes.later((plan.listed.uuid for plan in waiting), at)
        return plans[:allowed]

    def _write(self, plans: Sequence[Plan], since: Mapping[str, float | None], waiting: set[str]) -> None:
        """Make these changes; takes out of ``waiting`` what was reached.

        First those that did not fail before: together with what failed already, they may reach the limit. Those that
        did fail are counted already, so each of them may fail again.
        """
        chosen = self._chosen
        connecting = Hypervisor.open(chosen.uri, read_only=False, parallel=chosen.parallel, alive=self._announcer.alive)
        with Writer.open(connecting, chosen) as writer:
            for sentence in writer.sentences:
                self._announcer.settled(sentence)
            fresh = [plan for plan in plans if not self._failed(plan)]
            again = [plan for plan in plans if self._failed(plan)]
            self._carry_out(writer, fresh, chosen.service.max_failures - self.failures.total, since, waiting)
            self._carry_out(writer, again, len(again), since, waiting)

    def _carry_out(
        self,
        writer: Writer,
        plans: Sequence[Plan],
        max_failures: int,
        since: Mapping[str, float | None],
        waiting: set[str],
    ) -> None:
        if not plans or self._notes.stopping or self._tripped:
            return
        for result in writer.carry_out(plans, Limits.of(self._chosen, max_failures=max_failures)):
            self._announcer.alive()
            if result.outcome is not Outcome.NOT_REACHED and result.cause not in _CONNECTION:
                waiting.discard(result.uuid)
                self._account(result, since.get(result.uuid))
            if self._notes.stopping:
                return

    def _account(self, result: Result, since: float | None) -> None:
        """Count one change, and what follows from it.

        :param since: when the event was heard that led to it.
        """
        now = time.monotonic()
        if result.outcome in (Outcome.CHANGED, Outcome.FAILED, Outcome.BUSY):
            self._allowance.use(1)
        if result.outcome is Outcome.CHANGED:
            self._notes.ours(result.uuid)
            if since is not None:
                self._announcer.health.reaction.observe(now - since)
        if result.outcome is Outcome.BUSY:
            self._notes.later([result.uuid], now + _AGAIN_SECONDS)
        self.failures.add(result)
        if result.cause == "not-confirmed":
            self._notes.deaf = True
        self._announcer.result(result)
        self._trip()

    def _trip(self) -> None:
        """Change nothing any more if too many changes failed."""
        most, failed = self._chosen.service.max_failures, self.failures.total
        if failed <= most or self._tripped:
            return
        self._tripped = True
        self._announcer.trouble(
            "failures",
            PmuconfError(
                f"{counted(failed, 'change')} failed or left more changed than the PMU, and [service] max_failures is "
                f"{most}: nothing is changed any more until the service is reloaded",
                cause="too-many-failures",
            ),
        )

    def _failed(self, plan: Plan) -> bool:
        return plan.listed.uuid in self.failures


def to_be_changed(chosen: Settings, seen: Iterable[Seen]) -> list[Plan]:
    """The plans for domains that are off policy, and that mode leaves to the service: that of the rule that decides."""

    def enforced(goal: Goal) -> bool:
        return chosen.service.mode_of(goal.rule) is Mode.ENFORCE

    return plan(chosen.policy, seen, allowed=enforced)
