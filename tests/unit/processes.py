"""Other Python processes with the same pmuconf as this one, installed or not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import pmuconf

__all__ = ["ENVIRONMENT", "PMUCONF", "python"]

_ROOT = str(Path(pmuconf.__file__).resolve().parents[1])

ENVIRONMENT: Final = {
    **{key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "OS_", "LC_", "COLUMNS"))},
    "PYTHONPATH": _ROOT,
    "PYTHONWARNINGS": "ignore",
    "LANG": "C.UTF-8",
}

# The command, by the interpreter that runs the tests.
PMUCONF: Final = [sys.executable, "-m", "pmuconf.commands.main"]


def python(code: str, *arguments: str) -> subprocess.Popen[str]:
    """Start a Python process with this program, to be talked to by lines."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    )
