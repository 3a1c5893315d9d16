"""The terminal that a command writes to: its size, and what it can show."""

from __future__ import annotations

import os
from typing import Final, TextIO

__all__ = ["UNBROKEN", "height_of", "mark_of", "shown_on", "width_of"]

UNBROKEN: Final = {"unbroken": True}
"""The extra attributes of a log record whose line is never broken: a command line, which is to be pasted."""
_USUAL: Final = os.terminal_size((80, 24))
_MARK: Final = "…"


def width_of(stream: TextIO | None) -> int | None:
    """The columns of the terminal; None if the stream leads to none, so that nothing needs to be cut."""
    size = _size(stream)
    return None if size is None else size.columns or _USUAL.columns


def height_of(stream: TextIO | None) -> int | None:
    """The lines of the terminal; None if the stream leads to none."""
    size = _size(stream)
    return None if size is None else size.lines or _USUAL.lines


def shown_on(stream: TextIO, text: str) -> str:
    """The text as it comes out there: signs that the encoding lacks are written out, which takes more room."""
    if text.isascii():
        return text
    encoding = stream.encoding or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def mark_of(stream: TextIO) -> str:
    """The mark for what was cut out of a name."""
    return _MARK if shown_on(stream, _MARK) == _MARK else "..."


def _size(stream: TextIO | None) -> os.terminal_size | None:
    try:
        return os.get_terminal_size(stream.fileno()) if stream is not None and stream.isatty() else None
    except (OSError, ValueError):  # closed, or no file of the system
        return None
