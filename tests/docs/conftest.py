"""At the end of a run with tests of the documents: how many of their blocks are run, and how many are not."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from tests.docs.blocks import blocks_of, pages, summary

_HERE: Final = Path(__file__).parent.relative_to(Path(__file__).resolve().parents[2]).as_posix()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say it."""
    reports = (report for found in terminalreporter.stats.values() for report in found)
    if any(getattr(report, "nodeid", "").startswith(f"{_HERE}/") for report in reports):
        terminalreporter.write_line(summary(block for page in pages() for block in blocks_of(page)))
