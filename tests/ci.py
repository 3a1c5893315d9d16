"""What .ci/run runs, one after the other, and the table of what ran, what was skipped and why.

``python3 -m tests.ci`` needs nothing but Python: each step sets up what it needs. A step that fails does not keep the
next one from being run. The exit status is 1 if any failed.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

__all__ = ["STEPS", "StepResult", "counted_in", "table"]

STEPS: Final = ("test", "test-capstone", "test-nova", "test-system")
"""Targets of make, in their order."""
SECONDS: Final = 40 * 60
"""What all steps may take together."""

_SUMMARY: Final = re.compile(
    r"^=* ?((?:\d+ (?:passed|failed|skipped|deselected|errors?|xfailed|warnings?)(?:, )?)+) in [\d.]+s"
)
_COUNT: Final = re.compile(r"(\d+) (passed|failed|skipped|error)")
_SKIPPED: Final = re.compile(r"^SKIPPED \[(\d+)\] (\S+?)(?::\d+)?: (.*)")


@dataclass(frozen=True)
class StepResult:
    """How a step ended.

    :param counts: of its tests: passed, failed, error, skipped.
    :param skipped: how many tests each reason skipped.
    """

    name: str
    status: int
    seconds: float
    counts: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)


def counted_in(lines: Iterable[str]) -> tuple[Counter[str], Counter[str]]:
    """What the runs of pytest in this output have counted, and the reasons for which tests were skipped."""
    counts: Counter[str] = Counter()
    skipped: Counter[str] = Counter()
    for line in lines:
        if summary := _SUMMARY.match(line):
            for number, what in _COUNT.findall(summary[1]):
                counts[what] += int(number)
        elif skip := _SKIPPED.match(line):
            skipped[f"{skip[2]}: {skip[3]}"] += int(skip[1])
    return counts, skipped


def table(results: Sequence[StepResult]) -> str:
    """The steps, and below them each reason for which something was skipped."""
    columns = ("step", "result", "passed", "failed", "skipped", "minutes")
    rows = [
        (
            f"make {result.name}",
            "ok" if result.status == 0 else f"FAILED ({result.status})",
            str(result.counts["passed"]),
            str(result.counts["failed"] + result.counts["error"]),
            str(result.counts["skipped"]),
            f"{result.seconds / 60:.1f}",
        )
        for result in results
    ]
    widths = [max(map(len, column)) for column in zip(columns, *rows)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in (columns, *rows)]
    for result in results:
        for reason, number in sorted(result.skipped.items()):
            lines.append(f"skipped in make {result.name}: {number} of {reason}")
    return "\n".join(lines) + "\n"


def _run(name: str, seconds: float) -> StepResult:
    """Run a target of make, show what it says, and count its tests; after so many seconds it is ended."""
    begin, lines = time.monotonic(), []
    make = subprocess.Popen(
        ["make", "--no-print-directory", name],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    assert make.stdout is not None
    signal.signal(signal.SIGALRM, lambda *_: os.killpg(make.pid, signal.SIGKILL))
    signal.setitimer(signal.ITIMER_REAL, max(1.0, seconds))
    for line in make.stdout:
        sys.stdout.write(line)
        sys.stdout.flush()
        lines.append(line.rstrip("\n"))
    status = make.wait()
    signal.setitimer(signal.ITIMER_REAL, 0)
    return StepResult(name, status, time.monotonic() - begin, *counted_in(lines))


def main() -> int:
    """Run all steps, and show the table; the exit status."""
    end = time.monotonic() + SECONDS
    results = []
    for name in STEPS:
        print(f"\n==== make {name}", flush=True)
        results.append(_run(name, end - time.monotonic()))
    print("\n" + table(results), flush=True)
    return int(any(result.status for result in results))


if __name__ == "__main__":
    sys.exit(main())
