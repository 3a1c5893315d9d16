"""The command pmuconf: global options, exit statuses, and how errors are shown."""

from __future__ import annotations

import gc
import importlib
import io
import os
import sys
import types
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TextIO

import pmuconf
from pmuconf.commands.exitstatus import CHECK_UNKNOWN, ERROR

if TYPE_CHECKING:
    from pmuconf.commands.application import Application

__all__ = ["main"]


def main(argv: list[str] | None = None) -> int:
    """Run the command line; the exit status. Without arguments it is that of the process, and may end it."""
    if argv is not None:
        return _run(argv)
    from pmuconf.commands import interrupt

    _occupy_streams()
    interrupt.watch()
    status = _run(sys.argv[1:])
    interrupt.leave()
    return status


def _run(arguments: list[str]) -> int:
    """Run the command that the arguments name; the exit status."""
    if sys.stdout is None:  # closed by whoever started us
        _tell("pmuconf: standard output is closed (output-unwritable)\n")
        return ERROR
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names may have signs that the terminal has not
    if arguments == ["--version"]:  # without the 200 ms that the rest takes to load
        print(f"pmuconf {pmuconf.__version__}")
        return 0 if _flushed() else ERROR
    if not arguments:
        from pmuconf.commands.names import overview

        _tell(overview())
        return ERROR
    app = _application()
    if app is None:
        return ERROR
    try:
        status: int = app.run(arguments)
    except SystemExit as error:  # argparse: 0 for --help, 2 for a usage error
        status = 0 if error.code in (None, 0) else ERROR
    else:
        if status != 0 and not app.completed:  # cliff's own 1 for an exception
            status = ERROR
    status = status if _flushed(error_shown=app.error_shown) else ERROR
    return status if status in (0, 1, 2) or (status == CHECK_UNKNOWN and app.completed) else ERROR


def _application() -> Application | None:
    """The application; None, after a message, if a library that all commands need is not installed."""
    gc.disable()  # what loads in the next 200 ms is all kept: collecting it is a tenth of the time
    for module in ("netaddr", "rfc3986"):
        sys.modules.setdefault(module, _Later(module))
    try:
        from pmuconf.commands.application import application
    except ImportError as error:  # a plain 'pip install pmuconf' brings what the Nova plugin needs, and no cliff
        from pmuconf.libraries import missing

        _tell(f"pmuconf: {missing(error)}\n")
        return None
    return application()


def _flushed(*, error_shown: bool = False) -> bool:
    """Whether our output went out whole; if not, what is left of it goes nowhere, without a traceback at exit.

    :param error_shown: an error was shown already, so this one is not.
    """
    whole = True
    try:
        sys.stdout.flush()
    except ValueError:  # closed by cliff's pager, when the reader of a help went away
        whole = False
    except OSError as error:
        whole = False
        reader_gone = isinstance(error, BrokenPipeError)  # nobody is left to tell
        if not (error_shown or reader_gone):
            _tell(f"pmuconf: the output can't be written: {error.strerror} (output-unwritable)\n")
        _drop(sys.stdout)
    _tell("")
    return whole


def _tell(text: str) -> None:
    """Write to standard error. If that can't be written, the status has to do: Python would end with one of its own."""
    if sys.stderr is None:
        return
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except OSError:
        _drop(sys.stderr)


def _drop(stream: TextIO) -> None:
    """Let what is left in a stream go nowhere."""
    with suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _occupy_streams() -> None:
    """Open what was closed by whoever started us: else the next file has its number, and gets messages."""
    with suppress(OSError):  # there is no /dev/null, or no descriptor is left
        for number in range(3):
            try:
                os.fstat(number)
            except OSError:
                os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
        if sys.stderr is None:
            sys.stderr = os.fdopen(2, "w", encoding="utf-8", closefd=False)


class _Later(types.ModuleType):
    """Stands in for a module until something of it is used; importlib's LazyLoader loads at the next import already.

    oslo.config imports some for option types that we have none of: 30 to 80 ms of regular expressions.
    """

    def __getattr__(self, name: str) -> Any:
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return getattr(importlib.import_module(self.__name__), name)


if __name__ == "__main__":
    sys.exit(main())
