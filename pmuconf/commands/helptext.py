"""The help of a command: what it does, examples, then its options, our own before those of cliff's formats."""

from __future__ import annotations

import argparse
import re
import textwrap
from collections.abc import Iterable, Sequence
from typing import Final

from cliff.command import Command

from pmuconf.commands.examples import examples_of
from pmuconf.commands.usage import spoken
from pmuconf.errors import PmuconfError
from pmuconf.report.plain import joined

__all__ = ["HelpText", "Worded"]

_WIDEST: Final = 100
_VERBATIM: Final = 4
"""The indentation of lines that are shown as they are: commands to be pasted."""
_OF_FORMATS: Final = {
    "--format": ("FORMAT", "How the answer is written: {choices}."),
    "--column": ("COLUMN", "Show this column alone. May be given several times."),
    "--sort-column": ("COLUMN", "Sort by this column. May be given several times, the first counting most."),
    "--sort-descending": (None, "Sort the largest first."),
}
"""cliff's options that are described: how the value is called, and a sentence. The others work, and are only named."""


class HelpText(argparse.HelpFormatter):
    """Fills paragraphs to the width of the terminal. Lists keep their lines, and commands to be pasted stay whole."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog)
        self._width = min(self._width, _WIDEST)

    def add_usage(
        self,
        usage: str | None,
        actions: Iterable[argparse.Action],
        groups: Iterable[argparse._MutuallyExclusiveGroup],
        prefix: str | None = None,
    ) -> None:
        """As argparse, which stumbles over groups with hidden options where the usage has several lines."""
        shown = [action for action in actions if action.help != argparse.SUPPRESS]
        whole = [group for group in groups if all(action in shown for action in group._group_actions)]
        super().add_usage(usage, shown, whole, prefix)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "\n\n".join(_filled(paragraph, width, indent) for paragraph in re.split(r"\n\s*\n", text.strip("\n")))


class Worded(Command):
    """A command whose help and whose usage errors are in our order and words."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        try:
            parser: argparse.ArgumentParser = super().get_parser(prog_name)
        except ValueError:  # cliff takes int() of them
            raise PmuconfError(
                "the environment variables CLIFF_MAX_TERM_WIDTH and CLIFF_FIT_WIDTH must be whole numbers",
                cause="usage",
            ) from None
        _arrange(parser, prog_name.partition(" ")[2])
        return spoken(parser, prog_name)

    def get_epilog(self) -> str:
        """None: cliff's own names the package, for which it reads every package of the environment (170 ms)."""
        return ""


def _arrange(parser: argparse.ArgumentParser, command: str) -> None:
    """Put a parser's texts into our order and words.

    :param command: the name of the command, such as "policy check".
    """
    parser.formatter_class = HelpText
    first, _, rest = (parser.description or "").partition("\n\n")
    parser.description = "\n\n".join(filter(None, (first, examples_of(command), rest)))
    parser._positionals.title, parser._optionals.title = "arguments", "options"
    for action in parser._actions:
        if "--help" in action.option_strings:
            action.help = "Show this help."
    _shorten_formats(parser)


def _shorten_formats(parser: argparse.ArgumentParser) -> None:
    """Describe the options of cliff's formats that people use in a line each, and name the others in one."""
    groups = [group for group in parser._action_groups if _is_of_a_format(group)]
    if not groups:
        return
    others = []
    for group in groups:
        group.title = group.description = None
        for action in group._group_actions:
            name = action.option_strings[-1]
            if name in _OF_FORMATS:
                action.metavar, text = _OF_FORMATS[name]
                action.help = text.format(choices=_choices(action))
            else:
                action.help = argparse.SUPPRESS
                others.append(name)
    groups[0].title = "output"
    groups[0].description = f"Also {joined(others, 'and')}, as other commands of OpenStack have them."
    _move_down(parser, groups)


def _move_down(parser: argparse.ArgumentParser, groups: Sequence[argparse._ArgumentGroup]) -> None:
    """Have some groups of options shown after all others, those that are added from now on included."""
    actions = [action for group in groups for action in group._group_actions]
    format_help = parser.format_help

    def ours_first() -> str:
        parser._action_groups.sort(key=groups.__contains__)
        parser._actions.sort(key=actions.__contains__)
        return format_help()

    parser.format_help = ours_first  # type: ignore[method-assign]


def _is_of_a_format(group: argparse._ArgumentGroup) -> bool:
    return (group.title or "").lower().endswith((" formatter", " formatters"))


def _choices(action: argparse.Action) -> str:
    """The formats, the default first."""
    names = sorted(action.choices or (), key=lambda name: (name != action.default, name))
    return joined([f"{name} (the default)" if name == action.default else name for name in names], "or")


def _filled(paragraph: str, width: int, indent: str) -> str:
    """One paragraph. Lines without indentation are one text; an indented line is an item, with its text aligned."""
    items: list[str] = []
    for line in paragraph.split("\n"):
        if items and not line.startswith(" ") and not items[-1].startswith(" "):
            items[-1] += f" {line}"
        else:
            items.append(line)
    return textwrap.indent("\n".join(_item(item, width) for item in items), indent)


def _item(text: str, width: int) -> str:
    spaces = len(text) - len(text.lstrip())
    if spaces >= _VERBATIM:
        return text
    term = re.match(r" +\S.*?\s{2,}", text) if spaces else None
    hang = " " * (len(term[0]) if term else spaces)
    return textwrap.fill(text, width, subsequent_indent=hang, break_on_hyphens=False, break_long_words=False)
