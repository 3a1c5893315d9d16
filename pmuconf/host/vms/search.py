"""Where libvirt's daemons on this host look for a QEMU to start a new VM with, and which files are there.

That depends on where libvirt runs: a libvirt in a container uses the container's files. So its daemons are found by
their processes, and each is followed into its own root directory and PATH, where it looks itself
(virQEMUCapsGetDefaultEmulator, src/qemu/qemu_capabilities.c): qemu-system-x86_64 or -i386 in PATH, else
/usr/libexec/qemu-kvm. No file is read here: installed.py does that.
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
from pmuconf.host.vms.procdir import (
    DELETED,
    contents,
    directory_of,
    file_id,
    namespace_of,
    other_threads,
    process_ids,
    start_of,
)
from pmuconf.hostfacts import QemuPlace, Search

__all__ = ["daemons", "open_inside", "place", "root_of", "search_of", "searches"]

_DAEMONS: Final = frozenset({"libvirtd", "virtqemud"})
_IN_PATH: Final = ("qemu-system-x86_64", "qemu-system-i386")
_OUTSIDE: Final = "/usr/libexec/qemu-kvm"
_NO_PATH: Final = "/bin:/usr/bin"
"""The PATH of a process that has none (g_find_program_in_path), but for the current directory."""
_PATH: Final = b"PATH="
_MAX_ENVIRON: Final = 1 << 20
_MAX_NAME: Final = 64
_MAX_STATUS: Final = 1 << 14
_MAX_LINKS: Final = 40
_ABSENT: Final = frozenset({errno.ENOENT, errno.ENOTDIR})


def searches(root: Root) -> tuple[Search, ...]:
    """The searches of all system daemons of libvirt; none without root, or if no daemon runs.

    :raises PmuconfError: a record leads out of its directory; cause record-escapes.
    """
    by_daemon = []
    for pid in process_ids(root):
        with contextlib.suppress(OSError):
            search = search_of(root, pid)
            if search is not None:
                by_daemon.append(search)
    return tuple(by_daemon)


def search_of(root: Root, pid: int) -> Search | None:
    """The search of one process; None if it is no daemon of libvirt's that root runs.

    A process that a daemon has forked to start something is none: it has one thread, a daemon has many.

    :raises OSError: there is no such process any more, or it may not be looked at.
    :raises PmuconfError: as searches().
    """
    with directory_of(root, pid) as directory:
        exe = _target(directory, "exe") or ""
        if os.path.basename(exe.removesuffix(DELETED)) not in _DAEMONS or not _runs_as_root(directory):
            return None
        started, threads = start_of(directory), other_threads(directory, pid)
        if not threads:
            return None
        paths, top = _candidates(directory), root_of(root, pid, started)
        try:
            status = os.fstat(top)
            places = tuple(candidate for in_order in paths for candidate in _until_found(top, in_order))
        finally:
            os.close(top)
        return Search(pid, started, threads, namespace_of(root), status.st_dev, status.st_ino, places)


def daemons(root: Root) -> frozenset[tuple[int, int]]:
    """The ids and starts of libvirt's daemons, by what anybody may see of a process: its name and its user."""
    identities = set()
    for pid in process_ids(root):
        with contextlib.suppress(OSError), directory_of(root, pid) as directory:
            name = os.fsdecode(contents(directory, "comm", _MAX_NAME).strip())
            if name in _DAEMONS and _runs_as_root(directory) and other_threads(directory, pid):
                identities.add((pid, start_of(directory)))
    return frozenset(identities)


def root_of(root: Root, pid: int, started: int) -> int:
    """The root directory of a process, opened as a place to look from: a descriptor, for the caller to close.

    :raises OSError: there is no such process, or it may not be looked at.
    :raises PmuconfError: as searches().
    """
    with directory_of(root, pid, started) as directory:
        root.at(f"/proc/{pid}/root")  # a record's may lead anywhere
        return os.open("root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=directory)


def place(top: int, path: str) -> QemuPlace:
    """The file at this path, for a process whose root directory is ``top``."""
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
    """Open a file as a process whose root directory is ``top`` would: links do not lead out of it.

    This is RESOLVE_IN_ROOT of openat2(2), which Python does not have.

    :returns: a descriptor, and the path without symbolic links.
    :raises OSError: as os.open().
    """
    walked: list[str] = []
    left, links = deque(path.split("/")), 0
    while left:
        part = left.popleft()
        if part in ("", "."):
            continue
        if part == "..":
            del walked[-1:]
            continue
        target = _target(top, "/".join([*walked, part]))
        if not target:
            walked.append(part)
            continue
        links += 1
        if links > _MAX_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
        if target.startswith("/"):
            walked = []
        left.extendleft(reversed(target.split("/")))
    flags |= os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    return os.open("/".join(walked) or ".", flags, dir_fd=top), "/" + "/".join(walked)


def _until_found(top: int, paths: list[str]) -> Iterator[QemuPlace]:
    """The places of one search, up to the first with a file, or with something that can't be seen and may be one."""
    for path in paths:
        candidate = place(top, path)
        yield candidate
        if candidate.file is not None or candidate.cause:
            return


def _candidates(directory: int) -> list[list[str]]:
    """The paths where each of the binaries may be, in the order of the search."""
    variables = contents(directory, "environ", _MAX_ENVIRON).split(b"\0")
    given = [os.fsdecode(variable[len(_PATH) :]) for variable in variables if variable.startswith(_PATH)]
    search_path = given[0] if given else _NO_PATH
    folders = [folder.rstrip("/") for folder in search_path.split(":") if folder.startswith("/")]
    return [*([f"{folder}/{name}" for folder in folders] for name in _IN_PATH), [_OUTSIDE]]


def _target(directory: int, name: str) -> str | None:
    """The target of a symbolic link; None if the file is no link.

    :raises OSError: there is no such file, or it can't be looked at.
    """
    try:
        return os.readlink(name, dir_fd=directory)
    except OSError as error:
        if error.errno == errno.EINVAL:
            return None
        raise


def _runs_as_root(directory: int) -> bool:
    """Whether the process acts as root: anybody may call a program of theirs libvirtd."""
    for line in contents(directory, "status", _MAX_STATUS).splitlines():
        if line.startswith(b"Uid:"):
            return line.split()[2:3] == [b"0"]
    return False
