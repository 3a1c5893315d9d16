"""The memory of the running kernel, from /proc/kcore: an ELF core file.

It needs CAP_SYS_RAWIO, is refused under lockdown=confidentiality, and some kernels are built without it.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping
from typing import BinaryIO, Final

from pmuconf.errors import PmuconfError
from pmuconf.host.code.headers import CORE, LOAD, X86_64, FileHeader, SegmentHeader
from pmuconf.host.root import Root

__all__ = ["PAGE", "Kcore", "core_file"]

PAGE: Final = 4096
_READ_EXECUTE: Final = 5
_MAX_SEGMENTS: Final = 4096
_MAX_PAGES: Final = 96 << 8
"""How much text is read and kept of all images together, in pages of 4 KB: KVM and a livepatch have 2 MB."""


class Kcore:
    """The memory, by its addresses.

    :raises PmuconfError: the file can't be opened, or is no such file; cause no-kcore, kcore-refused, kcore-broken or
        not-x86.
    """

    def __init__(self, root: Root) -> None:
        if not root.exists("/proc/kcore"):
            raise PmuconfError(
                "there is no /proc/kcore: this kernel is built without CONFIG_PROC_KCORE",
                cause="no-kcore",
                hint="Boot a kernel with CONFIG_PROC_KCORE=y",
            )
        self._pages = _MAX_PAGES
        try:
            self._file: BinaryIO = root.open("/proc/kcore")
            try:
                self._segments = _segments_of(self._file.fileno())
            except BaseException:
                self._file.close()
                raise
        except PermissionError as error:
            raise _refused(error, root.text("/sys/kernel/security/lockdown") or "") from None
        except (OSError, OverflowError, struct.error) as error:
            raise PmuconfError(f"/proc/kcore can't be read: {error}", cause="kcore-broken") from None

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def read(self, address: int, size: int) -> bytes:
        """Up to so many bytes; none where the file has nothing."""
        for start, length, offset in self._segments:
            if start <= address < start + length:
                try:
                    return os.pread(self._file.fileno(), min(size, start + length - address), offset + address - start)
                except (OSError, OverflowError, ValueError):
                    return b""
        return b""

    def page(self, address: int) -> bytes:
        """A page of code, which will be kept.

        :raises PmuconfError: it is one too many; cause kcore-broken.
        """
        self._pages -= 1
        if self._pages < 0:
            raise PmuconfError("KVM and the livepatches have more code than any kernel", cause="kcore-broken")
        return self.read(address, PAGE)


def core_file(pages: Mapping[int, bytes]) -> bytes:
    """An ELF core file that holds these pages at their addresses."""
    runs: list[tuple[int, bytearray]] = []
    for address in sorted(pages):
        if runs and runs[-1][0] + len(runs[-1][1]) == address:
            runs[-1][1].extend(pages[address])
        else:
            runs.append((address, bytearray(pages[address])))
    offset = _whole_pages(FileHeader.size() + SegmentHeader.size() * len(runs))
    segments, bodies = [], []
    for address, data in runs:
        header = SegmentHeader(LOAD, _READ_EXECUTE, offset, address, 0, len(data), len(data), PAGE)
        segments.append(header.pack())
        body = bytes(data).ljust(_whole_pages(len(data)), b"\0")
        bodies.append(body)
        offset += len(body)
    start = FileHeader.of_core(len(runs)).pack() + b"".join(segments)
    return start.ljust(_whole_pages(len(start)), b"\0") + b"".join(bodies)


def _segments_of(descriptor: int) -> list[tuple[int, int, int]]:
    """For each piece of memory its address, its size, and where it is in the file."""
    header = FileHeader.read(os.pread(descriptor, FileHeader.size(), 0))
    if not header.is_64_bit:
        raise PmuconfError("/proc/kcore is no 64-bit ELF file", cause="kcore-broken")
    if header.machine != X86_64:
        raise PmuconfError("/proc/kcore is of another architecture: only x86-64 is judged", cause="not-x86")
    if header.kind != CORE or header.segment_size != SegmentHeader.size() or header.segment_count > _MAX_SEGMENTS:
        raise PmuconfError("/proc/kcore is not the core file that it should be", cause="kcore-broken")
    size = header.segment_count * SegmentHeader.size()
    raw = os.pread(descriptor, size, header.segments)
    if len(raw) != size:
        raise PmuconfError("/proc/kcore is truncated", cause="kcore-broken")
    return [
        (segment.address, segment.file_size, segment.offset)
        for segment in SegmentHeader.read_all(raw)
        if segment.kind == LOAD and segment.address + segment.file_size <= 1 << 64
    ]


def _whole_pages(size: int) -> int:
    """The size, rounded up to whole pages."""
    return -(-size // PAGE) * PAGE


def _refused(error: PermissionError, lockdown: str) -> PmuconfError:
    if "[confidentiality]" in lockdown:
        return PmuconfError("/proc/kcore is refused: the kernel is locked down", cause="kcore-refused")
    if os.geteuid() == 0:
        return PmuconfError(f"/proc/kcore is refused: {error.strerror}", cause="kcore-refused")
    return PmuconfError("/proc/kcore is for root only", cause="kcore-refused", hint="Run pmuconf host as root")
