"""Where a member of a kernel structure is, by DWARF: for kernels without BTF whose debug file is at hand.

It reads one compilation unit, that in which the structures are complete, and of that only the entries at its top: a
kernel has hundreds of MB of debug information. pyelftools decodes the entries, of DWARF 4 and 5. Entries that go round
in circles, refer outside of their unit or are too many are refused.
"""

from __future__ import annotations

import inspect
import io
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, Final

from elftools.common.exceptions import DWARFError, ELFError
from elftools.dwarf.aranges import ARanges
from elftools.dwarf.die import DIE
from elftools.dwarf.dwarfinfo import DebugSectionDescriptor, DwarfConfig, DWARFInfo

from pmuconf.errors import PmuconfError
from pmuconf.host.code.debug import DebugSections
from pmuconf.host.code.offsets import Member
from pmuconf.host.code.sections import Sections
from pmuconf.host.names import VCPU, VM

__all__ = ["Dwarf"]

_WANTED: Final = (
    *(".debug_info", ".debug_abbrev", ".debug_str", ".debug_line_str", ".debug_str_offsets", ".debug_addr"),
    *(".debug_aranges", ".debug_rnglists", ".debug_loclists"),
)
_MAX_ARANGES: Final = 4 << 20
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
        with self._decoding():
            self._open(stream, unit_of)

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
        place = Member(0, None, places[0])
        with self._decoding():
            for name in path.split("."):
                member = self._member(place.type_id, name, set())
                if member is None:
                    return None
                place = member.behind(place.offset)
        return place

    @contextmanager
    def _decoding(self) -> Iterator[None]:
        """What pyelftools raises becomes an error of ours."""
        try:
            yield
        except PmuconfError:
            raise
        except _BREAKAGE as error:
            raise self._broken(str(error) or type(error).__name__) from None

    def _open(self, stream: BinaryIO, unit_of: str) -> None:
        sections = Sections(stream, self._name)
        self.build_id = sections.build_id()
        debug = DebugSections(sections)
        self._info = _information(sections, debug, self._name)
        self._stream = self._info.debug_info_sec.stream
        for unit in self._candidates(None if sections.relocatable else debug.address(unit_of)):
            self._unit = unit
            self._structs = self._complete()
            if self._structs:
                break

    def _candidates(self, address: int | None) -> Iterator[Any]:
        """The compilation unit that the address lies in, if the file can tell; otherwise the first ones."""
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
        places: dict[str, list[int]] = {}
        for die in self._children(self._unit.get_top_DIE()):
            name = die.attributes.get("DW_AT_name")
            if die.tag == _STRUCTS[0] and name is not None and "DW_AT_declaration" not in die.attributes:
                places.setdefault(name.value.decode("utf-8", "replace"), []).append(die.offset)
        return places if {VM, VCPU} <= places.keys() else {}

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
        """The entries directly below an entry. The search goes forward only, whatever the file says of siblings."""
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
        """The size of a type in bytes; None where the entry does not say."""
        if die is None or not depth:
            return None
        size = die.attributes.get("DW_AT_byte_size")
        if size is not None:
            return size.value if isinstance(size.value, int) else None
        if die.tag != "DW_TAG_array_type":
            return None
        size, counts = self._size(self._type_of(die), depth - 1), [_count(bound) for bound in self._children(die)]
        for count in counts:
            size = None if size is None or count is None else size * count
        return size if counts else None

    def _member(self, place: int, name: str, seen: set[int]) -> Member | None:
        """The member of that name; those of an anonymous structure are members of the outer one too.

        :param place: of the structure's entry.
        :param seen: the structures that were looked into on the way.
        """
        structure = self._at(place)
        if structure.tag not in _STRUCTS or place in seen:
            return None
        seen.add(place)
        wanted = name.encode()
        for die in self._children(structure):
            called = die.attributes.get("DW_AT_name")
            if die.tag != "DW_TAG_member" or (called is not None and called.value != wanted):
                continue
            if called is not None and {"DW_AT_bit_size", "DW_AT_data_bit_offset"} & die.attributes.keys():
                raise self._broken(f"{name} is a bit field")
            offset, kind = self._offset(die, name), self._type_of(die)
            if kind is None:
                raise self._broken("a member has no type")
            if called is not None:
                return Member(offset, self._size(kind), kind.offset)
            inner = self._member(kind.offset, name, seen)
            if inner is not None:
                return inner.behind(offset)
        return None

    def _offset(self, die: Any, name: str) -> int:
        """Where a member is; that of a union has no place, for it is at the start."""
        location = die.attributes.get("DW_AT_data_member_location")
        offset = location.value if location is not None else 0
        if not isinstance(offset, int):
            raise self._broken(f"the place of {name} is to be computed")
        return offset

    def _broken(self, why: str) -> PmuconfError:
        return PmuconfError(f"the debug information of {self._name} can't be used: {why}", cause="dwarf-broken")


def _information(sections: Sections, debug: DebugSections, name: str) -> Any:
    """What pyelftools decodes.

    Not by its get_dwarf_info(), which reads every debug section of the file into memory.

    :raises PmuconfError: the file has no debug information; cause no-dwarf.
    """
    by_name = {section.name: section for section in reversed(list(sections))}
    arguments: dict[str, Any] = dict.fromkeys(inspect.signature(DWARFInfo.__init__).parameters)
    del arguments["self"]
    arguments["config"] = DwarfConfig(little_endian=True, machine_arch="x64", default_address_size=8)
    for wanted in _WANTED:
        if wanted in by_name:
            relocations = by_name.get(f".rela{wanted}") if sections.relocatable else None
            data = debug.relocated(by_name[wanted], relocations)
            size = data.seek(0, io.SEEK_END)
            arguments[f"{wanted[1:]}_sec"] = DebugSectionDescriptor(data, wanted, 0, size, 0)
    if arguments["debug_info_sec"] is None or arguments["debug_abbrev_sec"] is None:
        raise PmuconfError(f"{name} has no debug information", cause="no-dwarf")
    return DWARFInfo(**arguments)


def _count(bound: Any) -> int | None:
    """The number of elements of one dimension of an array; None if the entry does not say."""
    upper, count = bound.attributes.get("DW_AT_upper_bound"), bound.attributes.get("DW_AT_count")
    number = count.value if count is not None else upper.value + 1 if upper is not None else None
    return number if isinstance(number, int) else None
