"""Code read from a file: a module (relocatable) or a vmlinux with symbols. Relocations are applied as a loader would.

A relocatable file gets addresses made up for it, in the range where the kernel puts modules; what it only refers to
gets an address of its own at which nothing can be read.
"""

from __future__ import annotations

import bisect
import io
import struct
from collections.abc import Iterable, Iterator, Mapping
from typing import BinaryIO, Final

from pmuconf.host.code.image import Symbols
from pmuconf.host.code.sections import Section, Sections

__all__ = ["RELA", "SYMBOL", "ObjectFile"]

RELA: Final = struct.Struct("<QQq")
"""Elf64_Rela: where, symbol and kind, and what is added."""
SYMBOL: Final = struct.Struct("<IBBHQQ")
"""Elf64_Sym: name, type and binding, visibility, section, value, size."""

_START: Final = 0xFFFFFFFFC0000000
_LIMIT: Final = 1 << 28
_GAP: Final = 1 << 20
_MASK: Final = (1 << 64) - 1
_MAX_NAME: Final = 512
_OBJECT, _FUNC = 1, 2
_PC: Final = frozenset({2, 4})  # R_X86_64_PC32, R_X86_64_PLT32
_ABSOLUTE: Final = {1: "<Q", 10: "<I", 11: "<i"}  # R_X86_64_64, _32, _32S

# What any real file keeps: a vmlinux has 30 MB of code and 200,000 symbols, kvm.ko 1 MB of code.
_MAX_CODE: Final = 96 << 20
_MAX_MODULE_CODE: Final = 32 << 20
_MAX_SYMBOLS: Final = 1 << 20
_MAX_NAMED: Final = 500_000
_MAX_STRINGS: Final = 64 << 20
_MAX_RELOCATIONS: Final = 1 << 20
_MAX_JUMPS: Final = 16 << 20
_MAX_TYPES: Final = 32 << 20


