"""Commands on a real terminal (tmux) of three widths, on a made-up host of 48 VMs: no line is too long for it."""

from __future__ import annotations

import re
import sys
from datetime import datetime
from itertools import groupby
from pathlib import Path

import pytest

from pmuconf.change.journal import ChangeKind, ChangeStatus, Intent, Journal
from pmuconf.domain.definition import PmuState
from pmuconf.report.screen import cells
from tests.support import fleet
from tests.support.madeup import NAMES, guests
from tests.support.terminal import TMUX, Screen, shown

pytestmark = pytest.mark.skipif(TMUX is None, reason="no tmux is installed: .ci/packages test brings one")

WIDTHS = (80, 100, 120)
COMMANDS = (
    "audit",
    "audit --sample 0.2s",
    "audit --pmu-users",
    "audit --only findings",
    "apply --dry-run",
    "apply --dry-run --canary 2",
    "status --no-sample",
    f"explain {NAMES[0]}",
    "explain instance-000001ae",
    "explain instance-000001ca",
)


def pmuconf(arguments: str, width: int, height: int = 24) -> Screen:
    config = ["--config-file", "/dev/null"]
    return shown([sys.executable, "-m", "tests.support.madeup", *config, *arguments.split()], width, height)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("arguments", COMMANDS)
def test_no_line_wraps(arguments: str, width: int) -> None:
    screen = pmuconf(arguments, width)
    assert screen.status in (1, 2), screen.text
    assert screen.wrapped == ()
    assert max(map(cells, screen.lines)) <= width


@pytest.mark.parametrize("width", WIDTHS)
def test_nor_does_one_of_a_fleet(width: int, tmp_path: Path) -> None:
    fleet.write(tmp_path, 12, 48, at=datetime.now().astimezone())
    screen = shown([sys.executable, "-m", "pmuconf.commands.main", "fleet", "report", str(tmp_path)], width)
    assert screen.status == 2
    assert screen.wrapped == ()
    assert "VMs by cause" in screen.lines


@pytest.mark.parametrize("width", WIDTHS)
def test_nor_does_one_of_the_journal(width: int, tmp_path: Path) -> None:
    path, config = tmp_path / "journal.sqlite", tmp_path / "pmuconf.conf"
    config.write_text(f"[journal]\npath = {path}\n")
    with Journal.open(path, create=True) as journal:
        for name in NAMES:
            intent = Intent(
                ChangeKind.APPLY, "qemu:///system", name, name, PmuState.DEFAULT, PmuState.OFF, "r" * 40, ""
            )
            journal.settle([(number, ChangeStatus.DONE, "") for number in journal.begin([intent])])
    command = [sys.executable, "-m", "pmuconf.commands.main", "--config-file", str(config), "journal"]
    screen = shown(command, width)
    assert (screen.status, screen.wrapped) == (0, ())
    assert len([line for line in screen.lines if "default -> off" in line]) == len(NAMES)


def test_a_line_that_wraps_is_seen() -> None:
    """What --wide shows has no room on 80 columns: the test above can fail."""
    screen = pmuconf("audit --wide", 80)
    assert any(line.startswith(NAMES[0]) for line in screen.wrapped)


def test_the_worst_come_first_and_the_summary_first_and_last() -> None:
    screen = pmuconf("audit", 80)
    summary = "48 domains: 9 drift, 16 pending; 'pmuconf apply --dry-run' shows what would be"
    assert screen.lines[:2] == (summary, "  changed")
    assert screen.lines[-3].startswith("  ")  # the number of fast VMs, which stands above the table too
    assert screen.lines[-2:] == (f"pmuconf: {summary[:-9]}", "  would be changed")
    words = "drift|slow|pending|unknown|ok"
    statuses = [found[1] for line in screen.lines if (found := re.search(rf"  ({words})  +\w", line))]
    assert len(statuses) == len(guests()) == 48
    # One that waits for a restart is slow beside that, which is graver than to wait alone.
    assert [word for word, _ in groupby(statuses)] == ["drift", "pending", "slow", "pending", "unknown", "ok"]


def test_the_summary_stands_once_where_nothing_scrolls() -> None:
    screen = pmuconf("audit", 120, 100)
    assert [line for line in screen.lines if "48 domains: " in line] == [screen.lines[-1]]
    assert len([line for line in screen.lines if "fast path: " in line]) == 1


def test_names_are_cut_in_the_middle_and_control_characters_written_out() -> None:
    text = pmuconf("audit", 80).text
    assert "custom….org-b" in text
    assert r"red\u2…erring" in text
    assert "\u202e" not in text
    assert "日本語の名前…ス・二号機" in pmuconf("audit", 100).text


def test_the_last_line_of_a_dry_run_is_the_command_that_does_it() -> None:
    screen = pmuconf("apply --dry-run --max-changes 5", 80)
    assert screen.lines[-1] == "pmuconf: to go on: pmuconf --config-file /dev/null apply --max-changes 5"
