"""The processes that run VMs, as /proc shows them.

A directory of /proc that is held open stays that of its process: when the process is gone, and its id another's,
nothing can be read in it any more. So what is read below one such directory belongs together.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from pmuconf.errors import PmuconfError
from pmuconf.host.root import Root
from pmuconf.host.vms.qemu_args import QemuArgs, parse_args
from pmuconf.hostfacts import FileId

__all__ = [
    "DELETED",
    "VmProcess",
    "contents",
    "directory_of",
    "file_id",
    "initial_namespace",
    "namespace_of",
    "other_threads",
    "same_program",
    "start_of",
    "vm_processes",
]

MAX_CMDLINE: Final = 4 << 20
DELETED: Final = " (deleted)"
"""What /proc/PID/exe has behind the path of a file that is gone."""

_VM_FD: Final = frozenset({"anon_inode:kvm-vm", "anon_inode:[kvm-vm]"})
_INITIAL: Final = "pid:[4026531836]"
"""PROC_PID_INIT_INO, include/linux/proc_ns.h."""
_NUMBER: Final = re.compile("[1-9][0-9]{0,9}")
_KEPT_THREADS: Final = 16
_STAT: Final = re.compile(rb"(\d{1,10}) \((.*)\) \S (?:-?\d+ ){18}(\d{1,20}) ", re.DOTALL)


@dataclass(frozen=True)
class VmProcess:
    """A process that holds a VM of KVM, or whose command line says so where its files can't be seen.

    :param started: in clock ticks after boot.
    :param command: its name as the kernel knows it (comm).
    :param exe: what /proc/PID/exe says, " (deleted)" included; empty if that can't be read.
    :param args: what its command line says if it is a QEMU, else None.
    :param seen: whether its open VM was seen.
    :param threads: the ids of its threads.
    :param others: some of its threads, as other_threads() has them.
    :param file: the file that it runs; None if that can't be seen.
    """

    pid: int
    started: int
    command: str
    exe: str
    args: QemuArgs | None
    seen: bool
    threads: frozenset[int] = frozenset()
    others: tuple[str, ...] = ()
    file: FileId | None = None

    def unchanged_since(self, ticks: int) -> bool:
        """Whether it has run the same program since, by a thread that is older; not told of one that has no others."""
        return not self.others or any(int(one.partition(" ")[2]) < ticks for one in self.others)


def vm_processes(root: Root) -> tuple[VmProcess, ...]:
    """All processes that run a VM of KVM, by their ids. Those of others are found by command line only, if not root."""
    found = []
    for pid in sorted(
        int(name) for name in root.names("/proc") if name.isascii() and name.isdigit() and len(name) < 11
    ):
        with contextlib.suppress(OSError), directory_of(root, pid) as directory:
            process = _read(root, pid, directory)
            if process is not None:
                found.append(process)
    return tuple(found)


@contextlib.contextmanager
def directory_of(root: Root, pid: int, started: int | None = None) -> Iterator[int]:
    """A process's directory of /proc, held open: its descriptor.

    :raises OSError: there is no such process, or none that has started then.
    :raises PmuconfError: as Root.at.
    """
    directory = os.open(root.at(f"/proc/{pid}"), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if started is not None and _stat(directory)[1] != started:
            raise ProcessLookupError(f"process {pid} is another one by now")
        yield directory
    finally:
        os.close(directory)


def start_of(directory: int) -> int:
    """When the process of this directory of /proc was started, in clock ticks after boot (proc(5), /proc/PID/stat).

    :raises OSError: it has ended.
    """
    return _stat(directory)[1]


def other_threads(directory: int, pid: int) -> tuple[str, ...]:
    """Some threads of a process besides its first, each as "ID START"; those that were made first, if ids tell.

    exec(2) ends them all, whatever the new program is: as long as one of them lives, the program is the same. Anybody
    may see them, where only root sees the program's file.
    """
    numbers = [int(name) for name in _names(directory, "task") if _NUMBER.fullmatch(name) and int(name) != pid]
    found = []
    for number in sorted(numbers, key=lambda one: (one < pid, one))[:_KEPT_THREADS]:
        started = _thread_start(directory, number)
        if started is not None:
            found.append(f"{number} {started}")
    return tuple(found)


def same_program(root: Root, pid: int, started: int, file: FileId | None, others: tuple[str, ...]) -> bool:
    """Whether a process still runs the program that it ran when its file and threads were seen.

    False too where it can't be said: nothing was seen then, or can be now. :raises PmuconfError: as Root.at.
    """
    try:
        with directory_of(root, pid, started) as directory:
            now = _file(root, directory) if file is not None else None
            if file is not None and now is not None and (now.device, now.inode) != (file.device, file.inode):
                return False
            if others:
                return any(_thread_lives(directory, one) for one in others)
            return now is not None
    except OSError:
        return False


def file_id(status: os.stat_result, real: str) -> FileId:
    """Which file it is that stat(2) told this of."""
    return FileId(real, status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def namespace_of(root: Root) -> str | None:
    """The namespace of this /proc's process ids, such as pid:[4026531836]; None if it can't be seen."""
    return root.link("/proc/self/ns/pid")


def initial_namespace(root: Root) -> bool:
    """Whether the process ids of this /proc are the kernel's own, those of the initial namespace.

    /proc/1 is asked first: a container may see the /proc of its host. It takes ptrace rights; without them /proc/self
    tells, which is there only for those who have an id in the namespace of that /proc.
    """
    said = root.link("/proc/1/ns/pid")
    return (said if said is not None else root.link("/proc/self/ns/pid")) == _INITIAL


def _read(root: Root, pid: int, directory: int) -> VmProcess | None:
    seen = _holds_vm(directory)
    if seen is False:
        return None
    # First: if it runs another program by the time that the rest is read, these are not of that one any more.
    file, others = _file(root, directory), other_threads(directory, pid)
    raw = contents(directory, "cmdline", MAX_CMDLINE)
    command, started = _stat(directory)
    exe = ""
    with contextlib.suppress(OSError):
        exe = os.readlink("exe", dir_fd=directory)
    args = parse_args(raw if len(raw) < MAX_CMDLINE else b"", exe)
    if seen is None and (args is None or not args.kvm):
        return None
    threads = frozenset(map(int, filter(_NUMBER.fullmatch, _names(directory, "task"))))
    return VmProcess(pid, started, command, exe, args, seen is True, threads, others, file)


def _file(root: Root, directory: int) -> FileId | None:
    """The file that the process of a directory runs; None if that can't be seen, as for those of others."""
    try:
        exe = os.readlink("exe", dir_fd=directory)
        # On a live host the link leads to the file itself, also where that has no name any more.
        return file_id(os.stat("exe", dir_fd=directory) if root.live else os.stat(root.at(exe)), exe)
    except (OSError, PmuconfError):
        return None


