"""What changed between two collections of reports: docs/fleet.md.

Hosts are compared one by one and let go; what is kept are the VMs that left a host or came to one, until it is known
whether they moved. A host that was not heard of in one of the collections has neither come nor gone, nor have its VMs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any, Final, NamedTuple

import pmuconf
from pmuconf.fleet.absent import DOUBTFUL, HARMLESS, severity
from pmuconf.fleet.files import Head, Problem, inventory_name
from pmuconf.fleet.hostreport import HostReport
from pmuconf.fleet.hosts import Hosts, Pair, pairs
from pmuconf.fleet.report import no_reports
from pmuconf.fleet.steps import kernel_of, qemu_of

__all__ = ["FORMAT", "VERSION", "Difference", "diff", "document"]

FORMAT: Final = "pmuconf-fleet-diff"
VERSION: Final = 1


class Seen(NamedTuple):
    """A VM in one of the collections."""

    uuid: str | None
    name: str
    host: str
    fast_path: str | None
    cause: str | None
    running: bool


class Moved(NamedTuple):
    """A VM in both."""

    old: Seen
    new: Seen

    @property
    def change(self) -> str:
        """gained or lost the fast path, or moved to another host without either; empty if none of these."""
        before, now = self.old.fast_path == "yes", self.new.fast_path == "yes"
        if before != now:
            return "gained" if now else "lost"
        return "moved" if self.old.host != self.new.host else ""


@dataclass(frozen=True)
class HostFacts:
    """What is compared of a host."""

    verdict: str | None
    kernel: tuple[str, str]
    qemus: tuple[tuple[str, str], ...]


@dataclass
class Part:
    """What changed on some hosts.

    :param counts: VMs that are as they were (``same``), or gained, lost, moved, came, went (``gone``), or are on a host
        that was not heard of (``unheard``).
    :param causes: of what was gained and lost: the change, the cause before, the cause now.
    """

    counts: Counter[str] = field(default_factory=Counter)
    causes: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    came: list[str] = field(default_factory=list)
    went: list[str] = field(default_factory=list)
    unheard: list[str] = field(default_factory=list)
    changed: list[tuple[str, HostFacts, HostFacts]] = field(default_factory=list)
    rows: list[Moved] = field(default_factory=list)
    left: list[Seen] = field(default_factory=list)
    arrived: list[Seen] = field(default_factory=list)

    def met(self, old: Seen, new: Seen) -> None:
        """A VM is in both collections."""
        both = Moved(old, new)
        self.counts[both.change or "same"] += 1
        if both.change:
            self.rows.append(both)
        if both.change in ("gained", "lost"):
            self.causes[both.change, old.cause or "", new.cause or ""] += 1


@dataclass(frozen=True)
class Difference:
    """All that changed, in ``part``."""

    at: datetime
    part: Part
    problems: Sequence[Problem]

    @property
    def severity(self) -> int:
        """2 if a VM lost the fast path or a file can't be used, 1 if hosts went or were not heard of."""
        files = severity(self.problems, (), ())
        return 2 if self.part.counts["lost"] else max(files, 1 if self.part.went or self.part.unheard else 0)


def diff(old: Hosts, new: Hosts, *, now: datetime, jobs: int = 1) -> Difference:
    """Compare two collections.

    :raises PmuconfError: no-reports; worker-lost.
    """
    for collection in (old, new):
        if not collection.reports:
            raise no_reports(list(collection.problems))
    problems = [*old.problems, *new.problems]
    whole = Part()
    waiting: tuple[dict[str, Seen], dict[str, Seen]] = ({}, {})
    for worked in pairs(old, new, partial(compared, _silent(old), _silent(new)), jobs):
        problems += worked.problems
        part = worked.result
        whole.counts.update(part.counts)
        whole.causes.update(part.causes)
        for name in ("came", "went", "unheard", "changed", "rows"):
            getattr(whole, name).extend(getattr(part, name))
        for side, those in enumerate((part.left, part.arrived)):
            for seen in those:
                _meet(whole, waiting, side, seen)
    unheard = set(whole.unheard)
    for side, alone in enumerate(waiting):
        for seen in alone.values():
            whole.counts["unheard" if seen.host in unheard else _ALONE[side]] += 1
    return Difference(now, whole, problems)


def compared(silent_old: frozenset[str], silent_new: frozenset[str], several: Iterable[Pair]) -> Part:
    """What changed on some hosts.

    :param silent_old: hosts that the old collection knows of without a report that can be used, as _silent() has them.
    """
    part = Part()
    for pair in several:
        names = {name.casefold() for one in (*pair.old_heads, *pair.new_heads) for name in _names(one)}
        if pair.old is not None and pair.new is not None:
            _compare(pair.name, pair.old, pair.new, part)
        elif pair.new is not None:
            (part.unheard if pair.old_heads or names & silent_old else part.came).append(pair.name)
            part.arrived += _seen(pair.new)
        elif pair.old is not None:
            (part.unheard if pair.new_heads or names & silent_new else part.went).append(pair.name)
            part.left += _seen(pair.old)
        else:
            part.unheard.append(pair.name)
    return part


