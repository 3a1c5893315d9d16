"""Whether a QEMU disables the PMU in KVM for a VM that is to have none, told from its binary.

``pmu=off`` alone only hides the PMU from the guest. A QEMU that makes KVM_ENABLE_CAP with KVM_CAP_PMU_CAPABILITY also
clears ``kvm->arch.enable_pmu``: 11.0 and later do (QEMU commit 383374465155), vendors backport, so no version decides.
What is in the binary is the message for the case that KVM refuses.

The same binary is told again by its whole contents: a build-id is a note that anybody can write into a file of his own,
and a container's file may say that it is another one.
"""

from __future__ import annotations

import hashlib
import os
import stat
import struct
from dataclasses import replace
from typing import BinaryIO, Final

from pmuconf.errors import PmuconfError
from pmuconf.host.code.notes import build_id_of_notes
from pmuconf.host.root import MAX_FILE, Root
from pmuconf.host.vms.process import DELETED, directory_of, file_id
from pmuconf.hostfacts import Evidence, FileId, Qemu

__all__ = ["TESTED", "qemu_of_descriptor", "qemu_of_file", "qemu_of_process"]

# By the SHA-256 of the file: what has none of the strings and was seen by prove_qemu() not to make the call: as many
# KVM_ENABLE_CAP before the first vCPU with pmu=off as with pmu=on, and no question for the capability.
TESTED: Final = {
    "1493008ba0036014c727bb23bbe2f399135867e9b5c4fe288ef2b4b816f46b0c": "Debian 12, 1:7.2+dfsg-7+deb12u18+b3",
    "d3c1a558ad220e77a4412048c8d96b44f8c2b41c7ad2a4ecfe522a4b122fe067": "Debian 13, 1:10.0.13+ds-0+deb13u1",
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

_known: dict[tuple[int, ...], Qemu] = {}
_by_contents: dict[str, Qemu] = {}


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


def qemu_of_descriptor(descriptor: int, path: str, real: str = "") -> Qemu:
    """The QEMU that an open file is, under this path; closes it.

    Its cause is unstable if the file is being changed.

    :param real: the path without symbolic links, if that is known.
    """
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            return Qemu(path, None, None, "unreadable")
        which = file_id(found, real or path)
        key = _key(which)
        if key not in _known:
            if len(_known) >= _MAX_KEPT:
                _known.clear()
                _by_contents.clear()
            read = _read(file)
            if _key(file_id(os.fstat(descriptor), "")) != key:
                return Qemu(path, None, None, "unstable")
            _known[key] = read
        return replace(_known[key], path=path, file=which)


def _key(which: FileId) -> tuple[int, ...]:
    return which.device, which.inode, which.size, which.mtime_ns, which.ctime_ns


def _read(file: BinaryIO) -> Qemu:
    """Of containers' many copies of one binary only the first is searched; each is read, to know that it is a copy."""
    contents, _ = _contents(file, frozenset())
    if contents is None:
        return Qemu("", None, None, "unreadable")
    if contents not in _by_contents:
        # What was found and the contents that it is kept by are of one reading: the file may change between two.
        contents, present = _contents(file, frozenset((_QEMU, _PROPERTY, *_MESSAGES)))
        if contents is None:
            return Qemu("", None, None, "unreadable")
        _by_contents[contents] = _judge(_build_id(file.fileno()), contents, present)
    return _by_contents[contents]


def _judge(build_id: str | None, contents: str, present: frozenset[bytes]) -> Qemu:
    def said(disables: bool | None, cause: str) -> Qemu:
        evidence = Evidence.NONE if disables is None else Evidence.INFERRED
        return Qemu("", build_id, disables, cause, evidence, contents)

    if _QEMU not in present:
        return said(None, "not-qemu")
    if _PROPERTY in present:
        return said(None, "accel-property")
    if not present.isdisjoint(_MESSAGES):
        return said(True, "strings-in-binary")
    if contents in TESTED:
        return said(False, "tested-build-id")
    return said(None, "no-known-string")


def _contents(file: BinaryIO, strings: frozenset[bytes]) -> tuple[str | None, frozenset[bytes]]:
    """The SHA-256 of the file, and which of the strings are in it; None of a file that is larger than MAX_FILE.

    Read in pieces: a mapped file that is cut short would be our end.
    """
    wanted, found = set(strings), set[bytes]()
    digest, size, kept = hashlib.sha256(), 0, b""
    file.seek(0)
    while piece := file.read(_CHUNK):
        size += len(piece)
        if size > MAX_FILE:
            return None, frozenset()
        digest.update(piece)
        if wanted:
            data = kept + piece
            here = {string for string in wanted if string in data}
            found |= here
            wanted -= here
            kept = data[-_LONGEST:]
    return digest.hexdigest(), frozenset(found)


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
