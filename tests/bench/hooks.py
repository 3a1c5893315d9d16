"""What one call of a manager's hook costs, as a process: python -m tests.bench.hooks --write docs/performance.md

The time of the CPU counts: it is nearly the same on a machine that is busy, and a clock's is not.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median

from tests.bench.table import machine, write
from tests.unit.hooks.forms import CLOUDSTACK, KUBEVIRT, OPENNEBULA, POLICY, VDSM

__all__ = ["main"]

_AIM = 0.3
"""The seconds that a start may take."""


def _calls(folder: Path) -> Mapping[str, Callable[[], None]]:
    """One call of each hook, with the first domain of its manager."""
    (folder / "policy.conf").write_text(POLICY)
    (folder / "vm.xml").write_text(OPENNEBULA[0].beside)
    hook = [sys.executable, "-m", "pmuconf.commands.main", "--config-file", str(folder / "policy.conf"), "hook"]
    environment = {**os.environ, "_hook_domxml": str(folder / "domain")}

    def run(*arguments: str, stdin: str = "") -> None:
        (folder / "domain").write_text(VDSM[0].xml)
        subprocess.run(
            [*hook, *arguments], input=stdin.encode(), env=environment, capture_output=True, timeout=60, check=True
        )

    kube, cloud = KUBEVIRT[0], CLOUDSTACK[1]
    return {
        "kubevirt": lambda: run("kubevirt", "--vmi", kube.beside, "--domain", kube.xml),
        "vdsm": lambda: run("vdsm"),
        "cloudstack": lambda: run("cloudstack", "--domain", cloud.xml),
        "opennebula": lambda: run("opennebula", "--vm", str(folder / "vm.xml"), stdin=OPENNEBULA[0].xml),
    }


def _measured(call: Callable[[], None]) -> tuple[float, float]:
    """Seconds of the CPU, and by the clock."""
    before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    call()
    clock, after = time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, clock


def main(arguments: list[str] | None = None) -> None:
    """Measure, and print the table or write it into a page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--write", type=Path, metavar="FILE")
    args = parser.parse_args(arguments)
    load = os.getloadavg()[0]
    lines = [
        f"`python -m tests.bench.hooks --runs {args.runs}` on {machine()}, load {load:.1f}.",
        "",
        "| hook | time of the CPU, median (lowest to highest) | aim | by the clock |",
        "|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory() as folder:
        for name, call in _calls(Path(folder)).items():
            call()  # for caches
            cpu, clock = zip(*(_measured(call) for _ in range(args.runs)))
            spread = f"{min(cpu) * 1e3:.0f} to {max(cpu) * 1e3:.0f}"
            verdict = "met" if median(cpu) <= _AIM else "**missed**"
            lines.append(
                f"| {name} | **{median(cpu) * 1e3:.0f} ms** ({spread}) | {_AIM * 1e3:.0f} ms, {verdict} "
                f"| {median(clock) * 1e3:.0f} ms |"
            )
    text = "\n".join(lines) + "\n"
    if args.write:
        write(args.write, text, "tests.bench.hooks")
    else:
        sys.stdout.write(text)


if __name__ == "__main__":
    main()
