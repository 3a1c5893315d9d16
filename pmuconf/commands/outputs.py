"""Answers of one thing, as sentences for a person or as JSON for a program."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from typing import Any, Final, Protocol

from cliff.command import Command

from pmuconf.commands.terminal import width_of
from pmuconf.report.plain import printable
from pmuconf.report.screen import lines_of

__all__ = ["TwoForms", "add_format", "show"]

_INDENT: Final = "    "
"""Begins the lines on which a sentence goes on that is too long for the terminal."""


class TwoForms(Protocol):
    """An answer that has both forms."""

    def lines(self) -> Iterable[str]:
        """The answer in sentences, one a line."""

    def record(self) -> dict[str, Any]:
        """The answer as a JSON document."""


def add_format(parser: argparse.ArgumentParser) -> None:
    """Add --format."""
    parser.add_argument(
        "-f", "--format", choices=("text", "json"), default="text", help="For people or for programs; text by default."
    )


def show(command: Command, args: argparse.Namespace, answer: TwoForms) -> None:
    """Write an answer to standard output in the form that add_format() has read."""
    if args.format == "json":
        command.app.stdout.write(json.dumps(answer.record(), indent=2) + "\n")
        return
    width = width_of(sys.stdout)
    lines = (line for sentence in answer.lines() for line in lines_of(printable(sentence), width, _INDENT))
    command.app.stdout.write("".join(f"{line}\n" for line in lines))
