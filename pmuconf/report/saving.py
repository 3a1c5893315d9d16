"""What is saved, beside CPU cycles in what people know: per cent of a host's CPU time, and of its cores. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = ["Capacity"]

_LEAST: Final = 0.001
_TENS: Final = 10


@dataclass(frozen=True)
class Capacity:
    """The CPUs of a host, or of several hosts together. A core is a CPU as Linux counts them.

    :param cpus: how many there are.
    :param cycles: what all of them do in a second.
    """

    cpus: int
    cycles: int

    def share(self, cycles: int) -> str:
        """So many cycles a second as per cent of all CPU time: ``0.041 %``."""
        return _percent(100 * cycles / self.cycles)

    def cores(self, cycles: int) -> str:
        """So many cycles a second in cores: ``1.3 % of a core``, ``2.4 cores``."""
        cores = cycles * self.cpus / self.cycles
        if cores < 1:
            return f"{_percent(100 * cores)} of a core"
        return f"{cores:.1f} cores" if cores < _TENS else f"{cores:,.0f} cores"


def _percent(value: float) -> str:
    if 0 < value < _LEAST:
        return f"less than {_LEAST} %"
    return f"{value:.0f} %" if value >= _TENS else f"{value:.2g} %"
