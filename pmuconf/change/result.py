"""The result of a run for each domain: how it ended, why, and the remedies. Pure."""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pmuconf.audit.managers import lasts
from pmuconf.audit.remedy import EXPLAIN, options_remedy, power_cycle
from pmuconf.domain.definition import Manager, PmuState
from pmuconf.fastpath.cases import CASES
from pmuconf.policy import Decision
from pmuconf.wording import counted

__all__ = ["Outcome", "Result", "foretold", "tally"]


class Outcome(enum.Enum):
    """How a planned change ended."""

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


_OFF_POLICY: Final = frozenset(
    {Outcome.PLANNED, Outcome.OBSERVED, Outcome.BUSY, Outcome.NOT_REACHED, Outcome.NOT_JUDGED}
)
_BY_CAUSE: Final = {
    "defined-anew": "if it is not wanted: virsh undefine {uuid}",
    "edit-overwritten": "repeat that edit if it is lost",
    "not-confirmed": "repeat that edit if there was one and it is lost",
    "differs-after": "compare it with what it should be: virsh dumpxml --inactive {uuid}",
    "refused-by-libvirt": "mend its definition until 'virsh edit {uuid}' takes a change",
}
_BY_OUTCOME: Final = {
    Outcome.TRANSIENT: "the tool that starts it must ask for the PMU state",
    Outcome.OBSERVED: "[policy] nova_domains = enforce, or better the plugin pmuconf-nova, or hw:pmu in the flavor",
    Outcome.UNDECIDED: EXPLAIN,
    Outcome.BUSY: "run it again when nobody else edits it",
    Outcome.NOT_REACHED: "run it again",
}


@dataclass(frozen=True)
class Result:
    """The result for one domain.

    :param old: its PMU state before; ``new``: the one that it has now, or was to have.
    :param rule: the rule of the policy that asked for it.
    :param cause: a code for what there is to know; empty if all is as it should be.
    :param notes: the same in sentences, the gravest first.
    :param change: the change's number in the journal.
    :param pending: whether its guest, or its saved image, still has another state.
    :param manager: who writes the domain.
    """

    name: str
    uuid: str
    outcome: Outcome
    old: PmuState | None = None
    new: PmuState | None = None
    rule: str = ""
    cause: str = ""
    notes: tuple[str, ...] = ()
    change: int | None = None
    pending: bool = False
    manager: Manager = Manager.LIBVIRT

    @property
    def status(self) -> int:
        """The exit status that it deserves: 255 failed, 2 off policy, 1 waits or was left alone, 0 as wanted."""
        if self.outcome is Outcome.FAILED:
            return 255
        if self.outcome in _OFF_POLICY or self.cause == "defined-anew":
            return 2
        return 1 if self.pending or self.cause else 0

    @property
    def written(self) -> bool:
        """Whether the state was written, or would be."""
        return self.outcome in (Outcome.PLANNED, Outcome.CHANGED)

    @property
    def temporary(self) -> str:
        """How long the written state stays, if the manager takes it away; empty if it stays, or none was written."""
        return lasts(self.manager) if self.written else ""

    @property
    def note(self) -> str:
        """The notes as one text, to be shown."""
        return "; ".join(self.notes)

    @property
    def remedies(self) -> tuple[str, ...]:
        """The steps that are left to do, in their order."""
        if self.cause in ("cpu-overridden", "next-boot-unknown"):
            decision = Decision.ON if self.new is PmuState.ON else Decision.OFF
            return (options_remedy(CASES[self.cause].remedies[0], decision),)
        first = _BY_CAUSE.get(self.cause, "").format(uuid=self.uuid)
        then = power_cycle(self.manager) if self.pending else _BY_OUTCOME.get(self.outcome, "")
        return tuple(remedy for remedy in (first, then) if remedy)

    def record(self) -> dict[str, Any]:
        """The same as JSON, for tables and programs."""
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
            "remedy": "; ".join(self.remedies),
            "change": self.change,
        }


def tally(results: Sequence[Result]) -> str:
    """A run in one sentence: how many domains had which outcome, and what comes next."""
    if not results:
        return "nothing to change: all as the policy wants"
    counts = Counter(result.outcome for result in results)
    parts = [", ".join(f"{count} {outcome.value}" for outcome, count in counts.items()), *_waiting(results)]
    if counts[Outcome.FAILED]:
        parts.append("the next run tries domains last that libvirt refused to define")
    return "; ".join(parts)


def foretold(results: Sequence[Result]) -> str:
    """A dry run in one sentence: how many domains a real run would change, and what they would wait for then."""
    plans = [result for result in results if result.outcome is Outcome.PLANNED]
    if not plans:
        return "nothing would be changed; 'pmuconf audit --only pending' shows the VMs that wait for a restart"
    return "; ".join([f"{counted(len(plans), 'domain')} would be changed", *_waiting(plans)])


def _waiting(results: Iterable[Result]) -> Iterator[str]:
    """How many VMs need a new start."""
    pending = sum(result.pending for result in results)
    if pending == 1:
        yield "1 VM keeps its old PMU state until it is stopped and started"
    elif pending:
        yield f"{pending:,} VMs keep their old PMU state until they are stopped and started"
