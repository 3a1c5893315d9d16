"""The values of options: numbers with their limits, and errors that say what would be right."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable
from typing import Final

__all__ = ["number", "positive", "whole"]

_MOST: Final = (1 << 31) - 1
_SHOWN: Final = 40


def number(text: str) -> int:
    """A whole number, of either sign, that no database and no system call is too small for.

    :raises argparse.ArgumentTypeError: it is none.
    """
    value = _integer(text)
    if value is None or abs(value) > _MOST:
        raise argparse.ArgumentTypeError(f"{text!r:.{_SHOWN}} is no whole number up to {_MOST}")
    return value


def whole(least: int, most: int = _MOST) -> Callable[[str], int]:
    """A function that reads a whole number from ``least`` to ``most``, for argparse."""

    def read(text: str) -> int:
        value = _integer(text)
        if value is None or not least <= value <= most:
            raise argparse.ArgumentTypeError(f"{text!r:.{_SHOWN}} is no whole number from {least} to {most}")
        return value

    return read


def positive(text: str) -> float:
    """A number above zero.

    :raises argparse.ArgumentTypeError: it is none.
    """
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not (math.isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError(f"{text!r:.{_SHOWN}} is no number above 0")
    return value


def _integer(text: str) -> int | None:
    return int(text) if re.fullmatch(r"[+-]?\d{1,20}", text, re.ASCII) else None
