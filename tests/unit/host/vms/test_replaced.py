"""What facts from a file still say of the QEMUs that libvirt would start: nothing, once it might be another file."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Optional

import pytest

from pmuconf.fastpath.verdict import delivers
from pmuconf.host.factsfile import dump, load
from pmuconf.host.identity import boot_id, kvm_build_id, loads, parameters
from pmuconf.host.kvm import read_kvm
from pmuconf.host.vms.installed import installed_qemus
from pmuconf.host.vms.qemu import qemu_of_file
from pmuconf.host.vms.replaced import BELIEVED
from pmuconf.host.vms.search import searches
from pmuconf.hostfacts import Evidence, GuardFinding, HostFacts, LiveVm, Qemu, Thread, Verdict
from tests.unit.host.daemons import KVM, NEW, OLD, X86, Host
from tests.unit.host.memory import stat
from tests.unit.host.sysroot import note, write

GUARDED = GuardFinding(Verdict.GUARDED, "guard-in-caller", "it asks", Evidence.OBSERVED)
Same = list[tuple[str, Optional[bool], str]]


class World(Host):
    """A host whose libvirt has one QEMU that disables the PMU in KVM, and facts of it in a file."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        write(path, "proc/sys/kernel/random/boot_id", b"boot\n")
        write(path, "proc/uptime", b"5000.00 9.9\n")
        write(path, "sys/module/kvm/notes/.note.gnu.build-id", note())
        write(path, "sys/module/kvm/parameters/enable_pmu", b"Y\n")
        (path / "proc/self/ns").mkdir(parents=True)
        (path / "proc/self/ns/pid").symlink_to("pid:[4026531836]")
        self.file = path / "facts.json"

    def surveyed(self) -> HostFacts:
        found = searches(self.root)
        return HostFacts(
            GUARDED,
            boot_id(self.root),
            kvm_build_id(self.root),
            enable_pmu=read_kvm(self.root).enable_pmu,
            mediated_pmu=read_kvm(self.root).mediated_pmu,
            parameters=parameters(self.root),
            loads=loads(self.root),
            taken=5000,
            qemus=installed_qemus(self.root, found),
            searches=found,
        )

    def write(self, facts: HostFacts | None = None) -> None:
        self.file.write_text(dump(self.surveyed() if facts is None else facts))

    def now(self) -> HostFacts:
        return load(self.file, self.root)

    def said(self) -> Same:
        return [(qemu.path, qemu.disables, qemu.cause) for qemu in self.now().qemus]

    def put(self, name: str, data: bytes) -> Path:
        """A new file in the place of whatever is there."""
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_name("new").write_bytes(data)
        path.with_name("new").chmod(0o755)
        os.replace(path.with_name("new"), path)
        return path

    def unseen(self) -> None:
        """The reader has no rights over the daemon."""
        (self.path / "proc/77/root").unlink()

    def elsewhere(self) -> None:
        """The reader is in a container: other process ids, another root."""
        (self.path / "proc/self/ns/pid").unlink()
        (self.path / "proc/self/ns/pid").symlink_to("pid:[4026532999]")
        shutil.rmtree(self.path / "proc/77")

    def later(self, seconds: int) -> None:
        write(self.path, "proc/uptime", b"%d.50 9.9\n" % (5000 + seconds))


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(tmp_path)
    made.daemon(path="/usr/local/bin:/usr/bin", contained=False, binaries={X86: "qemu-new", "usr/bin/qemu-new": NEW})
    made.put("usr/bin/qemu-old", OLD)
    made.write()
    return made


YES: Same = [(f"/{X86}", True, "strings-in-binary")]
REPLACED: Same = [(f"/{X86}", None, "replaced")]


@pytest.fixture(params=[True, False], ids=["root", "user"])
def either(world: World, request: pytest.FixtureRequest) -> World:
    """The reader is root, or has no rights over the daemon."""
    if not request.param:
        world.unseen()
    return world


