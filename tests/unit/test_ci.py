"""The table of a run of the continuous integration: from what pytest says."""

from __future__ import annotations

from collections import Counter

from tests.ci import StepResult, counted_in, table

OUTPUT = """\
SKIPPED [4] tests/docs/test_manual.py:77: needs Sphinx
SKIPPED [1] tests/docs/test_manual.py:54: needs Sphinx
SKIPPED [2] tests/system/conftest.py:40: needs root
================= 1228 passed, 7 skipped in 373.66s (0:06:13) ==================
1 failed, 20 passed, 2 errors in 3.20s
================ 26 passed, 26 deselected in 412.11s (0:06:52) =================
ERROR tests/x.py - 3 passed in the text of an error
"""


def test_all_runs_of_a_step_are_counted_with_the_reasons_of_what_was_skipped() -> None:
    counts, skipped = counted_in(OUTPUT.splitlines())
    assert counts == Counter(passed=1274, skipped=7, failed=1, error=2)
    assert skipped == {"tests/docs/test_manual.py: needs Sphinx": 5, "tests/system/conftest.py: needs root": 2}


def test_the_table() -> None:
    results = [
        StepResult("test", 0, 300.0, *counted_in(OUTPUT.splitlines()[:4])),
        StepResult("test-system", 2, 61.0),
    ]
    assert table(results).splitlines() == [
        "step              result      passed  failed  skipped  minutes",
        "make test         ok          1228    0       7        5.0",
        "make test-system  FAILED (2)  0       0       0        1.0",
        "skipped in make test: 5 of tests/docs/test_manual.py: needs Sphinx",
        "skipped in make test: 2 of tests/system/conftest.py: needs root",
    ]
