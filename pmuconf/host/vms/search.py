"""Where libvirt's daemons on this host look for a QEMU to start a new VM with, and which files are there.

Which those are depends on where libvirt runs: one in a container has the container's. So its daemons are found by their
processes, and each is followed into its own root directory and PATH, where it looks itself
(virQEMUCapsGetDefaultEmulator, src/qemu/qemu_capabilities.c): qemu-system-x86_64 or -i386 in PATH, else
/usr/libexec/qemu-kvm. No file is read here: that is installed.py's work.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections import deque
from collections.abc import Iterator
from typing import Final

from pmuconf.host.root import Root
from pmuconf.host.vms.process import DELETED, contents, directory_of, file_id, namespace_of, other_threads, start_of
from pmuconf.hostfacts import QemuPlace, Search

__all__ = ["daemons", "open_inside", "place", "root_of", "search_of", "searches"]

_DAEMONS: Final = frozenset({"libvirtd", "virtqemud"})
_IN_PATH: Final = ("qemu-system-x86_64", "qemu-system-i386")
_OUTSIDE: Final = "/usr/libexec/qemu-kvm"
# What a search has where PATH is not set (g_find_program_in_path), but for the current directory.
_NO_PATH: Final = "/bin:/usr/bin"
_MAX_ENVIRON: Final = 1 << 20
_MAX_LINKS: Final = 40
_ABSENT: Final = frozenset({errno.ENOENT, errno.ENOTDIR})


def searches(root: Root) -> tuple[Search, ...]:
    """Those of all system daemons of libvirt; nothing without root, or where no daemon runs.

    :raises PmuconfError: a record leads out of its directory; cause record-escapes.
    """
    found = []
    for pid in _pids(root):
        with contextlib.suppress(OSError):
            search = search_of(root, pid)
            if search is not None:
                found.append(search)
    return tuple(found)


def search_of(root: Root, pid: int) -> Search | None:
    """That of one process; None if it is no daemon of libvirt's that root runs.

    Nor is one that a daemon has forked to start something by it: that has one thread, a daemon has many.

    :raises OSError: there is no such process any more, or it may not be looked at.
    :raises PmuconfError: as searches().
    """
    with directory_of(root, pid) as directory:
        if os.path.basename(_link(directory, "exe").removesuffix(DELETED)) not in _DAEMONS or not _of_root(directory):
            return None
        started, threads = start_of(directory), other_threads(directory, pid)
        if not threads:
            return None
        paths, top = _candidates(directory), root_of(root, pid, started)
        try:
            status = os.fstat(top)
            places = tuple(one for search in paths for one in _until_found(top, search))
        finally:
            os.close(top)
        return Search(pid, started, threads, namespace_of(root), status.st_dev, status.st_ino, places)


def daemons(root: Root) -> frozenset[tuple[int, int]]:
    """The processes, by id and start, that are libvirt's daemons by what anybody may see of them: name and user."""
    found = set()
    for pid in _pids(root):
        with contextlib.suppress(OSError), directory_of(root, pid) as directory:
            name = contents(directory, "comm", 64).strip()
            if os.fsdecode(name) in _DAEMONS and _of_root(directory) and other_threads(directory, pid):
                found.add((pid, start_of(directory)))
    return frozenset(found)


def root_of(root: Root, pid: int, started: int) -> int:
    """The root directory of a process, opened as a place to look from: a descriptor, for the caller to close.

    :raises OSError: there is no such process, or it may not be looked at.
    :raises PmuconfError: as searches().
    """
    with directory_of(root, pid, started) as directory:
        root.at(f"/proc/{pid}/root")  # a record's may lead anywhere
        return os.open("root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=directory)


def place(top: int, path: str) -> QemuPlace:
    """What is at the path for a process whose root directory is ``top``."""
    try:
        descriptor, real = open_inside(top, path, os.O_PATH)
    except OSError as error:
        return QemuPlace(path) if error.errno in _ABSENT else QemuPlace(path, cause="unreadable")
    try:
        status = os.fstat(descriptor)
    finally:
        os.close(descriptor)
    startable = stat.S_ISREG(status.st_mode) and status.st_mode & (stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)
    return QemuPlace(path, file_id(status, real) if startable else None)


def open_inside(top: int, path: str, flags: int = os.O_RDONLY) -> tuple[int, str]:
    """Open a file as one would whose root directory is ``top``: links do not lead out of it. And where they lead.

    (RESOLVE_IN_ROOT of openat2(2), which Python does not have.)

    :raises OSError: as os.open().
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
    flags |= os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    return os.open("/".join(done) or ".", flags, dir_fd=top), "/" + "/".join(done)


def _until_found(top: int, paths: list[str]) -> Iterator[QemuPlace]:
    """The places of one search, up to the first where something is; what can't be seen may be it."""
    for path in paths:
        found = place(top, path)
        yield found
        if found.file is not None or found.cause:
            return


def _candidates(directory: int) -> list[list[str]]:
    """Where each of the binaries may be, in the order of the search."""
    given = [one[5:] for one in contents(directory, "environ", _MAX_ENVIRON).split(b"\0") if one.startswith(b"PATH=")]
    search = os.fsdecode(given[0]) if given else _NO_PATH
    folders = [folder.rstrip("/") for folder in search.split(":") if folder.startswith("/")]
    return [*([f"{folder}/{name}" for folder in folders] for name in _IN_PATH), [_OUTSIDE]]


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


def _pids(root: Root) -> list[int]:
    return [int(name) for name in root.names("/proc") if name.isascii() and name.isdigit() and len(name) < 11]
