"""Which QEMUs libvirt's daemons would start, found as they look for them: in their own root and PATH."""

from __future__ import annotations

from pathlib import Path

import pytest

from pmuconf.errors import PmuconfError
from pmuconf.host.vms.installed import installed_qemus, qemus_of
from pmuconf.hostfacts import Qemu
from tests.unit.host.daemons import KVM, NEW, OLD, X86, Host


@pytest.fixture
def host(tmp_path: Path) -> Host:
    (tmp_path / "proc").mkdir()
    return Host(tmp_path)


def test_none_where_no_daemon_runs(host: Host) -> None:
    assert installed_qemus(host.root) == ()
    host.daemon(exe="/usr/bin/sleep", binaries={X86: NEW})
    assert installed_qemus(host.root) == ()
    assert qemus_of(host.root, 77) == ()


@pytest.mark.parametrize("exe", ["/usr/sbin/libvirtd", "/usr/sbin/virtqemud", "/usr/sbin/virtqemud (deleted)"])
def test_the_daemon_s_own(host: Host, exe: str) -> None:
    host.daemon(exe=exe, binaries={X86: NEW})
    assert host.found() == {f"/{X86}": True}


def test_all_that_it_might_start(host: Host) -> None:
    binaries: dict[str, bytes | str] = {X86: NEW, "usr/bin/qemu-system-i386": OLD, KVM: OLD}
    host.daemon(binaries=binaries)
    assert host.found() == {f"/{X86}": True, "/usr/bin/qemu-system-i386": None, f"/{KVM}": None}


def test_the_first_in_its_path(host: Host) -> None:
    binaries: dict[str, bytes | str] = {X86: NEW, "usr/local/bin/qemu-system-x86_64": OLD}
    top = host.daemon(path="relative:/none:/usr/local/bin/:/usr/bin", binaries=binaries)
    assert host.found() == {"/usr/local/bin/qemu-system-x86_64": None}
    (top / "usr/local/bin/qemu-system-x86_64").chmod(0o644)
    assert host.found() == {f"/{X86}": True}


def test_where_there_is_no_path_the_usual_folders(host: Host) -> None:
    host.daemon(path=None, binaries={X86: NEW})
    assert host.found() == {f"/{X86}": True}


def test_a_wrapper_is_no_qemu_that_is_known(host: Host) -> None:
    host.daemon(binaries={X86: b"#!/bin/sh\nexec /opt/qemu\n"})
    assert host.found() == {f"/{X86}": None}


def test_every_daemon_counts(host: Host) -> None:
    host.daemon(77, binaries={X86: NEW})
    host.daemon(78, "/usr/sbin/virtqemud", binaries={X86: OLD})
    assert [(qemu.path, qemu.disables) for qemu in installed_qemus(host.root)] in (
        [(f"/{X86}", True), (f"/{X86}", None)],
        [(f"/{X86}", None), (f"/{X86}", True)],
    )


def test_not_one_that_somebody_else_runs(host: Host) -> None:
    host.daemon(uids="1000\t1000\t1000\t1000", binaries={X86: NEW})
    assert host.found() == {}


@pytest.mark.parametrize(
    ("link", "disables"),
    [
        ("qemu", True),
        ("/usr/bin/qemu", True),
        ("../../../../../../usr/bin/qemu", True),
        ("./../bin//qemu", True),
        ("/alias/qemu", True),
    ],
)
def test_links_lead_where_the_daemon_sees_them(host: Host, link: str, disables: bool) -> None:
    """An absolute one starts at its root, not at ours."""
    host.daemon(binaries={X86: link, "usr/bin/qemu": NEW, "alias": "/usr/bin"})
    assert host.found() == {f"/{X86}": disables}


def test_a_link_that_leads_to_itself_is_no_yes(host: Host) -> None:
    host.daemon(binaries={X86: X86.rpartition("/")[2]})
    assert installed_qemus(host.root) == (Qemu(f"/{X86}", None, None, "unreadable"),)


def test_a_link_to_nothing_is_not_there(host: Host) -> None:
    host.daemon(binaries={X86: "gone", KVM: NEW})
    assert host.found() == {f"/{KVM}": True}


def test_a_process_that_ends_meanwhile_is_passed_over(host: Host) -> None:
    host.daemon(binaries={X86: NEW})
    (host.path / "proc/77/status").unlink()
    assert installed_qemus(host.root) == ()


def test_a_record_that_leads_out_of_itself_is_refused(host: Host) -> None:
    top = host.daemon()
    top.rmdir()
    top.symlink_to("/")
    with pytest.raises(PmuconfError) as error:
        installed_qemus(host.root)
    assert error.value.cause == "record-escapes"
