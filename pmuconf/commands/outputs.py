"""Answers of one thing, as sentences for a person or as JSON for a program."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from typing import Any, Protocol

from cliff.command import Command

from pmuconf.report.plain import printable

__all__ = ["TwoForms", "add_format", "show"]


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
    lines = [json.dumps(answer.record(), indent=2)] if args.format == "json" else map(printable, answer.lines())
    command.app.stdout.write("".join(f"{line}\n" for line in lines))
