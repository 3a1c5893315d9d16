"""What test_operations saw, written into a page: python -m tests.openstack.table docs/verification.md"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Final

RESULTS: Final = Path(__file__).parents[2] / ".pytest_cache/openstack.json"
HEADER: Final = (
    "| operation | nothing set | hw:pmu=true | hw:pmu=false | exception by flavor: on | exception by project: keep |"
)
NAMES: Final = {"resize": "resize to a flavor with nothing set"}


def rows(table: dict[str, dict[str, str]]) -> list[str]:
    """The lines of the table, with its header."""
    lines = [HEADER, "|" + "---|" * (HEADER.count("|") - 1)]
    for operation, states in table.items():
        lines.append(f"| {' | '.join([NAMES.get(operation, operation), *states.values()])} |")
    return lines


def main(page: Path) -> None:
    """Put the table in the place of the one that the page has."""
    lines = page.read_text().splitlines()
    start = lines.index(HEADER)
    end = next((at for at in range(start, len(lines)) if not lines[at].startswith("|")), len(lines))
    lines[start:end] = rows(json.loads(RESULTS.read_text()))
    page.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