class ObjectFile:
    """An ELF file for x86-64 as an image. ``relocatable`` if it is a module.

    :param beside: another file whose symbols are what this one lacks: its own addresses begin behind that one's.
    :raises PmuconfError: it is no such file, truncated or broken; cause elf-broken or not-x86.
    """

    symbols: Symbols

    def __init__(self, data: bytes | BinaryIO, name: str, *, beside: ObjectFile | None = None) -> None:
        self.name = name
        self._beside: dict[str, int] = {}
        if beside is not None:
            self._beside.update((symbol, address) for address, symbol in beside.symbols)
        self.stream = io.BytesIO(data) if isinstance(data, bytes) else data
        self._sections = Sections(self.stream, name)
        self.relocatable = self._sections.relocatable
        self.build_id = self._sections.build_id()
        self._starts: list[int] = []
        self._pieces: list[tuple[bytes | bytearray, bytearray | None]] = []
        self._check()
        try:
            self._lay_out()
        except (struct.error, IndexError, OverflowError) as error:
            raise self._sections.broken(str(error)) from None

    def read(self, address: int, size: int) -> bytes:
        """Up to so many bytes; none where a relocation is of a kind that is not understood."""
        at = bisect.bisect_right(self._starts, address) - 1
        if at < 0:
            return b""
        data, holes = self._pieces[at]
        begin = address - self._starts[at]
        end = min(begin + size, len(data))
        if holes is not None and begin < end:
            hole = holes.find(1, begin, end)
            end = end if hole < 0 else hole
        return bytes(data[begin:end])

    def text(self) -> Iterator[tuple[int, bytes]]:
        """All code, with the address of each piece."""
        return ((start, bytes(data)) for start, (data, _) in zip(self._starts, self._pieces))

    def section(self, name: str) -> bytes | None:
        """The contents of a section; None if there is none of that name."""
        found = self._sections.find(name)
        return None if found is None or found.empty else self._sections.data(found, _MAX_TYPES)

    def section_size(self, name: str) -> int:
        """How many bytes a section has in the file; 0 if there is none of that name."""
        return sum(section.size for section in self._sections if section.name == name and not section.empty)

    def _check(self) -> None:
        """Refuse what would take more memory or time than the file's size warrants: sections that overlap."""
        weight = code = 0
        for section in self._sections:
            if section.code or section.relocations or section.symbols or section.strings:
                if section.compressed:
                    raise self._sections.broken(f"{section.name} is compressed")
                weight += 0 if section.empty else section.size
                code += section.size if section.code and not section.empty else 0
        if weight > self._sections.file_size:
            raise self._sections.broken("it is truncated, or its sections overlap")
        if code > (_MAX_MODULE_CODE if self.relocatable else _MAX_CODE):
            raise self._sections.broken(f"it has {code >> 20} MiB of code: more than any kernel")

    def _lay_out(self) -> None:
        addresses: dict[int, int] = {}
        start = cursor = _behind(self._beside.values())
        for section in self._sections:
            if not section.allocated:
                continue
            if self.relocatable:
                if section.size > _LIMIT or cursor - start > _LIMIT:
                    raise self._sections.broken("it is too large for a module")
                align = min(max(section.align, 1), 4096)
                cursor = -(-cursor // align) * align
                addresses[section.index] = cursor
                cursor += section.size + 16
            else:
                addresses[section.index] = section.address
        table = next((section for section in self._sections if section.symbols), None)
        values: list[int | None] = []
        pairs = []
        if table is not None:
            strings = self._sections[table.link]
            if not strings.strings:
                raise self._sections.broken("its symbols have no names")
            names = self._sections.data(strings, _MAX_STRINGS)
            outside = -(-cursor // 4096) * 4096
            raw = self._sections.data(table, _MAX_SYMBOLS * SYMBOL.size)
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
        if len(pairs) > _MAX_NAMED:
            raise self._sections.broken(f"it has {len(pairs)} functions and variables: more than any kernel")
        self.symbols = Symbols(pairs)
        self.switches: Mapping[int, int] = self._switches(addresses, values)
        pieces: list[tuple[int, bytes | bytearray, bytearray | None]] = []
        for section in self._sections:
            if section.index in addresses and section.code and not section.empty:
                data = self._sections.data(section, _MAX_CODE)
                at = addresses[section.index]
                if self.relocatable:
                    pieces.append((at, *self._relocate(section, at, bytearray(data), values)))
                else:
                    pieces.append((at, data, None))
        pieces.sort(key=lambda piece: piece[0])
        self._starts = [at for at, _, _ in pieces]
        self._pieces = [(data, holes) for _, data, holes in pieces]

    def _switches(self, addresses: dict[int, int], values: list[int | None]) -> dict[int, int]:
        """The jumps that the kernel switches on and off as it runs: where each is, and where to (jump labels)."""
        found: dict[int, int] = {}
        for section in self._sections:
            if section.name != "__jump_table" or section.index not in addresses or section.empty:
                continue
            # struct jump_entry: two distances of 4 bytes, from where they stand, and 8 bytes for the key.
            if self.relocatable:
                places = dict(self._absolute(section, values))
                found.update((at, places[o + 4]) for o, at in places.items() if o % 16 == 0 and o + 4 in places)
            else:
                data = self._sections.data(section, _MAX_JUMPS)
                for offset in range(0, len(data) - 15, 16):
                    site, target = struct.unpack_from("<ii", data, offset)
                    at = addresses[section.index] + offset
                    found[(at + site) & _MASK] = (at + 4 + target) & _MASK
        return found

    def _relocations(self, section: Section) -> Iterator[tuple[int, int, int]]:
        """What is to be done to a section: where, which kind and symbol, and what is added.

        :raises PmuconfError: it is more than any kernel has; cause elf-broken.
        """
        left = _MAX_RELOCATIONS
        for table in self._sections:
            if table.relocations and table.info == section.index:
                left -= table.size // RELA.size
                raw = self._sections.data(table, _MAX_RELOCATIONS * RELA.size) if left >= 0 else b""
                if left < 0:
                    raise self._sections.broken(f"{section.name} has more relocations than any module's")
                yield from RELA.iter_unpack(raw[: len(raw) - len(raw) % RELA.size])

    def _absolute(self, section: Section, values: list[int | None]) -> Iterator[tuple[int, int]]:
        """For each relocation of a section that makes a distance of 4 bytes: where it is, and what it leads to."""
        for offset, info, addend in self._relocations(section):
            value = values[info >> 32]
            if info & 0xFFFFFFFF in _PC and value is not None:
                yield offset, (value + addend) & _MASK

    def _relocate(
        self, section: Section, base: int, data: bytearray, values: list[int | None]
    ) -> tuple[bytearray, bytearray | None]:
        """The data with its relocations applied; and, if there are any, a 1 for each byte of which that failed."""
        holes: bytearray | None = None
        for offset, info, addend in self._relocations(section):
            kind, symbol = info & 0xFFFFFFFF, info >> 32
            target = values[symbol]
            if kind == 0:
                continue
            width = 8 if kind == 1 else 4
            if target is None or offset + width > len(data) or not (kind in _PC or kind in _ABSOLUTE):
                holes = bytearray(len(data)) if holes is None else holes
                for at in range(offset, min(offset + width, len(data))):
                    holes[at] = 1
            elif kind in _PC:
                struct.pack_into("<I", data, offset, (target + addend - base - offset) & 0xFFFFFFFF)
            else:
                mask = (1 << 8 * width) - 1
                data[offset : offset + width] = ((target + addend) & mask).to_bytes(width, "little")
        return data, holes


def _behind(addresses: Iterable[int]) -> int:
    """Where to begin behind these addresses, among those that are made up."""
    own = (address for address in addresses if _START <= address < _START + 2 * _LIMIT)
    return max(own, default=_START - _GAP) + _GAP & -_GAP
