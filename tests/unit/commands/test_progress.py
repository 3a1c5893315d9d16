"""The bar that shows how far a command is: on a terminal, and only where something takes longer."""

from __future__ import annotations

import fcntl
import os
import struct
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from pmuconf.commands import base


@contextmanager
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A real one in place of standard error; in the end, the list has what was shown on it."""
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 24, 80, 0, 0))
    shown: list[str] = []
    with monkeypatch.context() as patched, open(theirs, "w", encoding="utf-8") as stream:
        patched.setattr(sys, "stderr", stream)
        yield shown
        stream.write("end")
        stream.flush()
        text = b""
        while not text.endswith(b"end"):
            text += os.read(ours, 4096)
    os.close(ours)
    shown.append(text.decode())


def slowly(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Three items, the first of which takes longer than anybody likes to wait."""
    yield 1
    monkeypatch.setattr(base, "_PATIENCE", -1.0)
    yield from (2, 3)


def test_a_bar_is_shown_where_it_takes_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    with terminal(monkeypatch) as shown:
        assert list(base.progress(slowly(monkeypatch), 3, "reading")) == [1, 2, 3]
    assert "reading" in shown[0]
    assert "2/3" in shown[0]


def test_none_where_it_is_over_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with terminal(monkeypatch) as shown:
        assert list(base.progress([1, 2, 3], 3, "reading")) == [1, 2, 3]
    assert shown == ["end"]


def test_none_where_nobody_watches(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(base.progress(slowly(monkeypatch), 3, "reading")) == [1, 2, 3]
    assert capsys.readouterr().err == ""
