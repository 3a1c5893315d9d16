"""Where a member of a kernel structure is: a reader of BTF, the type information that kernels carry.

Reads the BTF of vmlinux and the split BTF of a module, whose type ids and strings continue after those of vmlinux.
The format: Documentation/bpf/btf.rst of the kernel. Only structures are decoded; every other kind is skipped by its
length. A kind that is newer than this reader is skipped where the file itself tells the length (the layout section
that Documentation/bpf/btf.rst describes since Linux 7.x: header fields layout_off and layout_len), else refused.
"""

from __future__ import annotations

import bisect
import struct
from collections.abc import Iterator
from typing import Final

from pmuconf.errors import PmuconfError
from pmuconf.host.code.offsets import Member

__all__ = ["MAX_BTF", "Btf"]

MAX_BTF: Final = 32 << 20
"""The largest BTF that is read, in bytes: that of a distribution's kernel has 5 to 12 MB."""

_MAGIC: Final = 0xEB9F
_HEADER: Final = struct.Struct("<HBBIIIII")
_STRUCT, _UNION, _TYPEDEF, _VOLATILE, _CONST, _RESTRICT, _TYPE_TAG = 4, 5, 8, 9, 10, 11, 18
_MODIFIERS: Final = frozenset({_TYPEDEF, _VOLATILE, _CONST, _RESTRICT, _TYPE_TAG})
_INT, _PTR, _ARRAY, _ENUM, _ENUM64, _FLOAT = 1, 2, 3, 6, 19, 16
_SIZED: Final = frozenset({_INT, _STRUCT, _UNION, _ENUM, _ENUM64, _FLOAT})