def document(made: Difference, top: int = 0) -> dict[str, Any]:
    """All that changed, ready for json.dump(): counts first.

    :param top: how many VMs to list; 0: all. They are counted all.
    """
    part = made.part
    rows = sorted(part.rows, key=lambda one: (_CHANGES.index(one.change), one.new.host, one.new.name, one.old.host))
    return {
        "format": FORMAT,
        "version": VERSION,
        "generator": f"pmuconf {pmuconf.__version__}",
        "generated_at": made.at.isoformat(timespec="seconds"),
        "severity": made.severity,
        "vms": {change: part.counts[change] for change in (*_CHANGES, "same", *_ALONE, "unheard")},
        "causes": [
            {"change": change, "old": old or None, "new": new or None, "vms": number}
            for (change, old, new), number in sorted(part.causes.items(), key=lambda item: (-item[1], item[0]))
        ],
        "hosts": {
            "came": sorted(part.came),
            "went": sorted(part.went),
            "unheard": sorted(part.unheard),
            "changed": [
                {"host": name, **_changes(old, new)} for name, old, new in sorted(part.changed, key=lambda one: one[0])
            ],
        },
        "files": [
            {"path": one.path, "cause": one.cause, "message": one.message, "host": one.host or None}
            for one in sorted(made.problems)
        ],
        "listed": [_row(one) for one in (rows[:top] if top else rows)],
        "not_listed": len(rows) - len(rows[:top]) if top else 0,
    }


_CHANGES: Final = ("lost", "gained", "moved")
_ALONE: Final = ("gone", "came")


def _silent(hosts: Hosts) -> frozenset[str]:
    """Names of hosts that a collection knows of, without a file about them whose beginning can be read."""
    named = {one.host for one in hosts.problems if one.cause not in (*HARMLESS, *DOUBTFUL) and one.host}
    return frozenset(name.casefold() for name in named | set(hosts.markers))


def _names(head: Head) -> tuple[str, str]:
    return head.host, inventory_name(head.path)


def _meet(whole: Part, waiting: tuple[dict[str, Seen], dict[str, Seen]], side: int, seen: Seen) -> None:
    """A VM that left a host (side 0), or came to one (side 1): with what the other side knows of it, it has moved."""
    other = waiting[1 - side].pop(seen.uuid, None) if seen.uuid else None
    if other is not None:
        whole.met(*((seen, other) if side == 0 else (other, seen)))
        return
    if seen.uuid and seen.uuid not in waiting[side]:
        waiting[side][seen.uuid] = seen
        return
    earlier = waiting[side].get(seen.uuid or "")
    if earlier is not None and seen.running and not earlier.running:  # a definition stays behind where it ran before
        waiting[side][earlier.uuid or ""] = seen
    whole.counts[_ALONE[side]] += 1


def _compare(name: str, old: HostReport, new: HostReport, part: Part) -> None:
    before, now = _facts(old), _facts(new)
    if before != now:
        part.changed.append((name, before, now))
    left = {seen.uuid or f"name {seen.name}": seen for seen in _seen(old)}
    for seen in _seen(new):
        was = left.pop(seen.uuid or f"name {seen.name}", None)
        if was is None:
            part.arrived.append(seen)
        else:
            part.met(was, seen)
    part.left += left.values()


def _facts(report: HostReport) -> HostFacts:
    found = {qemu_of(record[which]) for record in report.domains for which in ("qemu", "next_qemu") if record[which]}
    verdict = None if report.state is None else report.state.verdict
    return HostFacts(verdict, kernel_of(report), tuple(sorted(found)))


def _seen(report: HostReport) -> Iterator[Seen]:
    for record, outlook in zip(report.domains, report.outlooks):
        yield Seen(record["uuid"], record["name"], report.name, outlook.fast_path, outlook.cause, outlook.running)


def _changes(old: HostFacts, new: HostFacts) -> dict[str, Any]:
    """Only what differs."""
    found: dict[str, Any] = {}
    if old.verdict != new.verdict:
        found["verdict"] = {"old": old.verdict, "new": new.verdict}
    if old.kernel != new.kernel:
        found["kernel"] = {"old": " ".join(filter(None, old.kernel)), "new": " ".join(filter(None, new.kernel))}
    if old.qemus != new.qemus:
        sides = {"old": old.qemus, "new": new.qemus}
        found["qemus"] = {side: [" ".join(filter(None, one)) for one in qemus] for side, qemus in sides.items()}
    return found


def _row(one: Moved) -> dict[str, Any]:
    sides = {"old": one.old, "new": one.new}
    return {
        "change": one.change,
        "uuid": one.new.uuid,
        "name": one.new.name,
        **{side: {"host": seen.host, "fast_path": seen.fast_path, "cause": seen.cause} for side, seen in sides.items()},
    }
