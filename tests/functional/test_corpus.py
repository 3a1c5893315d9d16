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


COMMAND = (
    "LC_ALL=C \\\nHOME=/var/lib \\\n/usr/bin/qemu-system-x86_64 \\\n-machine {} \\\n-accel kvm \\\n-cpu {} \\\n-S\n"
)


def pair(folder: Path, name: str, xml: str, *, machine: str = "pc-i440fx-7.2,usb=off", cpu: str) -> None:
    """A pair as libvirt's tests have them."""
    tests = folder / "tests/qemuxmlconfdata"
    tests.mkdir(parents=True, exist_ok=True)
    (tests / f"{name}.xml").write_text(xml)
    (tests / f"{name}.x86_64-latest.args").write_text(COMMAND.format(machine, cpu))


def test_what_libvirt_writes_for_its_own_tests_is_the_pmu_that_was_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pair(tmp_path, "named", plain_domain("named"), cpu="qemu64")
    pair(tmp_path, "off", plain_domain("off", pmu="off"), cpu="qemu64,pmu=off")
    own = tmp_path / "tests/qemuxmlconfdata/off.x86_64-latest.xml"
    own.write_text(plain_domain("off", pmu="off").replace("<acpi/>", "<acpi/><apic/>"))
    assert corpus.pmus([tmp_path])
    told = capsys.readouterr().out
    assert "3 compared, 0 open, 0 wrong" in told


@pytest.mark.parametrize(
    ("xml", "machine", "cpu", "expected"),
    [
        (plain_domain("a", pmu="off"), "pc", "qemu64", "<pmu> is off, and libvirt writes default"),
        (plain_domain("a"), "pc", "host", "off, by the command line on"),
        (plain_domain("a"), "pc-i440fx-1.5", "qemu64", "off, by the command line on"),
        (plain_domain("a", pmu="on"), "pc", "qemu64,pmu=off", "on, by the command line off"),
    ],
)
def test_a_pair_that_does_not_agree_is_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], xml: str, machine: str, cpu: str, expected: str
) -> None:
    pair(tmp_path, "a", xml, machine=machine, cpu=cpu)
    assert not corpus.pmus([tmp_path])
    assert expected in capsys.readouterr().out


def test_a_libvirtd_writes_the_pmu_that_was_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "web.xml").write_text(plain_domain("web"))
    (tmp_path / "no.xml").write_text("<domain type='qemu'><name>no</name></domain>")
    assert corpus.native([tmp_path])
    told = capsys.readouterr().out
    assert "2 texts; refused by {'libvirt': 3}; libvirt " in told
    assert "3 compared, 0 open, 0 wrong" in told


def test_what_libvirt_changes_when_it_gets_its_own_text_back_is_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    consoles = "<serial type='pty'/><console type='pty'><target type='virtio'/></console></devices>"
    (tmp_path / "web.xml").write_text(plain_domain("web").replace("</devices>", consoles))
    (tmp_path / "nova.xml").write_text(nova_domain("nova"))
    assert corpus.redefined([tmp_path])
    told = capsys.readouterr().out
    assert "given back: 2" in told
    # libvirt 9.0 does it, 11.3 does not.
    assert ("another meaning: devices/console/target@port: 1" in told) == ("libvirt 9." in told)
