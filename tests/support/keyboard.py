"""A program on a terminal that a test types on."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import time
from collections.abc import Mapping, Sequence
from types import TracebackType

__all__ = ["Terminal"]


class Terminal:
    """A program with a terminal of its own, until the block ends."""

    def __init__(self, words: Sequence[str], environment: Mapping[str, str]) -> None:
        self._ours, theirs = pty.openpty()
        self._process = subprocess.Popen(
            words, stdin=theirs, stdout=theirs, stderr=theirs, env=environment, start_new_session=True
        )
        os.close(theirs)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._ours)

    def write(self, text: str) -> None:
        """Type this."""
        os.write(self._ours, text.encode())

    def until(self, text: str, seconds: float = 20.0) -> str:
        """Read what the program writes until this text is in it; all that was read."""
        seen = ""
        end = time.monotonic() + seconds
        while text not in seen:
            ready, _, _ = select.select([self._ours], [], [], max(0.0, end - time.monotonic()))
            assert ready, f"no {text!r} in {seen!r}"
            seen += os.read(self._ours, 4096).decode(errors="replace")
        return seen
