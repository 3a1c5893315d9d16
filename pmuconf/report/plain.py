"""Text that is safe to show: names and metadata of domains are written by tenants."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import Final

__all__ = ["csv_cell", "joined", "printable", "visible"]

_FORMULA: Final = frozenset("=+-@\u2212")
"""The signs that begin a formula, and the minus sign of mathematics, which normalization does not make ASCII."""


def printable(text: str) -> str:
    r"""The text with all characters on which a terminal might act written out, as ``\x9b`` or ``\u202e``.

    These are control characters, line ends, and invisible ones that turn the direction of writing.

    >>> printable("web\x1b[31m")
    'web\\x1b[31m'
    """
    if text.isprintable():
        return text
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode("ascii") for sign in text)


def visible(text: str) -> str:
    r"""The same for a page, where a name of blanks alone would be a link that nobody sees: it is written out, too.

    >>> visible("  ")
    '\\x20\\x20'
    """
    return printable(text) if text.strip(" ") else r"\x20" * len(text)


def csv_cell(text: str) -> str:
    """As printable(), and never a formula: an apostrophe in front makes it plain text for a spreadsheet.

    Some spreadsheets treat a sign of another width or height as the same sign, and some skip white space before it.
    """
    shown = printable(text)
    first = shown.lstrip()[:1]
    return f"'{shown}" if first and unicodedata.normalize("NFKC", first)[:1] in _FORMULA else shown


def joined(names: Sequence[str], word: str) -> str:
    """The names as a list within a sentence.

    >>> joined(["json", "csv", "html"], "or")
    'json, csv or html'
    """
    return f" {word} ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
