"""The plain table of a command that lists records: a few columns, and on a terminal lines that fit it."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TextIO

from cliff.formatters.base import ListFormatter

from pmuconf.commands.terminal import mark_of, shown_on
from pmuconf.report.plain import printable
from pmuconf.report.screen import Column, table_lines

__all__ = ["Brief", "PlainTable", "coloured", "plain"]

_COLOURS: Final = {
    "drift": "31",
    "error": "31",
    "failed": "31",
    "overridden": "31",
    "slow": "31",
    "partial": "33",
    "pending": "33",
    "unknown": "33",
    "changed": "32",
    "ok": "32",
}
_NAMES: Final = frozenset({"conflicts", "flavor", "name", "rule", "who"})
_NOTHING: Final = "-"


@dataclass(frozen=True)
class Brief:
    """A column of the plain table.

    :param of: its value in a record.
    :param optional: it is left out if no record has a value.
    :param spare: it is left out where a terminal has no room for it.
    """

    heading: str
    of: Callable[[Mapping[str, Any]], Any]
    cuts: bool = False
    folds: bool = False
    optional: bool = False
    spare: bool = False

    @classmethod
    def named(cls, key: str, heading: str = "", *, optional: bool = False, spare: bool = False) -> Brief:
        """The column of a record's key; names may be cut. A spare one is optional too."""
        optional = optional or spare
        return cls(heading or key, lambda record: record[key], cuts=key in _NAMES, optional=optional, spare=spare)


class PlainTable(ListFormatter):
    """Writes such a table, of records that come with all their columns.

    :param width: of the terminal; None: nothing is cut.
    """

    def __init__(self, brief: Sequence[Brief], width: int | None) -> None:
        self._brief = brief
        self._width = width

    def add_argument_group(self, parser: argparse.ArgumentParser) -> None:
        """None of its own: it has those of cliff's table."""

    def emit_list(
        self,
        column_names: Sequence[str],
        data: Iterable[Sequence[Any]],
        stdout: TextIO,
        parsed_args: argparse.Namespace,
    ) -> None:
        """Write the table; nothing if there are no records, unless --print-empty asks for the heading."""
        records = [dict(zip(column_names, row)) for row in data]
        if not records and not parsed_args.print_empty:
            return
        shown = [(brief, [brief.of(record) for record in records]) for brief in self._brief]
        shown = [(brief, values) for brief, values in shown if not brief.optional or any(map(_said, values))]
        columns = [_column(brief, values) for brief, values in shown]
        texts = [[shown_on(stdout, plain(value)) for value in values] for _, values in shown]
        lines = table_lines(columns, list(zip(*texts)), self._width, mark=mark_of(stdout), paint=coloured)
        stdout.write("".join(f"{line}\n" for line in lines))


def coloured(text: str) -> str:
    """The text; a word that stands for how something is has its colour if standard output is a terminal."""
    if text in _COLOURS and sys.stdout.isatty() and "NO_COLOR" not in os.environ:
        return f"\x1b[{_COLOURS[text]}m{text}\x1b[0m"
    return text


def plain(value: Any) -> str:
    """A value as text for a person."""
    if isinstance(value, Mapping):
        value = value["cause"] if "cause" in value else value["path"]
    if isinstance(value, (list, tuple)):
        texts = [item["text"] if isinstance(item, Mapping) else item for item in value]
        value = ("; " if any(isinstance(item, Mapping) for item in value) else " ").join(texts)
    if isinstance(value, float):
        return f"{value:,.0f}"
    if value is None or value == "":
        return _NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    return printable(str(value))


def _column(brief: Brief, values: Sequence[Any]) -> Column:
    known = [value for value in values if value is not None]
    numbers = bool(known) and all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in known)
    return Column(brief.heading, brief.cuts, brief.folds, numbers, brief.spare)


def _said(value: Any) -> bool:
    return value is not None and value not in ("", [], ())
