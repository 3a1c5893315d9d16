"""The command pmuconf: global options, exit statuses, and how errors are shown."""

from __future__ import annotations

import gc
import importlib
import io
import logging
import os
import sys
import types
from typing import TYPE_CHECKING, Any

import pmuconf

if TYPE_CHECKING:
    import argparse

__all__ = ["main"]

ERROR = 255
CHECK_UNKNOWN = 3
"""Of a monitoring plug-in: status --check alone gives it."""

_HANDLER = "pmuconf"
_MISSING = "pip install 'pmuconf[host]' brings all that the commands need"


def main(argv: list[str] | None = None) -> int:
    """Run the command line; the exit status. Without arguments it is that of the process, and may end it."""
    arguments = sys.argv[1:] if argv is None else argv
    if argv is None:
        from pmuconf.commands import interrupt

        interrupt.watch()
    if sys.stdout is None:  # closed by whoever started us
        print("pmuconf: standard output is closed (output-unwritable)", file=sys.stderr)
        return ERROR
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names may have signs that the terminal has not
    if arguments == ["--version"]:  # without the 200 ms that the rest takes to load
        print(f"pmuconf {pmuconf.__version__}")
        return 0 if _flushed() else ERROR
    gc.disable()  # what loads in the next 200 ms is all kept: collecting it is a tenth of the time
    for module in ("netaddr", "rfc3986"):
        sys.modules.setdefault(module, _Later(module))
    app = _application()
    if not arguments:
        from pmuconf.commands.names import overview

        sys.stderr.write(overview())
        return ERROR
    try:
        status: int = app.run(arguments)
    except SystemExit as error:  # argparse: 0 for --help, 2 for a usage error
        status = 0 if error.code in (None, 0) else ERROR
    else:
        if status != 0 and not app.completed:  # cliff's own 1 for an exception
            status = ERROR
    status = status if _flushed() else ERROR
    return status if status in (0, 1, 2) or (status == CHECK_UNKNOWN and app.completed) else ERROR


def _flushed() -> bool:
    """Whether our output went out whole; if not, what is left of it goes nowhere, without a traceback at exit."""
    try:
        sys.stdout.flush()
    except OSError as error:
        if not isinstance(error, BrokenPipeError):  # whose reader has gone away: nobody is left to tell
            print(f"pmuconf: the output can't be written: {error.strerror} (output-unwritable)", file=sys.stderr)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return False
    return True


class _Later(types.ModuleType):
    """Stands in for a module until something of it is used; importlib's LazyLoader loads at the next import already.

    oslo.config imports some for option types that we have none of: 30 to 80 ms of regular expressions.
    """

    def __getattr__(self, name: str) -> Any:
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return getattr(importlib.import_module(self.__name__), name)


def _application() -> Any:
    from importlib.metadata import EntryPoint

    from cliff.app import App
    from cliff.commandmanager import CommandManager
    from cliff.help import HelpCommand

    from pmuconf.commands.names import COMMANDS, not_a_command, overview, words_of
    from pmuconf.commands.usage import spoken
    from pmuconf.report.plain import printable

    class WholeNames(CommandManager):
        """cliff would take "app" for "apply", and "journal p" for "journal purge", even where a VM is called p."""

        def find_command(self, argv: list[str]) -> tuple[Any, str, list[str]]:
            for number in range(len(words_of(argv)), 0, -1):
                name = " ".join(argv[:number])
                if name in self.commands:
                    return self.commands[name].load(), name, argv[number:]
            raise ValueError(f"Unknown command {argv!r}")

    class Help(HelpCommand):
        """print detailed help for another command"""

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
        def formatMessage(self, record: logging.LogRecord) -> str:
            record.message = printable(record.message)
            return super().formatMessage(record)

    class Application(App):
        NAME = "pmuconf"  # cliff's own is what the process was called when cliff was loaded
        CONSOLE_MESSAGE_FORMAT = "pmuconf: %(message)s"
        completed = False

        def build_option_parser(
            self, description: str | None, version: str | None, argparse_kwargs: dict[str, Any] | None = None
        ) -> argparse.ArgumentParser:
            import argparse

            raw = {"formatter_class": argparse.RawDescriptionHelpFormatter, **(argparse_kwargs or {})}
            parser: argparse.ArgumentParser = spoken(super().build_option_parser(description, version, raw), "pmuconf")
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
            before = [
                handler for handler in root.handlers if handler.get_name() != _HANDLER
            ]  # but for an earlier run's
            root.handlers[:] = before
            super().configure_logging()
            for handler in root.handlers[len(before) :]:
                handler.set_name(_HANDLER)
                handler.setFormatter(Formatter(self.CONSOLE_MESSAGE_FORMAT))
            logging.getLogger("stevedore").setLevel(logging.WARNING)

        def run_subcommand(self, argv: list[str]) -> int:
            try:
                self.command_manager.find_command(argv)
            except ValueError:  # cliff itself would say so on standard output
                self.LOG.error("%s", not_a_command(argv))
                return ERROR
            except ImportError as error:
                self.LOG.error(
                    "%s needs a module that is not installed: %s (module-missing). %s", argv[0], error, _MISSING
                )
                return ERROR
            return int(super().run_subcommand(argv))

        def print_help_if_requested(self) -> None:
            if self.options.deferred_help:
                self.stdout.write(overview())
                raise SystemExit(0)

        def prepare_to_run_command(self, cmd: object) -> None:
            gc.freeze()
            gc.enable()

        def clean_up(self, cmd: object, result: int, err: BaseException | None) -> None:
            self.completed = err is None

    manager = WholeNames("")
    for name, listed in COMMANDS.items():
        manager.commands[name] = EntryPoint(name, f"pmuconf.commands.{listed.place}", "")
    application = Application(
        description=None, version=pmuconf.__version__, command_manager=manager, deferred_help=True
    )
    manager.add_command("help", Help)
    return application


if __name__ == "__main__":
    sys.exit(main())
