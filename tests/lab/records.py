"""The small records of tests/records, made anew: python -m tests.lab.records [NAME ...], as root.

Boots the lab's kernels, lets 'pmuconf host record' write what it reads there, and cuts that (tests/lab/cut.py). The
kernels must have been fetched and built: tests/lab/fetch newer, tests/lab/build. Each job boots for one to six
minutes. A record is written only if it is judged as the booted host was.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Final

from pmuconf.host.guard.verdict import judge_host
from pmuconf.host.root import Root
from tests.lab.cut import cut, pack
from tests.lab.test_lab import booted, results
from tests.support.records import RECORDS

__all__ = ["HOSTS", "make"]

HOSTS: Final = {
    "6.1-stock": ("6.1", "records-6.1", "stock"),
    "6.1-guarded": ("6.1", "records-6.1", "guarded"),
    "6.1-livepatched": ("6.1", "records-6.1", "livepatched"),
    "6.12-stock": ("6.12", "records-6.12", "stock"),
    "6.12-guarded": ("6.12", "records-6.12", "guarded"),
    "6.18-stock": ("6.18", "records-6.18", "stock"),
    "7.3-stock": ("newest", "records-newest", "stock"),
    "7.3-guarded": ("newest", "records-newest", "guarded"),
}
"""For each record the kernel's series, the job that is run in it, and what that calls the record."""


def make(name: str) -> Path:
    """Make one record; its file.

    :raises ValueError: the small record is judged otherwise than the host was, or says too much.
    """
    series, job, kind = HOSTS[name]
    os.environ.setdefault("LAB_MEMORY", "4096")
    there = booted(series, job)[kind].document
    with tempfile.TemporaryDirectory() as folder:
        record, target = Path(folder) / name, RECORDS / f"{name}.tar.xz"
        cut(results(job) / f"record-{kind}", record)
        here = judge_host(Root(record))
        if (here.verdict.value, list(here.instructions)) != (there["verdict"], there["instructions"]):
            raise ValueError(f"{name} was {there['verdict']} when it ran and is {here.verdict.value} as a record")
        pack(record, target)
    return target


def main() -> None:
    """Make those that are named, or all."""
    for name in sys.argv[1:] or HOSTS:
        target = make(name)
        sys.stdout.write(f"{target.name}: {target.stat().st_size:,} bytes\n")


if __name__ == "__main__":
    main()
