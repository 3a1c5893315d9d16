"""The libvirt driver that a change was made on, and whether it is the same as another: by its host, not by its name.

A host's name changes with the DNS, with DHCP, and with the program that is asked for it. So a host is known by three
things, and the first that both sides know decides: /etc/machine-id (machine-id(5)), libvirt's UUID of its host, and the
name. The UUID (virConnectGetCapabilities()) is the firmware's; without one, the daemon makes another at each start.
"""

from __future__ import annotations

import os
import re
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import SplitResult, urlsplit, urlunsplit

from pmuconf.files.inputs import read_regular

if TYPE_CHECKING:
    import libvirt

__all__ = ["Driver", "driver_uri", "host_uuid", "machine_id", "named_like_us", "same_kernel"]

_MACHINE_ID: Final = "/etc/machine-id"
_ATTEMPTS: Final = 5


@dataclass(frozen=True)
class Driver:
    """A driver, or whatever else the journal has changes of (a cloud, which has its ``uri`` alone).

    :param uri: its name for people, with its host's: qemu://compute1.example.org/system.
    :param machine: the machine id of its host, where that is this host; empty where it is not known.
    :param host_uuid: libvirt's UUID of its host; empty where it is not known.
    """

    uri: str
    machine: str = ""
    host_uuid: str = ""

    def same(self, other: Driver) -> bool:
        """Whether both are one driver of one host."""
        mine, its = urlsplit(self.uri), urlsplit(other.uri)
        if not mine.netloc or not its.netloc:
            return self.uri == other.uri
        if (mine.scheme, mine.path, mine.query) != (its.scheme, its.path, its.query):
            return False
        if self.machine and other.machine:
            if self.machine == other.machine:
                return True
            # One that was given a new machine id, unless its firmware has the UUID that it was sold with by the dozen.
            return bool(self.host_uuid) and self.host_uuid == other.host_uuid and _one_name(mine, its)
        if self.host_uuid and self.host_uuid == other.host_uuid:
            return True
        # Nothing better is known of one of them: it was made by pmuconf 0.1, or its host tells nothing.
        return _one_name(mine, its, domain=not (self.machine or other.machine))


def driver_uri(uri: str, host: str) -> str:
    """The name of the driver that a URI leads to: qemu+unix:///system?socket=S on host H is qemu://H/system."""
    parts = urlsplit(uri)
    roots = [field for field in parts.query.split("&") if field.startswith("root=")]  # of embedded drivers
    return urlunsplit((parts.scheme.partition("+")[0], host, parts.path, "&".join(roots), ""))


def machine_id(path: str = _MACHINE_ID) -> str:
    """The id of this machine; empty where it has none, or none yet ("uninitialized")."""
    try:
        text = read_regular(path, 1024).decode("ascii", "replace").strip().lower()
    except OSError:
        return ""
    return text if re.fullmatch(r"[0-9a-f]{32}", text) and text.strip("0") else ""


def host_uuid(connection: libvirt.virConnect) -> str:
    """Libvirt's UUID of its host; empty where it tells none. Its first answer may take as long as QEMU's start."""
    uuid = re.search(r"<host>\s*<uuid>([0-9a-f-]{36})</uuid>", connection.getCapabilities())
    return uuid.group(1) if uuid else ""


def same_kernel(connection: libvirt.virConnect) -> bool | None:
    """Whether libvirt's host runs under our kernel; None if it can't be told.

    Its counts of processor time lie between what we read before and after, and it has as much memory. Two kernels have
    spent the same time, to a hundredth of a second, in user space and in themselves only by chance.

    :raises libvirt.libvirtError: it tells nothing of its processors.
    """
    for _ in range(_ATTEMPTS):  # a kernel may count a tick here, and take it back there
        before, memory = _spent(), _memory()
        spent = connection.getCPUStats(-1, 0)
        total = connection.getMemoryStats(-1, 0).get("total")
        after = _spent()
        if before is None or after is None:
            return None
        theirs = (spent["user"], spent["kernel"])
        if total == memory and all(low <= time <= high for low, time, high in zip(before, theirs, after)):
            return True
    return False


def named_like_us(host: str) -> bool:
    """Whether libvirt's name of its host is one of ours, the domain left out.

    libvirt's is what the resolver makes of the host's name, which is asked here only if the names differ.
    """
    return any(_short(host) == _short(own()) for own in (socket.gethostname, socket.getfqdn))


def _spent() -> tuple[int, int] | None:
    """The time in user space, and in the kernel, that all processors have spent since the boot, in nanoseconds.

    As libvirt adds it up (virHostCPUGetStatsLinux()).
    """
    try:
        line = Path("/proc/stat").read_text(encoding="ascii").partition("\n")[0].split()
        user, nice, system, _idle, _wait, irq, softirq = map(int, line[1:8])
    except (OSError, ValueError):
        return None
    tick = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
    return (user + nice) * tick, (system + irq + softirq) * tick


def _memory() -> int | None:
    """All memory of the host, in KiB."""
    try:
        text = Path("/proc/meminfo").read_text(encoding="ascii")
    except OSError:
        return None
    total = re.search(r"^MemTotal:\s*(\d+) kB$", text, re.MULTILINE)
    return int(total.group(1)) if total else None


def _one_name(mine: SplitResult, its: SplitResult, *, domain: bool = True) -> bool:
    """Whether both hosts have one name; with ``domain``, only if what both say of their domain agrees."""
    names = [parts.netloc.lower().rstrip(".") for parts in (mine, its)]
    if names[0] == names[1]:
        return True
    return _short(names[0]) == _short(names[1]) and not (domain and all("." in name for name in names))


def _short(name: str) -> str:
    return name.partition(".")[0].lower()
