"""The build-id in ELF notes: it identifies the build of some code."""

from __future__ import annotations

import struct
from typing import Final

__all__ = ["build_id_of_notes"]

_GNU_BUILD_ID: Final = 3


def build_id_of_notes(notes: bytes) -> str | None:
    """The GNU build-id among ELF notes (a section, or /sys/kernel/notes); None if there is none."""
    at = 0
    while at + 12 <= len(notes):
        name_size, size, kind = struct.unpack_from("<III", notes, at)
        name = notes[at + 12 : at + 12 + name_size]
        start = at + 12 + (name_size + 3) // 4 * 4
        if kind == _GNU_BUILD_ID and name == b"GNU\0" and 0 < size <= 64 and start + size <= len(notes):
            return notes[start : start + size].hex()
        at = start + (size + 3) // 4 * 4
    return None
