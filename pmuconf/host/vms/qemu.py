"""Whether a QEMU disables the PMU in KVM for a VM that must not have one, by its binary.

``pmu=off`` alone only hides the PMU from the guest. A QEMU that calls KVM_ENABLE_CAP with KVM_CAP_PMU_CAPABILITY also
clears ``kvm->arch.enable_pmu``. QEMU 11.0 and later do so (QEMU commit 383374465155), and vendors backport it, so no
version decides. What the binary shows is the message for the case that KVM refuses.

A binary is known by its whole contents: a build-id is a note that anybody can write into a file, and a container's
file may claim to be another one.
"""

from __future__ import annotations

import hashlib
import os
import stat
import struct
from dataclasses import dataclass, replace
from typing import BinaryIO, Final

from pmuconf.errors import PmuconfError
from pmuconf.host.code.headers import NOTE, FileHeader, SegmentHeader
from pmuconf.host.notes import build_id_of_notes
from pmuconf.host.root import MAX_FILE, Root
from pmuconf.host.vms.procdir import DELETED, directory_of, file_id
from pmuconf.hostfacts import Evidence, FileId, Qemu

__all__ = ["TESTED", "qemu_of_descriptor", "qemu_of_file", "qemu_of_process"]

# By the SHA-256 of the file: binaries without any of the strings, which prove_qemu() has seen not to make the call.
# They make as many KVM_ENABLE_CAP before the first vCPU with pmu=off as with pmu=on, and do not ask for the capability.
TESTED: Final = {
    "1493008ba0036014c727bb23bbe2f399135867e9b5c4fe288ef2b4b816f46b0c": "Debian 12, 1:7.2+dfsg-7+deb12u18+b3",
    "d3c1a558ad220e77a4412048c8d96b44f8c2b41c7ad2a4ecfe522a4b122fe067": "Debian 13, 1:10.0.13+ds-0+deb13u1",
}
_QEMU: Final = b"QEMU emulator version"
_MESSAGES: Final = frozenset((b"KVM_PMU_CAP_DISABLE", b"Failed to disable pmu cap"))
_PROPERTY: Final = b"pmu-cap-disabled"
"""A patch that was posted in 2024 has it: there a property of the accelerator decides, and pmu=off does not."""
_STRINGS: Final = frozenset((_QEMU, _PROPERTY)) | _MESSAGES
_LONGEST: Final = 64
_CHUNK: Final = 1 << 20
_MAX_HEADERS: Final = 256
_MAX_NOTES: Final = 1 << 16
_MAX_KEPT: Final = 256
_READ: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK

_by_file: dict[FileId, Qemu] = {}
_by_contents: dict[str, Qemu] = {}


def qemu_of_process(root: Root, pid: int, started: int, exe: str) -> Qemu:
    """The QEMU that a process runs, also if the file that it was started from is gone.

    :param exe: the target of /proc/PID/exe.
    """
    try:
        if root.live:
            with directory_of(root, pid, started) as directory:
                descriptor = os.open("exe", _READ, dir_fd=directory)
        elif exe.endswith(DELETED):
            return _not_read(exe, "unreadable")
        else:
            descriptor = os.open(root.at(exe), _READ)
        return qemu_of_descriptor(descriptor, exe)
    except (OSError, PmuconfError):
        return _not_read(exe, "unreadable")


def qemu_of_file(path: str | os.PathLike[str]) -> Qemu:
    """The QEMU that a file is. Its cause is unreadable or not-qemu if it is none."""
    try:
        return qemu_of_descriptor(os.open(path, _READ), os.fspath(path))
    except OSError:
        return _not_read(os.fspath(path), "unreadable")


def qemu_of_descriptor(descriptor: int, path: str, real: str = "") -> Qemu:
    """The QEMU that an open file is, under this path; closes it.

    Its cause is unstable if the file is being changed. A file is read again only if its size or a time has changed.

    :param real: the path without symbolic links, if that is known.
    """
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            return _not_read(path, "unreadable")
        key = file_id(status, "")
        qemu = _by_file.get(key)
        if qemu is None:
            qemu = _read(file)
            if file_id(os.fstat(descriptor), "") != key:
                return _not_read(path, "unstable")
            if len(_by_file) >= _MAX_KEPT:
                _by_file.clear()
                _by_contents.clear()
            _by_file[key] = qemu
        return replace(qemu, path=path, file=file_id(status, real or path))


def _not_read(path: str, cause: str) -> Qemu:
    return Qemu(path, None, None, cause)


@dataclass(frozen=True)
class _Contents:
    """The contents of a file: their SHA-256, and which of the strings are in them."""

    sha256: str
    present: frozenset[bytes]


def _read(file: BinaryIO) -> Qemu:
    """The QEMU in a file, without a path.

    Containers have many copies of one binary. Each copy is read, to know that it is one, and only the first is
    searched.
    """
    contents = _contents(file, frozenset())
    if contents is None:
        return _not_read("", "unreadable")
    if contents.sha256 not in _by_contents:
        # The strings and the SHA-256 that they are kept by are of one reading: the file may change between two.
        contents = _contents(file, _STRINGS)
        if contents is None:
            return _not_read("", "unreadable")
        _by_contents[contents.sha256] = _judge(_build_id(file.fileno()), contents)
    return _by_contents[contents.sha256]


def _judge(build_id: str | None, contents: _Contents) -> Qemu:
    disables, cause = _answer(contents)
    evidence = Evidence.NONE if disables is None else Evidence.INFERRED
    return Qemu("", build_id, disables, cause, evidence, contents.sha256)


def _answer(contents: _Contents) -> tuple[bool | None, str]:
    """Whether a QEMU with these contents disables the PMU in KVM, and the cause."""
    if _QEMU not in contents.present:
        return None, "not-qemu"
    if _PROPERTY in contents.present:
        return None, "accel-property"
    if contents.present & _MESSAGES:
        return True, "strings-in-binary"
    if contents.sha256 in TESTED:
        return False, "tested-build-id"
    return None, "no-known-string"


def _contents(file: BinaryIO, strings: frozenset[bytes]) -> _Contents | None:
    """The contents of the file; None if it is larger than MAX_FILE.

    The file is read in pieces: a mapped file that is cut short would end this process.
    """
    present: set[bytes] = set()
    digest, size, end_of_last = hashlib.sha256(), 0, b""
    file.seek(0)
    while piece := file.read(_CHUNK):
        size += len(piece)
        if size > MAX_FILE:
            return None
        digest.update(piece)
        missing = strings - present
        if missing:
            data = end_of_last + piece
            present.update(string for string in missing if string in data)
            end_of_last = data[-_LONGEST:]
    return _Contents(digest.hexdigest(), frozenset(present))


def _build_id(descriptor: int) -> str | None:
    """The build-id, from the notes that the segments have: a stripped binary has no sections."""
    try:
        header = FileHeader.read(os.pread(descriptor, FileHeader.size(), 0))
        if not header.is_64_bit or header.segment_size != SegmentHeader.size() or header.segment_count > _MAX_HEADERS:
            return None
        table = os.pread(descriptor, header.segment_count * SegmentHeader.size(), header.segments)
        for segment in SegmentHeader.read_all(table):
            if segment.kind == NOTE and segment.file_size <= _MAX_NOTES:
                build_id = build_id_of_notes(os.pread(descriptor, segment.file_size, segment.offset))
                if build_id is not None:
                    return build_id
    except (OSError, OverflowError, ValueError, struct.error):
        pass
    return None
