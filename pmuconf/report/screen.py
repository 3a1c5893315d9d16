"""Text that fits a screen: its width in cells, names cut in the middle, sentences wrapped, and tables. Pure.

A cell is the width of one ASCII character. East Asian wide characters and most emoji take two cells.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

__all__ = ["Column", "cells", "cut", "lines_of", "table_lines"]

_GAP: Final = "  "
_USUAL: Final = 24
_READABLE: Final = 10
_LEAST: Final = 3
_FOLD: Final = 20
_EMOJI: Final = "\ufe0f"
_ZERO: Final = frozenset({"Mn", "Me", "Cf"})
_QUOTED: Final = re.compile(r"(?<!\w)'[^']*'(?!\w)")
_KEPT: Final = "\x00"


@dataclass(frozen=True)
class Column:
    """A column of a table.

    :param cuts: its texts may be cut in the middle where the table is too wide: names.
    :param folds: its texts may be continued on further lines: sentences. Only the last column of a table.
    :param right: its texts are aligned to the right: numbers.
    :param spare: it is left out where there is no room for it.
    """

    heading: str
    cuts: bool = False
    folds: bool = False
    right: bool = False
    spare: bool = False

    def least(self, width: int) -> int:
        """How narrow it may become and still be read, if its texts take up to ``width`` cells."""
        if self.folds:
            return min(width, _FOLD)
        return min(width, _READABLE) if self.cuts else width


def cells(text: str) -> int:
    """The number of cells that a text of printable characters takes; rather one too many than too few.

    >>> cells("web1"), cells("日本")
    (4, 4)
    """
    return len(text) if text.isascii() else sum(map(_width, text))


def cut(text: str, room: int, mark: str = "…") -> str:
    """The text, cut in the middle if it takes more cells than ``room``. Names that begin alike differ at their end.

    >>> cut("instance-0000002a", 9)
    'inst…002a'
    """
    if cells(text) <= room:
        return text
    left = max(0, room - cells(mark))
    head = _first(text, left - left // 2)
    tail = _first(text[::-1], left - cells(head))[::-1]
    return f"{head}{mark}{tail}" if left else _first(text, room)


def lines_of(text: str, width: int | None, indent: str = "  ") -> list[str]:
    """The text as lines of at most ``width`` cells; None: one line. A command in quotes stays on one line.

    :param indent: begins every line but the first.
    """
    if width is None or cells(text) <= width:
        return [text]

    def together(quoted: re.Match[str]) -> str:
        return quoted[0].replace(" ", _KEPT) if cells(quoted[0]) <= width - len(indent) else quoted[0]

    lead = text[: len(text) - len(text.lstrip())]
    lines = [lead]
    for word in _QUOTED.sub(together, text.strip()).split(" "):
        begun = lines[-1].strip() != ""
        if begun and cells(lines[-1]) + 1 + cells(word) > width:
            lines.append(indent + word)
        else:
            lines[-1] += f" {word}" if begun else word
    return [part.replace(_KEPT, " ") for line in lines for part in _broken(line, width, indent)]


def table_lines(
    columns: Sequence[Column],
    rows: Sequence[Sequence[str]],
    width: int | None = None,
    *,
    mark: str = "…",
    rule: bool = True,
    paint: Callable[[str], str] = str,
) -> Iterator[str]:
    """The lines of a table: a heading, a rule, and the rows, whose columns are separated by two spaces.

    :param rows: printable texts.
    :param width: of the screen, in cells; names are cut and sentences folded to fit it. None: nothing is cut.
    :param mark: stands for what was cut out.
    :param paint: colours a text of a column that is never cut, without changing its width.
    """
    widths = [max(map(cells, texts)) for texts in zip([column.heading for column in columns], *rows)]
    if width is not None:
        kept = _kept(columns, widths, width)
        columns, widths = [columns[at] for at in kept], [widths[at] for at in kept]
        rows = [[row[at] for at in kept] for row in rows]
        widths = _fitted(columns, widths, width - len(_GAP) * (len(columns) - 1))

    def line(texts: Sequence[str], paint: Callable[[str], str] = str) -> str:
        return _GAP.join(
            _placed(column, text, room, paint) for column, text, room in zip(columns, texts, widths)
        ).rstrip()

    yield line([cut(column.heading, room, mark) for column, room in zip(columns, widths)])
    if rule:
        yield line(["-" * room for room in widths])
    for row in rows:
        *firm, last = row
        shown = [cut(text, room, mark) for text, room in zip(firm, widths)]
        folded = lines_of(last, widths[-1], "") if columns[-1].folds else [cut(last, widths[-1], mark)]
        yield line([*shown, folded[0]], paint)
        for more in folded[1:]:
            yield line([*[""] * len(shown), more])


def _placed(column: Column, text: str, room: int, paint: Callable[[str], str]) -> str:
    space = " " * (room - cells(text))
    shown = text if column.cuts or column.folds else paint(text)
    return space + shown if column.right else shown + space


def _kept(columns: Sequence[Column], widths: Sequence[int], width: int) -> list[int]:
    """The places of the columns that are shown: all, or if they have no room on the screen, without spare ones."""
    least = sum(column.least(room) for column, room in zip(columns, widths)) + len(_GAP) * (len(columns) - 1)
    return [at for at, column in enumerate(columns) if least <= width or not column.spare]


def _fitted(columns: Sequence[Column], widths: Sequence[int], room: int) -> list[int]:
    """The widths, so that all take no more than ``room``.

    The text that folds gives way first. Then names of an unusual length are cut, then all that may be cut, the first
    column last. On a screen too narrow for that, all columns give way.
    """
    fitted = list(widths)
    cuts = [column.cuts for column in columns]
    groups = (
        (_FOLD, [column.folds for column in columns]),
        (_USUAL, cuts),
        (_READABLE, [False, *cuts[1:]]),
        (_READABLE, cuts),
        (_LEAST, [True] * len(columns)),
    )
    for least, may_yield in groups:
        while sum(fitted) > room:
            widest = max((width for width, yields in zip(fitted, may_yield) if yields), default=0)
            if widest <= least:
                break
            fitted[next(at for at, yields in enumerate(may_yield) if yields and fitted[at] == widest)] -= 1
    return fitted


def _broken(line: str, width: int, indent: str) -> Iterator[str]:
    """The line, broken anywhere where one word of it is longer than ``width``."""
    while cells(line) > width:
        part = _first(line, width)
        if len(part) <= len(indent):  # not even one sign has room
            break
        yield part
        line = indent + line[len(part) :]
    yield line


def _first(text: str, room: int) -> str:
    """As much of the beginning as has room."""
    taken = 0
    for at, sign in enumerate(text):
        taken += cells(sign)
        if taken > room:
            return text[:at]
    return text


def _width(sign: str) -> int:
    if sign == _EMOJI:
        return 1  # makes the sign before it an emoji, of two cells
    if unicodedata.category(sign) in _ZERO:
        return 0
    return 2 if unicodedata.east_asian_width(sign) in "WF" else 1
