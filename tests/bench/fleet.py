"""Measure `pmuconf fleet` over generated fleets: `python -m tests.bench.fleet --write docs/performance.md`.

The peer is one process that reads the same files with json.load() and does nothing else. Both sides run in turn, each
in a process of its own, from its start to its end. Among the files are some that are truncated, broken, doubled, and
from a later version; a run counts only if each of them was named and every other host is in the report.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from statistics import median
from typing import Final

from tests.bench.table import machine, write
from tests.support.chromium import BINARY, Browser
from tests.support.fleet import write as write_fleet

__all__ = ["main"]

_PEER: Final = "import glob, json, sys\nfor name in glob.iglob(sys.argv[1] + '/*.json'): json.load(open(name))"
_AIM_SECONDS, _AIM_MIB, _AIM_PAGE = 20.0, 1024.0, 3.0
_BAD: Final = 40
_SAMPLE: Final = 0.02
_TREE: Final = Path(__file__).resolve().parents[2]
_LIMIT: Final = 1800


@dataclass
class _Result:
    """What was measured of one size."""

    hosts: int
    vms: int
    mib: float = 0.0
    ours: list[float] = field(default_factory=list)
    peer: list[float] = field(default_factory=list)
    others: dict[str, list[float]] = field(default_factory=dict)
    peak: float = 0.0
    page_mib: float = 0.0
    opening: list[float] = field(default_factory=list)


def main() -> int:
    """Measure, show, and write where --write says so."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.fleet", description=__doc__)
    parser.add_argument("--hosts", type=int, nargs="+", default=[1000, 10_000], metavar="N", help="Sizes (1000 10000).")
    parser.add_argument("--vms", type=int, default=50, metavar="N", help="VMs a host (50).")
    parser.add_argument("--runs", type=int, default=3, metavar="N", help="How many pairs of each comparison (3).")
    parser.add_argument(
        "--pmuconf",
        type=Path,
        default=Path(sys.executable).with_name("pmuconf"),
        metavar="FILE",
        help="The command to be measured; the default is that beside this Python.",
    )
    parser.add_argument("--write", type=Path, metavar="FILE", help="Put the table into this Markdown file.")
    args = parser.parse_args()
    results = []
    for hosts in args.hosts:
        with tempfile.TemporaryDirectory(prefix="pmuconf-fleet-") as folder:
            results.append(_measure(Path(folder), hosts, args))
    text = _markdown(results, args)
    print(text, end="")
    if args.write is not None:
        write(args.write, text, "tests.bench.fleet")
    return 0


def _measure(folder: Path, hosts: int, args: argparse.Namespace) -> _Result:
    result = _Result(hosts, hosts * args.vms)
    fleet, made = folder / "fleet", folder / "made"
    write_fleet(fleet, hosts, args.vms, at=datetime.now(timezone.utc).replace(microsecond=0))
    _damage(fleet)
    result.mib = sum(path.stat().st_size for path in fleet.iterdir()) / 2**20
    _say(f"{hosts} hosts, {result.mib:.0f} MiB")
    pmuconf = str(args.pmuconf.absolute())
    report = [pmuconf, "fleet", "report", str(fleet), "-o", str(made), "-f"]
    peer = [sys.executable, "-c", _PEER, str(_readable(fleet, folder / "readable"))]
    _seconds([*report, "json"]), _seconds(peer)  # once in vain, for caches
    for run in range(args.runs):
        result.ours.append(_seconds([*report, "json"]))
        _check(made, hosts)
        result.peer.append(_seconds(peer))
        _say(f"run {run + 1} of {args.runs}: {result.ours[-1]:.2f} s, peer {result.peer[-1]:.2f} s")
    others = {
        "report -f csv": [*report, "csv"],
        "report -f html": [*report, "html"],
        "plan": [pmuconf, "fleet", "plan", str(fleet), "-o", str(made)],
        "diff` with itself, `-f json": [
            pmuconf,
            "fleet",
            "diff",
            str(fleet),
            str(fleet),
            "-f",
            "json",
            "-o",
            str(made),
        ],
    }
    for name, command in others.items():
        result.others[name] = [_seconds(command) for _ in range(args.runs)]
        _say(f"{name}: {median(result.others[name]):.2f} s")
    result.peak = _peak([*report, "json"])
    _seconds([*report, "html"])
    result.page_mib = made.stat().st_size / 2**20
    if BINARY is not None:
        page = made.read_text(encoding="ascii")
        for _ in range(args.runs + 1):
            with Browser() as browser:
                begin = time.perf_counter()
                shown = browser.open(page)
                shown.run("document.getElementById('shown').textContent")
                result.opening.append(time.perf_counter() - begin)
        result.opening = result.opening[1:]  # the first reads the browser itself from disk
    return result


