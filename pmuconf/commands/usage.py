"""Usage errors in one line: what is wrong, what may have been meant, a cause code, and where the help is."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from typing import Final, NoReturn

from pmuconf.report.plain import joined, printable

__all__ = ["spoken"]

_USAGE_ERROR: Final = 2
_MEANT: Final = 3
_LONGEST: Final = 120

_SENTENCES: Final = {
    re.compile(pattern, re.DOTALL): sentence
    for pattern, sentence in {
        r"argument (?P<name>\S+): invalid choice: (?P<value>.*) \(choose from (?P<choices>.*)\)": (
            "{name} takes {choices}, not {value}"
        ),
        r"argument (?P<name>\S+): invalid int value: (?P<value>.*)": "{name}: {value} is no whole number",
        r"argument (?P<name>\S+): invalid \w+ value: (?P<value>.*)": "{name}: {value} is not valid",
        r"argument (?P<name>\S+): not allowed with argument (?P<other>\S+)": (
            "{other} and {name} can't be given together"
        ),
        r"argument (?P<name>\S+): expected (one|at least one|\d+) arguments?": "{name} requires a value",
        r"argument (?P<name>\S+): ignored explicit argument (?P<value>.*)": (
            "{name} takes no value, but {value} was given"
        ),
        r"one of the arguments (?P<either>.*) is required": "{either} must be given",
        r"the following arguments are required: (?P<all>.*)": "{all} must be given",
        r"unrecognized arguments: (.*? )?(?P<option>-[^ =]+).*": "there is no option {option}",
        r"unrecognized arguments: (?P<word>\S*).*": "{word!r} is an argument too many",
        r"argument (?P<name>\S+): (?P<text>.*)": "{name}: {text}",
    }.items()
}
"""What argparse of Python 3.9 to 3.14 writes, and what we make of it. The first pattern that matches counts."""


def spoken(parser: argparse.ArgumentParser, program: str) -> argparse.ArgumentParser:
    """The same parser, whose errors are one line as all errors of pmuconf are, without the usage in front of it.

    It takes options by their whole names only: "--dry" is not "--dry-run", and "rollback --a" is not "rollback --all".

    :param program: the program with its command, such as "pmuconf apply".
    """
    parser.allow_abbrev = False

    def error(message: str) -> NoReturn:
        options = [name for action in parser._actions for name in action.option_strings]
        sentence, meant = _spoken(message, options)
        did_you_mean = f" Did you mean {joined(meant, 'or')}?" if meant else ""
        print(
            f"pmuconf: {printable(sentence)} (usage).{did_you_mean} '{program} --help' shows what it takes",
            file=sys.stderr,
        )
        raise SystemExit(_USAGE_ERROR)

    parser.error = error  # type: ignore[method-assign]
    return parser


def _spoken(message: str, options: Iterable[str]) -> tuple[str, list[str]]:
    """An error of argparse as a sentence, and what may have been meant."""
    for pattern, sentence in _SENTENCES.items():
        matched = pattern.fullmatch(message)
        if matched is not None:
            fields = matched.groupdict()
            meant = _meant(fields["option"], options) if "option" in fields else []
            if "choices" in fields:
                meant = _meant(fields["value"].strip("'\""), _words(fields["choices"]))
            return sentence.format_map({key: _SHOWN.get(key, _short)(text) for key, text in fields.items()}), meant
    return message, []


def _meant(word: str, known: Iterable[str]) -> list[str]:
    """The names that begin with a word, and those that differ from it by a letter or two."""
    names = list(known)
    beginning = [name for name in names if name.startswith(word) and word.strip("-")]
    return list(dict.fromkeys([*beginning, *get_close_matches(word, names, n=_MEANT, cutoff=0.7)]))[:_MEANT]


def _long(name: str) -> str:
    """The long one of the names of an option, which argparse writes as "-f/--format"."""
    return name.rpartition("/")[2]


def _words(text: str) -> list[str]:
    return re.findall(r"[\w.-]+", text)


def _short(text: str) -> str:
    """The text, or its beginning and its end."""
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST // 2]}...{text[-_LONGEST // 2 :]}"


_SHOWN: Final[Mapping[str, Callable[[str], str]]] = {
    "name": _long,
    "other": _long,
    "choices": lambda text: joined(_words(text), "or"),
    "either": lambda text: joined(text.split(), "or"),
    "all": lambda text: joined(text.split(", "), "and"),
}
"""How the parts of a sentence are shown."""
