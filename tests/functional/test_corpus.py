"""The command that takes folders of domain XML through the rewrite and a libvirt: tests/corpus.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from pmuconf.domain.definition import PmuState
from pmuconf.domain.rewriting import rewrite_bytes
from tests import corpus
from tests.support.domains import nova_domain, plain_domain

GOLDEN = Path(__file__).parents[1] / "unit/golden"


def test_the_golden_domains_are_rewritten_right(capsys: pytest.CaptureFixture[str]) -> None:
    assert corpus.rewritten([GOLDEN])
    assert " 0 wrong" in capsys.readouterr().out


def test_a_rewrite_that_loses_a_byte_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "web.xml").write_text(plain_domain("web", pmu="on"))

    def loses(xml: bytes, state: PmuState, *, source: str) -> bytes:
        return rewrite_bytes(xml, state, source=source).rstrip(b"\n")

    monkeypatch.setattr(corpus, "rewrite_bytes", loses)
    assert not corpus.rewritten([tmp_path])
    assert "more than the PMU was edited" in capsys.readouterr().out


def test_domains_that_libvirt_takes_are_changed_and_put_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "web.xml").write_text(plain_domain("web", pmu="on"))
    (tmp_path / "nova.xml").write_text(nova_domain("nova"))
    (tmp_path / "inside.py").write_text(f"XML = '''{plain_domain('web', features=False)}'''\n")
    (tmp_path / "no.xml").write_text("<domain type='qemu'><name>no</name></domain>")
    assert corpus.applied([tmp_path])
    told = capsys.readouterr().out
    assert "4 texts, 1 of them refused by libvirt; 3 domains" in told
    assert "3 of 3 are as they were before, byte for byte" in told
