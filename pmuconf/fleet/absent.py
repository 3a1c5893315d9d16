"""Hosts of which nothing can be said, or nothing recent: named, never left out. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from pmuconf.fleet.aggregate import HostRow
from pmuconf.fleet.files import Head, Problem, same_host

__all__ = ["DOUBTFUL", "HARMLESS", "Absent", "absent", "ahead", "severity", "stale"]

HARMLESS: Final = ("report-duplicate",)
"""Causes that do not matter."""
DOUBTFUL: Final = ("report-from-future", "report-host-differs")
"""Causes for which a report is used all the same, but doubted."""
_AHEAD: Final = timedelta(minutes=5)


@dataclass(frozen=True)
class Absent:
    """A host without a report, or with one from before it could no longer be asked.

    :param cause: unreachable, report-missing, or the cause for which its report can't be used.
    :param at: of the attempt to ask it.
    :param last_report: that which still counts.
    """

    host: str
    cause: str
    message: str
    at: datetime | None = None
    last_report: datetime | None = None


def absent(
    rows: Mapping[str, HostRow], markers: Mapping[str, Head], problems: Iterable[Problem], expected: Iterable[str]
) -> Sequence[Absent]:
    """All of them, by name. A host is known by the name in its report and by that of its file, in any case."""
    known: dict[str, HostRow] = {}
    for row in rows.values():
        known[row.inventory_name.casefold()] = row
    known.update({row.name.casefold(): row for row in rows.values()})
    found: dict[str, Absent] = {}
    for problem in problems:
        name = problem.host.casefold()
        if name and problem.cause not in (*HARMLESS, *DOUBTFUL) and name not in known:
            found[name] = Absent(problem.host, problem.cause, problem.message)
    for name, marker in ((host.casefold(), marker) for host, marker in markers.items()):
        last = known[name].at if name in known else None
        if last is None or last < marker.at:
            found[name] = Absent(marker.host, "unreachable", marker.unreachable or "", marker.at, last)
    wanted = {host.casefold(): host for host in expected}
    for name, host in wanted.items():
        if name not in known and name not in found:
            found[name] = Absent(host, "report-missing", "no file is about it")
        elif name in known and _of_another(known[name], name) and known[name].inventory_name.casefold() in wanted:
            message = f"only {known[name].path} says that it is about it, and that is another's"
            found.setdefault(name, Absent(host, "report-missing", message))
    return [found[name] for name in sorted(found)]


def _of_another(row: HostRow, name: str) -> bool:
    """Whether a report that bears this name is in a file that is named after another host."""
    return row.name.casefold() == name and not same_host(row.inventory_name, row.name)


def stale(rows: Iterable[HostRow], now: datetime, age: timedelta | None) -> Sequence[HostRow]:
    """The hosts whose report is older than that, the oldest first; none if there is no such age."""
    if age is None:
        return []
    return sorted((row for row in rows if now - row.at > age), key=lambda row: (row.at, row.name))


def ahead(rows: Iterable[HostRow], now: datetime) -> Sequence[Problem]:
    """Reports from the future: their host's clock is wrong, and so is what is said of their age."""
    return [
        Problem(row.path, "report-from-future", f"made at {row.at.isoformat()}: that host's clock is ahead", row.name)
        for row in rows
        if row.at - now > _AHEAD
    ]


def severity(problems: Iterable[Problem], missing: Sequence[Absent], old: Sequence[HostRow]) -> int:
    """What they add to the exit status: 2 for a file that can't be used, 1 for hosts that are absent or stale."""
    causes = {problem.cause for problem in problems} - set(HARMLESS)
    if causes - set(DOUBTFUL):
        return 2
    return 1 if causes or missing or old else 0
