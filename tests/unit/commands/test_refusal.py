# SPDX-License-Identifier: Apache-2.0
"""What the operating system refused, as an error for a person: never a bare number, always a cause."""

from __future__ import annotations

import errno
import os

import pytest

from pmuconf.commands.refusal import refusal


@pytest.mark.parametrize(
    ("error", "message", "cause"),
    [
        (OSError(errno.ENOENT, "No such file", "/a b"), "/a b: No such file", "system-error"),
        (OSError(errno.ENOSPC, "No space left", b"/log"), "/log: No space left", "system-error"),
        (OSError(errno.ENOSPC, "No space left"), "the output can't be written: No space left", "output-unwritable"),
        (OSError(errno.EBADF, "Bad file"), "the output can't be written: Bad file", "output-unwritable"),
        (OSError(errno.EMFILE, "Too many"), "the operating system refuses something: Too many", "system-error"),
        (OSError("no number at all"), "the operating system refuses something: no number at all", "system-error"),
    ],
)
def test_what_is_said(error: OSError, message: str, cause: str) -> None:
    said = refusal(error)
    assert (said.message, said.cause, said.hint) == (message, cause, "")


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM])
@pytest.mark.parametrize(("uid", "hint"), [(0, ""), (1000, "Run it as root")])
def test_root_is_no_remedy_for_root(monkeypatch: pytest.MonkeyPatch, number: int, uid: int, hint: str) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    assert refusal(OSError(number, "no", "/x")).hint == hint
    assert refusal(OSError(number, "no")).hint == hint
