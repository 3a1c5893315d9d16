"""From a folder of files to hosts: which file of a host counts, and the reports themselves.

Several processes read reports at once. Each report is let go of as soon as it was worked on.
"""

from __future__ import annotations

import fnmatch
import gc
import os
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Generic, TypeVar

from pmuconf.errors import PmuconfError
from pmuconf.fleet.files import Head, Problem, Refused, find, inventory_name, newest_first, read_head, same_host
from pmuconf.fleet.hostreport import HostReport, read

__all__ = ["HostPair", "Hosts", "Worked", "cores", "gather", "over", "pairs"]

_T = TypeVar("_T")
_R = TypeVar("_R")

_HEADS = 512
"""How many files a process gets at once, to read their beginnings."""
_HOSTS = 48
"""How many hosts a process gets at once, to read their reports."""


@dataclass(frozen=True)
class Hosts:
    """The hosts that files are about.

    :param reports: for each host its reports, newest first; by the host's name.
    :param markers: the newest marker of each host that could not be asked, by the host's name in the inventory.
    """

    reports: Mapping[str, Sequence[Head]]
    markers: Mapping[str, Head] = field(default_factory=dict)
    problems: Sequence[Problem] = ()

    def limited(self, patterns: Sequence[str]) -> Hosts:
        """The hosts whose name, or name in the inventory, matches one of these globs; all without any glob."""
        if not patterns:
            return self
        glob = re.compile("|".join(map(fnmatch.translate, patterns)), re.IGNORECASE)

        def wanted(*names: str) -> bool:
            return any(glob.match(name) for name in names)

        return Hosts(
            {
                host: heads
                for host, heads in self.reports.items()
                if wanted(host, *(inventory_name(head.path) for head in heads))
            },
            {host: marker for host, marker in self.markers.items() if wanted(host)},
            [problem for problem in self.problems if wanted(problem.host)],
        )


@dataclass(frozen=True)
class Worked(Generic[_T]):
    """The result of some hosts, and the problems with their files."""

    result: _T
    problems: Sequence[Problem]


@dataclass(frozen=True)
class HostPair:
    """A host in two collections: the heads of its files, and its report; None if no file of it can be used."""

    name: str
    old_heads: Sequence[Head]
    old: HostReport | None
    new_heads: Sequence[Head]
    new: HostReport | None


Work = Callable[[Iterator[HostReport]], _T]


def gather(paths: Iterable[Path], jobs: int) -> Hosts:
    """The hosts that the files below these paths are about, by the beginnings of the files.

    :raises PmuconfError: file-missing; worker-lost.
    """
    files, problems = find(paths)
    reports: dict[str, list[Head]] = {}
    markers: dict[str, Head] = {}
    for heads in _mapped(_heads, _chunks(files, _HEADS), jobs):
        for head in heads:
            if isinstance(head, Problem):
                problems.append(head)
            elif head.unreachable is None:
                reports.setdefault(head.host, []).append(head)
            elif not _named_after_its_host(head):
                problems.append(_claim(head, "a marker of another host is not used"))
            elif head.host not in markers or markers[head.host].at < head.at:
                markers[head.host] = head
    believed = {host: _believed(reports[host], problems) for host in sorted(reports)}
    return Hosts(believed, markers, problems)


def _believed(heads: Sequence[Head], problems: list[Problem]) -> Sequence[Head]:
    """The reports of one host that are believed, newest first.

    If some of its files are named after the host, then no other file is believed.
    """
    own = [head for head in heads if _named_after_its_host(head)]
    if not own:
        return newest_first(heads)
    others = [head for head in heads if head not in own]
    problems += [_claim(head, f"{own[0].path!r:.200} is its own") for head in others]
    return newest_first(own)


def _named_after_its_host(head: Head) -> bool:
    return same_host(inventory_name(head.path), head.host)


def _claim(head: Head, reason: str) -> Problem:
    """A file is not used because it claims to be about a host that has files of its own."""
    own = inventory_name(head.path)
    return Problem(
        head.path,
        "report-host-claimed",
        f"named after {own!r:.80}, it says that it is of {head.host!r:.80}: {reason}",
        own,
    )


