"""Functions thrown by dice: the path check's verdict, and what an emulated CPU does with enable_pmu 0."""

from __future__ import annotations

import pytest

pytest.importorskip("unicorn")  # not in Debian: make test has it from PyPI

from tests.fuzz_path import fuzz


def test_no_function_that_works_is_said_to_spare() -> None:
    tally = fuzz(2000, seed=1)
    assert tally.wrong == []
    assert tally.functions > 1900
    # A check that says nothing is of no use either: as many as today are recognised.
    assert tally.verdicts["guarded", "spares"] > 300
    assert tally.verdicts["early-out", "spares"] > 200
