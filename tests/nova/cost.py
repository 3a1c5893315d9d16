"""What the plugin costs: Nova's _get_guest_xml() with and without it, in turn, in one process.

.../bin/python -m tests.nova.cost [FILE]     with the Python that tests/nova/environment prints; FILE gets the figures
"""

from __future__ import annotations

import json
import logging
import os
import statistics
import sys
import time
import unittest
from pathlib import Path
from typing import Any

from tests.nova.generator import Generator

PAIRS = 1000


class Cost(Generator):
    """Not collected: run by main()."""

    figures: dict[str, float]

    def runTest(self) -> None:
        for name in ("nova", "pmuconf_nova"):  # as nova-compute logs unless debug is set; Nova's fixtures do
            logging.getLogger(name).setLevel(logging.INFO)
        instance = self.instance()
        pairs = []
        for number in range(-50, PAIRS):
            seconds = {}
            for driver in (self.stock, self.driver)[:: 1 if number % 2 else -1]:
                began = time.thread_time()
                self.xml(instance, driver)
                seconds[driver] = time.thread_time() - began
            if number >= 0:
                pairs.append((seconds[self.stock], seconds[self.driver]))
        low, middle, high = statistics.quantiles(with_it - without for without, with_it in pairs)
        Cost.figures = {
            "nova": statistics.median(without for without, _ in pairs) * 1e6,
            "low": low * 1e6,
            "plugin": middle * 1e6,
            "high": high * 1e6,
            "load": os.getloadavg()[0],
        }


def main(file: str | None = None) -> Any:
    """Run it; 0 if it ran."""
    if not unittest.TextTestRunner(stream=sys.stderr).run(Cost()).wasSuccessful():
        return 1
    if file is not None:
        Path(file).write_text(json.dumps(Cost.figures))
    print(
        "_get_guest_xml, {pairs} pairs in turn, CPU time: {nova:.0f} us without the plugin, "
        "and {plugin:.0f} us more with it (quartiles {low:.0f} to {high:.0f}); load {load:.1f}".format(
            pairs=PAIRS, **Cost.figures
        )
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
