"""What the plugin costs: Nova's _get_guest_xml() with and without it, in turn, in one process.

.../bin/python -m tests.nova.cost      with the Python that tests/nova/environment prints
"""

from __future__ import annotations

import logging
import statistics
import sys
import time
import unittest
from typing import Any

from tests.nova.generator import Generator

PAIRS = 600


class Cost(Generator):
    """Not collected: run by main()."""

    def runTest(self) -> None:
        for name in ("nova", "pmuconf_nova"):  # as nova-compute logs unless debug is set; Nova's fixtures do
            logging.getLogger(name).setLevel(logging.INFO)
        drivers = {"stock": self.stock, "plugin": self.driver}
        times: dict[str, list[float]] = {name: [] for name in drivers}
        instance = self.instance()
        for number in range(-50, PAIRS):
            order = list(drivers.items())[:: 1 if number % 2 else -1]
            for name, driver in order:
                began = time.thread_time()
                self.xml(instance, driver)
                if number >= 0:
                    times[name].append(time.thread_time() - began)
        stock, plugin = (statistics.median(times[name]) for name in drivers)
        # What others do on the machine shows in CPU time too, by the caches: least in the fastest tenth.
        calm_stock, calm_plugin = (statistics.quantiles(times[name], n=10)[0] for name in drivers)
        low, middle, high = statistics.quantiles([b / a for a, b in zip(times["stock"], times["plugin"])])
        print(
            f"_get_guest_xml, {PAIRS} pairs in turn, CPU time: median {stock * 1e3:.3f} ms without the plugin, "
            f"{plugin * 1e3:.3f} ms with it, ratio {plugin / stock:.3f}; fastest tenth {calm_stock * 1e3:.3f} and "
            f"{calm_plugin * 1e3:.3f} ms, ratio {calm_plugin / calm_stock:.3f}; ratio of the pairs {middle:.3f} "
            f"({low:.3f} to {high:.3f})",
            file=sys.__stdout__,
        )


def main() -> Any:
    """Run it; 0 if it ran."""
    return 0 if unittest.TextTestRunner(stream=sys.stderr).run(Cost()).wasSuccessful() else 1


if __name__ == "__main__":
    sys.exit(main())
