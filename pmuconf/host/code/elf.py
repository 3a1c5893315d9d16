"""Code read from a file: a module (relocatable) or a vmlinux with symbols. Relocations are applied as a loader would.

A relocatable file gets made-up addresses, in the range where the kernel puts modules. A symbol of another file gets an
address of its own, at which nothing can be read.
"""

from __future__ import annotations

import bisect
import io
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import BinaryIO, Final

from pmuconf.host.code.image import Symbols
from pmuconf.host.code.sections import Section, Sections
from pmuconf.host.names import BEFORE_FUNCTIONS

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
_PAGE: Final = 4096
_SPACE: Final = 16
"""What is left free behind each section, and for each symbol of another file."""
_OBJECT, _FUNC = 1, 2
_UNDEFINED, _ABSOLUTE_SYMBOL = 0, 0xFFF1
_ABSOLUTE_64: Final = 1  # R_X86_64_64
_PC: Final = frozenset({2, 4})  # R_X86_64_PC32, R_X86_64_PLT32
_APPLIED: Final = _PC | {_ABSOLUTE_64, 10, 11}  # R_X86_64_32, _32S
_JUMP: Final = struct.Struct("<iiQ")

# What any real file keeps: a vmlinux has 30 MB of code and 200,000 symbols, kvm.ko 1 MB of code.
_MAX_CODE: Final = 96 << 20
_MAX_MODULE_CODE: Final = 32 << 20
_MAX_SYMBOLS: Final = 1 << 20
_MAX_NAMED: Final = 500_000
_MAX_STRINGS: Final = 64 << 20
_MAX_RELOCATIONS: Final = 1 << 20
_MAX_JUMPS: Final = 16 << 20
_MAX_TYPES: Final = 32 << 20


@dataclass(frozen=True)
class _Piece:
    """The code of one section: where it begins, and a 1 in ``holes`` for each byte that is not what it would be."""

    start: int
    data: bytes | bytearray
    holes: bytearray | None = None


