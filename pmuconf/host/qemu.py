"""Whether a QEMU disables the PMU in KVM for a VM that is to have none."""

from __future__ import annotations

from pmuconf.facts import Qemu
from pmuconf.host.root import Root

__all__ = ["qemu_of_process"]


def qemu_of_process(root: Root, pid: int, started: int, exe: str) -> Qemu:
    """The QEMU that a process runs, also where the file that it was started from is gone."""
    return Qemu(exe, None, None, "unreadable")
