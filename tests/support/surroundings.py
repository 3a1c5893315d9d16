"""Runs of pmuconf in hostile surroundings: as another user, with streams that are closed or full, without /proc.

As forked.py: a small server imports pmuconf once and forks for each run. So an ordinary user needs no right to read
Python's own files, and a run costs no start of an interpreter. Each run ends as a process of Python ends.
"""

from __future__ import annotations

import encodings
import gc
import io
import json
import os
import pkgutil
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from importlib import import_module
from typing import Any, Final

import pmuconf
from tests.unit.processes import ENVIRONMENT

__all__ = ["CLOSED", "NOT_ENTERED", "UNREAD", "Ended", "Surroundings", "World"]

CLOSED: Final = "<closed>"
"""In place of a file for a stream: the stream is closed."""
UNREAD: Final = "<unread>"
"""The stream is a pipe that nobody reads."""
NOT_ENTERED: Final = 99
"""The status of a run that could not be brought there."""
_NOBODY: Final = 65534
_HUNG_SECONDS: Final = 60.0
_MNT_NAMESPACE: Final = 0x00020000  # CLONE_NEWNS
_PRIVATE: Final = (1 << 18) | (1 << 14)  # MS_PRIVATE, MS_REC


@dataclass(frozen=True)
class Surroundings:
    """Where a run finds itself.

    :param stdin: a file; so are ``stdout`` and ``stderr``, empty: their text is kept.
    :param environment: the variables that differ, None: taken away.
    :param folder: the working folder; "": one that was removed.
    :param limits: soft limits by their names, such as NOFILE.
    :param hidden: folders over which an empty one lies, which takes the right to mount.
    """

    stdin: str = os.devnull
    stdout: str = ""
    stderr: str = ""
    environment: Mapping[str, str | None] = field(default_factory=dict)
    folder: str = "/"
    limits: Mapping[str, int] = field(default_factory=dict)
    hidden: tuple[str, ...] = ()
    nobody: bool = False


@dataclass(frozen=True)
class Ended:
    """A run: its exit status (negative: the signal; None: it hung and was killed), and what it said."""

    status: int | None
    out: str
    err: str


class World:
    """Runs commands, one at a time."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    @classmethod
    @contextmanager
    def opened(cls) -> Iterator[World]:
        """While the context lasts, runs of this pmuconf."""
        process = subprocess.Popen(
            [sys.executable, "-m", __spec__.name if __spec__ else __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=ENVIRONMENT,
        )
        with process:
            yield cls(process)
            assert process.stdin is not None
            process.stdin.close()

    def run(self, arguments: list[str], around: Surroundings) -> Ended:
        """Run a command to its end."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([arguments, asdict(around)]) + "\n")
        self._process.stdin.flush()
        return Ended(**json.loads(self._process.stdout.readline()))


def _serve() -> None:
    main = _loaded()
    gc.freeze()
    answers = os.fdopen(os.dup(1), "w")
    requests = os.fdopen(os.dup(0))
    for line in requests:
        arguments, around = json.loads(line)
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            child = os.fork()
            if child == 0:
                try:
                    _enter(Surroundings(**around), out, err, arguments)
                    answers.close()
                    requests.close()
                except BaseException as error:
                    os.write(err.fileno(), f"not entered: {error!r}".encode())
                    os._exit(NOT_ENTERED)
                sys.exit(main())
            ended = _ended(child, time.monotonic() + _HUNG_SECONDS)
            answers.write(json.dumps({"status": ended, "out": _text(out), "err": _text(err)}) + "\n")
            answers.flush()


