"""Hosts about which nothing is known, or nothing recent: they are named, never left out. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from pmuconf.fleet.aggregate import HostRow
from pmuconf.fleet.files import Head, Problem, same_host

__all__ = ["DOUBTFUL", "HARMLESS", "AbsentHost", "absent_hosts", "from_future", "severity", "stale_hosts"]

HARMLESS: Final = ("report-duplicate",)
"""Causes that do not matter."""
DOUBTFUL: Final = ("report-from-future", "report-host-differs")
"""Causes with which a report is still used, but doubted."""
_AHEAD: Final = timedelta(minutes=5)


@dataclass(frozen=True)
class AbsentHost:
    """A host without a report, or whose report is older than the last attempt to ask it, which failed.

    :param cause: unreachable, report-missing, or the cause for which its report can't be used.
    :param at: the time of the attempt.
    :param last_report: the time of the report that still counts.
    """

    host: str
    cause: str
    message: str
    at: datetime | None = None
    last_report: datetime | None = None


def absent_hosts(
    rows: Mapping[str, HostRow], markers: Mapping[str, Head], problems: Iterable[Problem], expected: Iterable[str]
) -> Sequence[AbsentHost]:
    """All absent hosts, by name.

    A host is known by the name in its report and by the name of its file, in upper or lower case.

    :param expected: names of hosts that should have a report.
    """
    known: dict[str, HostRow] = {}
    for row in rows.values():
        known[row.inventory_name.casefold()] = row
    known.update({row.name.casefold(): row for row in rows.values()})
    absent: dict[str, AbsentHost] = {}
    for problem in problems:
        name = problem.host.casefold()
        if name and problem.cause not in (*HARMLESS, *DOUBTFUL) and name not in known:
            absent[name] = AbsentHost(problem.host, problem.cause, problem.message)
    for host, marker in markers.items():
        name = host.casefold()
        last_report = known[name].at if name in known else None
        if last_report is None or last_report < marker.at:
            absent[name] = AbsentHost(marker.host, "unreachable", marker.unreachable or "", marker.at, last_report)
    wanted = {host.casefold(): host for host in expected}
    for name, host in wanted.items():
        if name not in known and name not in absent:
            absent[name] = AbsentHost(host, "report-missing", "no file is about it")
        elif name in known and _of_another(known[name], name) and known[name].inventory_name.casefold() in wanted:
            message = f"only {known[name].path} claims to be about it, and that file is another host's"
            absent.setdefault(name, AbsentHost(host, "report-missing", message))
    return [absent[name] for name in sorted(absent)]


def _of_another(row: HostRow, name: str) -> bool:
    """Whether a report with this name is in a file that is named after another host."""
    return row.name.casefold() == name and not same_host(row.inventory_name, row.name)


def stale_hosts(rows: Iterable[HostRow], now: datetime, age: timedelta | None) -> Sequence[HostRow]:
    """The hosts whose report is older than ``age``, the oldest first; none if that is None."""
    if age is None:
        return []
    return sorted((row for row in rows if now - row.at > age), key=lambda row: (row.at, row.name))


def from_future(rows: Iterable[HostRow], now: datetime) -> Sequence[Problem]:
    """Reports from the future. The clock of such a host is wrong, so the age of its report is too."""
    return [
        Problem(row.path, "report-from-future", f"made at {row.at.isoformat()}: that host's clock is ahead", row.name)
        for row in rows
        if row.at - now > _AHEAD
    ]


def severity(problems: Iterable[Problem], absent: Sequence[AbsentHost], stale: Sequence[HostRow]) -> int:
    """Their part of the exit status: 2 for a file that can't be used, 1 for a host that is absent or stale."""
    causes = {problem.cause for problem in problems} - set(HARMLESS)
    if causes - set(DOUBTFUL):
        return 2
    return 1 if causes or absent or stale else 0
