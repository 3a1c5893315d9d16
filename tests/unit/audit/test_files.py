"""The audit of files: what they are taken for, in which order, and what becomes of those that are none."""

from __future__ import annotations

from pathlib import Path

import pytest

from pmuconf.audit.look import audit_files
from pmuconf.audit.report import Report
from pmuconf.audit.vm import Severity
from pmuconf.domain.definition import PmuState
from pmuconf.errors import PmuconfError
from pmuconf.policy import Policy
from tests.support.domains import plain_domain
from tests.unit.unprivileged import as_nobody, open_folder


def put(path: Path, name: str = "web", pmu: str | None = "off", *, running: bool = False) -> Path:
    xml = plain_domain(name, pmu=pmu)
    path.write_text(xml.replace("<domain ", "<domain id='7' ") if running else xml)
    return path


def audited(*paths: Path, max_bytes: int = 1 << 20) -> Report:
    return audit_files(Policy(), paths, max_bytes=max_bytes)


def test_a_file_tells_the_next_boot(tmp_path: Path) -> None:
    (vm,) = audited(put(tmp_path / "a.xml", pmu=None)).vms
    assert (vm.name, vm.live, vm.next_boot, vm.saved) == ("web", None, PmuState.DEFAULT, None)
    assert (vm.drift, vm.transient, vm.severity) == (True, False, Severity.FINDING)


@pytest.mark.parametrize(("pmu", "severity"), [("off", Severity.OK), ("on", Severity.WARNING)])
def test_the_dump_of_a_running_guest_tells_the_live_state(tmp_path: Path, pmu: str, severity: Severity) -> None:
    (vm,) = audited(put(tmp_path / "a.xml", pmu=pmu, running=True)).vms
    assert (vm.live, vm.next_boot) == (PmuState(pmu), None)
    assert (vm.drift, vm.pending, vm.transient, vm.severity) == (False, False, False, severity)


def test_a_folder_gives_its_xml_files_by_name_and_no_others(tmp_path: Path) -> None:
    for name in ("b", "a", "c"):
        put(tmp_path / f"{name}.xml", name)
    put(tmp_path / "d.xml.bak", "old")
    (tmp_path / "below").mkdir()
    put(tmp_path / "below" / "e.xml", "below")
    assert [vm.name for vm in audited(tmp_path).vms] == ["a", "b", "c"]


def test_files_and_folders_in_the_order_given(tmp_path: Path) -> None:
    folder = tmp_path / "d"
    folder.mkdir()
    put(folder / "x.xml", "x")
    last, first = put(tmp_path / "1", "last"), put(tmp_path / "2", "first")
    report = audited(first, folder, last)
    assert [vm.name for vm in report.vms] == ["first", "x", "last"]
    assert report.source == f"{first} {folder} {last}"


def test_an_empty_folder_is_an_empty_report(tmp_path: Path) -> None:
    report = audited(tmp_path)
    assert (report.vms, report.severity) == ((), Severity.OK)


def test_a_path_that_is_not_there_is_an_error_of_the_whole(tmp_path: Path) -> None:
    with pytest.raises(PmuconfError) as caught:
        audited(put(tmp_path / "a.xml"), tmp_path / "nowhere")
    assert caught.value.cause == "file-missing"
    assert str(tmp_path / "nowhere") in caught.value.message


def test_a_file_in_its_own_encoding(tmp_path: Path) -> None:
    path = tmp_path / "a.xml"
    xml = plain_domain("élan", pmu="off")
    path.write_bytes(("<?xml version='1.0' encoding='ISO-8859-1'?>\n" + xml).encode("latin-1"))
    (vm,) = audited(path).vms
    assert (vm.name, vm.next_boot) == ("élan", PmuState.OFF)


@pytest.mark.parametrize(
    ("data", "cause"),
    [
        (b"", "xml-syntax"),
        (b"not XML", "xml-syntax"),
        (b"<network/>", "not-a-domain"),
        (b"<domain/>", "no-name"),
        (b"<domain><name>\xff</name></domain>", "xml-encoding"),
        (b"<domain><name>a</name><features><pmu state='maybe'/></features></domain>", "bad-pmu-state"),
        (b"<!DOCTYPE domain><domain><name>a</name></domain>", "xml-doctype"),
        (b"<domain><name>a</name>" + b" " * 5000 + b"</domain>", "xml-too-large"),
    ],
)
def test_a_file_that_is_no_domain_is_reported_by_its_name_beside_the_others(
    tmp_path: Path, data: bytes, cause: str
) -> None:
    put(tmp_path / "good.xml")
    bad = tmp_path / "bad.xml"
    bad.write_bytes(data)
    report = audited(tmp_path, max_bytes=4096)
    assert [vm.name for vm in report.vms] == ["bad.xml", "web"]
    vm = report.vms[0]
    assert vm.error is not None
    assert vm.error.cause == cause
    assert vm.error.message.startswith(str(bad))
    assert (vm.uuid, vm.decision, vm.next_boot, vm.severity) == (None, None, None, Severity.FINDING)
    assert report.vms[1].severity is Severity.OK


def test_what_cannot_be_opened_is_reported_beside_the_others(tmp_path: Path) -> None:
    (tmp_path / "folder.xml").mkdir()
    (tmp_path / "link.xml").symlink_to(tmp_path / "nowhere")
    put(tmp_path / "web.xml")
    report = audited(tmp_path)
    assert [vm.name for vm in report.vms] == ["folder.xml", "link.xml", "web"]
    for vm in report.vms[:2]:
        assert vm.error is not None
        assert vm.error.cause == "file-unreadable"
        assert vm.error.message.startswith(str(tmp_path / vm.name))
    assert report.severity is Severity.FINDING


def test_what_may_not_be_read_is_reported_beside_the_others() -> None:
    with open_folder() as folder:
        put(folder / "a.xml", "readable").chmod(0o644)
        put(folder / "b.xml", "secret").chmod(0o000)
        report = as_nobody(lambda: audited(folder))
    assert isinstance(report, Report)
    assert [vm.name for vm in report.vms] == ["readable", "b.xml"]
    assert report.vms[1].error is not None
    assert report.vms[1].error.cause == "file-unreadable"
