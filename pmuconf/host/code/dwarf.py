"""Where a member of a kernel structure is, by DWARF: for kernels without BTF whose debug file is at hand.

Reads the one compilation unit that the structures are complete in, and of that only what stands at its top: debug
information of a kernel is hundreds of MB. The format: DWARF 4 and 5, as pyelftools decodes it; what goes round in
circles, refers outside of its unit or takes too many entries is refused.
"""

from __future__ import annotations

import inspect
import io
import re
import struct
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO, Final

from elftools.common.exceptions import DWARFError, ELFError
from elftools.dwarf.aranges import ARanges
from elftools.dwarf.die import DIE
from elftools.dwarf.dwarfinfo import DebugSectionDescriptor, DwarfConfig, DWARFInfo

from pmuconf.errors import PmuconfError
from pmuconf.host.code.elf import RELA, SYMBOL
from pmuconf.host.code.offsets import Member
from pmuconf.host.code.sections import Section, Sections
from pmuconf.host.names import VCPU, VM

__all__ = ["Dwarf"]

_WANTED: Final = (
    *(".debug_info", ".debug_abbrev", ".debug_str", ".debug_line_str", ".debug_str_offsets", ".debug_addr"),
    *(".debug_aranges", ".debug_rnglists", ".debug_loclists"),
)
_ZLIB, _ZSTD = 1, 2
_MAX_HELD: Final = 192 << 20
"""How much of a file's sections is held in memory, in bytes, where they are compressed or have to be relocated."""
_MAX_ARANGES: Final = 4 << 20
_PIECE: Final = 1 << 20
_MAX_UNITS: Final = 256
_MAX_ENTRIES: Final = 200_000
_DEPTH: Final = 32
_STRUCTS: Final = ("DW_TAG_structure_type", "DW_TAG_union_type", "DW_TAG_class_type")
_MODIFIERS: Final = frozenset(
    f"DW_TAG_{name}" for name in ("typedef", "const_type", "volatile_type", "restrict_type", "atomic_type")
)
_LOCAL: Final = frozenset(f"DW_FORM_{name}" for name in ("ref1", "ref2", "ref4", "ref8", "ref_udata"))
_BREAKAGE: Final = (
    *(DWARFError, ELFError, struct.error, ValueError, LookupError, TypeError, AttributeError, ArithmeticError),
    *(MemoryError, RecursionError, AssertionError, OSError, zlib.error, NotImplementedError),
)
"""What pyelftools raises for broken debug information, its own errors first."""


