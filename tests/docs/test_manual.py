"""The manual as Sphinx builds it: no link that leads nowhere, and manual pages that have every command and option."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from pmuconf.commands.names import COMMANDS
from pmuconf.conf import list_opts
from tests.docs.links import ROOT

pytestmark = pytest.mark.skipif(
    find_spec("sphinx") is None or find_spec("myst_parser") is None,
    reason="needs Sphinx and myst-parser, which the extra test brings",
)


def build(kind: str, into: Path, docs: Path = ROOT / "docs") -> subprocess.CompletedProcess[str]:
    words = [
        sys.executable,
        "-m",
        "sphinx",
        "-qW",
        "--keep-going",
        "-b",
        kind,
        "-d",
        f"{into}-doctrees",
        str(docs),
        str(into),
    ]
    return subprocess.run(words, capture_output=True, text=True, cwd=ROOT)


@pytest.fixture(scope="module")
def manual(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the manual pages."""
    folder = tmp_path_factory.mktemp("manual") / "man"
    ran = build("man", folder)
    assert (ran.returncode, ran.stderr) == (0, "")
    return folder


def plain(page: Path) -> str:
    """The text of a manual page, without most of what is for troff."""
    return re.sub(r"\\f[BIRP]|\\&|\\", "", page.read_text())


def test_no_link_of_the_html_pages_leads_nowhere(tmp_path: Path) -> None:
    ran = build("html", tmp_path / "html")
    assert (ran.returncode, ran.stderr) == (0, "")
    missing = [page for page in (ROOT / "docs").glob("*.md") if not (tmp_path / f"html/{page.stem}.html").exists()]
    assert missing == []


def test_the_manual_pages(manual: Path) -> None:
    assert {path.name for path in manual.iterdir()} == {"pmuconf.1", "pmuconf.7", "pmuconf-nova.7", "pmuconf.conf.5"}


def test_every_command_is_in_the_manual(manual: Path) -> None:
    text = plain(manual / "pmuconf.1")
    assert [name for name in [*COMMANDS, "complete", "help"] if f"\n.SS {name}\n" not in text] == []


def test_every_option_of_the_configuration_is_in_the_manual(manual: Path) -> None:
    text = plain(manual / "pmuconf.conf.5")
    names = [option.name for _, options in list_opts() for option in options]
    assert names
    assert [name for name in names if not re.search(rf"^.*\b{re.escape(name)}\b", text, re.MULTILINE)] == []


@pytest.mark.parametrize("page", ["pmuconf.1", "pmuconf.conf.5", "pmuconf.7", "pmuconf-nova.7"])
def test_each_names_the_others(manual: Path, page: str) -> None:
    others = {"pmuconf(1)", "pmuconf.conf(5)", "pmuconf(7)", "pmuconf-nova(7)"} - {re.sub(r"\.(\d)$", r"(\1)", page)}
    text = plain(manual / page)
    assert [other for other in others if other not in text] == []
