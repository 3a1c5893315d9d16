"""The version is the same wherever it stands."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest

import pmuconf
from tests import version

TOOLS = version.TREE / "tools"


def test_each_place_has_the_version_of_the_package() -> None:
    assert version.version() == pmuconf.__version__
    assert version.copies() == {place: version.expected(place) for place in version.copies()}


def test_a_new_version_reaches_each_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for place in (version.ORIGIN, "CHANGELOG.md", *version.copies()):
        copy = tmp_path / place
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text((version.TREE / place).read_text())
    monkeypatch.setattr(version, "TREE", tmp_path)
    monkeypatch.setattr("sys.argv", ["version", "3.9.2"])

    version._main()

    assert set(version.copies().values()) == {"3.9.2", "3.9.2,<3.10"}
    entries = [
        line for line in (tmp_path / "debian/changelog").read_text().splitlines() if line.startswith("pmuconf (")
    ]
    assert entries == [
        "pmuconf (3.9.2) unstable; urgency=medium",
        f"pmuconf ({pmuconf.__version__}) unstable; urgency=medium",
    ]
    shutil.copytree(TOOLS, tmp_path / "tools")
    when = subprocess.run([tmp_path / "tools/when"], check=True, stdout=subprocess.PIPE, text=True).stdout
    assert 0 <= time.time() - int(when) < 60
    assert (tmp_path / "docs/install.md").read_text().count("_3.9.2~deb12") > 2
    assert "\n## 3.9.2 (20" in (tmp_path / "CHANGELOG.md").read_text()


def test_the_notes_of_a_release(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "pmuconf").mkdir()
    (tmp_path / version.ORIGIN).write_text('__version__ = "1.2.0"\n')
    monkeypatch.setattr(version, "TREE", tmp_path)
    changes = tmp_path / "CHANGELOG.md"
    changes.write_text("# Changes\n\n## Unreleased\n\n- New.\n\n## 1.1.0 (2026-01-01)\n\n- Old.\n")
    assert version.notes() == "- New.\n"
    changes.write_text(
        "# Changes\n\n## Unreleased\n\n- New.\n\n## 1.2.0 (2026-01-01)\n\n- This.\n\n## 1.1.0\n\n- Old.\n"
    )
    monkeypatch.setattr("sys.argv", ["version", "notes"])
    version._main()
    assert capsys.readouterr().out == "- This.\n"
    changes.write_text("# Changes\n\n## 1.1.0\n\n- Old.\n")
    with pytest.raises(ValueError, match=r"says nothing about 1\.2\.0"):
        version.notes()


@pytest.mark.parametrize("target", ["dist", "rpm", "release"])
def test_the_tools_are_given_a_python_that_they_find_in_any_folder(target: str) -> None:
    """They change into folders of their own: make rpm and make release ended there once, with status 127."""
    words = ["make", "--dry-run", target, f"VERSION={pmuconf.__version__}"]
    shown = subprocess.run(words, cwd=version.TREE, check=True, capture_output=True, text=True).stdout
    (given,) = re.findall(rf"^tools/{target} (\S+) ", shown, re.MULTILINE)
    assert given == f"{version.TREE}/.venv/bin/python"
