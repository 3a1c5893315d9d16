"""The processes that run VMs, as /proc shows them."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass, replace
from typing import Final

from pmuconf.host.root import Root
from pmuconf.host.vms.procdir import (
    contents,
    directory_of,
    holds_vm,
    name_and_start,
    other_threads,
    process_ids,
    program,
    thread_ids,
)
from pmuconf.host.vms.qemu_args import MAX_PATH, QemuArgs, parse_args, words_of
from pmuconf.host.vms.starter import is_monitor, manager_of, name_by_option
from pmuconf.hostfacts import FileId, Thread

__all__ = ["VmProcess", "vm_processes"]

MAX_CMDLINE: Final = 4 << 20
"""The longest command line that is read, in bytes."""


@dataclass(frozen=True)
class VmProcess:
    """A process that holds a VM of KVM, or whose command line says so if its files can't be seen.

    :param started: in clock ticks after boot.
    :param command: its name as the kernel knows it (comm).
    :param exe: the target of /proc/PID/exe, " (deleted)" included; empty if that can't be read.
    :param args: what its command line says, if it is a QEMU.
    :param name: of the VM, if another monitor than QEMU was given one; ``manager`` likewise, and ``started_as``: the
        first word.
    :param seen: whether its open VM was seen.
    :param threads: the ids of all its threads.
    :param others: some of its threads besides the first, as other_threads() gives them.
    :param file: the file that it runs; None if that can't be seen.
    """

    pid: int
    started: int
    command: str
    exe: str
    args: QemuArgs | None
    seen: bool
    threads: frozenset[int] = frozenset()
    others: tuple[Thread, ...] = ()
    file: FileId | None = None
    name: str | None = None
    manager: str = ""
    started_as: str = ""

    def unchanged_since(self, ticks: int) -> bool:
        """Whether it has run the same program since then: a thread is older, or there are no other threads to tell."""
        return not self.others or any(thread.started < ticks for thread in self.others)


def vm_processes(root: Root) -> tuple[VmProcess, ...]:
    """All processes that run a VM of KVM, by their ids. Without root, others' are found by their command line only."""
    processes = []
    for pid in process_ids(root):
        with contextlib.suppress(OSError), directory_of(root, pid) as directory:
            process = _read(root, pid, directory)
            if process is not None:
                processes.append(process)
    return tuple(processes)


def _read(root: Root, pid: int, directory: int) -> VmProcess | None:
    """The process of a directory; None if it runs no VM."""
    seen = holds_vm(directory)
    if seen is False:
        return None
    # These come first: if the process runs another program by the time that the rest is read, they are not of that one.
    file, others = program(root, directory), other_threads(directory, pid)
    raw = contents(directory, "cmdline", MAX_CMDLINE)
    command, started = name_and_start(directory)
    exe = ""
    with contextlib.suppress(OSError):
        exe = os.readlink("exe", dir_fd=directory)
    raw = raw if len(raw) < MAX_CMDLINE else b""
    args = parse_args(raw, exe)
    words = words_of(raw) if args is None else []
    if seen is None and not (is_monitor(command, words) if args is None else args.kvm):
        return None
    process = VmProcess(pid, started, command, exe, args, seen is True, thread_ids(directory), others, file)
    if not words:
        return process
    return replace(
        process,
        name=name_by_option(words),
        manager=manager_of(words),
        started_as=words[0] if len(words[0]) < MAX_PATH else "",
    )
