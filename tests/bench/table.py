"""What was measured, as Markdown."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import libvirt

__all__ = ["Memory", "Row", "machine", "markdown", "write"]

_INTRODUCTION = """\
# Performance

How pmuconf compares with the barest programs that do the same work, and with virt-xml. What counts is the ratio: both
sides ran in turn, pair by pair, on the same daemon. The times are for orientation, and differ from machine to machine.

"""


@dataclass(frozen=True)
class Row:
    """Times of ours and the peer's, pair by pair, in seconds.

    :param aim: the greatest ratio that is good enough; None if the ratio is only to be known.
    """

    what: str
    peer: str
    ours: Sequence[float]
    theirs: Sequence[float]
    aim: float | None = None

    @property
    def ratios(self) -> list[float]:
        """Ours by theirs, pair by pair."""
        return [one / other for one, other in zip(self.ours, self.theirs)]


@dataclass(frozen=True)
class Memory:
    """Peak memory of one command, in KiB."""

    command: str
    domains: int
    kib: int


def markdown(rows: Sequence[Row], memory: Sequence[Memory], *, command: str, machine: str, load: float) -> str:
    """The tables, with the command that made them and the machine.

    :param load: of the last minute before the measurement (getloadavg).
    """
    lines = [
        f"`{command}` on {machine}, load {load:.1f} before and {os.getloadavg()[0]:.1f} after.",
        "",
        "| what | peer | ratio (lowest to highest) | aim | pmuconf | peer |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        ratios = row.ratios
        spread = f"{_figures(min(ratios))} to {_figures(max(ratios))}"
        verdict = "none" if row.aim is None else _verdict(median(ratios), row.aim)
        lines.append(
            f"| {row.what} | {row.peer} | **{_figures(median(ratios))}** ({spread}) | {verdict} "
            f"| {_time(median(row.ours))} | {_time(median(row.theirs))} |"
        )
    lines += ["", "| peak memory of | domains | MiB |", "|---|---|---|"]
    lines += [f"| {one.command} | {one.domains:,} | {one.kib / 1024:.0f} |" for one in memory]
    return "\n".join(lines) + "\n"


def machine(connection: libvirt.virConnect | None = None) -> str:
    """The machine that we run on, in a line; with libvirt's version, if that is a part of what was measured."""
    libvirt_version = ""
    if connection is not None:
        version = connection.getLibVersion()
        libvirt_version = f"libvirt {version // 1_000_000}.{version // 1_000 % 1_000}.{version % 1_000}, "
    cores, python = len(os.sched_getaffinity(0)), platform.python_version()
    return f"{_cpu_model()} ({cores} cores), Linux {platform.release()}, {libvirt_version}Python {python}"


def write(path: Path, text: str, program: str = "tests.bench") -> None:
    """Replace what an earlier run of this program wrote into this file, which is made if it is not there.

    :raises ValueError: the file has no place for it.
    """
    begins, ends = (f"<!-- {word} of what python -m {program} wrote -->" for word in ("begin", "end"))
    old = path.read_text(encoding="utf-8") if path.exists() else f"{_INTRODUCTION}{begins}\n{ends}\n"
    before, begin, rest = old.partition(begins)
    _, end, after = rest.partition(ends)
    if not begin or not end:
        raise ValueError(f"{path} lacks the lines {begins!r} and {ends!r}, between which the tables go")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{before}{begins}\n{text}{ends}{after}", encoding="utf-8")


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    return platform.machine()


def _verdict(ratio: float, aim: float) -> str:
    return f"{_figures(aim)}, {'met' if ratio <= aim else '**missed**'}"


def _figures(number: float) -> str:
    return f"{number:.2f}" if number >= 0.1 else f"{number:.3f}"


def _time(seconds: float) -> str:
    if seconds >= 1:
        return f"{seconds:.2f} s"
    return f"{seconds * 1e3:.0f} ms" if seconds >= 0.01 else f"{seconds * 1e3:.2f} ms"
