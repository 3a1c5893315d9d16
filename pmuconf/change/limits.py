"""How far a run may go, and what ends it early."""

from __future__ import annotations

import threading
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final

from pmuconf.change.entry import ChangeKind
from pmuconf.change.plan import Plan, result_of
from pmuconf.change.result import Outcome, Result
from pmuconf.conf import Settings
from pmuconf.domain.xmltext import DomainXmlError
from pmuconf.errors import PmuconfError

__all__ = ["REFUSED", "Brake", "Course", "Limits", "not_begun"]

# Errors of one domain, which do not stop the others. Any other error may concern all domains, and ends the run.
_OF_ONE: Final = frozenset({"libvirt-error", "domain-timeout", "refused-by-libvirt", "libvirt-permission"})

REFUSED: Final = frozenset({"refused-by-libvirt", "libvirt-permission"})
"""The causes of a define that libvirt refused: the next run takes such a domain last."""

_NOT_BEGUN: Final = {
    "stopped-by-failure": "not begun: a failure stopped the run",
    "canary-failed": "not begun: a change of the canary failed, or left more changed than the PMU",
    "too-many-failures": "not begun: domains failed, or differ in more than the PMU; the limit is {0.max_failures}",
    "canary": "not begun: the canary comes first; --continue goes on",
    "max-changes": "not begun: the limit of changes a run is {0.max_changes}",
}


@dataclass(frozen=True)
class Limits:
    """How far one run may go.

    :param max_changes: 0 for no limit.
    :param canary: the run stops behind so many changes; 0 for no canary.
    :param go_on: it continues behind the canary, once that is verified.
    :param attempts: how often one domain is tried while somebody else edits it.
    :param max_failures: the run stops if more domains fail, or differ in more than their PMU and nobody knows why.
    """

    max_changes: int = 0
    canary: int = 0
    go_on: bool = False
    attempts: int = 5
    max_failures: int = 3

    @classmethod
    def of(
        cls,
        settings: Settings,
        *,
        max_changes: int | None = 0,
        max_failures: int | None = None,
        canary: int = 0,
        go_on: bool = False,
    ) -> Limits:
        """These limits; None: the configuration's."""
        return cls(
            max_changes=settings.max_changes if max_changes is None else max_changes,
            canary=canary,
            go_on=go_on,
            attempts=settings.attempts,
            max_failures=settings.max_failures if max_failures is None else max_failures,
        )


@dataclass(frozen=True)
class Course:
    """Which changes a run makes if all goes well: stage by stage, and what it does not begin.

    :param reason: why ``left`` is not begun, a key of the sentences; without meaning if nothing is left.
    """

    stages: tuple[tuple[ChangeKind, Sequence[Plan]], ...]
    left: Sequence[Plan]
    reason: str

    @classmethod
    def of(cls, plans: Sequence[Plan], limits: Limits, refused: Collection[str], kind: ChangeKind) -> Course:
        """The course of these plans: in their order, but those last that libvirt refused the last time.

        With a canary that comes first, and the others only if the run goes on. No canary is chosen among the refused.

        :param refused: the UUIDs of domains that libvirt refused.
        """
        plans = sorted(plans, key=lambda plan: plan.listed.uuid in refused)
        allowed = plans if limits.max_changes == 0 else plans[: limits.max_changes]
        fit = sum(plan.listed.uuid not in refused for plan in allowed)
        canary = min(limits.canary, fit or len(allowed))
        if not canary:
            return cls(((kind, allowed),), plans[len(allowed) :], "max-changes")
        first, others = (ChangeKind.CANARY, allowed[:canary]), (kind, allowed[canary:])
        if limits.go_on:
            return cls((first, others), plans[len(allowed) :], "max-changes")
        return cls((first,), plans[canary:], "canary" if allowed[canary:] else "max-changes")


class Brake:
    """Counts the failures of a run, and stops it. Several threads may use it at once.

    ``reason`` says why no more changes are begun; empty while the run goes on.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.failures = 0
        self.reason = ""
        self._lock = threading.Lock()

    def stop(self, reason: str) -> None:
        """Begin nothing more; the first reason counts."""
        with self._lock:
            self.reason = self.reason or reason

    def count_failure(self) -> None:
        """One more domain failed, or differs in more than its PMU."""
        with self._lock:
            self.failures += 1
            if self.failures > self.limits.max_failures:
                self.reason = self.reason or "too-many-failures"

    def failed(self, plan: Plan, error: PmuconfError, change: int | None = None) -> Result:
        """The result of a plan that failed. An error that may hold for others too stops the run."""
        if isinstance(error, DomainXmlError) or error.cause in _OF_ONE:
            self.count_failure()
        else:
            self.stop("stopped-by-failure")
        return result_of(plan, Outcome.FAILED, error.cause, error.message, change)

    def not_begun(self, plan: Plan, reason: str = "") -> Result:
        """The result of a plan that is not carried out, for this reason or the one for which the run stopped."""
        return not_begun(plan, reason or self.reason, self.limits)


def not_begun(plan: Plan, reason: str, limits: Limits) -> Result:
    """The result of a plan that is not carried out, or would not be, for this reason."""
    return result_of(plan, Outcome.NOT_REACHED, reason, _NOT_BEGUN[reason].format(limits))
