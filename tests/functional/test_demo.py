"""The part of make demo that needs no libvirt: two recorded hosts, and the page."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import demo


def test_the_recorded_hosts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    commands: dict[str, int] = {}

    class Runner(demo.Runner):
        def __call__(self, what: str, words: str, *, expect: int = 0) -> None:
            commands[words.split(" -c")[0]] = expect

    monkeypatch.setattr(demo, "PAGE", tmp_path / "pages/demo.html")
    demo.show_records(tmp_path, Runner(tmp_path / "pmuconf.conf"))
    assert commands == {"host --root 6.1-guarded": 0, "host --root 6.1-stock": 2}
    shown = capsys.readouterr().out
    guarded, stock = shown.split("on 6.1-guarded:")[1].split("on 6.1-stock:")
    assert "fast path: yes (observed)" in guarded
    assert "fast path: no (observed)" in stock
    assert str(tmp_path / "pages/demo.html") in shown
    assert "web1" in (tmp_path / "pages/demo.html").read_text()
