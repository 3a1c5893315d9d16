"""Savings in words: as many digits as mean something."""

from __future__ import annotations

import pytest

from pmuconf.report.saving import Capacity

GHZ = 1_000_000_000


@pytest.mark.parametrize(
    ("cycles", "share", "cores"),
    [
        (0, "0 %", "0 % of a core"),
        (1, "less than 0.001 %", "less than 0.001 % of a core"),
        (36_400_000, "0.038 %", "1.2 % of a core"),
        (2 * GHZ, "2.1 %", "67 % of a core"),
        (3 * GHZ, "3.1 %", "1.0 cores"),
        (7 * GHZ, "7.3 %", "2.3 cores"),
        (96 * GHZ, "100 %", "32 cores"),
    ],
)
def test_words(cycles: int, share: str, cores: str) -> None:
    capacity = Capacity(32, 96 * GHZ)
    assert (capacity.share(cycles), capacity.cores(cycles)) == (share, cores)
