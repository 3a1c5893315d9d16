"""What a check of an installation gives, and all of them as one answer. Pure."""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pmuconf.wording import counted

__all__ = ["CheckResult", "CheckState", "SelfTest", "failed", "ok", "unchecked"]

FORMAT: Final = "pmuconf-selftest"
VERSION: Final = 1


class CheckState(enum.Enum):
    """How a check ended."""

    OK = "ok"
    FAILED = "failed"
    UNCHECKED = "not checked"


@dataclass(frozen=True)
class CheckResult:
    """One check.

    :param name: a word or two with dashes, for programs.
    :param detail: what was seen; why it failed, or why it could not be checked, and what to do.
    """

    name: str
    state: CheckState
    detail: str


def ok(name: str, detail: str) -> CheckResult:
    """The check passed."""
    return CheckResult(name, CheckState.OK, detail)


def failed(name: str, detail: str) -> CheckResult:
    """It is not as it should be."""
    return CheckResult(name, CheckState.FAILED, detail)


def unchecked(name: str, detail: str) -> CheckResult:
    """It could not be checked."""
    return CheckResult(name, CheckState.UNCHECKED, detail)


@dataclass(frozen=True)
class SelfTest:
    """All checks of an installation, in their order."""

    results: Sequence[CheckResult]

    @property
    def severity(self) -> int:
        """The exit status: 2 if a check failed, 1 if one could not be made, otherwise 0."""
        states = {result.state for result in self.results}
        return 2 if CheckState.FAILED in states else 1 if CheckState.UNCHECKED in states else 0

    def lines(self) -> Iterator[str]:
        """The answer in sentences, one a line."""
        width = max(len(result.name) for result in self.results)
        for result in self.results:
            yield f"{result.state.value:11}  {result.name:{width}}  {result.detail}"
        counts = Counter(result.state for result in self.results)
        yield (
            f"{counted(len(self.results), 'check')}: {counts[CheckState.OK]} ok, {counts[CheckState.FAILED]} failed, "
            f"{counts[CheckState.UNCHECKED]} could not be made"
        )

    def record(self) -> dict[str, Any]:
        """The answer as a JSON document."""
        counts = Counter(result.state for result in self.results)
        return {
            "format": FORMAT,
            "version": VERSION,
            "checks": [
                {"name": result.name, "state": result.state.value, "detail": result.detail} for result in self.results
            ],
            "summary": {state.value: counts[state] for state in CheckState},
        }
