"""The headers of a 64-bit ELF file, little endian: of the file itself, and of its segments (elf(5))."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

__all__ = ["CORE", "LOAD", "NOTE", "RELOCATABLE", "X86_64", "FileHeader", "SegmentHeader"]

RELOCATABLE: Final = 1
"""The kind of a file: a module, an object file."""
CORE: Final = 4
"""The kind of a file: memory."""
X86_64: Final = 62
LOAD: Final = 1
"""The kind of a segment: memory."""
NOTE: Final = 4
"""The kind of a segment: notes."""
_MAGIC: Final = b"\x7fELF"
_CLASS_64_LITTLE_VERSION_1: Final = b"\x02\x01\x01"
_FILE: Final = struct.Struct("<16sHHIQQQIHHHHHH")
_SEGMENT: Final = struct.Struct("<IIQQQQQQ")


class FileHeader(NamedTuple):
    """The header of a file. Segments and sections have tables of their own, which begin at ``segments``, ``sections``.

    :param names: the number of the section that holds the sections' names.
    """

    ident: bytes
    kind: int
    machine: int
    version: int
    entry: int
    segments: int
    sections: int
    flags: int
    header_size: int
    segment_size: int
    segment_count: int
    section_size: int
    section_count: int
    names: int

    @classmethod
    def read(cls, data: bytes) -> FileHeader:
        """The header that these bytes are.

        :raises struct.error: they are not as many as a header has.
        """
        return cls(*_FILE.unpack(data))

    @classmethod
    def of_core(cls, segments: int) -> FileHeader:
        """The header of a core file for x86-64 with so many segments."""
        ident = (_MAGIC + _CLASS_64_LITTLE_VERSION_1).ljust(16, b"\0")
        size = cls.size()
        return cls(ident, CORE, X86_64, 1, 0, size, 0, 0, size, SegmentHeader.size(), segments, 0, 0, 0)

    @staticmethod
    def size() -> int:
        """The size of a header, in bytes."""
        return _FILE.size

    @property
    def is_elf(self) -> bool:
        """Whether this is an ELF file, of any kind."""
        return self.ident.startswith(_MAGIC)

    @property
    def is_64_bit(self) -> bool:
        """Whether this is a 64-bit ELF file, little endian, so that the other members can be read."""
        return self.ident.startswith(_MAGIC + _CLASS_64_LITTLE_VERSION_1)

    def pack(self) -> bytes:
        """The header as bytes."""
        return _FILE.pack(*self)


class SegmentHeader(NamedTuple):
    """The header of a segment: a piece of the file, and where it is in memory."""

    kind: int
    flags: int
    offset: int
    address: int
    physical: int
    file_size: int
    memory_size: int
    align: int

    @staticmethod
    def size() -> int:
        """The size of a header, in bytes."""
        return _SEGMENT.size

    @classmethod
    def read_all(cls, data: bytes) -> Iterator[SegmentHeader]:
        """The headers in a table; what is cut short at the end is left out."""
        return map(cls._make, _SEGMENT.iter_unpack(data[: len(data) // _SEGMENT.size * _SEGMENT.size]))

    def pack(self) -> bytes:
        """The header as bytes."""
        return _SEGMENT.pack(*self)
