"""The base of all commands: configuration, the connection, tables that are safe to show, exit statuses."""

from __future__ import annotations

import argparse
import errno
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, TypeVar

from cliff.columns import FormattableColumn
from cliff.command import Command
from cliff.lister import Lister
from cliff.show import ShowOne

from pmuconf import conf
from pmuconf.commands.fence import fence
from pmuconf.commands.helptext import arrange
from pmuconf.commands.usage import spoken
from pmuconf.errors import PmuconfError
from pmuconf.report.plain import csv_cell, printable

if TYPE_CHECKING:
    from pmuconf.change.run import Run

__all__ = ["Action", "Record", "Table", "add_connect", "progress", "run_of", "settings", "warning"]

_Item = TypeVar("_Item")

_COLOURS = {
    "drift": "31",
    "failed": "31",
    "pending": "33",
    "changed": "32",
    "ok": "32",
    "slow": "31",
    "partial": "33",
    "unknown": "33",
}


def settings(command: Command) -> conf.Settings:
    """The configuration that the global options name."""
    return conf.load(command.app.options.config_file, command.app.options.config_dir)


def run_of(command: Command, args: argparse.Namespace, *, dry: bool) -> Run:
    """A run with the options of add_connect(), which shows a person how far it is."""
    from pmuconf.change.run import Run

    return Run(settings(command), args.connect, dry, warning(command), progress)


def warning(command: Command) -> Callable[[str], None]:
    """A function that shows a sentence to a person, beside the answer."""

    def warn(sentence: str) -> None:
        command.app.LOG.warning("%s", sentence)

    return warn


def add_connect(parser: argparse.ArgumentParser) -> None:
    """Add --connect."""
    parser.add_argument(
        "--connect", metavar="URI", help="The libvirt connection; the default is [libvirt] uri, qemu:///system."
    )


def progress(items: Iterable[_Item], total: int, what: str) -> Iterator[_Item]:
    """Pass the items through, with a bar on standard error if that is a terminal."""
    if not sys.stderr.isatty():
        yield from items
        return
    from tqdm import tqdm

    yield from tqdm(items, total=total, desc=what, unit="VM", leave=False)


class _Guarded(Command):
    """A bug of ours is shown as one line, not as a traceback; --debug shows that."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        try:
            parser: argparse.ArgumentParser = super().get_parser(prog_name)
        except ValueError:  # cliff takes int() of them
            raise PmuconfError(
                "the environment variables CLIFF_MAX_TERM_WIDTH and CLIFF_FIT_WIDTH must be whole numbers",
                cause="usage",
            ) from None
        arrange(parser, prog_name.partition(" ")[2])
        return spoken(parser, prog_name)

    def get_epilog(self) -> str:
        """None: cliff's own names the package, for which it reads every package of the environment (170 ms)."""
        return ""

    def given(self, args: argparse.Namespace) -> int:
        """How many files this reads, if it reads nothing but files; 0 if it asks libvirt or this host.

        Files must not keep a command for ever: see fence().
        """
        del args
        return 0

    def run(self, parsed_args: argparse.Namespace) -> int:
        try:
            files = self.given(parsed_args)
            with fence(files) if files else nullcontext():
                return int(super().run(parsed_args) or 0)
        except (PmuconfError, BrokenPipeError):
            raise
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EIO, errno.EBADF, errno.EDQUOT):
                raise
            raise PmuconfError(f"the output can't be written: {error.strerror}", cause="output-unwritable") from error
        except MemoryError:
            pass  # the error is raised below, where nothing holds any more what took the memory
        except Exception as error:
            if self.app.options.debug:
                raise
            raise PmuconfError(
                f"unexpected {type(error).__name__}: {error}",
                cause="internal",
                hint="This is a defect of pmuconf: please report it with what --debug shows",
            ) from error
        raise PmuconfError(
            "there is not enough memory for that",
            cause="out-of-memory",
            hint="Give fewer or smaller files, or allow more memory (ulimit -v, MemoryMax)",
        )


class Action(_Guarded):
    """A command that does something; take_action() returns its exit status."""


