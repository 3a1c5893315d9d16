"""The base of all commands: configuration, the connection, tables that are safe to show, exit statuses."""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Final, TypeVar

from cliff.columns import FormattableColumn
from cliff.command import Command
from cliff.lister import Lister
from cliff.show import ShowOne

from pmuconf import conf
from pmuconf.commands.fence import fence
from pmuconf.commands.helptext import Worded
from pmuconf.commands.plaintable import Brief, PlainTable, coloured, plain
from pmuconf.commands.refusal import refusal
from pmuconf.commands.terminal import UNBROKEN, height_of, width_of
from pmuconf.errors import PmuconfError
from pmuconf.libraries import missing
from pmuconf.report.plain import csv_cell, printable
from pmuconf.report.screen import lines_of

if TYPE_CHECKING:
    from pmuconf.change.run import Run

__all__ = ["Action", "Record", "Table", "add_connect", "progress", "run_of", "settings", "warning"]

_Item = TypeVar("_Item")
_PATIENCE: Final = 0.3
"""The seconds that something may take before it is worth a bar, and the time to load what draws one."""
_HEADING: Final = 2
"""The lines of a table above its rows."""


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


def progress(items: Iterable[_Item], total: int, what: str, unit: str = "VM") -> Iterator[_Item]:
    """Pass the items through. If that takes longer, a bar shows how far it is, where standard error is a terminal."""
    rest, done = iter(items), 0
    if width_of(sys.stderr) is not None:
        begin = time.monotonic()
        for item in rest:
            yield item
            done += 1
            if time.monotonic() - begin > _PATIENCE:
                break
        else:
            return
        from tqdm import tqdm

        rest = iter(tqdm(rest, total=total, initial=done, desc=what, unit=unit, leave=False))
    yield from rest


class _Guarded(Worded):
    """A bug of ours is shown as one line, not as a traceback; --debug shows that."""

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
            raise refusal(error) from error
        except ImportError as error:
            raise missing(error) from None
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
    of ``brief``, with --wide those of ``wide``; -c and the formats for programs have them all.
    """

    columns: Sequence[str]
    brief: Sequence[str | Brief]
    wide: Sequence[str | Brief] = ()
    """Empty: the same columns."""
    status: int = 0
    _scrolls: bool = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.opening: list[str] = []
        """Sentences for a person, shown above the plain table."""
        self.closing: list[str] = []
        """Sentences shown below it."""
        self.summary: list[str] = []
        """The last sentences. They come first too where the rows push the first lines off the terminal."""
        self.recalled: list[str] = []
        """Sentences of the opening that are then shown again below."""
        self.next_command: str = ""
        """The command line that goes on from here, shown last."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        parser.add_argument(
            "--wide",
            action="store_true",
            help="Show names whole, and all that the table has room for, however long the lines become. Without it "
            "the table fits the terminal: names are cut in the middle.",
        )
        return parser

    def records(self, args: argparse.Namespace) -> Iterable[Mapping[str, Any]]:
        """The records to be listed."""
        raise NotImplementedError

    def take_action(self, args: argparse.Namespace) -> tuple[Sequence[str], Iterable[Sequence[Any]]]:
        _refuse_unknown(args.columns, self.columns)
        records = list(self.records(args))
        if args.formatter != "table" or args.columns:
            return self.columns, [[_shown(record[name], args.formatter) for name in self.columns] for record in records]
        width = None if args.wide else _room(args)
        self._show_opening(len(records))
        self.formatter = PlainTable(_briefs(self.wide if args.wide and self.wide else self.brief), width)
        return self.columns, [[record[name] for name in self.columns] for record in records]

    def run(self, parsed_args: argparse.Namespace) -> int:
        super().run(parsed_args)
        if parsed_args.formatter == "table":
            self.app.stdout.flush()
            recalled = self.recalled if self._scrolls else ()
            for sentence in (*recalled, *self.closing, *self.summary):
                self.app.LOG.info("%s", sentence)
            if self.next_command:
                self.app.LOG.info("to go on: %s", self.next_command, extra=UNBROKEN)
        return self.status

    def _show_opening(self, rows: int) -> None:
        """Write what stands above the table; the summary too, if all that comes has more lines than the terminal."""
        height, width = height_of(sys.stdout), width_of(sys.stdout)
        wanted = rows + _HEADING + sum(map(len, (self.opening, self.closing, self.summary)))
        self._scrolls = height is not None and wanted >= height
        for sentence in (*self.summary, *self.opening) if self._scrolls else self.opening:
            self.app.stdout.write("".join(f"{line}\n" for line in lines_of(printable(sentence), width)))


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


def _room(args: argparse.Namespace) -> int | None:
    """The width that the plain table has, by the options of cliff's table and the terminal; None: no limit."""
    if args.max_width > 0:
        return int(args.max_width)
    width = width_of(sys.stdout)
    return shutil.get_terminal_size().columns if width is None and args.fit_width else width


def _briefs(brief: Iterable[str | Brief]) -> list[Brief]:
    return [Brief.named(column) if isinstance(column, str) else column for column in brief]


class _Coloured(FormattableColumn):  # type: ignore[type-arg]
    def human_readable(self) -> str:
        return coloured(self._value)


def _shown(value: Any, formatter: str) -> Any:
    if formatter in ("json", "yaml"):
        return value
    if formatter == "table":
        text = str(round(value, 1)) if isinstance(value, float) else plain(value)
        return text if coloured(text) == text else _Coloured(text)
    if isinstance(value, (Mapping, list, tuple)):
        return _shown(plain(value) if value else "", formatter)
    if isinstance(value, float):
        value = round(value, 1)
    if formatter == "csv":
        return csv_cell(value) if isinstance(value, str) else value
    return printable(value) if isinstance(value, str) else value
