"""The fleet report: files in, Fleet out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import TypeVar

from pmuconf.errors import PmuconfError
from pmuconf.fleet.absent import absent, ahead, stale
from pmuconf.fleet.aggregate import Aggregate, count
from pmuconf.fleet.document import Fleet
from pmuconf.fleet.files import Problem
from pmuconf.fleet.hostreport import HostReport
from pmuconf.fleet.hosts import Hosts, over

__all__ = ["fleet", "folded", "no_reports"]


_T = TypeVar("_T")


def fleet(
    hosts: Hosts,
    *,
    now: datetime,
    jobs: int = 1,
    expected: Iterable[str] = (),
    stale_after: timedelta | None = None,
    each: Callable[[HostReport], _T] | None = None,
    take: Callable[[_T], object] = lambda made: None,
) -> Fleet:
    """Read all reports and join them.

    :param each: is given every report, in the process that has it; must be known to that by its name.
    :param take: is given here what ``each`` made of it, in the order of the hosts' names.
    :raises PmuconfError: no-reports; worker-lost.
    """
    made = Aggregate()
    problems = list(hosts.problems)
    for worked in over(hosts, partial(folded, each), jobs):
        part, several = worked.result
        made.add(part)
        problems += worked.problems
        for one in several:
            take(one)
    if not made.hosts:
        raise no_reports(problems)
    rows = made.hosts
    problems += ahead(rows.values(), now)
    return Fleet(
        aggregate=made,
        at=now,
        problems=problems,
        absent=absent(rows, hosts.markers, problems, expected),
        stale=stale(rows.values(), now, stale_after),
        stale_after=None if stale_after is None else int(stale_after.total_seconds()),
    )


def folded(each: Callable[[HostReport], _T] | None, reports: Iterator[HostReport]) -> tuple[Aggregate, Sequence[_T]]:
    """The aggregate of some hosts, and what is made of each."""
    made, several = Aggregate(), []
    for report in reports:
        count(report, made)
        if each is not None:
            several.append(each(report))
    return made, several


def no_reports(problems: list[Problem]) -> PmuconfError:
    """What is said when there is nothing to work on."""
    first = "".join(f"; {one.path}: {one.message} ({one.cause})" for one in sorted(problems)[:1])
    return PmuconfError(
        f"there is no report among the files{first}",
        cause="no-reports",
        hint="Each host writes one: pmuconf report -f json -o HOST.json",
    )
