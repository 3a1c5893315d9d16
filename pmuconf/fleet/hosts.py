"""From a folder of files to the hosts they are about: which file counts, who is missing, who has not been heard of.

Reports are read by several processes at once, and let go of as soon as they were worked on.
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
from pmuconf.fleet.files import Head, Problem, Refused, find, head, inventory_name, newest_first, same_host
from pmuconf.fleet.hostreport import HostReport, read

__all__ = ["Hosts", "Pair", "Worked", "cores", "gather", "over", "pairs"]

_T = TypeVar("_T")
_R = TypeVar("_R")

_HEADS = 512
_CHUNK = 48
"""Hosts that are given to a process at once."""


@dataclass(frozen=True)
class Hosts:
    """What was found in the files.

    :param reports: for each host its reports, newest first; by name of the host.
    :param markers: the newest marker of each host that could not be asked, by the host's name in the inventory.
    """

    reports: Mapping[str, Sequence[Head]]
    markers: Mapping[str, Head] = field(default_factory=dict)
    problems: Sequence[Problem] = ()

    def limited(self, patterns: Sequence[str]) -> Hosts:
        """Those whose name, or name in the inventory, matches one of these globs; all, if there are none."""
        if not patterns:
            return self
        glob = re.compile("|".join(map(fnmatch.translate, patterns)), re.IGNORECASE)

        def wanted(*names: str) -> bool:
            return any(glob.match(name) for name in names)

        return Hosts(
            {
                host: heads
                for host, heads in self.reports.items()
                if wanted(host, *(inventory_name(one.path) for one in heads))
            },
            {host: marker for host, marker in self.markers.items() if wanted(host)},
            [one for one in self.problems if wanted(one.host)],
        )


@dataclass(frozen=True)
class Worked(Generic[_T]):
    """What came of some hosts, and what was wrong with files of theirs."""

    result: _T
    problems: Sequence[Problem]


@dataclass(frozen=True)
class Pair:
    """A host in two collections: what files there are about it, and what they say, None if none of them can be used."""

    name: str
    old_heads: Sequence[Head]
    old: HostReport | None
    new_heads: Sequence[Head]
    new: HostReport | None


Work = Callable[[Iterator[HostReport]], _T]


def gather(paths: Iterable[Path], jobs: int) -> Hosts:
    """Find out which files there are and which hosts they are about, by their beginnings.

    :raises PmuconfError: file-missing; worker-lost.
    """
    files, problems = find(paths)
    reports: dict[str, list[Head]] = {}
    markers: dict[str, Head] = {}
    named: dict[str, str] = {}
    for found in _mapped(_heads, [files[at : at + _HEADS] for at in range(0, len(files), _HEADS)], jobs):
        for one in found:
            if isinstance(one, Problem):
                problems.append(one)
            elif one.unreachable is None:
                reports.setdefault(one.host, []).append(one)
                if same_host(inventory_name(one.path), one.host):
                    named.setdefault(one.host, one.path)
            elif not same_host(inventory_name(one.path), one.host):
                problems.append(_claim(one, "a marker of another host is not used"))
            elif one.host not in markers or markers[one.host].at < one.at:
                markers[one.host] = one
    believed = {}
    for host, heads in sorted(reports.items()):
        kept = [one for one in heads if host not in named or same_host(inventory_name(one.path), host)]
        problems += (_claim(one, f"{named[host]!r:.200} is its own") for one in heads if one not in kept)
        believed[host] = newest_first(kept)
    return Hosts(believed, markers, problems)


def _claim(one: Head, why: str) -> Problem:
    """A file that says it is of a host which has files of its own: it is not used."""
    own = inventory_name(one.path)
    return Problem(
        one.path, "report-host-claimed", f"named after {own!r:.80}, it says that it is of {one.host!r:.80}: {why}", own
    )


def _differing(one: Head) -> Problem:
    own = inventory_name(one.path)
    return Problem(
        one.path, "report-host-differs", f"named after {own!r:.80}, it says that it is of {one.host!r:.80}", one.host
    )


def over(hosts: Hosts, work: Work[_T], jobs: int) -> Iterator[Worked[_T]]:
    """Work on every host's report, some hosts at a time, in the order of their names.

    Of several reports of a host the newest that can be used is; the others are among the problems.

    :param work: is given an iterator over the reports of some hosts; must be known to a process by its name.
    :raises PmuconfError: worker-lost.
    """
    groups = list(hosts.reports.values())
    chunks = [groups[at : at + _CHUNK] for at in range(0, len(groups), _CHUNK)]
    yield from _mapped(partial(_work, work), chunks, jobs)


def pairs(old: Hosts, new: Hosts, work: Callable[[Iterator[Pair]], _T], jobs: int) -> Iterator[Worked[_T]]:
    """As over(), on each host's report of two collections; a host that is in one of them only is paired with None.

    :raises PmuconfError: worker-lost.
    """
    names = sorted(old.reports.keys() | new.reports.keys())
    groups = [(name, old.reports.get(name, ()), new.reports.get(name, ())) for name in names]
    chunks = [groups[at : at + _CHUNK] for at in range(0, len(groups), _CHUNK)]
    yield from _mapped(partial(_work_pairs, work), chunks, jobs)


def _heads(paths: Sequence[str]) -> list[Head | Problem]:
    return [head(path) for path in paths]


def _work(work: Work[_T], groups: Sequence[Sequence[Head]]) -> Worked[_T]:
    problems: list[Problem] = []
    return Worked(work(_reports(groups, problems)), problems)


def _work_pairs(
    work: Callable[[Iterator[Pair]], _T], groups: Sequence[tuple[str, Sequence[Head], Sequence[Head]]]
) -> Worked[_T]:
    problems: list[Problem] = []

    def one(heads: Sequence[Head]) -> HostReport | None:
        found = list(_reports([heads], problems))
        return found[0] if found else None

    return Worked(work(Pair(name, before, one(before), now, one(now)) for name, before, now in groups), problems)


def _reports(groups: Sequence[Sequence[Head]], problems: list[Problem]) -> Iterator[HostReport]:
    for heads in groups:
        used = ""
        for one in heads:
            if used:
                problems.append(Problem(one.path, "report-duplicate", f"{used} is newer", one.host))
                continue
            try:
                report = read(one)
            except Refused as refused:
                problems.append(Problem(one.path, refused.cause, refused.message, one.host))
                continue
            used = one.path
            if not same_host(inventory_name(one.path), one.host):
                problems.append(_differing(one))
            yield report


def _mapped(work: Callable[[_R], _T], items: Sequence[_R], jobs: int) -> Iterator[_T]:
    """The results in the order of the items; only a few are waited for at once, so that they don't pile up."""
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
    """Without garbage collection: a report is a large tree without cycles, and going through it finds nothing."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def cores() -> int:
    """How many processes can really run at once."""
    return len(os.sched_getaffinity(0))