class Table(_Guarded, Lister):
    """A command that lists records, in the order in which it gives them; ``status`` becomes its exit status.

    A record maps column names to text, numbers, truth values, mappings or None. The plain table shows the columns
    of ``brief``; -c and the formats for programs have them all.
    """

    columns: Sequence[str]
    brief: Sequence[str]
    status: int = 0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.opening: list[str] = []
        """Sentences for a person, shown above the plain table."""
        self.closing: list[str] = []
        """Those shown below it."""

    def records(self, args: argparse.Namespace) -> Iterable[Mapping[str, Any]]:
        """The records to be listed."""
        raise NotImplementedError

    def take_action(self, args: argparse.Namespace) -> tuple[Sequence[str], Iterable[Sequence[Any]]]:
        _refuse_unknown(args.columns, self.columns)
        records = self.records(args)
        if args.formatter == "table" and not args.columns:
            self.app.stdout.write("".join(f"{printable(sentence)}\n" for sentence in self.opening))
        columns = self.brief if args.formatter == "table" and not args.columns else self.columns
        return columns, [[_shown(record[name], args.formatter) for name in columns] for record in records]

    def run(self, parsed_args: argparse.Namespace) -> int:
        super().run(parsed_args)
        if parsed_args.formatter == "table":
            self.app.stdout.flush()
            for sentence in self.closing:
                self.app.LOG.info(sentence)
        return self.status


class Record(_Guarded, ShowOne):
    """A command that shows one record; ``status`` becomes its exit status.

    record() gives the answer in sentences for a person, which stand above the plain table, and the record itself.
    """

    status: int = 0

    def record(self, args: argparse.Namespace) -> tuple[Sequence[str], dict[str, Any]]:
        """The sentences and the record."""
        raise NotImplementedError

    def take_action(self, args: argparse.Namespace) -> tuple[Sequence[str], Sequence[Any]]:
        sentences, record = self.record(args)
        _refuse_unknown(args.columns, record)
        if args.formatter == "table" and not args.columns:
            self.app.stdout.write("".join(f"{sentence}\n" for sentence in sentences))
        return list(record), [_flat(value, args.formatter) for value in record.values()]

    def run(self, parsed_args: argparse.Namespace) -> int:
        super().run(parsed_args)
        return self.status


def _refuse_unknown(asked: Sequence[str], known: Iterable[str]) -> None:
    """Refuse columns of which none is known, before cliff does it without a cause.

    :raises PmuconfError: usage.
    """
    names = {name.lower().replace(" ", "_") for name in asked}
    if names and not names.intersection(known):
        raise PmuconfError(
            f"no column is called {' or '.join(asked)}",
            cause="usage",
            hint=f"The columns are {', '.join(known)}",
        )


def _flat(value: Any, formatter: str) -> Any:
    """A value of a record, as lines of text where the format is for people."""
    if formatter in ("json", "yaml"):
        return value
    if isinstance(value, Mapping):
        shown = ((name, _flat(inner, formatter)) for name, inner in value.items())
        return "\n".join(f"{name}: {text}" for name, text in shown if text not in ("", "-")) or "-"
    if isinstance(value, (list, tuple)):
        return "\n".join(_shown(item, formatter) for item in value) or "-"
    return _shown(value, formatter)


class _Coloured(FormattableColumn):  # type: ignore[type-arg]
    def human_readable(self) -> str:
        return f"\x1b[{_COLOURS[self._value]}m{self._value}\x1b[0m"


def _shown(value: Any, formatter: str) -> Any:
    if formatter in ("json", "yaml"):
        return value
    if isinstance(value, Mapping):
        value = value["cause"] if "cause" in value else value["path"]
    if isinstance(value, (list, tuple)):
        texts = [item["text"] if isinstance(item, Mapping) else item for item in value]
        value = ("; " if any(isinstance(item, Mapping) for item in value) else " ").join(texts)
    if isinstance(value, float):
        value = round(value, 1)
    if formatter == "csv":
        return csv_cell(value) if isinstance(value, str) else value
    if formatter == "value":
        return printable(value) if isinstance(value, str) else value
    if value in _COLOURS and sys.stdout.isatty() and "NO_COLOR" not in os.environ:
        return _Coloured(value)
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return printable(str(value))
