"""The last fence about commands that read only files: a time and a memory, whatever the files hold.

Every reader has limits of its own, which say what is wrong with a file. This fence is for the rest.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final, NoReturn

from pmuconf.errors import PmuconfError
from pmuconf.files.memory import limited

__all__ = ["SECONDS", "fence"]

SECONDS: Final = 25.0
"""How long a command may take that reads up to a thousand files."""
_BYTES: Final = 400 << 20
"""How much memory it may take beside what Python and the libraries have."""
_FILES: Final = 1000
_SECONDS_A_FILE: Final = 0.025
_BYTES_A_FILE: Final = 16 << 10
_HINT: Final = "A real file takes a hundredth of that: ask who made those that were given"


class _Late(BaseException):
    """Time is up. Nothing that catches errors of files must catch it."""


@contextmanager
def fence(files: int = 1, seconds: float = SECONDS) -> Iterator[None]:
    """The work within ends in time and keeps below a limit of memory.

    :param files: how many files were given: beyond a thousand, each brings time and memory of its own.
    :raises PmuconfError: it took too long (input-too-slow) or too much memory (input-too-large).
    """
    more = max(0, files - _FILES)
    allowed, failed = seconds + more * _SECONDS_A_FILE, ""
    with limited(_BYTES + more * _BYTES_A_FILE):
        try:
            with _deadline(allowed):
                yield
        except _Late:
            failed = "input-too-slow"
        except MemoryError:
            failed = "input-too-large"
    if failed == "input-too-slow":
        raise PmuconfError(f"reading the input took more than {allowed:.0f} seconds", cause=failed, hint=_HINT)
    if failed:  # only here: the frames that hold what was read are gone
        raise PmuconfError(f"reading the input took more than {_BYTES >> 20} MiB", cause=failed, hint=_HINT)


@contextmanager
def _deadline(seconds: float) -> Iterator[None]:
    """Raise _Late in the main thread after so long, again every second until that is heard."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def late(_signal: int, _frame: FrameType | None) -> NoReturn:
        raise _Late

    before = signal.signal(signal.SIGALRM, late)
    try:
        signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
