"""A process as its directory of /proc shows it.

A directory of /proc that is held open stays that of its process. When the process has ended, nothing can be read in
it, whoever has the process's id by then. So all that is read in one open directory belongs to one process.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Iterator
from typing import Final, NamedTuple

from pmuconf.errors import PmuconfError
from pmuconf.host.root import Root
from pmuconf.hostfacts import FileId, Thread

__all__ = [
    "DELETED",
    "contents",
    "directory_of",
    "file_id",
    "holds_vm",
    "initial_namespace",
    "is_there",
    "name_and_start",
    "namespace_of",
    "other_threads",
    "process_ids",
    "program",
    "same_program",
    "start_of",
    "thread_ids",
]

DELETED: Final = " (deleted)"
"""The end of what /proc/PID/exe says of a file that is gone."""

_VM_FD: Final = frozenset({"anon_inode:kvm-vm", "anon_inode:[kvm-vm]"})
_INITIAL: Final = "pid:[4026531836]"
"""PROC_PID_INIT_INO, include/linux/proc_ns.h."""
_NUMBER: Final = re.compile("[1-9][0-9]{0,9}")
_KEPT_THREADS: Final = 16
_MAX_STAT: Final = 4096
_STAT: Final = re.compile(rb"(\d{1,10}) \((.*)\) \S (?:-?\d+ ){18}(\d{1,20}) ", re.DOTALL)
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class NameAndStart(NamedTuple):
    """The name of a process or thread (comm), and its start in clock ticks after boot."""

    name: str
    started: int


def process_ids(root: Root) -> list[int]:
    """The ids of all processes, sorted."""
    return sorted(map(int, filter(_NUMBER.fullmatch, root.names("/proc"))))


@contextlib.contextmanager
def directory_of(root: Root, pid: int, started: int | None = None) -> Iterator[int]:
    """A process's directory of /proc, held open: its descriptor.

    :param started: the start of the process; None: whichever process has the id.
    :raises OSError: there is no such process, or none that has started then.
    :raises PmuconfError: as Root.at.
    """
    directory = os.open(root.at(f"/proc/{pid}"), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if started is not None and start_of(directory) != started:
            raise ProcessLookupError(f"process {pid} is another one by now")
        yield directory
    finally:
        os.close(directory)


def contents(directory: int, name: str, limit: int) -> bytes:
    """The first bytes of a file in the directory, up to the limit; nothing of what is no regular file.

    :raises OSError: there is no such file, it can't be opened, or the process has ended.
    """
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with open(os.open(name, flags, dir_fd=directory), "rb", buffering=0) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            return b""
        pieces, left = [], limit
        while left and (piece := file.read(min(left, 1 << 16))):
            pieces.append(piece)
            left -= len(piece)
    return b"".join(pieces)


def name_and_start(directory: int, thread: int | None = None) -> NameAndStart:
    """The name and the start of the process of this directory, or of one of its threads (proc(5), /proc/PID/stat).

    A name may hold anything, parentheses and line ends too.

    :raises OSError: it has ended.
    """
    file = "stat" if thread is None else f"task/{thread}/stat"
    match = _STAT.match(contents(directory, file, _MAX_STAT))
    if match is None:
        raise OSError(0, "/proc/PID/stat has not the fields that it should")
    return NameAndStart(match.group(2).decode("utf-8", "replace"), int(match.group(3)))


def start_of(directory: int) -> int:
    """The start of the process of this directory, in clock ticks after boot.

    :raises OSError: it has ended.
    """
    return name_and_start(directory).started


def thread_ids(directory: int) -> frozenset[int]:
    """The ids of all threads; none if the process has ended."""
    return frozenset(map(int, filter(_NUMBER.fullmatch, _names(directory, "task"))))


def other_threads(directory: int, pid: int) -> tuple[Thread, ...]:
    """Some threads of a process besides its first: those that were made first, if ids tell.

    exec(2) ends all of them, whatever the new program is: as long as one of them lives, the program is the same.
    Anybody may see them, while only root sees the program's file.
    """
    # Ids below the first thread's were given after the numbers had started anew, so they come last.
    numbers = sorted(thread_ids(directory) - {pid}, key=lambda number: (number < pid, number))
    threads = []
    for number in numbers[:_KEPT_THREADS]:
        with contextlib.suppress(OSError):  # it has ended by now
            threads.append(Thread(number, name_and_start(directory, number).started))
    return tuple(threads)


def program(root: Root, directory: int) -> FileId | None:
    """The file that the process runs; None if that can't be seen, as for processes of others."""
    try:
        exe = os.readlink("exe", dir_fd=directory)
        # On a live host the link leads to the file itself, also if that has no name any more.
        return file_id(os.stat("exe", dir_fd=directory) if root.live else os.stat(root.at(exe)), exe)
    except (OSError, PmuconfError):
        return None


def is_there(root: Root, pid: int, started: int) -> bool:
    """Whether the process still is there, whatever program it runs.

    :raises PmuconfError: as Root.at.
    """
    try:
        with directory_of(root, pid, started):
            return True
    except OSError:
        return False


def same_program(root: Root, pid: int, started: int, file: FileId | None, threads: tuple[Thread, ...]) -> bool:
    """Whether a process still runs the same program as when its file and its threads were seen.

    False too if that can't be said: nothing was seen then, or nothing can be seen now.

    :param file: as program() gave it.
    :param threads: as other_threads() gave them.
    :raises PmuconfError: as Root.at.
    """
    try:
        with directory_of(root, pid, started) as directory:
            now = program(root, directory) if file is not None else None
            if file is not None and now is not None and (now.device, now.inode) != (file.device, file.inode):
                return False
            if threads:
                return any(_lives(directory, thread) for thread in threads)
            return now is not None
    except OSError:
        return False


def file_id(status: os.stat_result, real: str) -> FileId:
    """The identity of the file that stat(2) gave this status of.

    :param real: its path without symbolic links.
    """
    return FileId(real, status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def holds_vm(directory: int) -> bool | None:
    """Whether the process has a VM of KVM open; None: its files can't be seen."""
    try:
        files = os.open("fd", _FOLDER, dir_fd=directory)
    except PermissionError:
        return None
    try:
        for name in os.listdir(files):
            with contextlib.suppress(OSError):  # closed by now
                if os.readlink(name, dir_fd=files) in _VM_FD:
                    return True
    except PermissionError:
        return None
    finally:
        os.close(files)
    return False


def namespace_of(root: Root) -> str | None:
    """The namespace of this /proc's process ids, such as pid:[4026531836]; None if it can't be seen."""
    return root.link("/proc/self/ns/pid")


def initial_namespace(root: Root) -> bool:
    """Whether the process ids of this /proc are the kernel's own, those of the initial namespace.

    /proc/1 is asked first: a container may see the /proc of its host. That requires ptrace rights. Otherwise
    /proc/self says it, which exists only for processes that have an id in the namespace of that /proc.
    """
    of_first = root.link("/proc/1/ns/pid")
    return (of_first if of_first is not None else namespace_of(root)) == _INITIAL


def _lives(directory: int, thread: Thread) -> bool:
    try:
        return name_and_start(directory, thread.number).started == thread.started
    except OSError:
        return False


def _names(directory: int, name: str) -> list[str]:
    try:
        inner = os.open(name, _FOLDER, dir_fd=directory)
    except OSError:
        return []
    try:
        return os.listdir(inner)
    except OSError:
        return []
    finally:
        os.close(inner)
