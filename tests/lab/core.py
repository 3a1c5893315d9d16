"""ELF core files as /proc/kcore is one: pieces of memory by their addresses."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from typing import Final

__all__ = ["read_core", "write_core"]

_HEADER: Final = struct.Struct("<16sHHIQQQIHHHHHH")
_SEGMENT: Final = struct.Struct("<IIQQQQQQ")


def read_core(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Each piece: its address and its bytes."""
    number = _HEADER.unpack_from(data)[10]
    for at in range(number):
        _, _, offset, address, _, size, _, _ = _SEGMENT.unpack_from(data, _HEADER.size + _SEGMENT.size * at)
        yield address, data[offset : offset + size]


def write_core(pieces: Iterable[tuple[int, bytes]]) -> bytes:
    """A core file of these pieces. Where two overlap the later one counts; those that touch become one."""
    memory: list[tuple[int, bytearray]] = []
    for address, data in sorted(pieces, key=lambda piece: piece[0]):
        if memory and address <= memory[-1][0] + len(memory[-1][1]):
            start, before = memory[-1]
            before[address - start : address - start + len(data)] = data
        else:
            memory.append((address, bytearray(data)))
    offset = _HEADER.size + _SEGMENT.size * len(memory)
    ident = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    head = _HEADER.pack(ident, 4, 62, 1, 0, _HEADER.size, 0, 0, _HEADER.size, _SEGMENT.size, len(memory), 0, 0, 0)
    segments = []
    for address, content in memory:
        segments.append(_SEGMENT.pack(1, 5, offset, address, 0, len(content), len(content), 1))
        offset += len(content)
    return head + b"".join(segments) + b"".join(bytes(content) for _, content in memory)