def test_the_same_files_are_believed(either: World) -> None:
    either.later(10 * BELIEVED)
    assert either.said() == YES
    assert delivers(either.now())


def flipped(world: World) -> None:
    (world.path / X86).unlink()
    (world.path / X86).symlink_to("qemu-old")


def changed_in_place(world: World) -> None:
    """Of the same size and time, as who wants to be believed leaves it."""
    path = world.path / "usr/bin/qemu-new"
    before = path.stat()
    path.write_bytes(path.read_bytes().replace(b"KVM_PMU_CAP", b"kvm_pmu_cap"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def older_copied_over(world: World) -> None:
    """cp -p."""
    shutil.copy2(world.path / "usr/bin/qemu-old", world.path / "usr/bin/copy")
    os.replace(world.path / "usr/bin/copy", world.path / "usr/bin/qemu-new")


def gone(world: World) -> None:
    (world.path / X86).unlink()


def no_more_executable(world: World) -> None:
    (world.path / "usr/bin/qemu-new").chmod(0o644)


CHANGES = [flipped, changed_in_place, older_copied_over, gone, no_more_executable]


@pytest.mark.parametrize("change", CHANGES)
def test_another_file_in_its_place(either: World, change: Callable[[World], None]) -> None:
    change(either)
    assert either.said() == REPLACED
    assert not delivers(either.now())


def test_alternatives_that_lead_to_another(tmp_path: Path) -> None:
    world = World(tmp_path)
    links: dict[str, bytes | str] = {X86: "/etc/alternatives/qemu", "etc/alternatives/qemu": "/opt/new/qemu"}
    world.daemon(contained=False, binaries={**links, "opt/new/qemu": NEW, "opt/old/qemu": OLD})
    world.write()
    assert world.said() == YES
    (world.path / "etc/alternatives/qemu").unlink()
    (world.path / "etc/alternatives/qemu").symlink_to("/opt/old/qemu")
    assert world.said() == REPLACED


def test_facts_that_are_copied_back_later(world: World) -> None:
    """The file's own time says nothing: it is now, and the QEMU's is of long ago."""
    older_copied_over(world)
    world.file.write_text(world.file.read_text())
    assert world.file.stat().st_mtime_ns > (world.path / X86).stat().st_ctime_ns
    assert world.said() == REPLACED


def test_a_qemu_that_was_replaced_before_the_facts_were_written(world: World) -> None:
    facts = world.surveyed()
    older_copied_over(world)
    world.write(facts)
    assert world.said() == REPLACED


def test_a_qemu_that_was_replaced_between_the_search_and_the_reading(world: World) -> None:
    found = searches(world.root)
    world.put("usr/bin/qemu-new", NEW)
    facts = replace(world.surveyed(), searches=found, qemus=installed_qemus(world.root, found))
    assert [(qemu.disables, qemu.cause) for qemu in facts.qemus] == [(None, "replaced")]
    world.write(facts)
    assert world.said() == REPLACED


def test_one_that_was_read_is_not_taken_for_one_that_was_found(world: World) -> None:
    """Nor is one believed that no search has found, or a search whose QEMU was not read."""
    facts = world.surveyed()
    other = qemu_of_file(world.put("usr/bin/other", NEW))
    world.write(replace(facts, qemus=(replace(other, path=f"/{X86}"),)))
    assert world.said() == REPLACED
    world.write(replace(facts, searches=()))
    assert world.said() == REPLACED
    world.write(replace(facts, qemus=()))
    assert world.said() == REPLACED


@pytest.mark.parametrize("name", ["usr/local/bin/qemu-system-x86_64", "usr/local/bin/qemu-system-i386", KVM])
def test_one_more_that_it_might_start(either: World, name: str) -> None:
    """Earlier in its PATH, of another name, or outside."""
    either.put(name, OLD)
    assert either.said() == [*YES, (f"/{name}", None, "replaced")]
    assert not delivers(either.now())


def test_one_that_was_not_executable_then(world: World) -> None:
    earlier = world.put("usr/local/bin/qemu-system-x86_64", OLD)
    earlier.chmod(0o644)
    world.write()
    assert world.said() == YES
    earlier.chmod(0o755)
    assert world.said() == [*YES, ("/usr/local/bin/qemu-system-x86_64", None, "replaced")]


def test_a_folder_of_its_path_that_appears_later(world: World) -> None:
    assert not (world.path / "usr/local").exists()
    world.put("usr/local/bin/qemu-system-x86_64", NEW)
    assert not delivers(world.now())


def test_a_libvirt_that_was_started_since_may_have_another_path(either: World) -> None:
    (either.path / "proc/77/stat").write_bytes(stat(77, 4999, "libvirtd"))
    assert either.said() == [(f"/{X86}", None, "libvirt-restarted")]


def test_so_may_one_that_has_executed_itself_anew(either: World) -> None:
    """Within the same process; all threads but one end."""
    shutil.rmtree(either.path / "proc/77/task")
    assert either.said() == [(f"/{X86}", None, "libvirt-restarted")]


def test_and_one_that_ended(world: World) -> None:
    shutil.rmtree(world.path / "proc/77")
    assert world.said() == [(f"/{X86}", None, "libvirt-restarted")]


def test_one_more_libvirt_may_start_others(either: World) -> None:
    either.daemon(78, "/usr/sbin/virtqemud", contained=False)
    assert either.said() == [(f"/{X86}", None, "libvirt-restarted")]


@pytest.mark.parametrize("what", ["a user's", "a child that is about to execute something", "not libvirt"])
def test_what_is_no_daemon_of_libvirts(either: World, what: str) -> None:
    exe = "/usr/bin/sleep" if what == "not libvirt" else "/usr/sbin/libvirtd"
    either.daemon(78, exe, uids="9\t9\t9\t9" if what == "a user's" else "0\t0\t0\t0", contained=False)
    if what.startswith("a child"):
        shutil.rmtree(either.path / "proc/78/task")
    assert either.said() == YES
    assert len(searches(either.root)) == (0 if not (either.path / "proc/77/root").exists() else 1)


class TestWhatCantBeSeen:
    """A container has the host's kernel and the host's facts, and neither its processes nor its files."""

    def test_is_believed_for_a_while(self, tmp_path: Path) -> None:
        world = World(tmp_path)
        world.daemon(binaries={X86: NEW})
        world.write()
        world.elsewhere()
        for seconds in (0, BELIEVED):
            world.later(seconds)
            assert world.said() == YES
        world.later(BELIEVED + 1)
        assert world.said() == [(f"/{X86}", None, "unseen")]

    def test_nor_is_a_clock_that_can_be_set_asked(self, tmp_path: Path) -> None:
        world = World(tmp_path)
        world.daemon(binaries={X86: NEW})
        world.write()
        world.elsewhere()
        os.utime(world.file, (0, 0))
        assert world.said() == YES
        world.later(-1)
        assert world.said() == [(f"/{X86}", None, "unseen")]

    def test_nor_facts_that_do_not_say_when(self, tmp_path: Path) -> None:
        world = World(tmp_path)
        world.daemon(binaries={X86: NEW})
        world.write(replace(world.surveyed(), taken=None))
        world.elsewhere()
        assert world.said() == [(f"/{X86}", None, "unseen")]

    def test_a_file_of_ours_at_the_same_path_is_not_the_containers(self, tmp_path: Path) -> None:
        world = World(tmp_path)
        world.daemon(binaries={X86: NEW})
        world.write()
        world.elsewhere()
        world.put(X86, OLD)
        assert world.said() == YES
        world.later(BELIEVED + 1)
        assert world.said() == [(f"/{X86}", None, "unseen")]

    def test_where_only_the_files_are_seen_they_are_compared(self, world: World) -> None:
        """The reader has process ids of its own."""
        world.elsewhere()
        assert world.said() == YES
        flipped(world)
        assert world.said() == REPLACED

    def test_and_the_daemon_may_have_another_path_by_now(self, world: World) -> None:
        world.elsewhere()
        world.later(BELIEVED + 1)
        assert world.said() == [(f"/{X86}", None, "unseen")]

    def test_where_only_the_daemon_is_seen_it_must_be_the_same(self, tmp_path: Path) -> None:
        world = World(tmp_path)
        world.daemon(binaries={X86: NEW})
        world.write()
        shutil.rmtree(world.path / "proc/77/root")
        assert world.said() == YES
        world.later(BELIEVED + 1)
        assert world.said() == [(f"/{X86}", None, "unseen")]
        world.later(0)
        (world.path / "proc/77/stat").write_bytes(stat(77, 4999, "libvirtd"))
        assert world.said() == [(f"/{X86}", None, "libvirt-restarted")]

    def test_a_folder_of_its_path_that_only_root_may_enter(self, tmp_path: Path) -> None:
        """Nothing was there; whether something is now can't be seen."""
        world = World(tmp_path)
        world.daemon(path="/secret:/usr/bin", contained=False, binaries={X86: NEW})
        (world.path / "secret").symlink_to("secret")  # for want of one that stops root
        facts = world.surveyed()
        (search,) = facts.searches
        assert search.places[0].cause == "unreadable"
        (world.path / "secret").unlink()
        world.write()
        (world.path / "secret").symlink_to("secret")
        assert world.said() == YES
        world.later(BELIEVED + 1)
        assert world.said() == [(f"/{X86}", None, "unseen")]

    @pytest.mark.parametrize("kernel", [Verdict.NO_CALL, Verdict.GUARDED])
    def test_needs_nothing_of_qemu_where_the_kernel_or_its_parameter_does_it(
        self, tmp_path: Path, kernel: Verdict
    ) -> None:
        world = World(tmp_path)
        write(tmp_path, "sys/module/kvm/parameters/enable_pmu", b"Y\n" if kernel is Verdict.NO_CALL else b"N\n")
        world.write(replace(world.surveyed(), guard=replace(GUARDED, verdict=kernel)))
        world.later(10 * BELIEVED)
        assert delivers(world.now())


def test_the_qemu_that_a_vm_would_have_next_may_be_another_by_now(world: World) -> None:
    path = world.path / X86
    (world.path / "proc/99/task/991").mkdir(parents=True)
    (world.path / "proc/99/stat").write_bytes(stat(99, 5, "qemu"))
    (world.path / "proc/99/task/991/stat").write_bytes(stat(991, 6, "call_rcu"))
    following = world.surveyed().qemus[0]
    vm = LiveVm(99, 5, qemu=Qemu(f"/{X86} (deleted)", None, False, ""), next_qemu=following, threads=(Thread(991, 6),))
    world.write(replace(world.surveyed(), vms=(vm,)))
    (read,) = world.now().vms
    assert read.next_qemu == following
    path.unlink()
    path.symlink_to("qemu-old")
    (read,) = world.now().vms
    assert read.next_qemu is not None
    assert (read.next_qemu.disables, read.next_qemu.cause) == (None, "replaced")


def test_what_is_written_can_be_compared(world: World) -> None:
    """All that tells a file from another one is in it: the path asked for and the real one too."""
    (search,) = json.loads(world.file.read_text())["facts"]["searches"]
    paths = [place["path"] for place in search["places"]]
    assert paths[:2] == ["/usr/local/bin/qemu-system-x86_64", f"/{X86}"]
    found = (world.path / X86).stat()
    assert search["places"][1]["file"] == {
        "real": "/usr/bin/qemu-new",
        "device": found.st_dev,
        "inode": found.st_ino,
        "size": found.st_size,
        "mtime_ns": found.st_mtime_ns,
        "ctime_ns": found.st_ctime_ns,
    }