def _differing(head: Head) -> Problem:
    own = inventory_name(head.path)
    return Problem(
        head.path, "report-host-differs", f"named after {own!r:.80}, it says that it is of {head.host!r:.80}", head.host
    )


def over(hosts: Hosts, work: Work[_T], jobs: int) -> Iterator[Worked[_T]]:
    """The results of work on every host's report, some hosts at a time, in the order of their names.

    Of several reports of a host, the newest that can be used is used. The others are among the problems.

    :param work: is given an iterator over the reports of some hosts; a process must know it by its name.
    :raises PmuconfError: worker-lost.
    """
    groups = list(hosts.reports.values())
    yield from _mapped(partial(_work, work), _chunks(groups, _HOSTS), jobs)


def pairs(old: Hosts, new: Hosts, work: Callable[[Iterator[HostPair]], _T], jobs: int) -> Iterator[Worked[_T]]:
    """The same as over(), for each host's reports in two collections.

    :raises PmuconfError: worker-lost.
    """
    names = sorted(old.reports.keys() | new.reports.keys())
    groups = [(name, old.reports.get(name, ()), new.reports.get(name, ())) for name in names]
    yield from _mapped(partial(_work_pairs, work), _chunks(groups, _HOSTS), jobs)


def _chunks(items: Sequence[_R], size: int) -> list[Sequence[_R]]:
    return [items[first : first + size] for first in range(0, len(items), size)]


def _heads(paths: Sequence[str]) -> list[Head | Problem]:
    return [read_head(path) for path in paths]


def _work(work: Work[_T], groups: Sequence[Sequence[Head]]) -> Worked[_T]:
    problems: list[Problem] = []
    reports = (_report(heads, problems) for heads in groups)
    return Worked(work(report for report in reports if report is not None), problems)


def _work_pairs(
    work: Callable[[Iterator[HostPair]], _T], groups: Sequence[tuple[str, Sequence[Head], Sequence[Head]]]
) -> Worked[_T]:
    problems: list[Problem] = []
    host_pairs = (
        HostPair(name, old_heads, _report(old_heads, problems), new_heads, _report(new_heads, problems))
        for name, old_heads, new_heads in groups
    )
    return Worked(work(host_pairs), problems)


def _report(heads: Sequence[Head], problems: list[Problem]) -> HostReport | None:
    """The newest report of a host that can be used.

    :param heads: of its reports, newest first.
    :param problems: gets every other report of the host.
    """
    report: HostReport | None = None
    for head in heads:
        if report is not None:
            problems.append(Problem(head.path, "report-duplicate", f"{report.path} is newer", head.host))
            continue
        try:
            report = read(head)
        except Refused as refused:
            problems.append(Problem(head.path, refused.cause, refused.message, head.host))
            continue
        if not _named_after_its_host(head):
            problems.append(_differing(head))
    return report


def _mapped(work: Callable[[_R], _T], items: Sequence[_R], jobs: int) -> Iterator[_T]:
    """The results in the order of the items. Only a few are computed ahead, so that they don't fill the memory."""
    if jobs < 2 or len(items) < 2:
        with _uncollected():
            yield from map(work, items)
        return
    try:
        with ProcessPoolExecutor(min(jobs, len(items)), initializer=gc.disable) as pool:
            ahead: deque[Future[_T]] = deque()
            for item in items:
                ahead.append(pool.submit(work, item))
                if len(ahead) > 2 * jobs:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
    except BrokenProcessPool:
        raise PmuconfError(
            "a process that read reports was killed",
            cause="worker-lost",
            hint="The kernel may have run out of memory: 'dmesg' says so; --jobs 1 takes the least",
        ) from None


@contextmanager
def _uncollected() -> Iterator[None]:
    """No garbage is collected meanwhile. A report is a large tree without cycles, so a search finds nothing in it."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def cores() -> int:
    """How many processes this host can really run at once."""
    return len(os.sched_getaffinity(0))