class Dwarf:
    """The types of an ELF file's debug information, asked as those of BTF are.

    :param stream: the file; it is read on demand and must stay open.
    :param unit_of: the function in whose compilation unit the structures are, where the file tells addresses.
    :raises PmuconfError: it is no such file, has no debug information, or is broken; cause dwarf-broken or not-x86.
    """

    def __init__(self, stream: BinaryIO, name: str, unit_of: str) -> None:
        self._name, self._entries = name, 0
        self._unit: Any = None
        self._structs: dict[str, list[int]] = {}
        try:
            self._open(stream, unit_of)
        except PmuconfError:
            raise
        except _BREAKAGE as error:
            raise self._broken(str(error) or type(error).__name__) from None

    def structs(self, name: str) -> list[int]:
        """The places of the complete structures of that name in the unit that is read."""
        return self._structs.get(name, [])

    def find(self, structure: str, path: str) -> Member | None:
        """The member at ``path`` (``arch.pmu``) of the structure of that name; None if it has no such member.

        :raises PmuconfError: the debug information is broken, or it is a bit field; cause dwarf-broken.
        """
        places = self.structs(structure)
        if not places:
            return None
        if len(places) > 1:
            raise self._broken(f"there are several struct {structure}")
        try:
            offset, size, found = 0, None, places[0]
            for name in path.split("."):
                member = self._member(found, name, set())
                if member is None:
                    return None
                offset, size, found = offset + member.offset, member.size, member.type_id
            return Member(offset, size, found)
        except PmuconfError:
            raise
        except _BREAKAGE as error:
            raise self._broken(str(error) or type(error).__name__) from None

    def _open(self, stream: BinaryIO, unit_of: str) -> None:
        sections = Sections(stream, self._name)
        by_name = {section.name: section for section in reversed(list(sections))}
        self.build_id = sections.build_id()
        holding = _Holding(sections)
        # Not elf.get_dwarf_info(): that reads every debug section of the file into memory.
        given: dict[str, Any] = dict.fromkeys(inspect.signature(DWARFInfo.__init__).parameters)
        del given["self"]
        given["config"] = DwarfConfig(little_endian=True, machine_arch="x64", default_address_size=8)
        for name in _WANTED:
            if name in by_name:
                relocations = by_name.get(f".rela{name}") if sections.relocatable else None
                data = holding.relocated(by_name[name], relocations)
                size = data.seek(0, io.SEEK_END)
                given[f"{name[1:]}_sec"] = DebugSectionDescriptor(data, name, 0, size, 0)
        if given["debug_info_sec"] is None or given["debug_abbrev_sec"] is None:
            raise PmuconfError(f"{self._name} has no debug information", cause="no-dwarf")
        self._info, self._stream = DWARFInfo(**given), given["debug_info_sec"].stream
        for unit in self._candidates(None if sections.relocatable else holding.address(unit_of)):
            self._unit = unit
            self._structs = self._complete()
            if self._structs:
                break

    def _candidates(self, address: int | None) -> Iterator[Any]:
        """The compilation unit that the address lies in, if the file can tell; else the first ones."""
        section = self._info.debug_aranges_sec
        if address is not None and section is not None and section.size <= _MAX_ARANGES:
            try:
                offset = ARanges(section.stream, section.size, self._info.structs).cu_offset_at_addr(address)
            except IndexError:
                offset = None
            if offset is not None:
                yield self._info.get_CU_at(offset)
                return
        for number, unit in enumerate(self._info.iter_CUs()):
            if number == _MAX_UNITS:
                raise self._broken(f"none of its first {_MAX_UNITS} units has the structures")
            yield unit

    def _complete(self) -> dict[str, list[int]]:
        """The unit's structures by their names; none if it lacks those of KVM."""
        found: dict[str, list[int]] = {}
        for die in self._children(self._unit.get_top_DIE()):
            name = die.attributes.get("DW_AT_name")
            if die.tag == _STRUCTS[0] and name is not None and "DW_AT_declaration" not in die.attributes:
                found.setdefault(name.value.decode("utf-8", "replace"), []).append(die.offset)
        return found if {VM, VCPU} <= found.keys() else {}

    def _at(self, offset: int) -> Any:
        """The entry at a place of .debug_info. Not through pyelftools' cache: that would keep them all."""
        self._entries += 1
        if self._entries > _MAX_ENTRIES:
            raise self._broken("it takes too many entries to read")
        if not self._unit.cu_die_offset <= offset < self._end:
            raise self._broken("something refers outside of its unit")
        return DIE(self._unit, self._stream, offset)

    @property
    def _end(self) -> int:
        return int(self._unit.cu_offset + self._unit.size)

    def _children(self, parent: Any) -> Iterator[Any]:
        """What stands directly below an entry. Goes forward only, whatever the file says of siblings."""
        if not parent.has_children:
            return
        offset, depth = parent.offset + parent.size, 1
        while offset < self._end:
            die = self._at(offset)
            offset += die.size
            if die.is_null():
                depth -= 1
                if not depth:
                    return
                continue
            if depth == 1:
                yield die
            if die.has_children:
                sibling = die.attributes.get("DW_AT_sibling")
                if sibling is not None and sibling.form in _LOCAL and self._unit.cu_offset + sibling.value > offset:
                    offset = self._unit.cu_offset + sibling.value
                else:
                    depth += 1

    def _type_of(self, die: Any) -> Any:
        """The type that an entry refers to, behind typedefs, const and the like; None for void."""
        for _ in range(_DEPTH):
            reference = die.attributes.get("DW_AT_type")
            if reference is None:
                return None
            if reference.form not in _LOCAL:
                raise self._broken(f"a type is referred to by {reference.form}")
            die = self._at(self._unit.cu_offset + reference.value)
            if die.tag not in _MODIFIERS:
                return die
        raise self._broken("types go round in circles")

    def _size(self, die: Any, depth: int = _DEPTH) -> int | None:
        """The size of a type in bytes, None where it isn't said."""
        if die is None or not depth:
            return None
        size = die.attributes.get("DW_AT_byte_size")
        if size is not None:
            return size.value if isinstance(size.value, int) else None
        if die.tag != "DW_TAG_array_type":
            return None
        element, counts = self._size(self._type_of(die), depth - 1), []
        for bound in self._children(die):
            upper, count = bound.attributes.get("DW_AT_upper_bound"), bound.attributes.get("DW_AT_count")
            given = count.value if count is not None else upper.value + 1 if upper is not None else None
            if not isinstance(given, int):
                return None
            counts.append(given)
        for count in counts:
            element = None if element is None else element * count
        return element if counts else None

    def _member(self, place: int, name: str, seen: set[int]) -> Member | None:
        structure = self._at(place)
        if structure.tag not in _STRUCTS or place in seen:
            return None
        seen.add(place)
        wanted = name.encode()
        for die in self._children(structure):
            if die.tag != "DW_TAG_member":
                continue
            called = die.attributes.get("DW_AT_name")
            if called is not None and called.value != wanted:
                continue
            if called is not None and {"DW_AT_bit_size", "DW_AT_data_bit_offset"} & die.attributes.keys():
                raise self._broken(f"{name} is a bit field")
            location = die.attributes.get("DW_AT_data_member_location")
            offset = location.value if location is not None else 0
            if not isinstance(offset, int):
                raise self._broken(f"the place of {name} is to be computed")
            kind = self._type_of(die)
            if kind is None:
                raise self._broken("a member has no type")
            if called is not None:
                return Member(offset, self._size(kind), kind.offset)
            inner = self._member(kind.offset, name, seen)  # anonymous: its members are the outer one's too
            if inner is not None:
                return Member(offset + inner.offset, inner.size, inner.type_id)
        return None

    def _broken(self, why: str) -> PmuconfError:
        return PmuconfError(f"the debug information of {self._name} can't be used: {why}", cause="dwarf-broken")


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


