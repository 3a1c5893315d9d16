"""The small records of tests/records, made anew: python -m tests.lab.records [NAME ...], as root.

Boots the lab's kernels, lets 'pmuconf host record' write what it reads there, and cuts that (tests/lab/cut.py). The
kernels must have been fetched and built: tests/lab/fetch newer, tests/lab/build. Each job boots for one to six
minutes. A record is written only if it is judged as the booted host was.
"""

from __future__ import annotations

import os
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Final

from pmuconf.host.guard.verdict import judge_host
from pmuconf.host.root import Root
from tests.lab.boots import LAB, booted, results
from tests.lab.cut import check_words, cut, pack
from tests.lab.modules import intel_host
from tests.support.records import RECORDS

__all__ = ["FILES", "HOSTS", "make"]

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
FILES: Final = {
    "6.1-intel": "release-6.1",
    "6.12-intel": "release-6.12",
    "6.18-intel": "release-6.18",
    "7.3-intel": "release-newest",
}
"""For each record of files where the lab keeps its release."""


def make(name: str) -> Path:
    """Make one record; its file.

    :raises ValueError: the small record is judged otherwise than the host was, or says too much.
    """
    if name in FILES:
        return _of_files(name)
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


def _of_files(name: str) -> Path:
    release = (LAB / FILES[name]).read_text().strip()
    with tempfile.TemporaryDirectory() as folder:
        hosts = [
            intel_host(LAB / "corpus" / release, release, Path(folder) / kind / name, small=kind == "small")
            for kind in ("whole", "small")
        ]
        findings = [judge_host(Root(host)) for host in hosts]
        whole, small = (
            replace(finding, offset_from=finding.offset_from.replace(str(host), ""))
            for finding, host in zip(findings, hosts)
        )
        if whole != small:
            raise ValueError(f"{name} is {whole.verdict.value} and its small record {small.verdict.value}")
        check_words(hosts[1])
        pack(hosts[1], RECORDS / f"{name}.tar.xz")
    return RECORDS / f"{name}.tar.xz"


def main() -> None:
    """Make those that are named, or all."""
    for name in sys.argv[1:] or (*HOSTS, *FILES):
        target = make(name)
        sys.stdout.write(f"{target.name}: {target.stat().st_size:,} bytes\n")


if __name__ == "__main__":
    main()
