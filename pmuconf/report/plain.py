"""Text that is safe to show: names and metadata of domains are written by tenants."""

from __future__ import annotations

import unicodedata
from typing import Final

__all__ = ["csv_cell", "printable"]

_FORMULA: Final = frozenset("=+-@\u2212")
"""What begins a formula, and the minus sign of mathematics, which no normalization makes an ASCII one."""


def printable(text: str) -> str:
    r"""The text with everything that a terminal might act upon written out as ``\x9b`` or ``\u202e``.

    Control characters, line ends, and the invisible ones that turn the direction of writing.

    >>> printable("web\x1b[31m")
    'web\\x1b[31m'
    """
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode("ascii") for one in text)


def csv_cell(text: str) -> str:
    """As printable(), and never a formula: a spreadsheet shows a leading apostrophe as plain text.

    Some take a sign of another width or height for the same, and some pass over white space before it.
    """
    shown = printable(text)
    first = shown.lstrip()[:1]
    return f"'{shown}" if first and unicodedata.normalize("NFKC", first)[:1] in _FORMULA else shown
