"""The failures that the service remembers: too many of them, and nothing is changed any more."""

from __future__ import annotations

from collections.abc import Set

from pmuconf.change.result import Outcome, Result

__all__ = ["FailedChanges"]


class FailedChanges:
    """The domains, by UUID, whose last change failed, or left more changed than the PMU since the last pass."""

    def __init__(self) -> None:
        self._failed: set[str] = set()
        self._differing: set[str] = set()

    def __contains__(self, uuid: str) -> bool:
        """Whether the last change of this domain failed."""
        return uuid in self._failed

    @property
    def failed(self) -> int:
        """How many domains' last change failed."""
        return len(self._failed)

    @property
    def total(self) -> int:
        """How many domains count against the limit."""
        return len(self._failed | self._differing)

    def add(self, result: Result) -> None:
        """A change has ended so."""
        if result.outcome is Outcome.FAILED:
            self._failed.add(result.uuid)
        else:
            self._failed.discard(result.uuid)
        if result.cause == "differs-after":
            self._differing.add(result.uuid)

    def gone(self, uuid: str) -> None:
        """This domain is gone."""
        self._failed.discard(uuid)

    def begin_pass(self, there: Set[str]) -> None:
        """Only these domains are there; what differed before is forgotten."""
        self._failed &= there
        self._differing.clear()

    def clear(self) -> None:
        """Forget them all."""
        self._failed.clear()
        self._differing.clear()
