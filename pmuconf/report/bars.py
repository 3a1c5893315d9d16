"""Bars of a chart: how many of something are in each group. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from pmuconf.report.groups import Group

__all__ = ["Bar", "Counted", "Segment", "bars"]


@dataclass(frozen=True)
class Segment:
    """A segment of a bar: where it begins and how long it is, in percent of the widest bar."""

    group: Group
    count: int
    start: float
    width: float


@dataclass(frozen=True)
class Bar:
    """One bar of a chart, and the text beside it; the page finds its VMs or hosts by ``value``."""

    label: str
    value: str
    parts: Sequence[Segment]
    count: int
    note: str = ""

    @property
    def spoken(self) -> str:
        """The bar in words."""
        return f"{self.label}: " + ", ".join(f"{part.count} {part.group.name}" for part in self.parts)


@dataclass(frozen=True)
class Counted:
    """The contents of a bar: how many there are in each group, by the key of the group."""

    label: str
    value: str
    counts: Mapping[str, int]
    note: str = ""


def bars(counted: Sequence[Counted], groups: Sequence[Group]) -> Iterator[Bar]:
    """A bar for each contents that are not empty, all in the same scale."""
    totals = [sum(bar.counts.values()) for bar in counted]
    widest = max(totals, default=0)
    for bar, total in zip(counted, totals):
        if total:
            parts = [(group, bar.counts.get(group.key, 0)) for group in groups if bar.counts.get(group.key, 0)]
            yield Bar(bar.label, bar.value, list(_parts(parts, widest)), total, bar.note)


def _parts(counts: Iterable[tuple[Group, int]], widest: int) -> Iterator[Segment]:
    start = 0.0
    for group, count in counts:
        width = 100 * count / widest
        yield Segment(group, count, round(start, 3), round(width, 3))
        start += width
