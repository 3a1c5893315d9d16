"""Code read from a file: a module (relocatable) or a vmlinux with symbols. Relocations are applied as a loader would.

A relocatable file gets addresses made up for it, in the range where the kernel puts modules; what it only refers to
gets an address of its own at which nothing can be read.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterable, Iterator, Mapping
from typing import BinaryIO, Final

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import Section, StringTableSection, SymbolTableSection

from pmuconf.errors import PmuconfError
from pmuconf.host.image import Symbols
from pmuconf.host.notes import build_id_of_notes

__all__ = ["BREAKAGE", "RELA", "SYMBOL", "ObjectFile", "build_id_of_notes", "sections_of"]

RELA: Final = struct.Struct("<QQq")
"""Elf64_Rela: where, symbol and kind, and what is added."""
SYMBOL: Final = struct.Struct("<IBBHQQ")
"""Elf64_Sym: name, type and binding, visibility, section, value, size."""

_START: Final = 0xFFFFFFFFC0000000
_LIMIT: Final = 1 << 28
_GAP: Final = 1 << 20
_ALLOC, _EXEC, _COMPRESSED = 2, 4, 0x800
_MASK: Final = (1 << 64) - 1
_SECTION_HEADER: Final = 64
_MAX_SECTIONS: Final = 0xFF00
_MAX_NAME: Final = 512
_OBJECT, _FUNC = 1, 2
_PC: Final = frozenset({2, 4})  # R_X86_64_PC32, R_X86_64_PLT32
_ABSOLUTE: Final = {1: "<Q", 10: "<I", 11: "<i"}  # R_X86_64_64, _32, _32S
BREAKAGE: Final = (
    *(ELFError, struct.error, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, MemoryError),
    *(RecursionError, AssertionError, OSError),
)
"""What pyelftools raises for a broken file, its own error first."""


class ObjectFile:
    """An ELF file for x86-64 as an image. ``relocatable`` if it is a module.

    :param beside: another file whose symbols are what this one lacks: its own addresses begin behind that one's.
    :raises PmuconfError: it is no such file, truncated or broken; cause elf-broken or not-x86.
    """

    symbols: Symbols

    def __init__(self, data: bytes, name: str, *, beside: ObjectFile | None = None) -> None:
        self.name = name
        self._beside: dict[str, int] = {}
        if beside is not None:
            self._beside.update((symbol, address) for address, symbol in beside.symbols)
        try:
            self._data, self._elf = data, ELFFile(io.BytesIO(data))
            if self._elf["e_machine"] != "EM_X86_64" or self._elf.elfclass != 64 or not self._elf.little_endian:
                raise PmuconfError(f"{name} is not for x86-64", cause="not-x86")
            self.relocatable = self._elf["e_type"] == "ET_REL"
            self._sections = sections_of(self._elf)
            self._pieces: list[tuple[int, bytearray, frozenset[int]]] = []
            self._check(len(data))
            self._lay_out()
        except PmuconfError:
            raise
        except BREAKAGE as error:
            raise _broken(name, error) from None

    def read(self, address: int, size: int) -> bytes:
        """Up to so many bytes; none where a relocation is of a kind that is not understood."""
        for start, data, holes in self._pieces:
            if start <= address < start + len(data):
                end = min(address - start + size, len(data))
                if holes:
                    end = next((at for at in range(address - start, end) if at in holes), end)
                return bytes(data[address - start : end])
        return b""

    def text(self) -> Iterator[tuple[int, bytes]]:
        """All code, with the address of each piece."""
        return ((start, bytes(data)) for start, data, _ in self._pieces)

    def section(self, name: str) -> bytes | None:
        """The contents of a section; None if there is none of that name."""
        found = next((section for section in self._sections if section.name == name), None)
        if found is None:
            return None
        if found["sh_type"] == "SHT_NOBITS":  # pyelftools would make as many zeros as it claims to have
            return None
        if found["sh_flags"] & _COMPRESSED:
            raise PmuconfError(f"{self.name}: {name} is compressed", cause="elf-broken")
        try:
            return bytes(found.data())
        except BREAKAGE as error:
            raise _broken(self.name, error) from None

    def section_size(self, name: str) -> int:
        """How many bytes a section has in the file; 0 if there is none of that name."""
        return sum(s["sh_size"] for s in self._sections if s.name == name and s["sh_type"] != "SHT_NOBITS")

    @property
    def build_id(self) -> str | None:
        """The build-id that identifies it, in hexadecimal digits."""
        for name in (".note.gnu.build-id", ".notes"):
            notes = self.section(name)
            found = build_id_of_notes(notes) if notes else None
            if found is not None:
                return found
        return None

    @property
    def stream(self) -> BinaryIO:
        """The whole file."""
        return io.BytesIO(self._data)

    def _check(self, size: int) -> None:
        """Refuse what would take more memory or time than the file's size warrants: sections that overlap."""
        weight = 0
        for section in self._sections:
            if section["sh_flags"] & _EXEC or section["sh_type"] in ("SHT_RELA", "SHT_SYMTAB", "SHT_STRTAB"):
                if section["sh_flags"] & _COMPRESSED:
                    raise PmuconfError(f"{self.name}: {section.name} is compressed", cause="elf-broken")
                weight += section["sh_size"] if section["sh_type"] != "SHT_NOBITS" else 0
        if weight > size:
            raise PmuconfError(f"{self.name} is truncated, or its sections overlap", cause="elf-broken")

    def _lay_out(self) -> None:
        addresses: dict[int, int] = {}
        start = cursor = _behind(self._beside.values())
        for index, section in enumerate(self._sections):
            flags, size = section["sh_flags"], section["sh_size"]
            if not flags & _ALLOC:
                continue
            if self.relocatable:
                if size > _LIMIT or cursor - start > _LIMIT:
                    raise PmuconfError(f"{self.name} is too large for a module", cause="elf-broken")
                align = min(max(section["sh_addralign"], 1), 4096)
                cursor = -(-cursor // align) * align
                addresses[index] = cursor
                cursor += size + 16
            else:
                addresses[index] = section["sh_addr"]
        table = next((s for s in self._sections if isinstance(s, SymbolTableSection)), None)
        values: list[int | None] = []
        pairs = []
        if table is not None:
            strings = self._sections[table["sh_link"]]
            if not isinstance(strings, StringTableSection):
                raise PmuconfError(f"{self.name}: its symbols have no names", cause="elf-broken")
            names = strings.data()
            outside = -(-cursor // 4096) * 4096
            raw = table.data()
            for at in range(0, len(raw) - len(raw) % SYMBOL.size, SYMBOL.size):
                name_at, info, _, section_index, value, _ = SYMBOL.unpack_from(raw, at)
                name = names[name_at : name_at + _MAX_NAME].partition(b"\0")[0].decode("utf-8", "replace")
                kind = info & 15
                address: int | None
                if section_index == 0:
                    address, outside = self._beside.get(name, outside), outside + 16
                elif section_index in addresses:
                    address = value + (addresses[section_index] if self.relocatable else 0)
                else:
                    address = value if section_index == 0xFFF1 else None
                values.append(address)
                # Of those without type, assembler's entry points are global, and labels are not.
                telling = kind in (_FUNC, _OBJECT) or section_index == 0 or (kind == 0 and info >> 4)
                telling = telling or name.startswith(("__pfx_", "__cfi_"))
                if address is not None and name and telling:
                    pairs.append((address, name))
        self.symbols = Symbols(pairs)
        self.switches: Mapping[int, int] = self._switches(addresses, values)
        for index, section in enumerate(self._sections):
            if index in addresses and section["sh_flags"] & _EXEC and section["sh_type"] != "SHT_NOBITS":
                data = bytearray(section.data())
                holes = self._relocate(index, addresses[index], data, values) if self.relocatable else frozenset()
                self._pieces.append((addresses[index], data, holes))

    def _switches(self, addresses: dict[int, int], values: list[int | None]) -> dict[int, int]:
        """The jumps that the kernel switches on and off as it runs: where each is, and where to (jump labels)."""
        found: dict[int, int] = {}
        for index, section in enumerate(self._sections):
            if section.name != "__jump_table" or index not in addresses or section["sh_type"] == "SHT_NOBITS":
                continue
            # struct jump_entry: two distances of 4 bytes, from where they stand, and 8 bytes for the key.
            if self.relocatable:
                places = dict(self._absolute(index, values))
                found.update((at, places[o + 4]) for o, at in places.items() if o % 16 == 0 and o + 4 in places)
            else:
                data = section.data()
                for offset in range(0, len(data) - 15, 16):
                    site, target = struct.unpack_from("<ii", data, offset)
                    at = addresses[index] + offset
                    found[(at + site) & _MASK] = (at + 4 + target) & _MASK
        return found

    def _absolute(self, index: int, values: list[int | None]) -> Iterator[tuple[int, int]]:
        """For each relocation of a section that makes a distance of 4 bytes: where it is, and what it leads to."""
        for section in self._sections:
            if section["sh_type"] == "SHT_RELA" and section["sh_info"] == index:
                raw = section.data()
                for offset, info, addend in RELA.iter_unpack(raw[: len(raw) - len(raw) % RELA.size]):
                    value = values[info >> 32]
                    if info & 0xFFFFFFFF in _PC and value is not None:
                        yield offset, (value + addend) & _MASK

    def _relocate(self, index: int, base: int, data: bytearray, values: list[int | None]) -> frozenset[int]:
        """Apply the relocations of a section; the bytes that could not be."""
        holes: set[int] = set()
        for section in self._sections:
            if section["sh_type"] != "SHT_RELA" or section["sh_info"] != index:
                continue
            raw = section.data()
            for offset, info, addend in RELA.iter_unpack(raw[: len(raw) - len(raw) % RELA.size]):
                kind, symbol = info & 0xFFFFFFFF, info >> 32
                target = values[symbol]
                if kind == 0:
                    continue
                width = 8 if kind == 1 else 4
                if target is None or offset + width > len(data) or not (kind in _PC or kind in _ABSOLUTE):
                    holes.update(range(offset, min(offset + width, len(data))))
                elif kind in _PC:
                    struct.pack_into("<I", data, offset, (target + addend - base - offset) & 0xFFFFFFFF)
                else:
                    mask = (1 << 8 * width) - 1
                    data[offset : offset + width] = ((target + addend) & mask).to_bytes(width, "little")
        return frozenset(holes)


def sections_of(elf: ELFFile) -> list[Section]:
    """The sections of a file.

    :raises ELFError: it has too many, or their headers are of another size.
    """
    if elf["e_shoff"] and (elf["e_shentsize"] != _SECTION_HEADER or elf.num_sections() > _MAX_SECTIONS):
        raise ELFError("its section headers are not those of a 64-bit file")
    return list(elf.iter_sections())


def _behind(addresses: Iterable[int]) -> int:
    """Where to begin behind these addresses, among those that are made up."""
    own = (address for address in addresses if _START <= address < _START + 2 * _LIMIT)
    return max(own, default=_START - _GAP) + _GAP & -_GAP


def _broken(name: str, error: BaseException) -> PmuconfError:
    return PmuconfError(f"{name} is a broken or truncated ELF file: {error}", cause="elf-broken")
