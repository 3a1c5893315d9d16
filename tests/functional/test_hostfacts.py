"""Facts that root has written, read by somebody without rights, beside a real libvirt that looks for its QEMU."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from pmuconf.host.factsfile import dump, load
from pmuconf.host.identity import boot_id, kvm_build_id, livepatches, loads, parameters, uptime
from pmuconf.host.kvm import read_kvm
from pmuconf.host.root import Root
from pmuconf.host.vms import replaced
from pmuconf.host.vms.installed import qemus_of
from pmuconf.host.vms.search import search_of
from pmuconf.hostfacts import Evidence, GuardFinding, HostFacts, Verdict
from tests.support import daemon as support
from tests.support.daemon import Daemon, available_daemons
from tests.unit.unprivileged import as_nobody, open_folder

QEMU = shutil.which("qemu-system-x86_64")
pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="only root follows the daemon"),
    pytest.mark.skipif(QEMU is None, reason="needs a QEMU"),
    pytest.mark.skipif(kvm_build_id(Root()) is None, reason="needs a KVM that tells its build-id"),
]


class World:
    """A libvirt whose QEMU is a link in a folder of ours, and the facts of this host in a file."""

    def __init__(self, folder: Path, daemon: Daemon) -> None:
        self.folder, self.daemon = folder, daemon
        self.path = str(folder / "second/qemu-system-x86_64")

    def write(self) -> None:
        """As the survey does, of this daemon alone: others that run here belong to other tests."""
        search = search_of(Root(), self.daemon.pid)
        assert search is not None
        settings = read_kvm(Root())
        facts = HostFacts(
            GuardFinding(Verdict.GUARDED, "guard-in-caller", "for the test", Evidence.OBSERVED),
            boot_id(Root()),
            kvm_build_id(Root()),
            settings.enable_pmu,
            settings.mediated_pmu,
            livepatches=livepatches(Root()),
            parameters=parameters(Root()),
            loads=loads(Root()),
            taken=uptime(Root()),
            qemus=qemus_of(Root(), self.daemon.pid),
            searches=(search,),
        )
        (self.folder / "facts").write_text(dump(facts))

    def read(self) -> dict[str, str]:
        """The cause of each QEMU, as root and as nobody see it."""
        ours, theirs = self._causes(), as_nobody(self._causes)
        assert ours == theirs
        return ours

    def _causes(self) -> dict[str, str]:
        return {qemu.path: qemu.cause for qemu in load(self.folder / "facts", Root(), own=False).qemus}


@pytest.fixture(params=available_daemons())
def world(request: pytest.FixtureRequest, capabilities: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    assert QEMU is not None
    with open_folder() as folder:
        folder.chmod(0o755)
        for name in ("first", "second"):
            (folder / name).mkdir(mode=0o755)
        (folder / "second/qemu-system-x86_64").symlink_to(QEMU)
        monkeypatch.setattr(support, "_SEARCH", f"{folder}/first:{folder}/second:/usr/sbin:/usr/bin:/sbin:/bin")
        with Daemon(request.param, cache=capabilities) as daemon:
            made = World(folder, daemon)
            monkeypatch.setattr(replaced, "daemons", lambda root: frozenset())
            made.write()
            yield made


def test_the_same_files_are_believed(world: World) -> None:
    said = world.read()
    assert world.path in said
    assert not set(said.values()) & {"replaced", "unseen", "libvirt-restarted"}


def test_a_link_that_leads_to_another_qemu(world: World) -> None:
    """With its times."""
    assert QEMU is not None
    older = world.folder / "older"
    shutil.copy2(QEMU, older)
    (world.folder / "second/qemu-system-x86_64").unlink()
    (world.folder / "second/qemu-system-x86_64").symlink_to(older)
    assert world.read()[world.path] == "replaced"


def test_one_earlier_in_its_path(world: World) -> None:
    assert QEMU is not None
    (world.folder / "first/qemu-system-x86_64").symlink_to(QEMU)
    assert world.read()[str(world.folder / "first/qemu-system-x86_64")] == "replaced"


def test_a_libvirt_that_was_started_anew(world: World) -> None:
    world.daemon.restart()
    assert set(world.read().values()) == {"libvirt-restarted"}
    world.write()
    assert "libvirt-restarted" not in world.read().values()


def test_one_more_libvirt(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    with Daemon(world.daemon.binary):
        assert set(world.read().values()) == {"libvirt-restarted"}
