"""SIGINT ends a command within two seconds, whatever it is doing."""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

__all__ = ["STATUS", "leave", "watch"]

STATUS: Final = 255
_GRACE_SECONDS: Final = 1.5
_SIGNALS: Final = frozenset({signal.SIGHUP, signal.SIGINT, signal.SIGTERM})


def watch() -> None:
    """From now on an interrupt ends this process, if not by itself, then soon.

    Python raises KeyboardInterrupt only between two steps of the main thread, and waits at its end for threads of
    pools. A call into C (SQLite that waits for a lock, the resolver, a write to a disk that hangs) may never come back.
    So Python has a while for its own way to end, and then a thread ends the process as it stands. A change that is cut
    off then is in the journal, and settled by the next run, as after kill -9.

    Nothing is done if the interrupt is ignored or handled otherwise, or outside the main thread.
    """
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        return
    if not _in_main_thread():
        return
    try:
        reading, writing = os.pipe()
    except OSError:  # no descriptor is left: the same as without a thread
        return
    os.set_blocking(writing, False)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)  # they are for the main thread, and for serve's own
    try:
        threading.Thread(target=_end, args=(reading,), name="interrupt", daemon=True).start()
        signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    except RuntimeError:  # no thread is to be had: an interrupt is what it is without us
        os.close(reading)
        os.close(writing)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def leave() -> None:
    """From now on an interrupt raises nothing: the answer is out, and Python would show a traceback at its end.

    It still ends a process that does not end by itself.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler and _in_main_thread():
        signal.signal(signal.SIGINT, lambda *_: None)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _end(reading: int) -> None:
    """Wait for the interrupt, and a while for what Python makes of it; then end."""
    while signal.SIGINT not in os.read(reading, 64):
        continue
    time.sleep(_GRACE_SECONDS)
    _end_children()
    os.write(2, b"pmuconf: interrupted while it waited: what was under way is settled by the next run (interrupted)\n")
    os._exit(STATUS)


def _end_children() -> None:
    """End the processes that we started, with their groups if they lead one: nobody would do it after us."""
    for children in Path("/proc/self/task").glob("*/children"):
        with suppress(OSError):  # the thread is gone, or the kernel has no such file
            for pid in map(int, children.read_text().split()):
                with suppress(ProcessLookupError):
                    leads = os.getpgid(pid) == pid
                    (os.killpg if leads else os.kill)(pid, signal.SIGKILL)
