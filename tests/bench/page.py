"""How long the report page of a host with many VMs keeps its reader waiting: python -m tests.bench.page --vms 5000

In a headless Chromium: for each thing that the reader does, how long until it is on the screen, and the longest time
in between that the page was frozen, that is, answered to nothing. Each page is opened anew.
"""

from __future__ import annotations

import argparse
import os
import sys
from statistics import median
from typing import Final

from pmuconf.report.html import page
from tests.support.chromium import BINARY, Browser, Page
from tests.support.sample import many

__all__ = ["main"]

# Runs before anything of the page: how long ago was I last called is how long the page was frozen.
_PULSE: Final = """
(() => {
    let last = performance.now();
    window.frozen = 0;
    const beat = () => {
        const now = performance.now();
        window.frozen = Math.max(window.frozen, now - last);
        last = now;
        setTimeout(beat, 1);
    };
    beat();
})()
"""

# [seconds until it is on the screen, longest freeze]; ``done`` says that nothing is left to come.
_MEASURE: Final = """
new Promise((told) => setTimeout(() => {{
    const begin = performance.now();
    window.frozen = 0;
    {act};
    const look = () => {done} ? requestAnimationFrame(() => setTimeout(() => setTimeout(() =>
        told([(performance.now() - begin) / 1000, window.frozen / 1000]), 1))) : setTimeout(look, 1);
    look();
}}, 100))
"""

_ROWS: Final = "document.querySelectorAll('tbody').length"
_ACTS: Final = {
    "show all": ("document.getElementById('all').click()", "{vms}"),
    "sort": ("document.querySelector('thead button').click()", "200"),
    "filter by a word": ("words.value = 'yes'; words.dispatchEvent(new Event('input'))", "200"),
    "show all, then open one": ("document.querySelector('tbody details').open = true", "{vms}"),
    "make ready to print": ("dispatchEvent(new Event('beforeprint'))", "{vms}"),
}


def main() -> int:
    """Measure and show; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.page", description=__doc__)
    parser.add_argument("--vms", type=int, default=5000, metavar="N", help="How many VMs the host has (5000).")
    parser.add_argument("--runs", type=int, default=3, metavar="N", help="How often each is done (3).")
    args = parser.parse_args()
    if BINARY is None:
        parser.error("no Chromium is installed: .ci/packages test brings one")
    text = page(many(args.vms))
    print(f"{args.vms:,} VMs, {len(text) / 1e6:.1f} MB, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    print(f"{'':24} seconds until shown, longest freeze: medians of {args.runs} (greatest)")
    for name in ["load", *_ACTS]:
        runs = [_run(text, name, args.vms) for _ in range(args.runs)]
        print(f"{name:24}", *(f"{median(side):6.2f} ({max(side):.2f})" for side in zip(*runs)), flush=True)
    return 0


def _run(text: str, name: str, vms: int) -> list[float]:
    with Browser(patience=300) as browser:
        shown = browser.open(text, before=_PULSE)
        if name == "load":
            seconds: list[float] = shown.run("[performance.now() / 1000, window.frozen / 1000]")
            return seconds
        if name.startswith("show all, "):
            _measure(shown, *_ACTS["show all"], vms)
        return _measure(shown, *_ACTS[name], vms)


def _measure(shown: Page, act: str, rows: str, vms: int) -> list[float]:
    done = f"{_ROWS} === {rows.format(vms=vms)}"
    found: list[float] = shown.run(_MEASURE.format(act=act, done=done))
    return found


if __name__ == "__main__":
    sys.exit(main())
