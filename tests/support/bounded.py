"""pmuconf as a process that may have 512 MiB and 30 seconds, and what came of it."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pmuconf

__all__ = ["Ended", "bounded"]

MEMORY: Final = 512 << 20
SECONDS: Final = 30
_CODE: Final = """
import sys
from pmuconf.commands.main import main
status = main(sys.argv[1:])
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))  # getrusage() has the parent's too
sys.stderr.write(f"\\npeak {int(peak.split()[1]) >> 10}")
sys.exit(status)
"""


@dataclass(frozen=True)
class Ended:
    """How it ended; ``peak`` is the most memory that it had, in MiB."""

    status: int
    out: str
    err: str
    peak: int


def bounded(*arguments: str | os.PathLike[str], folder: Path | None = None, text: bytes = b"") -> Ended:
    """Run pmuconf under those limits. Fails if it is killed by them, or shows a traceback or a defect of its own."""
    ran = subprocess.run(
        [sys.executable, "-c", _CODE, *(os.fspath(one) for one in arguments)],
        input=text,
        capture_output=True,
        timeout=SECONDS,
        cwd=folder,
        env={
            **{key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "OS_"))},
            "PYTHONPATH": str(Path(pmuconf.__file__).resolve().parents[1]),
            "PYTHONWARNINGS": "ignore",
        },
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY)),
    )
    err, _, peak = ran.stderr.decode("utf-8", "replace").rpartition("\npeak ")
    assert ran.returncode in (0, 1, 2, 255), (ran.returncode, err[-2000:])
    for sign in ("Traceback", "MemoryError", "(internal)", "Exception ignored"):
        assert sign not in err, err[-2000:]
    return Ended(ran.returncode, ran.stdout.decode("utf-8", "replace"), err, int(peak))
