"""The version is the same wherever it stands."""

from __future__ import annotations

from pathlib import Path

import pytest

import pmuconf
from tests import version


def test_each_place_has_the_version_of_the_package() -> None:
    assert version.version() == pmuconf.__version__
    assert version.copies() == {place: version.expected(place) for place in version.copies()}


def test_a_new_version_reaches_each_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for place in (version.ORIGIN, *version.copies()):
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
