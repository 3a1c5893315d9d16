"""How long 'pmuconf host' takes on a recorded host, and how much memory: python -m tests.lab.replay RECORD."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time

RUNS = 10


def main() -> None:
    """Run it ten times, each a process of its own; the median of a clock, of the CPU's time, and the peak memory."""
    command = [sys.executable, "-m", "pmuconf.commands.main", "host", "--root", sys.argv[1], "-f", "json"]
    wall, cpu, peak = [], [], []
    for _ in range(RUNS):
        began = time.monotonic()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode not in (0, 1, 2):
            raise SystemExit(f"exit status {process.returncode}")
        wall.append(time.monotonic() - began)
        cpu.append(usage.ru_utime + usage.ru_stime)
        peak.append(usage.ru_maxrss)
    sys.stdout.write(
        f"{RUNS} runs: {statistics.median(wall):.2f} s ({min(wall):.2f} to {max(wall):.2f}), "
        f"of the CPU {statistics.median(cpu):.2f} s ({min(cpu):.2f} to {max(cpu):.2f}), "
        f"peak memory {max(peak) / 1024:.0f} MB; load {os.getloadavg()[0]:.1f}\n"
    )


if __name__ == "__main__":
    main()
