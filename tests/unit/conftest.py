"""What all unit tests share: settings of hypothesis, and the command line in this process."""

from __future__ import annotations

import gc
import io
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import settings

from pmuconf.commands.main import main

# No deadline: a slow machine is no defect. The same examples in every run, new ones where fuzzing is asked for; the
# reproduction blob makes a failure of that repeatable.
settings.register_profile(
    "unit", deadline=None, print_blob=True, max_examples=40, derandomize="PMUCONF_FUZZ" not in os.environ
)
settings.load_profile("unit")


class Outcome(NamedTuple):
    """What a command did: exit status, standard output, standard error."""

    status: int
    out: str
    err: str


Run = Callable[..., Outcome]


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs the command line in this process, with a configuration of the test's own; no run may show a traceback."""
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setattr(sys, "argv", ["pmuconf"])
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    number = 0

    def running(*arguments: object, config: str | None = "", stdin: bytes = b"") -> Outcome:
        nonlocal number
        given = list(map(str, arguments))
        if config is not None:
            number += 1
            path = tmp_path / f"config-{number}"
            path.write_text(config)
            given = ["--config-file", str(path), *given]
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        capsys.readouterr()
        try:
            status = main(given)
        finally:
            root.handlers[:] = handlers
            root.setLevel(level)
            gc.enable()
            gc.unfreeze()
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        return Outcome(status, out, err)

    return running