# For each kind, the words behind the three that every type has: some fixed, and some for each of its vlen elements.
_KNOWN: Final[dict[int, tuple[int, int]]] = {
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
_DEPTH: Final = 32
_REPEATS: Final = 16
_MAX_NAMED: Final = 64
"""How many structures of one name there may be: of a kernel's, fewer than ten."""
_MAX_LOOKS: Final = 2_000_000
"""How many places are looked at in all: for a kernel, some thousands."""


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
        self._found: dict[str, list[int]] = {}
        self._looks = 0

    def structs(self, name: str) -> list[int]:
        """The ids of all structures of that name, the base's included."""
        if name not in self._found:
            mine = sorted(i for offset in self._string_offset(name) for i in self._structs_named(offset))
            found = (self._base.structs(name) if self._base is not None else []) + mine
            if len(found) > _MAX_NAMED:
                raise _broken(f"it has {len(found)} struct {name}")
            self._found[name] = found
        return self._found[name]

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
        offset, size, found = 0, None, type_id
        for name in path.split("."):
            member = self._member(found, name, set())
            if member is None:
                return None
            offset, size, found = offset + member.offset, member.size, member.type_id
        return Member(offset, size, found)

    def find(self, structure: str, path: str) -> Member | None:
        """The member of the structure of that name; None if no structure of that name has it.

        :raises PmuconfError: structures of that name disagree; cause btf-ambiguous.
        """
        found = {(m.offset, m.size): m for m in (self.member(i, path) for i in self.structs(structure)) if m}
        if len(found) > 1:
            raise PmuconfError(f"BTF has several struct {structure} that differ in {path}", cause="btf-ambiguous")
        return next(iter(found.values()), None)

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

    def _string_offset(self, name: str) -> set[int]:
        """Every offset, in this section or its base, at which exactly that string begins."""
        found = self._base._string_offset(name) if self._base is not None else set()
        wanted = b"\0" + name.encode() + b"\0"
        at = self._strings.find(wanted)
        while at >= 0:
            found.add(self._string_base + at + 1)
            at = self._strings.find(wanted, at + 1)
            if len(found) > _REPEATS:
                raise _broken(f"its strings have {name} again and again")
        return found

    def _name_is(self, offset: int, wanted: bytes) -> bool:
        """Whether the name there is that, which ends in a zero byte."""
        if offset < self._string_base and self._base is not None:
            return self._base._name_is(offset, wanted)
        start = offset - self._string_base
        if not 0 <= start < len(self._strings):
            raise _broken("a name is outside of the strings")
        return self._strings.startswith(wanted, start)

    def _place(self, type_id: int) -> tuple[memoryview, int] | None:
        if type_id < self._first:
            return self._base._place(type_id) if self._base is not None else None
        if type_id >= self._end:
            raise _broken(f"type {type_id} is not there")
        return self._words, self._starts[type_id - self._first]

    def _resolve(self, type_id: int) -> int:
        """The type behind typedefs, const and the like."""
        for _ in range(_DEPTH):
            place = self._place(type_id)
            if place is None or (place[0][place[1] + 1] >> 24) & 0x1F not in _MODIFIERS:
                return type_id
            type_id = place[0][place[1] + 2]
        raise _broken("typedefs go round in circles")

    def _size(self, type_id: int, depth: int = _DEPTH) -> int | None:
        type_id = self._resolve(type_id)
        place = self._place(type_id)
        if place is None or not depth:
            return None
        words, at = place
        kind = (words[at + 1] >> 24) & 0x1F
        if kind in _SIZED:
            return int(words[at + 2])
        if kind == _PTR:
            return 8
        if kind == _ARRAY:
            element = self._size(words[at + 3], depth - 1)
            return None if element is None else element * words[at + 5]
        return None

    def _member(self, type_id: int, name: str, seen: set[int]) -> Member | None:
        type_id = self._resolve(type_id)
        place = self._place(type_id)
        if place is None or type_id in seen:
            return None
        seen.add(type_id)
        words, at = place
        info = words[at + 1]
        if (info >> 24) & 0x1F not in (_STRUCT, _UNION):
            return None
        wanted = name.encode() + b"\0"
        self._look(info & 0xFFFF)
        for here in range(at + 3, at + 3 + 3 * (info & 0xFFFF), 3):
            bits = words[here + 2]
            if info >> 31:  # kind_flag: the upper 8 bits are the width of a bit field
                width, bits = bits >> 24, bits & 0xFFFFFF
            else:
                width = 0
            if self._name_is(words[here], wanted):
                if width or bits % 8:
                    raise PmuconfError(f"{name} is a bit field", cause="btf-bit-field")
                return Member(bits // 8, self._size(words[here + 1]), words[here + 1])
            if self._name_is(words[here], b"\0"):  # the members of an anonymous structure are the outer one's too
                inner = self._member(words[here + 1], name, seen)
                if inner is not None:
                    return Member(bits // 8 + inner.offset, inner.size, inner.type_id)
        return None


def _broken(why: str) -> PmuconfError:
    return PmuconfError(f"this BTF is broken: {why}", cause="btf-broken")


def _sections(data: bytes) -> tuple[bytes, bytes, dict[int, tuple[int, int]]]:
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
    lengths: dict[int, tuple[int, int]] = {}
    if header >= _HEADER.size + 8:
        layout_off, layout_len = struct.unpack_from("<II", data, _HEADER.size)
        layout = data[header + layout_off : header + layout_off + layout_len]
        if len(layout) != layout_len or layout_len % 4:
            raise _broken("its layout is truncated")
        for kind in range(len(layout) // 4):
            fixed, element = layout[4 * kind], layout[4 * kind + 1]
            if fixed % 4 == 0 and element % 4 == 0:
                lengths[kind] = fixed // 4, element // 4
    return data[header + type_off : header + type_off + type_len], strings, lengths


def _walk(words: memoryview, layout: dict[int, tuple[int, int]]) -> list[int]:
    """Where each type begins, in words."""
    # kind_flag and kind are the upper byte of the info: one look-up for both.
    table: list[tuple[int, int] | None] = [None] * 256
    for kind, length in {**layout, **_KNOWN}.items():
        if kind < 32:
            for flag in range(0, 256, 32):
                table[kind + flag] = length
    table[0] = table[128] = None
    starts: list[int] = []
    append = starts.append
    at, end = 0, len(words)
    try:
        while at < end:
            append(at)
            info = words[at + 1]
            fixed, element = table[info >> 24]  # type: ignore[misc]
            at += 3 + fixed + element * (info & 0xFFFF)
    except TypeError:
        raise _broken(f"kind {(words[at + 1] >> 24) & 0x1F} is unknown, and so is its length") from None
    except IndexError:
        raise _broken("its types are truncated") from None
    if at != end:
        raise _broken("its types are truncated")
    return starts
