"""ELF files that would take more time or memory than they should are refused, and say so."""

from __future__ import annotations

import struct

import pytest

from pmuconf.errors import PmuconfError
from pmuconf.host.code.elf import ObjectFile
from tests.unit.host.shapes import SHAPES, compiled

STOCK = compiled(next(shape.source for shape in SHAPES if shape.name == "stock"), ("-O2",))
SECTION = struct.Struct("<IIQQQQIIQQ")


def with_header(offset: int, form: str, value: int, data: bytes = STOCK) -> bytes:
    changed = bytearray(data)
    struct.pack_into(form, changed, offset, value)
    return bytes(changed)


def sections(data: bytes) -> list[int]:
    """Where the section headers are."""
    (start,) = struct.unpack_from("<Q", data, 40)
    (count,) = struct.unpack_from("<H", data, 60)
    return [start + number * SECTION.size for number in range(count)]


def refused(data: bytes) -> str:
    with pytest.raises(PmuconfError) as caught:
        ObjectFile(data, "kvm.ko")
    assert caught.value.cause == "elf-broken"
    return caught.value.message


def test_section_headers_without_end() -> None:
    first = sections(STOCK)[0]
    without_count = with_header(60, "<H", 0)
    assert "section headers" in refused(with_header(first + 32, "<Q", 1 << 60, without_count))
    assert "section headers" in refused(with_header(58, "<H", 0))


def test_sections_on_top_of_one_another() -> None:
    data = bytearray(STOCK)
    for at in sections(STOCK)[1:]:
        header = list(SECTION.unpack_from(data, at))
        if header[1] == 1:  # SHT_PROGBITS
            header[2], header[4], header[5] = 6, 0, len(data)  # code, and all of the file
            SECTION.pack_into(data, at, *header)
    assert "overlap" in refused(bytes(data))


def test_code_that_is_compressed() -> None:
    data = bytearray(STOCK)
    for at in sections(STOCK)[1:]:
        flags = SECTION.unpack_from(data, at)[2]
        if flags & 4:
            struct.pack_into("<Q", data, at + 8, flags | 0x800)
    assert "compressed" in refused(bytes(data))


def test_a_section_that_is_not_in_the_file() -> None:
    """A section without contents may claim any size: it is not made of zeros."""
    data = bytearray(STOCK)
    for at in sections(STOCK)[1:]:
        header = list(SECTION.unpack_from(data, at))
        if header[1] == 1 and not header[2] & 2:  # SHT_PROGBITS that is not loaded
            header[1], header[5] = 8, 1 << 30
            SECTION.pack_into(data, at, *header)
    assert ObjectFile(bytes(data), "kvm.ko").section(".BTF") is None
