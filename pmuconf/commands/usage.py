"""Usage errors in one line: what is wrong, a cause code, and where the help is."""

from __future__ import annotations

import argparse
import re
import sys
from typing import NoReturn

from pmuconf.report.plain import printable

__all__ = ["spoken"]

_USAGE_ERROR = 2
_OF_A_TYPE = re.compile(r"invalid \w+ value: ('.*')")
"""argparse names the function that refused the value."""


def spoken(parser: argparse.ArgumentParser, program: str) -> argparse.ArgumentParser:
    """The same parser, whose errors are one line as all errors of pmuconf are, without the usage in front of it.

    :param program: the program with its command, such as "pmuconf apply".
    """

    def error(message: str) -> NoReturn:
        message = _OF_A_TYPE.sub(r"\1 is not valid", message)
        print(f"pmuconf: {printable(message)} (usage). '{program} --help' shows what it takes", file=sys.stderr)
        raise SystemExit(_USAGE_ERROR)

    parser.error = error  # type: ignore[method-assign]
    return parser
