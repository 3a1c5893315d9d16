"""Commands within the sentences of the documents: each is one that there is, and its arguments are taken."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import pytest

from pmuconf.commands.application import application
from pmuconf.commands.names import COMMANDS
from tests.docs.blocks import ROOT, pages
from tests.unit.commands.test_help import check

NOT_MEANT: Final = {"pmuconf app", "pmuconf COMMAND --help", "pmuconf --version"}
"""A mistake that one may make, and what is no command."""


def inline(page: str) -> set[str]:
    """The commands between backticks on a page, on one line, outside of its blocks."""
    text = re.sub(r"^ *```.*?^ *```$", "", (ROOT / page).read_text(), flags=re.MULTILINE | re.DOTALL)
    return {" ".join(found.split()) for found in re.findall(r"`(pmuconf [^`]+)`", text)} - NOT_MEANT


def wrong(line: str) -> bool:
    """Whether it names no command, or has arguments that the command refuses."""
    words = line.split()[1:]
    if any(name.split()[: len(words)] == words for name in COMMANDS):
        return False  # a command, or several that begin so, without what it has to be given
    try:
        check(application(), line.partition(" | ")[0])
    except (Exception, SystemExit):
        return True
    return False


@pytest.mark.parametrize("page", pages())
def test_they_are_taken(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert [line for line in sorted(inline(page)) if wrong(line)] == []


def test_what_is_wrong_is_noticed() -> None:
    assert inline("docs/host.md")
    assert wrong("pmuconf host decide kvm.ko")
    assert wrong("pmuconf audit --pmu-user")
    assert wrong("pmuconf report -f pdf")
    assert not wrong("pmuconf fleet")
    assert not wrong("pmuconf host judge kvm.ko --btf vmlinux")
