"""SIGINT ends a process whose main thread is in C and does not come back; what Python can end itself is left to it."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from tests.unit.processes import ENVIRONMENT

# SQLite waits in C for a lock that nobody lets go of.
BLOCKED = """\
import sqlite3, subprocess, sys, threading
from pmuconf.commands import interrupt
interrupt.watch()
one = sqlite3.connect(sys.argv[1], isolation_level=None)
one.execute("BEGIN EXCLUSIVE")
other = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=600)
"""
WAITS = 'other.execute("BEGIN EXCLUSIVE")\n'


def start(program: str, *arguments: object, handler: signal.Handlers = signal.SIG_DFL) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
        preexec_fn=lambda: signal.signal(signal.SIGINT, handler),
    )


def interrupted(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Its status, and what it said on standard error; it is killed, and the test fails, if it does not end."""
    process.send_signal(signal.SIGINT)
    try:
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    return process.returncode, err


def read(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def gone(pid: int) -> bool:
    """Whether it has ended, waited for by its new parent or not."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    return True


def blocked(process: subprocess.Popen[str]) -> bool:
    """Whether its main thread sleeps between two tries for the lock: Python itself never does."""
    return "nanosleep" in Path(f"/proc/{process.pid}/wchan").read_text()


def until(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not done():
        assert time.monotonic() < deadline
        signal.sigtimedwait([], 0.01)


def test_a_call_that_does_not_come_back(tmp_path: Path) -> None:
    process = start(BLOCKED + WAITS, tmp_path / "db")
    until(lambda: blocked(process))
    status, err = interrupted(process)
    assert status == 255
    assert "(interrupted)" in err


def test_no_process_that_it_started_is_left(tmp_path: Path) -> None:
    """Neither one of its own group nor a group that it made."""
    sleeping = 'subprocess.Popen(["sleep", "600"], stdout=subprocess.DEVNULL, start_new_session={}).pid'
    pids = f"print({sleeping.format(True)}, {sleeping.format(False)}, flush=True)\n"
    process = start(BLOCKED + pids + WAITS, tmp_path / "db")
    children = [int(word) for word in read(process).split()]
    until(lambda: blocked(process))
    assert not any(map(gone, children))
    assert interrupted(process)[0] == 255
    until(lambda: all(map(gone, children)))


def test_what_python_ends_by_itself_is_left_to_it(tmp_path: Path) -> None:
    waiting = 'try:\n    print("ready", flush=True)\n    threading.Event().wait()\n'
    process = start(BLOCKED + waiting + "except KeyboardInterrupt:\n    sys.exit('cleaned up')\n", tmp_path / "db")
    assert read(process) == "ready"
    assert interrupted(process) == (1, "cleaned up\n")


def test_whoever_starts_it_deaf_to_interrupts_finds_it_deaf(tmp_path: Path) -> None:
    program = BLOCKED + "print(threading.active_count(), flush=True)\n"
    process = start(program, tmp_path / "db", handler=signal.SIG_IGN)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (0, "1\n", "")
