"""The fleet report: files in, Fleet out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from pathlib import Path

from pmuconf.errors import PmuconfError
from pmuconf.fleet.aggregate import Aggregate, of_host
from pmuconf.fleet.document import Fleet
from pmuconf.fleet.files import Problem
from pmuconf.fleet.hosts import Hosts, over
from pmuconf.fleet.missing import absent, ahead, stale
from pmuconf.fleet.reading import HostReport

__all__ = ["fleet", "no_reports"]


def fleet(
    hosts: Hosts, *, now: datetime, jobs: int = 1, expected: Iterable[str] = (), stale_after: timedelta | None = None
) -> Fleet:
    """Read all reports and join them.

    :raises PmuconfError: no-reports; worker-lost.
    """
    made = Aggregate()
    problems = list(hosts.problems)
    for part in over(hosts, folded, jobs):
        made.add(part.result)
        problems += part.problems
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


def folded(reports: Iterator[HostReport]) -> Aggregate:
    """The aggregate of some hosts."""
    made = Aggregate()
    for report in reports:
        made.add(of_host(report))
    return made


def no_reports(problems: list[Problem]) -> PmuconfError:
    """What is said when there is nothing to work on."""
    first = "".join(f"; {one.path}: {one.message} ({one.cause})" for one in sorted(problems)[:1])
    return PmuconfError(
        f"there is no report among the files{first}",
        cause="no-reports",
        hint="Each host writes one: pmuconf report -f json -o HOST.json",
    )
