"""What holds for all tests: no error of the code has a cause that is not declared."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from pmuconf.causes import CAUSES
from pmuconf.errors import PmuconfError
from pmuconf.fastpath.cases import CASES
from tests.causes import guard_causes


@pytest.fixture(scope="session", autouse=True)
def undeclared_causes() -> Iterator[set[str]]:
    """The causes that errors of the code had and that no table has; the run fails if there are any."""
    known = CAUSES.keys() | CASES.keys() | guard_causes()
    undeclared: set[str] = set()
    plain = PmuconfError.__init__

    def noted(self: PmuconfError, message: str, *, cause: str, hint: str = "") -> None:
        if cause not in known and str(sys._getframe(1).f_globals.get("__name__", "")).startswith("pmuconf"):
            undeclared.add(cause)
        plain(self, message, cause=cause, hint=hint)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PmuconfError, "__init__", noted)
        yield undeclared
    assert not undeclared
