"""The sections of an ELF file for x86-64, read on demand: a vmlinux with debug information has hundreds of MB.

This is no library's reader, because those read each section as what it claims to be (hash tables, strings without end):
a file could make them take any time and memory. elf(5) describes the format.
"""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Final

from pmuconf.errors import PmuconfError
from pmuconf.host.code.headers import RELOCATABLE, X86_64, FileHeader
from pmuconf.host.notes import build_id_of_notes

__all__ = ["Section", "Sections"]

_HEADER: Final = struct.Struct("<IIQQQQIIQQ")
_SYMTAB, _STRTAB, _RELA, _NOBITS = 2, 3, 4, 8
_ALLOC, _EXEC, _COMPRESSED = 2, 4, 0x800
_MAX_SECTIONS: Final = 0xFF00
_MAX_NAMES: Final = 4 << 20
_MAX_NAME: Final = 512
_MAX_NOTES: Final = 1 << 20


@dataclass(frozen=True)
class Section:
    """The header of one section. For its kind, ``link`` and ``info`` may be numbers of other sections."""

    index: int
    name: str
    kind: int
    flags: int
    address: int
    offset: int
    size: int
    link: int
    info: int
    align: int

    @property
    def allocated(self) -> bool:
        """Whether it is in memory when the code runs."""
        return bool(self.flags & _ALLOC)

    @property
    def code(self) -> bool:
        """Whether it holds instructions."""
        return bool(self.flags & _EXEC)

    @property
    def compressed(self) -> bool:
        """Whether its contents are compressed."""
        return bool(self.flags & _COMPRESSED)

    @property
    def empty(self) -> bool:
        """Whether the section has no bytes in the file, whatever its size in memory."""
        return self.kind == _NOBITS

    @property
    def symbols(self) -> bool:
        """Whether it is the symbol table."""
        return self.kind == _SYMTAB

    @property
    def strings(self) -> bool:
        """Whether it is a table of strings."""
        return self.kind == _STRTAB

    @property
    def relocations(self) -> bool:
        """Whether it holds relocations with addends."""
        return self.kind == _RELA


class Sections:
    """The sections of a file; the file is read on demand, and must stay open.

    :raises PmuconfError: it is no ELF file, truncated or broken (elf-broken), or for another machine (not-x86).
    """

    def __init__(self, stream: BinaryIO, name: str) -> None:
        self.name, self.stream = name, stream
        stream.seek(0, io.SEEK_END)
        self.file_size = stream.tell()
        header = FileHeader.read(self._read(0, FileHeader.size()))
        if not header.is_elf:
            raise self.broken("it does not begin as an ELF file does")
        if not header.is_64_bit or header.machine != X86_64:
            raise PmuconfError(f"{name} is not for x86-64", cause="not-x86")
        self.relocatable = header.kind == RELOCATABLE
        self._all: list[Section] = []
        if not header.sections:
            return
        if header.section_size != _HEADER.size:
            raise self.broken("its section headers are not those of a 64-bit file")
        number, names_at = header.section_count, header.names
        if not number or names_at == 0xFFFF:  # more than fit into two bytes: the first section has the numbers
            first = _HEADER.unpack(self._read(header.sections, _HEADER.size))
            number, names_at = number or first[5], first[6] if names_at == 0xFFFF else names_at
        if number > _MAX_SECTIONS:
            raise self.broken(f"{number} section headers are more than any kernel's file has")
        headers = list(_HEADER.iter_unpack(self._read(header.sections, number * _HEADER.size)))
        names = self._names(headers, names_at)
        for index, (name_at, *rest) in enumerate(headers):
            self._all.append(Section(index, _name(names, name_at), *rest[:-1]))

    def __iter__(self) -> Iterator[Section]:
        return iter(self._all)

    def __getitem__(self, index: int) -> Section:
        if index >= len(self._all):
            raise self.broken(f"it has no section {index}")
        return self._all[index]

    def find(self, name: str) -> Section | None:
        """The first section of that name, None if there is none."""
        return next((section for section in self._all if section.name == name), None)

    def data(self, section: Section, most: int) -> bytes:
        """The bytes of a section in the file.

        :raises PmuconfError: it is truncated, compressed, or larger than ``most`` bytes; cause elf-broken.
        """
        if section.empty:
            return b""
        if section.compressed:
            raise self.broken(f"{section.name} is compressed")
        if section.size > most:
            raise self.broken(f"{section.name} has {section.size} bytes: more than any kernel's")
        return self._read(section.offset, section.size)

    def build_id(self) -> str | None:
        """The build-id that identifies the file, in hexadecimal digits; None if it has none."""
        for name in (".note.gnu.build-id", ".notes"):
            section = self.find(name)
            notes = self.data(section, _MAX_NOTES) if section is not None else b""
            build_id = build_id_of_notes(notes)
            if build_id is not None:
                return build_id
        return None

    def broken(self, why: str) -> PmuconfError:
        """The error that says that this file is broken, and why."""
        return PmuconfError(f"{self.name} is a broken or truncated ELF file: {why}", cause="elf-broken")

    def _read(self, offset: int, size: int) -> bytes:
        if offset + size > self.file_size:
            raise self.broken("it ends too early")
        try:
            self.stream.seek(offset)
            data = self.stream.read(size)
        except OSError as error:
            raise self.broken(os.strerror(error.errno or 0)) from None
        if len(data) != size:  # it was cut short meanwhile
            raise self.broken("it ends too early")
        return data

    def _names(self, headers: list[tuple[int, ...]], at: int) -> bytes:
        if not at:
            return b""
        if at >= len(headers):
            raise self.broken("its section headers have no names")
        _, kind, _, _, offset, size, *_ = headers[at]
        if kind != _STRTAB or size > _MAX_NAMES:
            raise self.broken("the names of its section headers can't be read")
        return self._read(offset, size)


def _name(names: bytes, at: int) -> str:
    return names[at : at + _MAX_NAME].partition(b"\0")[0].decode("utf-8", "replace")
