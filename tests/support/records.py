"""The recorded hosts of tests/records: real kernels that the lab has booted, each in a small archive."""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import Final

from pmuconf.audit.report import Report, join
from pmuconf.audit.vm import judge
from pmuconf.domain.reading import read_libvirt
from pmuconf.host.root import Root
from pmuconf.host.survey import survey
from pmuconf.policy import Policy

__all__ = ["DOMAINS", "RECORDS", "report_of", "unpack"]

RECORDS: Final = Path(__file__).parents[1] / "records"
DOMAINS: Final = "domains"
"""In a record with VMs: for each the definition that runs (NAME.live.xml) and the next one (NAME.inactive.xml)."""


def unpack(name: str, folder: Path) -> Path:
    """Unpack the record of that name into ``folder``/NAME: a directory for 'pmuconf host --root'."""
    target = folder / name
    with tarfile.open(RECORDS / f"{name}.tar.xz") as archive:
        if hasattr(tarfile, "fully_trusted_filter"):
            # The links of a recorded /proc lead to places of the recorded host.
            archive.extractall(target, filter="fully_trusted")
        else:
            archive.extractall(target)
    return target


def report_of(record: Path, policy: Policy) -> Report:
    """The audit of a recorded host with VMs, as 'pmuconf audit' would have made it there."""
    vms = []
    for path in sorted((record / DOMAINS).glob("*.live.xml")):
        running, next_boot = (
            read_libvirt(text.read_text(), source=text.name)
            for text in (path, path.with_name(path.name.replace(".live.", ".inactive.")))
        )
        vms.append(judge(policy, live=running, next_boot=next_boot))
    facts = survey(Root(record))
    return Report("qemu:///system", join(vms, facts), facts, host=record.name)
