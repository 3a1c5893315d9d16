"""The memory of the running kernel, from /proc/kcore: an ELF core file.

It needs CAP_SYS_RAWIO, is refused under lockdown=confidentiality, and some kernels are built without it.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping
from typing import BinaryIO, Final

from pmuconf.errors import PmuconfError
from pmuconf.host.root import Root

__all__ = ["PAGE", "Kcore", "core_file"]

PAGE: Final = 4096
_IDENT: Final = b"\x7fELF\x02\x01"
_FILE: Final = struct.Struct("<16sHHIQQQIHHHHHH")
_SEGMENT: Final = struct.Struct("<IIQQQQQQ")
_LOAD: Final = 1
_READ_EXECUTE: Final = 5
_X86_64: Final = 62
_CORE: Final = 4
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
                "there is no /proc/kcore: this kernel is built without CONFIG_PROC_KCORE", cause="no-kcore"
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
    ident = (_IDENT + b"\x01").ljust(16, b"\0")
    file = _FILE.pack(ident, _CORE, _X86_64, 1, 0, _FILE.size, 0, 0, _FILE.size, _SEGMENT.size, len(runs), 0, 0, 0)
    offset = _whole_pages(_FILE.size + _SEGMENT.size * len(runs))
    segments, bodies = [], []
    for address, data in runs:
        segments.append(_SEGMENT.pack(_LOAD, _READ_EXECUTE, offset, address, 0, len(data), len(data), PAGE))
        body = bytes(data).ljust(_whole_pages(len(data)), b"\0")
        bodies.append(body)
        offset += len(body)
    start = file + b"".join(segments)
    return start.ljust(_whole_pages(len(start)), b"\0") + b"".join(bodies)


def _segments_of(descriptor: int) -> list[tuple[int, int, int]]:
    """For each piece of memory its address, its size, and where it is in the file."""
    ident, kind, machine, _, _, start, _, _, _, size, number, *_ = _FILE.unpack(os.pread(descriptor, 64, 0))
    if ident[:6] != _IDENT:
        raise PmuconfError("/proc/kcore is no 64-bit ELF file", cause="kcore-broken")
    if machine != _X86_64:
        raise PmuconfError("/proc/kcore is of another architecture: only x86-64 is judged", cause="not-x86")
    if kind != _CORE or size != _SEGMENT.size or number > _MAX_SEGMENTS:
        raise PmuconfError("/proc/kcore is not the core file that it should be", cause="kcore-broken")
    raw = os.pread(descriptor, number * _SEGMENT.size, start)
    if len(raw) != number * _SEGMENT.size:
        raise PmuconfError("/proc/kcore is truncated", cause="kcore-broken")
    return [
        (address, length, offset)
        for kind, _, offset, address, _, length, _, _ in _SEGMENT.iter_unpack(raw)
        if kind == _LOAD and address + length <= 1 << 64
    ]


def _whole_pages(size: int) -> int:
    """The size, rounded up to whole pages."""
    return -(-size // PAGE) * PAGE


def _refused(error: PermissionError, lockdown: str) -> PmuconfError:
    if "[confidentiality]" in lockdown:
        why = "/proc/kcore is refused: the kernel is locked down"
        return PmuconfError(why, cause="kcore-refused", hint="Install the package with this kernel's modules")
    if os.geteuid() == 0:
        return PmuconfError(f"/proc/kcore is refused: {error.strerror}", cause="kcore-refused")
    return PmuconfError("/proc/kcore is for root only", cause="kcore-refused", hint="Run pmuconf host as root")
