"""The debug sections of a file as streams: what is compressed is unpacked, and a module's relocations are applied.

Where it can be, a section stays in its file. The memory that the others take has a limit.
"""

from __future__ import annotations

import io
import re
import struct
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO, Final

from pmuconf.errors import PmuconfError
from pmuconf.host.code.elf import RELA, SYMBOL
from pmuconf.host.code.sections import Section, Sections

__all__ = ["DebugSections"]

_ZLIB, _ZSTD = 1, 2
_COMPRESSION: Final = struct.Struct("<IIQQ")
"""Elf64_Chdr: the kind, a reserved word, the size when unpacked, the alignment."""
_MAX_HELD: Final = 192 << 20
"""How much of a file's sections is held in memory, in bytes, where they are compressed or have to be relocated."""
_PIECE: Final = 1 << 20
_WIDTHS: Final = {1: 8, 10: 4}
"""The bytes that a relocation writes: R_X86_64_64, R_X86_64_32. Others are left alone."""


class DebugSections:
    """The sections of a file as streams. The bytes that have to be held in memory are counted."""

    def __init__(self, sections: Sections) -> None:
        self._sections, self._left = sections, _MAX_HELD

    def stream(self, section: Section) -> BinaryIO:
        """A section's contents, decompressed if they are compressed.

        :raises PmuconfError: they are too large for that, or broken; cause dwarf-broken.
        """
        if section.empty:
            return io.BytesIO()
        window = io.BufferedReader(_Window(self._sections.stream, section.offset, section.size))
        if not section.compressed:
            return window
        kind, _, whole, _ = _COMPRESSION.unpack(window.read(_COMPRESSION.size))
        if kind not in (_ZLIB, _ZSTD):
            raise _broken(f"{section.name} is compressed in a way that is not known")
        self._take(section, whole)
        unpack = _inflated if kind == _ZLIB else _unpacked
        return io.BytesIO(_whole(section, unpack(window, section.size - _COMPRESSION.size), whole))

    def relocated(self, section: Section, relocations: Section | None) -> BinaryIO:
        """A debug section with the relocations applied that a module's has: references to other debug sections."""
        stream = self.stream(section)
        if relocations is None:
            return stream
        self._take(section, 0 if section.compressed else section.size)
        data = bytearray(stream.read())
        table = self._sections[relocations.link]
        self._take(table, table.size)
        symbols = self.stream(table).read()
        self._left += table.size  # they are let go again
        for offset, info, addend in _records(RELA, self.stream(relocations)):
            width, symbol = _WIDTHS.get(info & 0xFFFFFFFF), info >> 32
            if width is None:
                continue
            (*_, value, _) = SYMBOL.unpack_from(symbols, symbol * SYMBOL.size)
            if offset + width > len(data):
                raise _broken(f"{section.name} has a relocation outside of it")
            number = (value + addend) & ((1 << 8 * width) - 1)
            data[offset : offset + width] = number.to_bytes(width, "little")
        return io.BytesIO(data)

    def address(self, function: str) -> int | None:
        """Where the symbol table of a linked file has a function."""
        table = next((section for section in self._sections if section.symbols), None)
        if table is None or table.size > _MAX_HELD // 2 or self._sections[table.link].size > _MAX_HELD // 2:
            return None
        names = self.stream(self._sections[table.link]).read()
        # Linkers let a name begin in the middle of a longer one that ends in it.
        places = {match.start() for match in re.finditer(re.escape(function.encode()) + rb"\0", names)}
        del names
        for name, *_, value, _ in _records(SYMBOL, self.stream(table)):
            if name in places:
                return int(value)
        return None

    def _take(self, section: Section, size: int) -> None:
        self._left -= size
        if self._left < 0:
            raise _broken(f"{section.name} with {size} bytes is too large to be held in memory")


def _records(record: struct.Struct, stream: BinaryIO) -> Iterator[tuple[int, ...]]:
    """The records that a stream has, read piece by piece."""
    while piece := stream.read(record.size << 15):
        yield from record.iter_unpack(piece[: len(piece) - len(piece) % record.size])


def _whole(section: Section, pieces: Iterator[bytes], size: int) -> bytes:
    """The pieces together.

    :raises PmuconfError: they are broken, or more than that size; cause dwarf-broken.
    """
    data = bytearray()
    try:
        for piece in pieces:
            data += piece
            if len(data) > size:
                raise _broken(f"{section.name} has more than the {size} bytes that it says")
    except Exception as error:
        if type(error).__name__ != "ZstdError":  # of a module that need not be there
            raise
        raise _broken(f"{section.name}: {error}") from None
    return bytes(data)


def _inflated(stream: BinaryIO, size: int) -> Iterator[bytes]:
    inflate = zlib.decompressobj()
    while size > 0 and not inflate.eof and (piece := stream.read(min(size, _PIECE))):
        size -= len(piece)
        while piece and not inflate.eof:
            yield inflate.decompress(piece, _PIECE)
            piece = inflate.unconsumed_tail


def _unpacked(stream: BinaryIO, size: int) -> Iterator[bytes]:
    import zstandard

    window = io.BufferedReader(_Window(stream, _COMPRESSION.size, size))
    with zstandard.ZstdDecompressor().stream_reader(window) as reader:
        while piece := reader.read(_PIECE):
            yield piece


def _broken(why: str) -> PmuconfError:
    return PmuconfError(why, cause="dwarf-broken")


class _Window(io.RawIOBase):
    """A section of a file as a file of its own, so that it need not be held in memory."""

    def __init__(self, file: BinaryIO, start: int, size: int) -> None:
        self._file, self._start, self._size, self._at = file, start, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        if self._at < 0:
            raise ValueError("before the start")
        return self._at

    def readinto(self, buffer: Any) -> int:
        self._file.seek(self._start + self._at)
        data = self._file.read(max(0, min(len(buffer), self._size - self._at)))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)
