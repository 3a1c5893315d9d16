"""Whether a QEMU disables the PMU in KVM for a VM that is to have none, told from its binary.

``pmu=off`` alone only hides the PMU from the guest. A QEMU that makes KVM_ENABLE_CAP with KVM_CAP_PMU_CAPABILITY also
clears ``kvm->arch.enable_pmu``: 11.0 and later do (QEMU commit 383374465155), vendors backport, so no version decides.
What is in the binary is the message for the case that KVM refuses.
"""

from __future__ import annotations

import os
import stat
import struct
from dataclasses import replace
from typing import BinaryIO, Final

from pmuconf.errors import PmuconfError
from pmuconf.facts import Evidence, Qemu
from pmuconf.files import trusted
from pmuconf.host.notes import build_id_of_notes
from pmuconf.host.process import DELETED, directory_of
from pmuconf.host.root import MAX_FILE, Root

__all__ = ["TESTED", "qemu_of_descriptor", "qemu_of_file", "qemu_of_process"]

# By build-id: what has none of the strings and was seen by prove_qemu() not to make the call: as many KVM_ENABLE_CAP
# before the first vCPU with pmu=off as with pmu=on, and no question for the capability.
TESTED: Final = {
    "d9541fd67c4ea37f9ca7fca0f5096f32b3b7e7e0": "Debian 12, 1:7.2+dfsg-7+deb12u18+b3",
    "e5588a4ae9dc724ce182d9d2421089e0668fd1bd": "Debian 13, 1:10.0.13+ds-0+deb13u1",
}
_QEMU: Final = b"QEMU emulator version"
_MESSAGES: Final = (b"KVM_PMU_CAP_DISABLE", b"Failed to disable pmu cap")
# A posting of 2024 made it a property of the accelerator, which pmu=off does not touch.
_PROPERTY: Final = b"pmu-cap-disabled"
_LONGEST: Final = 64
_CHUNK: Final = 1 << 20
_NOTE: Final = 4
_EHDR: Final = struct.Struct("<16sHHIQQQIHHHHHH")
_PHDR: Final = struct.Struct("<IIQQQQQQ")
_MAX_HEADERS: Final = 256
_MAX_NOTES: Final = 1 << 16
_MAX_KEPT: Final = 256

_known: dict[tuple[int, int, int, int], Qemu] = {}
_by_build_id: dict[str, Qemu] = {}


def qemu_of_process(root: Root, pid: int, started: int, exe: str) -> Qemu:
    """The QEMU that a process runs, also where the file that it was started from is gone.

    :param exe: what /proc/PID/exe says.
    """
    try:
        if root.live:
            with directory_of(root, pid, started) as directory:
                descriptor = os.open("exe", os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=directory)
        elif exe.endswith(DELETED):
            return Qemu(exe, None, None, "unreadable")
        else:
            descriptor = os.open(root.at(exe), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        return qemu_of_descriptor(descriptor, exe)
    except (OSError, PmuconfError):
        return Qemu(exe, None, None, "unreadable")


def qemu_of_file(path: str | os.PathLike[str]) -> Qemu:
    """The QEMU that a file is. Its cause is unreadable or not-qemu if it is none."""
    try:
        return qemu_of_descriptor(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), os.fspath(path))
    except OSError:
        return Qemu(os.fspath(path), None, None, "unreadable")


def qemu_of_descriptor(descriptor: int, path: str) -> Qemu:
    """The QEMU that an open file is, under this path; closes it."""
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            return Qemu(path, None, None, "unreadable")
        key = (found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size)
        if key not in _known:
            if len(_known) >= _MAX_KEPT:
                _known.clear()
                _by_build_id.clear()
            _known[key] = _read(file, shared=trusted(descriptor))
        return replace(_known[key], path=path)


def _read(file: BinaryIO, *, shared: bool) -> Qemu:
    """Of containers' many copies of one binary only the first is read.

    :param shared: the file is root's or ours: anybody could give another binary's build-id to one of his own.
    """
    build_id = _build_id(file.fileno())
    if shared and build_id is not None and build_id in _by_build_id:
        return _by_build_id[build_id]
    found = _judge(build_id, _strings(file))
    if shared and build_id is not None:
        _by_build_id[build_id] = found
    return found


def _judge(build_id: str | None, present: frozenset[bytes]) -> Qemu:
    if _QEMU not in present:
        return Qemu("", build_id, None, "not-qemu")
    if _PROPERTY in present:
        return Qemu("", build_id, None, "accel-property")
    if not present.isdisjoint(_MESSAGES):
        return Qemu("", build_id, True, "strings-in-binary", Evidence.INFERRED)
    if build_id in TESTED:
        return Qemu("", build_id, False, "tested-build-id", Evidence.INFERRED)
    return Qemu("", build_id, None, "no-known-string")


def _strings(file: BinaryIO) -> frozenset[bytes]:
    """Which of the strings are in the file. Read in pieces: a mapped file that is cut short would be our end."""
    wanted = {_QEMU, _PROPERTY, *_MESSAGES}
    found: set[bytes] = set()
    file.seek(0)
    kept, size = b"", 0
    while (piece := file.read(_CHUNK)) and size < MAX_FILE and wanted:
        size += len(piece)
        data = kept + piece
        here = {string for string in wanted if string in data}
        found |= here
        wanted -= here
        kept = data[-_LONGEST:]
    return frozenset(found)


def _build_id(descriptor: int) -> str | None:
    """From the notes that the program headers tell of: a stripped binary has no sections."""
    try:
        ident, _, _, _, _, offset, _, _, _, size, number, *_ = _EHDR.unpack(os.pread(descriptor, _EHDR.size, 0))
        if ident[:6] != b"\x7fELF\x02\x01" or size != _PHDR.size or number > _MAX_HEADERS:
            return None
        headers = os.pread(descriptor, number * size, offset)
        for kind, _, at, _, _, length, _, _ in _PHDR.iter_unpack(headers[: len(headers) // size * size]):
            if kind == _NOTE and length <= _MAX_NOTES:
                found = build_id_of_notes(os.pread(descriptor, length, at))
                if found is not None:
                    return found
    except (OSError, OverflowError, ValueError, struct.error):
        pass
    return None
