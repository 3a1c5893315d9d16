"""A module or vmlinux as a stream: the file itself, or its unpacked contents.

There is a limit above the size of any real one. A file that unpacks to more is refused while it is unpacked, never
afterwards: a few hundred KB can hold gigabytes.
"""

from __future__ import annotations

import io
import lzma
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Final

from pmuconf.errors import PmuconfError
from pmuconf.files.inputs import open_regular
from pmuconf.host.root import MAX_FILE
from pmuconf.libraries import missing

__all__ = ["Budget", "unpacked"]

_MAGIC: Final = {b"\x1f\x8b": "gzip", b"\xfd7zXZ\0": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
_BOOT: Final = b"HdrS"
_BOOT_AT: Final = 0x202
"""Where the header of the x86 boot protocol is in a kernel image for boot loaders (Documentation/arch/x86/boot.rst)."""
_MAX_PACKED: Final = 64 << 20
_MAX_UNPACKED: Final = 128 << 20
"""kvm.ko with its debug information has 40 MB."""
_MAX_WINDOW: Final = 64 << 20
"""The memory that a decompressor may use itself: kernels are packed with windows of 1 to 8 MB."""
_PIECE: Final = 1 << 20


@dataclass
class Budget:
    """The bytes and files that may be read of one host, however many names the files have."""

    bytes: int = 256 << 20
    files: int = 64
    refused: set[tuple[int, int]] = field(default_factory=set)
    """The inodes of the files that are not to be tried again under another name."""


def unpacked(path: str | os.PathLike[str], budget: Budget | None = None) -> BinaryIO:
    """The contents of a file, unpacked if it is packed by gzip, xz or zstd. It closes when the last reference goes.

    :param budget: the rest for this file and others; a second name of a file that was refused is refused at once.
    :raises PmuconfError: cause file-unreadable, cannot-decompress, or compressed-kernel.
    """
    name, budget = os.fspath(path), Budget() if budget is None else budget
    try:
        descriptor = open_regular(path)
    except OSError as error:
        raise PmuconfError(f"{name}: {error.strerror}", cause="file-unreadable") from None
    file = _Opened(descriptor)
    status = os.fstat(descriptor)
    inode = status.st_dev, status.st_ino
    if inode in budget.refused:
        raise PmuconfError(f"{name} is a second name of a file that was refused", cause="file-unreadable")
    budget.files -= 1
    if status.st_size > MAX_FILE or budget.files < 0:
        what = f"{name} is too large" if budget.files >= 0 else f"{name} is one file too many"
        raise PmuconfError(what, cause="file-unreadable")
    try:
        start = os.pread(descriptor, 8, 0)
        kind = next((kind for magic, kind in _MAGIC.items() if start.startswith(magic)), None)
        if os.pread(descriptor, len(_BOOT), _BOOT_AT) == _BOOT:
            raise PmuconfError(
                f"{name} is a compressed kernel for boot loaders, without symbols",
                cause="compressed-kernel",
                hint="Where KVM is a module, give that: /lib/modules/RELEASE/kernel/arch/x86/kvm/kvm.ko (.xz, .zst). "
                "Otherwise give the vmlinux of the kernel's debug package",
            )
        if kind is None:
            return io.BufferedReader(file)
        return io.BytesIO(_unpack(file, kind, name, budget))
    except OSError as error:
        raise PmuconfError(f"{name}: {error.strerror}", cause="file-unreadable") from None
    except PmuconfError:
        budget.refused.add(inode)
        raise


class _Opened(io.RawIOBase):
    """An open file that is closed when it is let go, without a warning."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor, self._at = descriptor, 0

    def close(self) -> None:
        if not self.closed:
            os.close(self._descriptor)
        super().close()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        size = os.fstat(self._descriptor).st_size if whence == io.SEEK_END else 0
        self._at = max(0, offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: size}[whence])
        return self._at

    def readinto(self, buffer: Any) -> int:
        size = os.preadv(self._descriptor, [buffer], self._at)
        self._at += size
        return size


def _unpack(file: _Opened, kind: str, name: str, budget: Budget) -> bytes:
    most = min(_MAX_UNPACKED, budget.bytes)
    pieces = {"gzip": _gzip, "xz": _xz, "zstd": _zstd}[kind](file, name)
    out = bytearray()
    try:
        for piece in pieces:
            out += piece
            if len(out) > most:
                raise PmuconfError(
                    f"{name} unpacks to more than {most >> 20} MiB: no module of KVM's does",
                    cause="cannot-decompress",
                )
    except (zlib.error, lzma.LZMAError, EOFError, MemoryError) as error:
        raise PmuconfError(f"{name}: {error or 'it takes too much memory'}", cause="cannot-decompress") from None
    finally:
        budget.bytes -= len(out)
    return bytes(out)


def _packed(file: _Opened, name: str) -> Iterator[bytes]:
    size = 0
    while piece := file.read(_PIECE):
        size += len(piece)
        if size > _MAX_PACKED:
            raise PmuconfError(f"{name} is packed and has more than {_MAX_PACKED >> 20} MiB", cause="cannot-decompress")
        yield piece


def _gzip(file: _Opened, name: str) -> Iterator[bytes]:
    inflate = zlib.decompressobj(31)
    for piece in _packed(file, name):
        while piece and not inflate.eof:
            yield inflate.decompress(piece, _PIECE)
            piece = inflate.unconsumed_tail
    if not inflate.eof:
        raise EOFError("it is truncated")


def _xz(file: _Opened, name: str) -> Iterator[bytes]:
    unpack = lzma.LZMADecompressor(memlimit=_MAX_WINDOW)
    for piece in _packed(file, name):
        while not unpack.eof and (piece or not unpack.needs_input):
            yield unpack.decompress(piece, _PIECE)
            piece = b""
    if not unpack.eof:
        raise EOFError("it is truncated")


def _zstd(file: _Opened, name: str) -> Iterator[bytes]:
    try:
        import zstandard
    except ImportError as error:
        raise PmuconfError(
            f"{name} is compressed with zstd, and Python's zstandard is not there",
            cause="cannot-decompress",
            hint=missing(error).hint,
        ) from None
    try:
        with zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW).stream_reader(
            io.BufferedReader(file), closefd=False
        ) as reader:
            while piece := reader.read(_PIECE):
                yield piece
    except zstandard.ZstdError as error:
        raise PmuconfError(f"{name}: {error}", cause="cannot-decompress") from None
