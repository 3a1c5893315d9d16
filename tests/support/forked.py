"""Many runs of pmuconf, each in a process of its own, without the start of an interpreter each time.

A run that shares its process with others is no honest one: connections, threads and what a stuck run leaves would be
shared too. So a small server imports pmuconf once and forks for each run. It starts no thread, and opens nothing.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

__all__ = ["Forked", "Forks"]

_HUNG_SECONDS = 120.0


@dataclass(frozen=True)
class Forked:
    """A run: its exit status (None: it hung and was killed), what it said, and when (CLOCK_MONOTONIC)."""

    status: int | None
    out: str
    err: str
    begin: float
    end: float

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The records of ``-f json``; none where there was no answer."""
        return list(json.loads(self.out)) if self.out.strip() else []


class Forks:
    """Runs commands of the pmuconf in a folder, one at a time."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    @classmethod
    @contextmanager
    def of(cls, tree: Path) -> Iterator[Forks]:
        """While the context lasts, runs of the pmuconf whose source is in this folder."""
        environment = {**os.environ, "PYTHONPATH": str(tree)}
        process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=tree,
            env=environment,
        )
        with process:
            yield cls(process)
            assert process.stdin is not None
            process.stdin.close()

    def run(self, *arguments: str) -> Forked:
        """Run a command to its end."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(arguments) + "\n")
        self._process.stdin.flush()
        return Forked(**json.loads(self._process.stdout.readline()))


def _serve() -> None:
    main = import_module("pmuconf.commands.main").main
    for name in ("change.run", "commands.apply", "commands.journal", "commands.rollback"):
        import_module(f"pmuconf.{name}")
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        arguments = json.loads(line)
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            begin = time.monotonic()
            child = os.fork()
            if child == 0:
                status = 255
                try:
                    os.dup2(out.fileno(), 1)
                    os.dup2(err.fileno(), 2)
                    status = main(arguments)
                    sys.stdout.flush()
                    sys.stderr.flush()
                finally:
                    os._exit(status)
            ended = _ended(child, begin + _HUNG_SECONDS)
            answer = {"status": ended, "begin": begin, "end": time.monotonic()}
            answers.write(json.dumps({**answer, "out": _text(out), "err": _text(err)}) + "\n")
            answers.flush()


def _ended(child: int, deadline: float) -> int | None:
    while True:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.WEXITSTATUS(status) if os.WIFEXITED(status) else 255
        if time.monotonic() > deadline:
            os.kill(child, 9)
            os.waitpid(child, 0)
            return None
        time.sleep(0.002)


def _text(file: io.BufferedRandom) -> str:
    file.seek(0)
    return file.read().decode("utf-8", "replace")


if __name__ == "__main__":
    _serve()
