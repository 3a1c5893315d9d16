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
    known = {row.inventory_name.casefold(): row for row in rows.values()}
    known.update({row.name.casefold(): row for row in rows.values()})
    absent = _unusable(problems, known)
    absent.update(_unreachable(markers, known))
    for name, host in _missing(expected, known).items():
        absent.setdefault(name, host)
    return [absent[name] for name in sorted(absent)]


def _unusable(problems: Iterable[Problem], known: Mapping[str, HostRow]) -> dict[str, AbsentHost]:
    """The hosts whose files all can't be used, by their names in lower case."""
    return {
        problem.host.casefold(): AbsentHost(problem.host, problem.cause, problem.message)
        for problem in problems
        if problem.cause not in (*HARMLESS, *DOUBTFUL) and problem.host and problem.host.casefold() not in known
    }


def _unreachable(markers: Mapping[str, Head], known: Mapping[str, HostRow]) -> dict[str, AbsentHost]:
    """The hosts with a marker that is newer than their report."""
    hosts = {}
    for marker in markers.values():
        row = known.get(marker.host.casefold())
        last_report = None if row is None else row.at
        if last_report is None or last_report < marker.at:
            hosts[marker.host.casefold()] = AbsentHost(
                marker.host, "unreachable", marker.unreachable or "", marker.at, last_report
            )
    return hosts


def _missing(expected: Iterable[str], known: Mapping[str, HostRow]) -> dict[str, AbsentHost]:
    """The expected hosts without a report of their own."""
    wanted = {host.casefold(): host for host in expected}
    hosts = {}
    for name, host in wanted.items():
        row = known.get(name)
        if row is None:
            hosts[name] = AbsentHost(host, "report-missing", "no file is about it")
        elif _of_another(row, name) and row.inventory_name.casefold() in wanted:
            message = f"only {row.path} claims to be about it, and that file is another host's"
            hosts[name] = AbsentHost(host, "report-missing", message)
    return hosts


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
