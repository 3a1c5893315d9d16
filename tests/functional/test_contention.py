"""The loads of tests/contention.py, for a moment: other tools at the same domains as fast as they can.

What they prove by numbers takes minutes (``python -m tests.contention``); the single moments are in test_windows.py.
"""

from __future__ import annotations

from pathlib import Path

from tests import contention
from tests.support.daemon import Daemon

TREE = Path(contention.__file__).parents[1]


def test_edits_without_a_define(daemon: Daemon, tmp_path: Path) -> None:
    """The journal tells what the domains say, and no run fails, whatever the edits fall into."""
    figures = contention.edits(daemon, tmp_path, TREE, count=400, seed=1)
    print(figures)
    assert figures.made == 400
    assert figures.changes > 0
    assert (figures.false_entries, figures.failed, figures.hung) == (0, 0, 0)


def test_undefined_and_defined_anew(daemon: Daemon, tmp_path: Path) -> None:
    """As Nova's hard reboot does: no domain is lost, and one too many is named."""
    figures = contention.reboots(daemon, tmp_path, TREE, count=400, seed=1)
    print(figures)
    assert figures.changes > 0
    assert (figures.lost, figures.unnamed, figures.overwritten_silently) == (0, 0, 0)
    assert (figures.failed, figures.hung) == (0, 0)