class _Holding:
    """The sections of a file as streams. What has to be held in memory is counted."""

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
        kind, _, whole, _ = struct.unpack("<IIQQ", window.read(24))
        if kind not in (_ZLIB, _ZSTD):
            raise _broken(f"{section.name} is compressed in a way that is not known")
        self._take(section, whole)
        data = bytearray()
        try:
            for piece in (_inflated if kind == _ZLIB else _unpacked)(window, section.size - 24):
                data += piece
                if len(data) > whole:
                    raise _broken(f"{section.name} has more than the {whole} bytes that it says")
        except Exception as error:
            if type(error).__name__ != "ZstdError":  # of a module that need not be there
                raise
            raise _broken(f"{section.name}: {error}") from None
        return io.BytesIO(data)

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
        stream = self.stream(relocations)
        while piece := stream.read(RELA.size << 15):
            for offset, info, addend in RELA.iter_unpack(piece[: len(piece) - len(piece) % RELA.size]):
                kind, symbol = info & 0xFFFFFFFF, info >> 32
                if kind in (1, 10):  # R_X86_64_64, R_X86_64_32
                    (*_, value, _) = SYMBOL.unpack_from(symbols, symbol * SYMBOL.size)
                    width = 8 if kind == 1 else 4
                    if offset + width > len(data):
                        raise _broken(f"{section.name} has a relocation outside of it")
                    data[offset : offset + width] = ((value + addend) & ((1 << 8 * width) - 1)).to_bytes(
                        width, "little"
                    )
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
        stream = self.stream(table)
        while piece := stream.read(SYMBOL.size << 15):
            for name, *_, value, _ in SYMBOL.iter_unpack(piece[: len(piece) - len(piece) % SYMBOL.size]):
                if name in places:
                    return int(value)
        return None

    def _take(self, section: Section, size: int) -> None:
        self._left -= size
        if self._left < 0:
            raise _broken(f"{section.name} with {size} bytes is too large to be held in memory")


def _inflated(stream: BinaryIO, size: int) -> Iterator[bytes]:
    inflate = zlib.decompressobj()
    while size > 0 and not inflate.eof and (piece := stream.read(min(size, _PIECE))):
        size -= len(piece)
        while piece and not inflate.eof:
            yield inflate.decompress(piece, _PIECE)
            piece = inflate.unconsumed_tail


def _unpacked(stream: BinaryIO, size: int) -> Iterator[bytes]:
    import zstandard

    window = io.BufferedReader(_Window(stream, 24, size))
    with zstandard.ZstdDecompressor().stream_reader(window) as reader:
        while piece := reader.read(_PIECE):
            yield piece


def _broken(why: str) -> PmuconfError:
    return PmuconfError(why, cause="dwarf-broken")
