"""Functions thrown by dice: the path check's verdict, and what an emulated CPU does with enable_pmu 0 and 1."""

from __future__ import annotations

import pytest

pytest.importorskip("unicorn")  # not in Debian: make test has it from PyPI

from pmuconf.hostfacts import Verdict
from tests.fuzz_path import Did, fuzz


def test_no_function_that_works_is_said_to_spare() -> None:
    tally = fuzz(2000, seed=1)
    assert tally.wrong == []
    assert tally.functions > 1900
    # A check that says nothing is of no use either: as many as today are recognised, and they do work with 1.
    recognised, guarded = tally.recognised()
    assert recognised > 0.6 * guarded > 200
    assert tally.verdicts[Verdict.EARLY_OUT, Did.EARLY_OUT] > 80
    assert tally.verdicts[Verdict.NO_CALL, Did.NOTHING] > 150
