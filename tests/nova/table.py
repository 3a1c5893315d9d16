"""What the tests saw on each Nova, written into a page: python tests/nova/table.py FOLDER docs/verification.md

FOLDER has an environment for each Nova (tests/nova/environment), where its last run left what it found.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Final
from xml.etree import ElementTree as etree

__all__ = ["HEADER", "main", "row"]

HEADER: Final = (
    "| Nova | Python | SQLAlchemy | single domains | operations | other | Nova's generator | more with the plugin |"
)
_ABOUT: Final = """\
import platform
from importlib import metadata
print(metadata.version("nova"), platform.python_version(), metadata.version("SQLAlchemy"))
"""
_PARTS: Final = {"test_generator": "single domains", "test_operations": "operations"}
_NONE: Final = "not run"


def row(environment: Path) -> list[str]:
    """The cells of one Nova. Tests that ran several times count once, as they ended the last time."""
    about: list[str | Path] = [environment / "bin/python", "-c", _ABOUT]
    versions = subprocess.run(about, capture_output=True, text=True, check=True).stdout.split()
    ended: dict[tuple[str, str], str] = {}
    for file in sorted(environment.glob("results*.xml"), key=lambda path: path.stat().st_mtime):
        for case in etree.parse(file).iter("testcase"):
            how = next((child.tag for child in case if child.tag in ("failure", "error", "skipped")), "passed")
            ended[case.get("classname", ""), case.get("name", "")] = how
    counts: dict[str, dict[str, int]] = {}
    for (module, _), how in ended.items():
        part = next((name for word, name in _PARTS.items() if word in module), "other")
        counts.setdefault(part, {}).setdefault(how, 0)
        counts[part][how] += 1
    cells = [
        ", ".join(f"{number} {how}" for how, number in sorted(counts[part].items())) if part in counts else _NONE
        for part in ("single domains", "operations", "other")
    ]
    cost = environment / "cost.json"
    if not cost.exists():
        return [*versions, *cells, _NONE, _NONE]
    figures = json.loads(cost.read_text())
    more = "{plugin:.0f} µs ({low:.0f} to {high:.0f}), load {load:.1f}".format(**figures)
    return [*versions, *cells, f"{figures['nova']:,.0f} µs", more]


def main(folder: Path, page: Path) -> None:
    """Put the table in the place of the one that the page has."""
    rows = [row(path.parent) for path in folder.glob("*/ready") if any(path.parent.glob("results*.xml"))]
    rows.sort(key=lambda cells: [int(number) for number in cells[0].split(".")])
    table = [HEADER, "|" + "---|" * (HEADER.count("|") - 1), *(f"| {' | '.join(cells)} |" for cells in rows)]
    lines = page.read_text().splitlines()
    start = lines.index(HEADER)
    end = next((at for at in range(start, len(lines)) if not lines[at].startswith("|")), len(lines))
    lines[start:end] = table
    page.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
