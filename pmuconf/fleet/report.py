"""The fleet: the aggregate of all reports, and the hosts and files that are missing in it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import TypeVar

from pmuconf.errors import PmuconfError
from pmuconf.fleet.absent import AbsentHost, absent_hosts, from_future, severity, stale_hosts
from pmuconf.fleet.aggregate import Aggregate, HostRow
from pmuconf.fleet.files import Problem
from pmuconf.fleet.hostreport import HostReport
from pmuconf.fleet.hosts import Hosts, over

__all__ = ["Fleet", "fleet", "folded", "no_reports"]

_T = TypeVar("_T")


@dataclass(frozen=True)
class Fleet:
    """All that is known of a fleet when its files have been read.

    :param stale_after: seconds; None: no report is too old.
    """

    aggregate: Aggregate
    at: datetime
    problems: Sequence[Problem] = ()
    absent: Sequence[AbsentHost] = ()
    stale: Sequence[HostRow] = ()
    stale_after: int | None = None

    @property
    def severity(self) -> int:
        """The exit status: the worst of the VMs, of the files, and of the hosts that are missing."""
        return max(self.aggregate.severity, severity(self.problems, self.absent, self.stale))


def _ignore(result: object) -> None:
    """Take a result that nobody needs."""


def fleet(
    hosts: Hosts,
    *,
    now: datetime,
    jobs: int = 1,
    expected: Iterable[str] = (),
    stale_after: timedelta | None = None,
    each: Callable[[HostReport], _T] | None = None,
    take: Callable[[_T], object] = _ignore,
) -> Fleet:
    """The fleet of all reports.

    :param each: is called with every report, in the process that read it, so that process must know it by its name.
    :param take: is called here with the results of ``each``, in the order of the hosts' names.
    :raises PmuconfError: no-reports; worker-lost.
    """
    aggregate = Aggregate()
    problems = list(hosts.problems)
    for worked in over(hosts, partial(folded, each), jobs):
        part, results = worked.result
        aggregate.add(part)
        problems += worked.problems
        for result in results:
            take(result)
    if not aggregate.hosts:
        raise no_reports(problems)
    rows = aggregate.hosts
    problems += from_future(rows.values(), now)
    return Fleet(
        aggregate=aggregate,
        at=now,
        problems=problems,
        absent=absent_hosts(rows, hosts.markers, problems, expected),
        stale=stale_hosts(rows.values(), now, stale_after),
        stale_after=None if stale_after is None else int(stale_after.total_seconds()),
    )


def folded(each: Callable[[HostReport], _T] | None, reports: Iterator[HostReport]) -> tuple[Aggregate, Sequence[_T]]:
    """The aggregate of some hosts, and the result of ``each`` for every one of them."""
    aggregate, results = Aggregate(), []
    for report in reports:
        aggregate.count(report)
        if each is not None:
            results.append(each(report))
    return aggregate, results


def no_reports(problems: Sequence[Problem]) -> PmuconfError:
    """The error for files without any report, with the first problem of a file as a reason."""
    reasons = [f"; {problem.path}: {problem.message} ({problem.cause})" for problem in sorted(problems)[:1]]
    return PmuconfError(
        f"there is no report among the files{''.join(reasons)}",
        cause="no-reports",
        hint="Each host writes one: pmuconf report -f json -o HOST.json",
    )