def _damage(fleet: Path) -> None:
    """Ten files each that are truncated, broken, of a later version, and that a newer report of the host replaces."""
    files = sorted(fleet.iterdir())[: _BAD // 4]
    for number, path in enumerate(files):
        text = path.read_text(encoding="utf-8")
        old = json.loads(text)
        old["generated_at"] = "2001-01-01T00:00:00+00:00"
        bad = {
            "truncated": text[: len(text) * (number + 1) // 12],
            "broken": f"{text[:1000]}\0{text[1000:]}",
            "later": json.dumps({**old, "version": 99}),
            "double": json.dumps(old),
        }
        for name, damaged in bad.items():
            (fleet / f"{name}-{number}.json").write_text(damaged, encoding="utf-8")


def _readable(fleet: Path, folder: Path) -> Path:
    """The same files without those that json.load() would stop at."""
    folder.mkdir()
    for path in fleet.iterdir():
        if not path.name.startswith(("truncated", "broken")):
            os.link(path, folder / path.name)
    return folder


def _check(made: Path, hosts: int) -> None:
    found = json.loads(made.read_text(encoding="utf-8"))
    if (found["summary"]["hosts"], len(found["files"])) != (hosts, _BAD):
        raise RuntimeError(f"{found['summary']['hosts']} hosts and {len(found['files'])} files that were named")


def _seconds(command: Sequence[str]) -> float:
    begin = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, cwd=_TREE, timeout=_LIMIT)
    if done.returncode not in (0, 1, 2):
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr}")
    return time.perf_counter() - begin


def _peak(command: Sequence[str]) -> float:
    """The most memory that a command and its processes took together, in MiB: shared pages counted once (PSS)."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=_TREE)
    most, ended = 0, threading.Event()

    def watch() -> None:
        nonlocal most
        while not ended.wait(_SAMPLE):
            most = max(most, sum(map(_pss, _family(process.pid))))

    watcher = threading.Thread(target=watch)
    watcher.start()
    process.wait(_LIMIT)
    ended.set()
    watcher.join()
    return most / 1024


def _family(pid: int) -> list[int]:
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return [pid]
    return [pid, *(one for child in children for one in _family(int(child)))]


def _pss(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:  # it has just ended
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)


def _markdown(results: Sequence[_Result], args: argparse.Namespace) -> str:
    sizes = " ".join(map(str, args.hosts))
    last = results[-1]

    def row(what: str, aim: str, *cells: str) -> str:
        return f"| {what} | {aim} | " + " | ".join(cells) + " |"

    ratios = [[one / other for one, other in zip(result.ours, result.peer)] for result in results]
    lines = [
        f"`python -m tests.bench.fleet --hosts {sizes} --vms {args.vms} --runs {args.runs}` on {machine()}. "
        "Medians (lowest to highest).",
        "",
        row("", "aim at the largest", *(f"{one.hosts:,} hosts, {one.vms:,} VMs" for one in results)),
        "|---|---|" + "---|" * len(results),
        row("files", "", *(f"{one.mib:,.0f} MiB" for one in results)),
        row("`fleet report -f json`", f"{_AIM_SECONDS:.0f} s, {_met(median(last.ours), _AIM_SECONDS)}",
            *(_spread(one.ours) for one in results)),
        row("a loop of `json.load`", "", *(_spread(one.peer) for one in results)),
        row("ratio, pair by pair", "",
            *(f"**{median(one):.2f}** ({min(one):.2f} to {max(one):.2f})" for one in ratios)),
        *(row(f"`fleet {name}`", "", *(_spread(one.others[name]) for one in results)) for name in last.others),
        row("peak memory of all processes, `fleet report -f json`", f"{_AIM_MIB:.0f} MiB, {_met(last.peak, _AIM_MIB)}",
            *(f"{one.peak:.0f} MiB" for one in results)),
        row("the page", "", *(f"{one.page_mib:.1f} MiB" for one in results)),
    ]  # fmt: skip
    if last.opening:
        aim = f"{_AIM_PAGE:.0f} s, {_met(median(last.opening), _AIM_PAGE)}"
        lines.append(row("the page opened in headless Chromium", aim, *(_spread(one.opening) for one in results)))
    return "\n".join(lines) + "\n"


def _met(value: float, aim: float) -> str:
    return "met" if value <= aim else "**missed**"


def _spread(seconds: Sequence[float]) -> str:
    return f"{median(seconds):.2f} s ({min(seconds):.2f} to {max(seconds):.2f})"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
