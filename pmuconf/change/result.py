"""What became of one domain in a run: how it ended, why, and what is left to do. Pure."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any, Final

from pmuconf.audit.remedy import EXPLAIN, options_remedy, power_cycle
from pmuconf.domain.definition import PmuState
from pmuconf.fastpath.cases import CASES
from pmuconf.policy import Decision

__all__ = ["Outcome", "Result"]


class Outcome(enum.Enum):
    """What became of one planned change."""

    PLANNED = "planned"
    CHANGED = "changed"
    ALREADY = "already"
    TRANSIENT = "transient"
    OBSERVED = "observed"
    OVERRIDDEN = "overridden"
    UNDECIDED = "undecided"
    VANISHED = "vanished"
    BUSY = "busy"
    NOT_REACHED = "not-reached"
    NOT_JUDGED = "not-judged"
    FAILED = "failed"


_FINDINGS: Final = frozenset({Outcome.PLANNED, Outcome.OBSERVED, Outcome.BUSY, Outcome.NOT_REACHED, Outcome.NOT_JUDGED})
_BY_CAUSE: Final = {
    "defined-anew": "if it is not wanted: virsh undefine {0.uuid}",
    "edit-overwritten": "repeat that edit if it is lost",
    "not-confirmed": "repeat that edit if there was one and it is lost",
    "differs-after": "compare it with what it should be: virsh dumpxml --inactive {0.uuid}",
    "refused-by-libvirt": "mend its definition until 'virsh edit {0.uuid}' takes a change",
}
_REMEDIES: Final = {
    Outcome.TRANSIENT: "the tool that starts it must ask for the PMU state",
    Outcome.OBSERVED: "[policy] nova_domains = enforce, or better the plugin pmuconf-nova, or hw:pmu in the flavor",
    Outcome.UNDECIDED: EXPLAIN,
    Outcome.BUSY: "run it again when nobody else edits it",
    Outcome.NOT_REACHED: "run it again",
}


@dataclass(frozen=True)
class Result:
    """What became of a domain: outcome, a cause code and a sentence where there is more to say, the journal's id."""

    name: str
    uuid: str
    outcome: Outcome
    old: PmuState | None = None
    new: PmuState | None = None
    rule: str = ""
    cause: str = ""
    note: str = ""
    change: int | None = None
    pending: bool = False
    nova: bool = False

    @property
    def status(self) -> int:
        """The exit status that it deserves: 255 failed, 2 off policy, 1 waits or was left alone, 0 as wanted."""
        if self.outcome is Outcome.FAILED:
            return 255
        if self.outcome in _FINDINGS or self.cause == "defined-anew":
            return 2
        return 1 if self.pending or self.cause else 0

    @property
    def remedy(self) -> str:
        """What brings it further; empty where nothing is left to do."""
        if self.cause in ("cpu-overridden", "next-boot-unknown"):
            return options_remedy(
                CASES[self.cause].remedies[0], Decision.ON if self.new is PmuState.ON else Decision.OFF
            )
        first = _BY_CAUSE.get(self.cause, "").format(self)
        then = power_cycle(nova=self.nova) if self.pending else _REMEDIES.get(self.outcome, "")
        return "; ".join(filter(None, (first, then)))

    def record(self) -> dict[str, Any]:
        """The same as data, for tables and programs."""
        return {
            "name": self.name,
            "uuid": self.uuid,
            "old": self.old and self.old.value,
            "new": self.new and self.new.value,
            "rule": self.rule,
            "outcome": self.outcome.value,
            "pending": self.pending,
            "cause": self.cause,
            "note": self.note,
            "remedy": self.remedy,
            "change": self.change,
        }
