"""One boot of a kernel of the lab, with one job in it: what pmuconf said there.

Every boot has a folder of its own, so that several can run side by side.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

__all__ = ["LAB", "SECONDS", "Said", "booted", "named", "results"]

HERE: Final = Path(__file__).parent
LAB: Final = Path(os.environ.get("PMUCONF_LAB") or Path.home() / ".cache/pmuconf-lab")
SECONDS: Final = "seconds"
"""Among the results of a job: how long its boot took."""


@dataclass(frozen=True)
class Said:
    """What 'pmuconf host -f json' said in a booted kernel, with its exit status."""

    status: int
    document: dict[str, Any]

    @property
    def short(self) -> tuple[int, str, str, str]:
        return self.status, self.document["verdict"], self.document["cause"], self.document["evidence"]


def named(job: str, arguments: str = "") -> str:
    """A job with the kernel's arguments, as a name of a file."""
    return f"{job}{arguments.replace('=', '-')}"


def results(job: str, arguments: str = "") -> Path:
    """Where a job's results are kept."""
    return LAB / "results" / named(job, arguments)


def booted(series: str, job: str, arguments: str = "") -> dict[str, Said]:
    """What was said in a kernel that is booted once for all tests."""
    return _booted(series, job, arguments)


@functools.cache
def _booted(series: str, job: str, arguments: str) -> dict[str, Said]:
    """Boot a kernel, run a job in it; all that was said, by name. What it leaves is kept below results/."""
    release = (LAB / f"release-{series}").read_text().strip()
    kept = results(job, arguments)
    kept.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=LAB, prefix="boot-") as folder:
        share = Path(folder)
        for name in ("out", "jobs"):
            (share / name).mkdir()
        shutil.copy(HERE / "guest/init", share / "init")
        shutil.copy(HERE / "guest/kvm.sh", share / "jobs/kvm.sh")
        head = f"LAB={LAB}\nPMUCONF='{sys.executable} -m pmuconf.commands.main'\ncd {HERE.parents[1]}\n"
        script = HERE / "guest" / job
        if not script.exists():  # it is the same for each series
            script = script.with_name(job.rpartition("-")[0])
        (share / "jobs" / job).write_text(head + script.read_text())
        subprocess.run([HERE / "initrd", release, share / "initrd"], check=True)
        begun = time.monotonic()
        with (LAB / f"log-{kept.name}").open("w") as log:
            subprocess.run(
                [HERE / "boot", release, share, job, *arguments.split()],
                check=True,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env={"LAB_TIME": "2400", **os.environ},
            )
        (share / "out" / SECONDS).write_text(f"{time.monotonic() - begun:.0f}\n")
        shutil.rmtree(kept, ignore_errors=True)
        shutil.move(share / "out", kept)
    said = {}
    for path in kept.glob("*.status"):
        text = path.with_suffix(".json").read_text()
        said[path.stem] = Said(int(path.read_text()), json.loads(text) if text else {})
    return said
