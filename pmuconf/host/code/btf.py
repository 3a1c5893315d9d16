"""Where a member of a kernel structure is: a reader of BTF, the type information that kernels carry.

It reads the BTF of vmlinux and the split BTF of a module, whose type ids and strings continue after those of vmlinux.
Documentation/bpf/btf.rst of the kernel describes the format. Only structures are decoded, and every other kind is
skipped by its length. The length of a kind that is newer than this reader may stand in the file itself (the layout
section, since Linux 7.x: header fields layout_off and layout_len). Otherwise the file is refused.
"""

from __future__ import annotations

import bisect
import struct
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

from pmuconf.errors import PmuconfError
from pmuconf.host.code.offsets import Member

__all__ = ["BTF_START", "MAX_BTF", "Btf"]

MAX_BTF: Final = 32 << 20
"""The largest BTF that is read, in bytes: that of a distribution's kernel has 5 to 12 MB."""

_MAGIC: Final = 0xEB9F
BTF_START: Final = _MAGIC.to_bytes(2, "little")
"""The first bytes of BTF that stands alone in a file."""
_HEADER: Final = struct.Struct("<HBBIIIII")
_STRUCT, _UNION, _TYPEDEF, _VOLATILE, _CONST, _RESTRICT, _TYPE_TAG = 4, 5, 8, 9, 10, 11, 18
_MODIFIERS: Final = frozenset({_TYPEDEF, _VOLATILE, _CONST, _RESTRICT, _TYPE_TAG})
_INT, _PTR, _ARRAY, _ENUM, _ENUM64, _FLOAT = 1, 2, 3, 6, 19, 16
_SIZED: Final = frozenset({_INT, _STRUCT, _UNION, _ENUM, _ENUM64, _FLOAT})

_Length = tuple[int, int]
"""The words that a type has behind the three of every type: so many once, and so many for each of its elements."""

_KNOWN: Final[Mapping[int, _Length]] = {
    **dict.fromkeys((2, 7, 8, 9, 10, 11, 12, 16, 18), (0, 0)),
    1: (1, 0),
    3: (3, 0),
    4: (0, 3),
    5: (0, 3),
    6: (0, 2),
    13: (0, 2),
    14: (1, 0),
    15: (0, 3),
    17: (1, 0),
    19: (0, 3),
}
"""The length of each kind."""
_DEPTH: Final = 32
_REPEATS: Final = 16
_MAX_NAMED: Final = 64
"""How many structures of one name there may be: a kernel has fewer than ten."""
_MAX_LOOKS: Final = 2_000_000
"""How many places are looked at in all: for a kernel, some thousands."""


class _Type(NamedTuple):
    """One type, as it stands in the words of a section."""

    words: memoryview
    at: int

    @property
    def kind(self) -> int:
        return int(self.words[self.at + 1] >> 24) & 0x1F

    @property
    def elements(self) -> int:
        return int(self.words[self.at + 1]) & 0xFFFF

    @property
    def has_bit_fields(self) -> bool:
        """The kind_flag of a structure: the upper 8 bits of an offset are the width of a bit field."""
        return bool(self.words[self.at + 1] >> 31)

    @property
    def size_or_type(self) -> int:
        return int(self.words[self.at + 2])

    def word(self, number: int) -> int:
        """One of the words behind the first three."""
        return int(self.words[self.at + 3 + number])


