"""The QEMUs that libvirt would start a new VM with on this host.

Which those are depends on where libvirt runs: one in a container has the container's. So its daemons are found by their
processes, and each is followed into its own root directory and PATH, where it looks itself
(virQEMUCapsGetDefaultEmulator, src/qemu/qemu_capabilities.c): qemu-system-x86_64 or -i386 in PATH, else
/usr/libexec/qemu-kvm. All that are there are told, not only the one that it would take.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections import deque
from typing import Final

from pmuconf.facts import Qemu
from pmuconf.host.process import DELETED, contents, directory_of
from pmuconf.host.qemu import qemu_of_descriptor
from pmuconf.host.root import Root

__all__ = ["installed_qemus", "qemus_of"]

_DAEMONS: Final = frozenset({"libvirtd", "virtqemud"})
_IN_PATH: Final = ("qemu-system-x86_64", "qemu-system-i386")
_OUTSIDE: Final = "/usr/libexec/qemu-kvm"
# What a search has where PATH is not set (g_find_program_in_path), but for the current directory.
_NO_PATH: Final = "/bin:/usr/bin"
_MAX_ENVIRON: Final = 1 << 20
_MAX_LINKS: Final = 40
_ABSENT: Final = frozenset({errno.ENOENT, errno.ENOTDIR})


def installed_qemus(root: Root) -> tuple[Qemu, ...]:
    """Those of all system daemons of libvirt, by their paths there; nothing without root, or where no daemon runs.

    :raises PmuconfError: a record leads out of its directory; cause record-escapes.
    """
    found: set[Qemu] = set()
    for name in root.names("/proc"):
        if name.isascii() and name.isdigit() and len(name) < 11:
            with contextlib.suppress(OSError):
                found.update(qemus_of(root, int(name)))
    return tuple(sorted(found, key=lambda qemu: (qemu.path, qemu.build_id or "")))


def qemus_of(root: Root, pid: int) -> tuple[Qemu, ...]:
    """Those of one process; nothing if it is no daemon of libvirt's that root runs.

    :raises OSError: there is no such process any more, or it may not be looked at.
    :raises PmuconfError: as installed_qemus().
    """
    with directory_of(root, pid) as directory:
        if os.path.basename(_link(directory, "exe").removesuffix(DELETED)) not in _DAEMONS or not _of_root(directory):
            return ()
        root.at(f"/proc/{pid}/root")  # a record's may lead anywhere
        top = os.open("root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=directory)
        try:
            return tuple(filter(None, (_first(top, paths) for paths in _candidates(directory))))
        finally:
            os.close(top)


def _candidates(directory: int) -> list[list[str]]:
    """Where each of the binaries may be, in the order of the search."""
    given = [one[5:] for one in contents(directory, "environ", _MAX_ENVIRON).split(b"\0") if one.startswith(b"PATH=")]
    search = os.fsdecode(given[0]) if given else _NO_PATH
    folders = [folder.rstrip("/") for folder in search.split(":") if folder.startswith("/")]
    return [*([f"{folder}/{name}" for folder in folders] for name in _IN_PATH), [_OUTSIDE]]


def _first(top: int, paths: list[str]) -> Qemu | None:
    """The first of the paths that is there; one that can't be read may be the one, and counts as unknown."""
    for path in paths:
        try:
            descriptor = _open_inside(top, path)
        except OSError as error:
            if error.errno in _ABSENT:
                continue
            return Qemu(path, None, None, "unreadable")
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISREG(mode) and mode & (stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH):
            return qemu_of_descriptor(descriptor, path)
        os.close(descriptor)
    return None


def _open_inside(top: int, path: str) -> int:
    """Open a file as one would whose root directory is ``top``: links do not lead out of it.

    (RESOLVE_IN_ROOT of openat2(2), which Python does not have.)
    """
    done: list[str] = []
    left, links = deque(path.split("/")), 0
    while left:
        part = left.popleft()
        if part == "..":
            del done[-1:]
        elif part not in ("", "."):
            target = _link(top, "/".join([*done, part]))
            links += bool(target)
            if links > _MAX_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
            if target.startswith("/"):
                done = []
            left.extendleft(reversed(target.split("/"))) if target else done.append(part)
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    return os.open("/".join(done) or ".", flags, dir_fd=top)


def _link(directory: int, name: str) -> str:
    """What a symbolic link says; empty if it is none.

    :raises OSError: it is not there, or can't be looked at.
    """
    try:
        return os.readlink(name, dir_fd=directory)
    except OSError as error:
        if error.errno == errno.EINVAL:
            return ""
        raise


def _of_root(directory: int) -> bool:
    """Whether the process acts as root: anybody may call a program of theirs libvirtd."""
    for line in contents(directory, "status", 1 << 14).splitlines():
        if line.startswith(b"Uid:"):
            return line.split()[2:3] == [b"0"]
    return False
