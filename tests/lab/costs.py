"""What an exit costs on the lab's kernels, in instructions: under -icount the TSC counts them, and nothing else does.

python -m tests.lab.costs FILE writes the table into FILE, between its two marks. It boots the lab's kernels (a
quarter of an hour); the fetched and built kernels must be there: make test-lab makes them.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any, Final

import pytest

from tests.lab.boots import Said, booted

__all__ = ["KINDS", "ROWS", "SEED", "costs", "main", "said", "table"]

ROWS: Final = ("stock", "control", "guarded")
KINDS: Final = ("4", "6")
SEED: Final = 2.7
"""Per cent, on AMD EPYC 7302: the figure that came with the guard."""

_BEGIN: Final = "<!-- begin of what python -m tests.lab.costs wrote -->"
_END: Final = "<!-- end of what python -m tests.lab.costs wrote -->"


def said(series: str = "6.1") -> dict[str, Said]:
    """What the benchmark said on each kernel of a series, by name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LAB_QEMU", "-icount shift=0,sleep=off")
        return booted(series, f"bench-{series}")


def costs(document: dict[str, Any], arm: str, what: str = "median") -> float:
    """Instructions per exit."""
    return float(document["cycles_per_exit"][arm][what])


def table(found: dict[str, Said], newer: dict[str, Said]) -> str:
    """The costs as Markdown: of 6.1, and of 6.12."""
    lines = [
        "| kernel | 4 counters, PMU on | 4 counters, PMU off | 6 counters, PMU on | 6 counters, PMU off |",
        "|---|---|---|---|---|",
    ]
    cell = {
        (row, kind, arm): costs(found[f"{row}-{kind}"].document, arm)
        for row in ROWS
        for kind in KINDS
        for arm in ("on", "off")
    }
    for row in ROWS:
        figures = " | ".join(f"{cell[row, kind, arm]:.0f}" for kind in KINDS for arm in ("on", "off"))
        lines.append(f"| {row} | {figures} |")
    lines += ["", "| with the PMU off | 4 counters | 6 counters |", "|---|---|---|"]
    saved = {kind: cell["control", kind, "off"] - cell["guarded", kind, "off"] for kind in KINDS}
    shares = {kind: 100 * saved[kind] / cell["control", kind, "off"] for kind in KINDS}
    lines.append(f"| control - guarded, instructions per exit | {saved['4']:.0f} | {saved['6']:.0f} |")
    lines.append("| the same, measured independently by another program | 227 | 327 |")
    lines.append(f"| of the exit's instructions | {shares['4']:.1f} % | {shares['6']:.1f} % |")
    lines.append(f"| the seed's, of the time of a CPUID loop on AMD EPYC 7302 | {SEED} % | {SEED} % |")
    others = {"msr": "an MSR read", "port": "a port write that KVM handles", "6": "the control, which skips nothing"}
    lines += ["", "| PMU on - off, 6 counters, of | control | guarded |", "|---|---|---|"]
    for name, what in others.items():
        documents = [found[f"{kernel}-{name}"].document for kernel in ("control", "guarded")]
        which = "control_difference" if name == "6" else "difference"
        lines.append(f"| {what} | " + " | ".join(f"{one[which]['cycles']:.0f}" for one in documents) + " |")
    lines += ["", "| 6.12, 6 counters | PMU on | PMU off |", "|---|---|---|"]
    for row in ("control", "guarded"):
        lines.append(
            f"| {row} | " + " | ".join(f"{costs(newer[f'{row}-6'].document, a):.0f}" for a in ("on", "off")) + " |"
        )
    return "\n".join(lines) + "\n"


def main(path: Path) -> None:
    """Put the table into the file.

    :raises ValueError: it has no place for it.
    """
    before, begin, rest = path.read_text(encoding="utf-8").partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not begin or not end:
        raise ValueError(f"{path} lacks the lines {_BEGIN!r} and {_END!r}, between which the table goes")
    path.write_text(f"{before}{_BEGIN}\n{table(said(), said('6.12'))}{_END}{after}", encoding="utf-8")


if __name__ == "__main__":
    os.environ.setdefault("PMUCONF_TEST_LAB", "1")
    main(Path(sys.argv[1]))
