"""axe-core, which finds in a page that is shown what keeps people from using it: names, roles, contrast, structure."""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path
from typing import Final

from tests.support.chromium import Page

__all__ = ["AXE", "violations"]

AXE: Final = Path(sys.prefix, "npm", "node_modules", "axe-core", "axe.min.js")
"""Where the Makefile has npm put it."""

_RUN: Final = """
axe.run({ rules: { "target-size": { enabled: true } } }).then((result) => result.violations.flatMap((rule) =>
    rule.nodes.map((node) => `${rule.id}: ${node.html.slice(0, 200)}: ${node.failureSummary}`)))
"""


def violations(shown: Page) -> list[str]:
    """What is wrong with the page as it is shown now: a rule, the element and the reason; of all rules of axe-core."""
    if shown.run("typeof axe") == "undefined":
        shown.run(f"{_source()}; 0")
    wrong: list[str] = shown.run(_RUN)
    return wrong


@cache
def _source() -> str:
    return AXE.read_text(encoding="utf-8")
