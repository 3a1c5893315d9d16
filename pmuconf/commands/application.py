"""The application that cliff runs: its global options, its help, its log, and what it calls a command."""

from __future__ import annotations

import argparse
import errno
import gc
import logging
import os
import sys
from importlib.metadata import EntryPoint
from typing import Any, Final

from cliff.app import App
from cliff.commandmanager import CommandManager
from cliff.help import HelpCommand

import pmuconf
from pmuconf.commands.completion import Complete
from pmuconf.commands.exitstatus import ERROR
from pmuconf.commands.helptext import Worded
from pmuconf.commands.names import COMMANDS, not_a_command, overview, words_of
from pmuconf.commands.refusal import refusal
from pmuconf.commands.terminal import UNBROKEN, width_of
from pmuconf.commands.usage import spoken
from pmuconf.errors import PmuconfError
from pmuconf.libraries import missing
from pmuconf.report.plain import printable
from pmuconf.report.screen import lines_of

__all__ = ["application"]

_HANDLER = "pmuconf"
_OF_CLIFF: Final = {
    "version": (None, "Show the version."),
    "log_file": ("FILE", "Write to this file, too, what is shown on standard error, and more."),
    "debug": (None, "Show a traceback with an error."),
}
"""How values of cliff's own options are called, and what they do."""


class WholeNames(CommandManager):
    """cliff would take "app" for "apply", and "journal p" for "journal purge", even where a VM is called p."""

    def find_command(self, argv: list[str]) -> tuple[Any, str, list[str]]:
        for number in range(len(words_of(argv)), 0, -1):
            name = " ".join(argv[:number])
            if name in self.commands:
                return self.commands[name].load(), name, argv[number:]
        raise ValueError(f"Unknown command {argv!r}")


class Help(Worded, HelpCommand):
    """Describe a command, or show all of them.

    Exit status: 0, or 255 for an error.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        for action in parser._actions:
            if action.dest == "cmd":
                action.metavar, action.help = "COMMAND", "The command that is described; without any, the overview."
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> int:
        if not parsed_args.cmd:
            self.app.stdout.write(overview())
            return 0
        try:
            self.app.command_manager.find_command(parsed_args.cmd)
        except ValueError:
            self.app.LOG.error("%s", not_a_command(parsed_args.cmd))
            return ERROR
        return int(super().take_action(parsed_args))


class Formatter(logging.Formatter):
    """Shows names so that they can't do anything to a terminal.

    :param width: of the terminal, at whose last column a long message goes on in the next line; None: one line.
    """

    def __init__(self, form: str, width: int | None = None) -> None:
        super().__init__(form)
        self._width = width

    def formatMessage(self, record: logging.LogRecord) -> str:
        if isinstance(record.msg, OSError):  # cliff's own writing, of a help or of rows
            record.message = str(refusal(record.msg))
        record.message = printable(record.message)
        whole = UNBROKEN.keys() <= vars(record).keys()
        return "\n".join(lines_of(super().formatMessage(record), None if whole else self._width))


class Application(App):
    """The application. At its end ``completed`` is True if the command ended by itself, without an exception.

    ``error_shown`` is True if it ended with one, which was shown.
    """

    NAME = "pmuconf"  # cliff's own is what the process was called when cliff was loaded
    CONSOLE_MESSAGE_FORMAT = "pmuconf: %(message)s"
    completed = False
    error_shown = False

    def build_option_parser(
        self, description: str | None, version: str | None, argparse_kwargs: dict[str, Any] | None = None
    ) -> argparse.ArgumentParser:
        raw = {"formatter_class": argparse.RawDescriptionHelpFormatter, **(argparse_kwargs or {})}
        parser: argparse.ArgumentParser = spoken(super().build_option_parser(description, version, raw), "pmuconf")
        for action in parser._actions:
            action.metavar, action.help = _OF_CLIFF.get(action.dest, (action.metavar, action.help))
        group = parser.add_argument_group("configuration")
        group.add_argument(
            "--config-file",
            action="append",
            default=[],
            metavar="FILE",
            help="Read this instead of /etc/pmuconf/pmuconf.conf and /etc/pmuconf/pmuconf.conf.d/*.conf; may be "
            "given several times.",
        )
        group.add_argument(
            "--config-dir",
            action="append",
            default=[],
            metavar="DIR",
            help="Read DIR/*.conf too, after the files; may be given several times.",
        )
        return parser

    def configure_logging(self) -> None:
        root = logging.getLogger("")
        before = [handler for handler in root.handlers if handler.get_name() != _HANDLER]  # but for an earlier run's
        root.handlers[:] = before
        unwritable = self._open_log()
        for handler in root.handlers[len(before) :]:
            handler.set_name(_HANDLER)
            to_file = isinstance(handler, logging.FileHandler)
            width = None if to_file else width_of(sys.stderr)
            handler.setFormatter(Formatter(self.CONSOLE_MESSAGE_FORMAT, width))
        logging.getLogger("stevedore").setLevel(logging.WARNING)
        if unwritable is not None:
            raise unwritable

    def _open_log(self) -> PmuconfError | None:
        """Have cliff open the log; the error if its file can't be opened. Then the log goes to the terminal alone."""
        try:
            if self.options.log_file:  # logging itself would wait until somebody reads from a FIFO
                os.close(os.open(self.options.log_file, os.O_WRONLY | os.O_CREAT | os.O_NONBLOCK | os.O_NOCTTY, 0o666))
            super().configure_logging()
        except OSError as error:
            file, self.options.log_file = self.options.log_file, None
            super().configure_logging()
            reason = "nobody reads from it" if error.errno == errno.ENXIO else error.strerror
            return PmuconfError(f"--log-file {file}: {reason}", cause="output-unwritable")
        return None

    def interact(self) -> None:
        """Show the commands, as without any argument: cliff would start a shell of its own."""
        self.stderr.write(overview())

    def run_subcommand(self, argv: list[str]) -> int:
        try:
            self.command_manager.find_command(argv)
        except ValueError:  # cliff itself would say so on standard output
            self.LOG.error("%s", not_a_command(argv))
            return ERROR
        except ImportError as error:
            self.LOG.error("%s", missing(error))
            return ERROR
        return int(super().run_subcommand(argv))

    def print_help_if_requested(self) -> None:
        if self.options.deferred_help:
            self.stdout.write(overview())
            raise SystemExit(0)

    def prepare_to_run_command(self, _cmd: object) -> None:
        gc.freeze()
        gc.enable()

    def clean_up(self, _cmd: object, _result: int, err: BaseException | None) -> None:
        self.completed, self.error_shown = err is None, err is not None


def application() -> Application:
    """The application with all commands, none of which is loaded yet."""
    manager = WholeNames("")
    for name, listed in COMMANDS.items():
        manager.commands[name] = EntryPoint(name, f"pmuconf.commands.{listed.place}", "")
    app = Application(description=None, version=pmuconf.__version__, command_manager=manager, deferred_help=True)
    manager.add_command("help", Help)
    manager.add_command("complete", Complete)
    return app