class Btf:
    """The types of one BTF section, and of ``base`` before it if it is split.

    :raises PmuconfError: the data is no BTF, is broken, or has a kind of unknown length; cause btf-broken.
    """

    def __init__(self, data: bytes, base: Btf | None = None) -> None:
        self._base = base
        self._types, self._strings, layout = _sections(data)
        self._words = memoryview(self._types).cast("I")
        self._first: int = base._end if base is not None else 1
        self._string_base: int = base._string_base + len(base._strings) if base is not None else 0
        self._starts = _walk(self._words, layout)
        self._end: int = self._first + len(self._starts)
        self._by_name: dict[str, list[int]] = {}
        self._looks = 0

    def structs(self, name: str) -> list[int]:
        """The ids of all structures of that name, the base's included."""
        if name not in self._by_name:
            own = sorted(type_id for offset in self._string_offsets(name) for type_id in self._structs_named(offset))
            type_ids = (self._base.structs(name) if self._base is not None else []) + own
            if len(type_ids) > _MAX_NAMED:
                raise _broken(f"it has {len(type_ids)} struct {name}")
            self._by_name[name] = type_ids
        return self._by_name[name]

    def _structs_named(self, name_offset: int) -> Iterator[int]:
        """The ids of this section's structures with that name: searched as bytes, there are 100,000 types."""
        wanted = struct.pack("<I", name_offset)
        place = self._types.find(wanted)
        while place >= 0:
            self._look(1)
            at = place // 4
            index = bisect.bisect_left(self._starts, at)
            begins = place % 4 == 0 and index < len(self._starts) and self._starts[index] == at
            if begins and (self._words[at + 1] >> 24) & 0x1F == _STRUCT:
                yield self._first + index
            place = self._types.find(wanted, place + 1)

    def member(self, type_id: int, path: str) -> Member | None:
        """The member at ``path`` (``arch.pmu``) of a structure; None if it has no such member."""
        place = Member(0, None, type_id)
        for name in path.split("."):
            member = self._member(place.type_id, name, set())
            if member is None:
                return None
            place = member.behind(place.offset)
        return place

    def find(self, structure: str, path: str) -> Member | None:
        """The member of the structure of that name; None if no structure of that name has it.

        :raises PmuconfError: structures of that name disagree; cause btf-ambiguous.
        """
        members = [self.member(type_id, path) for type_id in self.structs(structure)]
        places = {(member.offset, member.size): member for member in members if member is not None}
        if len(places) > 1:
            raise PmuconfError(f"BTF has several struct {structure} that differ in {path}", cause="btf-ambiguous")
        return next(iter(places.values()), None)

    def size(self, structure: str) -> int | None:
        """The size of the structure of that name in bytes; None if there is none.

        :raises PmuconfError: structures of that name disagree; cause btf-ambiguous.
        """
        sizes = {self._size(type_id) for type_id in self.structs(structure)}
        if len(sizes) > 1:
            raise PmuconfError(f"BTF has several struct {structure} of different sizes", cause="btf-ambiguous")
        return sizes.pop() if sizes else None

    def _look(self, times: int) -> None:
        self._looks += times
        if self._looks > _MAX_LOOKS:
            raise _broken("it takes too long to find anything in it")

    def _string_offsets(self, name: str) -> set[int]:
        """Each offset, in this section or its base, at which exactly that string begins."""
        offsets = self._base._string_offsets(name) if self._base is not None else set()
        wanted = b"\0" + name.encode() + b"\0"
        at = self._strings.find(wanted)
        while at >= 0:
            offsets.add(self._string_base + at + 1)
            at = self._strings.find(wanted, at + 1)
            if len(offsets) > _REPEATS:
                raise _broken(f"its strings have {name} again and again")
        return offsets

    def _name_is(self, offset: int, wanted: bytes) -> bool:
        """Whether the name at an offset is the wanted one, which has its zero byte at the end."""
        if offset < self._string_base and self._base is not None:
            return self._base._name_is(offset, wanted)
        start = offset - self._string_base
        if not 0 <= start < len(self._strings):
            raise _broken("a name is outside of the strings")
        return self._strings.startswith(wanted, start)

    def _type(self, type_id: int) -> _Type | None:
        """The type of a number; None for void."""
        if type_id < self._first:
            return self._base._type(type_id) if self._base is not None else None
        if type_id >= self._end:
            raise _broken(f"type {type_id} is not there")
        return _Type(self._words, self._starts[type_id - self._first])

    def _resolve(self, type_id: int) -> int:
        """The type behind typedefs, const and the like."""
        for _ in range(_DEPTH):
            place = self._type(type_id)
            if place is None or place.kind not in _MODIFIERS:
                return type_id
            type_id = place.size_or_type
        raise _broken("typedefs go round in circles")

    def _size(self, type_id: int, depth: int = _DEPTH) -> int | None:
        """The size of a type in bytes; None where the BTF does not say."""
        place = self._type(self._resolve(type_id))
        if place is None or not depth:
            return None
        if place.kind in _SIZED:
            return place.size_or_type
        if place.kind == _PTR:
            return 8
        if place.kind == _ARRAY:
            element, number = self._size(place.word(0), depth - 1), place.word(2)
            return None if element is None else element * number
        return None

    def _member(self, type_id: int, name: str, seen: set[int]) -> Member | None:
        """The member of that name; those of an anonymous structure are members of the outer one too.

        :param seen: the structures that were looked into on the way.
        """
        type_id = self._resolve(type_id)
        structure = self._type(type_id)
        if structure is None or type_id in seen or structure.kind not in (_STRUCT, _UNION):
            return None
        seen.add(type_id)
        wanted = name.encode() + b"\0"
        self._look(structure.elements)
        for number in range(0, 3 * structure.elements, 3):
            called, kind, bits = structure.word(number), structure.word(number + 1), structure.word(number + 2)
            width, bits = (bits >> 24, bits & 0xFFFFFF) if structure.has_bit_fields else (0, bits)
            if self._name_is(called, wanted):
                if width or bits % 8:
                    raise PmuconfError(f"{name} is a bit field", cause="btf-bit-field")
                return Member(bits // 8, self._size(kind), kind)
            if self._name_is(called, b"\0"):
                inner = self._member(kind, name, seen)
                if inner is not None:
                    return inner.behind(bits // 8)
        return None


def _broken(why: str) -> PmuconfError:
    return PmuconfError(f"this BTF is broken: {why}", cause="btf-broken")


def _sections(data: bytes) -> tuple[bytes, bytes, dict[int, _Length]]:
    """The types, the strings, and the lengths of the kinds that the file itself tells."""
    if len(data) < _HEADER.size:
        raise _broken("it is shorter than its header")
    magic, version, _flags, header, type_off, type_len, str_off, str_len = _HEADER.unpack_from(data)
    if magic != _MAGIC:
        raise _broken("it does not begin as little-endian BTF does")
    if version != 1 or header < _HEADER.size or header > len(data):
        raise _broken(f"version {version}, header of {header} bytes")
    if type_len % 4 or header + type_off + type_len > len(data) or header + str_off + str_len > len(data):
        raise _broken("it is truncated")
    strings = data[header + str_off : header + str_off + str_len]
    if not strings or strings[-1]:  # of a split BTF too: the first byte may be a letter there, the last never
        raise _broken("its strings have no end")
    return data[header + type_off : header + type_off + type_len], strings, _layout(data, header)


def _layout(data: bytes, header: int) -> dict[int, _Length]:
    """The lengths of kinds that the file tells, if its header is long enough to have a place for them."""
    if header < _HEADER.size + 8:
        return {}
    start, size = struct.unpack_from("<II", data, _HEADER.size)
    layout = data[header + start : header + start + size]
    if len(layout) != size or size % 4:
        raise _broken("its layout is truncated")
    entries = ((kind, layout[4 * kind], layout[4 * kind + 1]) for kind in range(size // 4))
    return {kind: (once // 4, each // 4) for kind, once, each in entries if once % 4 == 0 and each % 4 == 0}


def _walk(words: memoryview, layout: Mapping[int, _Length]) -> list[int]:
    """Where each type begins, in words.

    A kernel has 100,000 types, and this loop is most of the time that reading them takes: so it has no calls in it, and
    what is broken shows by an exception.
    """
    table = _lengths({**layout, **_KNOWN})
    starts: list[int] = []
    append = starts.append
    at, end = 0, len(words)
    try:
        while at < end:
            append(at)
            info = words[at + 1]
            once, each = table[info >> 24]  # type: ignore[misc]  # None: the kind is unknown
            at += 3 + once + each * (info & 0xFFFF)
    except TypeError:
        raise _broken(f"kind {_Type(words, at).kind} is unknown, and so is its length") from None
    except IndexError:
        raise _broken("its types are truncated") from None
    if at != end:
        raise _broken("its types are truncated")
    return starts


def _lengths(known: Mapping[int, _Length]) -> list[_Length | None]:
    """The lengths by the upper byte of a type's second word: the kind in its low 5 bits, kind_flag in the highest."""
    table: list[_Length | None] = [None] * 256
    for kind, length in known.items():
        if 0 < kind < 32:
            for flags in range(0, 256, 32):
                table[kind + flags] = length
    return table