class ObjectFile:
    """An ELF file for x86-64 as an image. ``relocatable`` if it is a module.

    :param beside: a file that has the symbols which this one lacks; the addresses of this one begin behind its.
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
        self._pieces: list[_Piece] = []
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
        piece = self._pieces[at]
        begin = address - piece.start
        end = min(begin + size, len(piece.data))
        if piece.holes is not None and begin < end:
            hole = piece.holes.find(1, begin, end)
            end = end if hole < 0 else hole
        return bytes(piece.data[begin:end])

    def text(self) -> Iterator[tuple[int, bytes]]:
        """All code, with the address of each piece."""
        return ((piece.start, bytes(piece.data)) for piece in self._pieces)

    def section(self, name: str) -> bytes | None:
        """The contents of a section; None if there is none of that name."""
        section = self._sections.find(name)
        return None if section is None or section.empty else self._sections.data(section, _MAX_TYPES)

    def section_size(self, name: str) -> int:
        """How many bytes a section has in the file; 0 if there is none of that name."""
        return sum(section.size for section in self._sections if section.name == name and not section.empty)

    def _check(self) -> None:
        """Refuse a file that would take more memory or time than its size warrants: its sections overlap."""
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
        """Give addresses to sections, then to symbols; then switches and code can refer to both."""
        addresses, end = self._place_sections()
        values, pairs = self._read_symbols(addresses, end)
        if len(pairs) > _MAX_NAMED:
            raise self._sections.broken(f"it has {len(pairs)} functions and variables: more than any kernel")
        self.symbols = Symbols(pairs)
        self.switches: Mapping[int, int] = self._read_switches(addresses, values)
        pieces = sorted(self._read_code(addresses, values), key=lambda piece: piece.start)
        self._starts = [piece.start for piece in pieces]
        self._pieces = pieces

    def _place_sections(self) -> tuple[dict[int, int], int]:
        """The address of each section that is in memory, by its number; and where the last one ends."""
        allocated = [section for section in self._sections if section.allocated]
        start = cursor = _behind(self._beside.values())
        if not self.relocatable:
            return {section.index: section.address for section in allocated}, cursor
        addresses: dict[int, int] = {}
        for section in allocated:
            if section.size > _LIMIT or cursor - start > _LIMIT:
                raise self._sections.broken("it is too large for a module")
            cursor = _aligned(cursor, min(max(section.align, 1), _PAGE))
            addresses[section.index] = cursor
            cursor += section.size + _SPACE
        return addresses, cursor

    def _read_symbols(self, addresses: Mapping[int, int], end: int) -> tuple[list[int | None], list[tuple[int, str]]]:
        """The value of each symbol, by its number, for relocations; and the address and name of each that tells code.

        A symbol of another file has the address that it has there, or one of its own behind this file, at which nothing
        can be read. None is the value of one that has no address.
        """
        table = next((section for section in self._sections if section.symbols), None)
        if table is None:
            return [], []
        strings = self._sections[table.link]
        if not strings.strings:
            raise self._sections.broken("its symbols have no names")
        names = self._sections.data(strings, _MAX_STRINGS)
        raw = self._sections.data(table, _MAX_SYMBOLS * SYMBOL.size)
        outside = _aligned(end, _PAGE)
        values: list[int | None] = []
        pairs = []
        for name_at, info, _, section, value, _ in SYMBOL.iter_unpack(raw[: len(raw) - len(raw) % SYMBOL.size]):
            name = names[name_at : name_at + _MAX_NAME].partition(b"\0")[0].decode("utf-8", "replace")
            address: int | None = None
            if section == _UNDEFINED:
                address, outside = self._beside.get(name, outside), outside + _SPACE
            elif section in addresses:
                address = value + (addresses[section] if self.relocatable else 0)
            elif section == _ABSOLUTE_SYMBOL:
                address = value
            values.append(address)
            if address is not None and name and _is_telling(name, info, section):
                pairs.append((address, name))
        return values, pairs

    def _read_code(self, addresses: Mapping[int, int], values: list[int | None]) -> Iterator[_Piece]:
        for section in self._sections:
            if section.index in addresses and section.code and not section.empty:
                data, start = self._sections.data(section, _MAX_CODE), addresses[section.index]
                if self.relocatable:
                    yield self._relocate(section, start, bytearray(data), values)
                else:
                    yield _Piece(start, data)

    def _read_switches(self, addresses: Mapping[int, int], values: list[int | None]) -> dict[int, int]:
        """The jumps that the kernel switches on and off as it runs: where each is, and where it leads to.

        They are its jump labels: struct jump_entry has two distances of 4 bytes, each from where it stands, and 8 bytes
        for the key.
        """
        switches: dict[int, int] = {}
        for section in self._sections:
            if section.name != "__jump_table" or section.index not in addresses or section.empty:
                continue
            if self.relocatable:
                places = dict(self._absolute(section, values))
                switches.update(
                    (place, places[offset + 4])
                    for offset, place in places.items()
                    if offset % _JUMP.size == 0 and offset + 4 in places
                )
            else:
                data, start = self._sections.data(section, _MAX_JUMPS), addresses[section.index]
                for offset in range(0, len(data) - _JUMP.size + 1, _JUMP.size):
                    site, target, _ = _JUMP.unpack_from(data, offset)
                    switches[(start + offset + site) & _MASK] = (start + offset + 4 + target) & _MASK
        return switches

    def _relocations(self, section: Section) -> Iterator[tuple[int, int, int]]:
        """The relocations of a section: the place of each, its kind and symbol, and the number to add.

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
        """The relocations of a section that make a distance of 4 bytes: the place of each, and its target."""
        for offset, info, addend in self._relocations(section):
            value = values[info >> 32]
            if info & 0xFFFFFFFF in _PC and value is not None:
                yield offset, (value + addend) & _MASK

    def _relocate(self, section: Section, start: int, data: bytearray, values: list[int | None]) -> _Piece:
        """The code with its relocations applied, and with holes where that failed."""
        holes: bytearray | None = None
        for offset, info, addend in self._relocations(section):
            kind, value = info & 0xFFFFFFFF, values[info >> 32]
            if kind == 0:
                continue
            width = 8 if kind == _ABSOLUTE_64 else 4
            end = offset + width
            if value is None or end > len(data) or kind not in _APPLIED:
                holes = bytearray(len(data)) if holes is None else holes
                inside = range(offset, min(end, len(data)))
                holes[inside.start : inside.stop] = b"\1" * len(inside)
                continue
            number = value + addend - (start + offset if kind in _PC else 0)
            data[offset:end] = (number & ((1 << 8 * width) - 1)).to_bytes(width, "little")
        return _Piece(start, data, holes)


def _is_telling(name: str, info: int, section: int) -> bool:
    """Whether a symbol tells where something begins, by its kind and binding, which share a byte.

    Of those without a kind, assembler's entry points are global, and labels are not.
    """
    kind, binding = info & 15, info >> 4
    return (
        kind in (_FUNC, _OBJECT)
        or section == _UNDEFINED
        or (kind == 0 and binding != 0)
        or name.startswith(BEFORE_FUNCTIONS)
    )


def _aligned(address: int, align: int) -> int:
    return -(-address // align) * align


def _behind(addresses: Iterable[int]) -> int:
    """The address to begin at, behind these: only made-up ones count."""
    own = (address for address in addresses if _START <= address < _START + 2 * _LIMIT)
    return max(own, default=_START - _GAP) + _GAP & -_GAP