def _loaded() -> Any:
    """Import what a run may need, since a user without rights may be unable to read it; the command."""
    for module in pkgutil.walk_packages(pmuconf.__path__, "pmuconf."):
        import_module(module.name)
    for module in pkgutil.iter_modules(encodings.__path__, "encodings."):
        with suppress(ImportError):
            import_module(module.name)
    for name in (
        "getpass",
        "libvirt",
        "multiprocessing.synchronize",
        "openstack",
        "stringprep",
        "tqdm",
        "yaml",
        "zstandard",
    ):
        with suppress(ImportError):
            import_module(name)
    application = import_module("pmuconf.commands.application").application()
    for name in application.command_manager.commands:
        command, _, _ = application.command_manager.find_command(name.split())
        command(application, None).get_parser(f"pmuconf {name}")  # which looks for the formats that are installed
    return import_module("pmuconf.commands.main").main


def _enter(around: Surroundings, out: io.IOBase, err: io.IOBase, arguments: list[str]) -> None:
    """Go there: nothing but the command is run after it."""
    for name, value in around.environment.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    if around.folder:
        os.chdir(around.folder)
    else:
        gone = tempfile.mkdtemp(prefix="pmuconf-gone-")
        os.chdir(gone)
        os.rmdir(gone)
    _redirect(0, around.stdin, os.O_RDONLY, None)
    _redirect(1, around.stdout, os.O_WRONLY, out)
    _redirect(2, around.stderr, os.O_WRONLY, err)
    if around.hidden:
        _hide(around.hidden)
    for name, most in around.limits.items():
        number = getattr(resource, f"RLIMIT_{name}")
        resource.setrlimit(number, (most, resource.getrlimit(number)[1]))
    if around.nobody and os.geteuid() == 0:
        os.setgroups([])
        os.setgid(_NOBODY)
        os.setuid(_NOBODY)
    sys.stdin, sys.stdout, sys.stderr = _stream(0, "r"), _stream(1, "w"), _stream(2, "w")
    for name in ("stdin", "stdout", "stderr"):
        setattr(sys, f"__{name}__", getattr(sys, name))
    sys.argv = ["pmuconf", *arguments]


def _hide(folders: Iterable[str]) -> None:
    """Lay an empty file system over folders, for this process alone."""
    import ctypes

    libc: Any = ctypes.CDLL(None, use_errno=True)
    _worked(libc.unshare(_MNT_NAMESPACE))
    _worked(libc.mount(None, b"/", None, _PRIVATE, None))
    for name in folders:
        _worked(libc.mount(b"tmpfs", name.encode(), b"tmpfs", 0, None))


def _worked(answer: int) -> None:
    import ctypes

    if answer != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _redirect(number: int, name: str, flags: int, kept: io.IOBase | None) -> None:
    if name == CLOSED:
        os.close(number)
    elif name == UNREAD:
        reading, writing = os.pipe()
        os.dup2(writing, number)
        os.close(reading)
        os.close(writing)
    else:
        descriptor = os.open(name, flags) if name else os.dup(kept.fileno() if kept else 0)
        os.dup2(descriptor, number)
        os.close(descriptor)


def _stream(number: int, mode: str) -> Any:
    """What Python makes of a descriptor at its start."""
    try:
        os.fstat(number)
    except OSError:
        return None
    errors = "backslashreplace" if number == 2 else os.environ.get("PYTHONIOENCODING", "").partition(":")[2]
    encoding = os.environ.get("PYTHONIOENCODING", "utf-8").partition(":")[0]
    raw: Any = io.FileIO(number, mode, closefd=False)
    buffered: Any = io.BufferedReader(raw) if mode == "r" else io.BufferedWriter(raw)
    return io.TextIOWrapper(buffered, encoding, errors or "strict", line_buffering=number == 2)


def _ended(child: int, deadline: float) -> int | None:
    while True:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.WEXITSTATUS(status) if os.WIFEXITED(status) else -os.WTERMSIG(status)
        if time.monotonic() > deadline:
            os.kill(child, 9)
            os.waitpid(child, 0)
            return None
        time.sleep(0.002)


def _text(file: Any) -> str:
    file.seek(0)
    return str(file.read().decode("utf-8", "replace"))


if __name__ == "__main__":
    _serve()
