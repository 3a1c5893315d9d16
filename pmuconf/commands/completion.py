"""The command complete: what makes bash and zsh complete commands, options and their values, made from the parsers."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from cliff.complete import CompleteBash, CompleteCommand, CompleteDictionary

from pmuconf.commands.helptext import Worded
from pmuconf.commands.names import COMMANDS

__all__ = ["Complete"]

_SENTENCES: Final = {
    **{name: listed.sentence for name, listed in COMMANDS.items()},
    "help": "describe a command",
    "complete": "write completion for bash or zsh",
}
_FILES: Final = {**dict.fromkeys(("FILE", "PATH", "BINARY", "DIR|FILE", "OLD", "NEW"), "_files"), "DIR": "_files -/"}
"""Which values are files, by the word that stands for them in the help."""

_NAME: Final = """
# An argument that can't be completed is named. The message would keep an option from being completed.
{root}__name() {{
  [[ $PREFIX = -* ]] || _message -e names $argv[-1]
}}
"""


class Complete(Worded, CompleteCommand):
    """Write what makes bash or zsh complete commands and options.

    Exit status: 0, or 255 for an error.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        for action in parser._actions:
            if action.dest == "name":
                action.metavar, action.help = "NAME", "The name by which the command is called, if it is another."
            elif action.dest == "shell":
                action.choices = ["bash", "zsh", "none"]
                action.metavar, action.help = "SHELL", "bash (the default), zsh, or none for the data alone."
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> int:
        name = parsed_args.name or self.app.NAME
        if parsed_args.shell == "zsh":
            self.app.stdout.write(_zsh(name, self._tree()))
            return 0
        if parsed_args.shell == "none":
            return int(super().take_action(parsed_args))
        options = CompleteDictionary()
        for words in map(str.split, self._names()):
            options.add_command(words, self.get_actions(words))
        _Bash(name, self.app.stdout).write(options.get_commands(), options.get_data())
        return 0

    def _names(self) -> list[str]:
        return sorted([*COMMANDS, "complete", "help"])

    def _tree(self) -> _Node:
        root = _Node("", self.app.parser)
        for name in self._names():
            command, _, _ = self.app.command_manager.find_command(name.split())
            parser = command(self.app, None).get_parser(f"{self.app.NAME} {name}")
            root.below(name.split()).parser = parser
        return root


class _Bash(CompleteBash):
    """cliff's, which offers the commands below another one only if they stand in front of its options."""

    def write(self, cmdo: str, data: list[tuple[str, str]]) -> None:
        super().write(cmdo, [(name, " ".join(sorted(words.split(), key=_is_option))) for name, words in data])


def _is_option(word: str) -> bool:
    return word.startswith("-")


@dataclass
class _Node:
    """A word of the command line, with what may come after it.

    :param parser: None if the word alone is no command, such as "policy".
    """

    name: str
    parser: argparse.ArgumentParser | None = None
    children: dict[str, _Node] = field(default_factory=dict)

    def below(self, words: list[str]) -> _Node:
        """The node of these words, which is made if it is not there."""
        if not words:
            return self
        child = self.children.setdefault(words[0], _Node(f"{self.name} {words[0]}".strip()))
        return child.below(words[1:])

    @property
    def sentence(self) -> str:
        """What the command does; of a word that is none, which words may follow."""
        return _SENTENCES.get(self.name) or ", ".join(self.children)


def _zsh(name: str, root: _Node) -> str:
    """A file for zsh's function path, with a function for each word."""
    prefix = "_" + re.sub(r"\W", "_", name)
    functions = "\n".join(_functions(prefix, root)) + _NAME.format(root=prefix)
    return f"#compdef {name}\n# Written by '{name} complete --shell zsh'.\n\n{functions}\n{prefix} \"$@\"\n"


def _functions(root: str, node: _Node) -> Iterator[str]:
    prefix = "_".join([root, *node.name.split()])
    specs = [_quoted(spec) for spec in _specs(root, node)]
    lines = [f"{prefix}() {{"]
    if node.children:
        lines += [
            "  local context state state_descr line ret=1",
            "  typeset -A opt_args",
            "  local -a commands",
            f"  commands=({' '.join(_quoted(f'{word}:{child.sentence}') for word, child in node.children.items())})",
            _arguments([*specs, "'1: :->command'", "'*:: :->rest'"], "-C ") + " && ret=0",
            "  case $state in",
            "    command) _describe -t commands command commands && ret=0 ;;",
            "    rest)",
            "      case $words[1] in",
            *(f"        {word}) {prefix}_{word} && ret=0 ;;" for word in node.children),
            "      esac ;;",
            "  esac",
            "  return ret",
        ]
    else:
        lines.append(_arguments(specs))
    yield "\n".join([*lines, "}", ""])
    for child in node.children.values():
        yield from _functions(root, child)


def _arguments(specs: Iterable[str], options: str = "") -> str:
    return " \\\n    ".join([f"  _arguments {options}-s -S", *specs])


def _specs(root: str, node: _Node) -> Iterator[str]:
    """What _arguments takes: https://zsh.sourceforge.io/Doc/Release/Completion-System.html."""
    for action in node.parser._actions if node.parser else ():
        if action.help == argparse.SUPPRESS:
            continue
        if action.option_strings:
            yield from _option(action)
        elif not node.children:  # beside other commands, an argument can't be told from one
            yield _argument(root, action)


def _option(action: argparse.Action) -> Iterator[str]:
    several = isinstance(action, (argparse._AppendAction, argparse._CountAction))
    before = "*" if several else f"({' '.join(action.option_strings)})"
    text = _plain(re.split(r"[.;](?:\s|$)", action.help or "")[0] % {**vars(action), "prog": "pmuconf"})
    for option in action.option_strings:
        if action.nargs == 0:
            yield f"{before}{option}[{text}]"
        else:
            attached = "=" if option.startswith("--") else "+"  # --option=VALUE or --option VALUE; -o VALUE or -oVALUE
            many = "*-*:" if action.nargs in ("*", "+") else ""  # all words until an option
            yield f"{before}{option}{attached}[{text}]:{many}{_value(action)}"


def _argument(root: str, action: argparse.Action) -> str:
    before = ":" if action.nargs is None else "::" if action.nargs == "?" else "*:"
    value = _value(action)
    return before + (f"{value}{root}__name {value[:-1]}" if value.endswith(":") else value)


def _value(action: argparse.Action) -> str:
    """The value's name, and how it is completed."""
    name = action.metavar if isinstance(action.metavar, str) else action.dest.upper()
    if action.choices:
        return f"{_plain(name)}:({' '.join(map(str, action.choices))})"
    if action.dest == "cmd":
        return f"{_plain(name)}:({' '.join(dict.fromkeys(name.split()[0] for name in COMMANDS))})"
    return f"{_plain(name)}:{_FILES.get(name, '')}"


def _plain(text: str) -> str:
    """A text on one line, in which nothing means anything to _arguments."""
    return re.sub(r"([\\:\[\]])", r"\\\1", " ".join(text.split()))


def _quoted(text: Any) -> str:
    return "'" + str(text).replace("'", "'\\''") + "'"
