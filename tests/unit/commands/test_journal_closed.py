"""The journal's command where this user can't look into the journal's folder."""

from __future__ import annotations

import io
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from pmuconf.commands.main import main
from tests.unit.unprivileged import as_nobody, open_folder


@pytest.mark.parametrize("arguments", [["journal"], ["journal", "web"], ["journal", "purge"]])
def test_a_closed_folder_is_no_empty_journal_and_no_errno(arguments: list[str]) -> None:
    with open_folder() as folder:
        closed = folder / "closed"
        closed.mkdir(mode=0o700)
        config = folder / "pmuconf.conf"
        config.write_text(f"[journal]\npath = {closed}/journal.sqlite\n")
        config.chmod(0o644)
        status, text = _asked(config, arguments)
    assert status == 255
    assert f"{closed}/" in text
    assert "Permission denied (journal-permission)" in text
    assert "Errno" not in text


def _asked(config: Path, arguments: list[str]) -> tuple[int, str]:
    """The exit status and the text for an ordinary user; the modules are loaded before the rights go."""

    def ask() -> object:
        out = io.StringIO()
        with redirect_stdout(out), redirect_stderr(out):
            status = main(["--config-file", str(config), *arguments])
        return status, out.getvalue()

    ask_once_as_we_are = io.StringIO()
    with redirect_stdout(ask_once_as_we_are), redirect_stderr(ask_once_as_we_are):
        main(["--config-file", str(config), "journal", "--help"])
    answer = as_nobody(ask)
    assert isinstance(answer, tuple)
    return answer