def _thread_start(directory: int, number: int) -> int | None:
    try:
        match = _STAT.match(contents(directory, f"task/{number}/stat", 4096))
    except OSError:
        return None
    return int(match.group(3)) if match is not None else None


def _thread_lives(directory: int, said: str) -> bool:
    number, _, started = said.partition(" ")
    return bool(_NUMBER.fullmatch(number)) and str(_thread_start(directory, int(number))) == started


def _holds_vm(directory: int) -> bool | None:
    """Whether the process has a VM's file open; None: its files can't be seen."""
    try:
        files = os.open("fd", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
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


def _names(directory: int, name: str) -> list[str]:
    try:
        inner = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    except OSError:
        return []
    try:
        return os.listdir(inner)
    except OSError:
        return []
    finally:
        os.close(inner)


def contents(directory: int, name: str, limit: int) -> bytes:
    """The first bytes of a file in the directory, up to the limit; nothing of what is no regular file."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with open(os.open(name, flags, dir_fd=directory), "rb", buffering=0) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            return b""
        pieces, left = [], limit
        while left and (piece := file.read(min(left, 1 << 16))):
            pieces.append(piece)
            left -= len(piece)
    return b"".join(pieces)


def _stat(directory: int) -> tuple[str, int]:
    """The process's name and its start. A name may hold anything, parentheses and line ends too."""
    match = _STAT.match(contents(directory, "stat", 4096))
    if match is None:
        raise OSError(0, "/proc/PID/stat has not the fields that it should")
    return match.group(2).decode("utf-8", "replace"), int(match.group(3))
