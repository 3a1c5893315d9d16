"""All facts of a host at once: about one KVM with one set of livepatches, or none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import pytest

from pmuconf.host import survey as surveying
from pmuconf.host.code.kernel import RunningKernel
from pmuconf.host.factsfile import dump, load
from pmuconf.host.identity import loads, parameters
from pmuconf.host.root import Root
from pmuconf.host.survey import survey
from pmuconf.hostfacts import Evidence, GuardFinding, HostFacts, Verdict
from tests.support.records import unpack
from tests.unit.host import memory
from tests.unit.host.sysroot import note, write

UUID = "4f1c2d3e-0000-4000-8000-000000000077"

GUARDED = GuardFinding(Verdict.GUARDED, "guard-in-caller", "it asks", Evidence.OBSERVED)
UNGUARDED = GuardFinding(Verdict.UNGUARDED, "no-test", "it does not", Evidence.OBSERVED)
BUILD_ID, TRANSITION = "sys/module/kvm/notes/.note.gnu.build-id", "sys/kernel/livepatch/lp/transition"
PARAMETER = "sys/module/kvm/parameters/enable_pmu"


@pytest.fixture
def root(tmp_path: Path) -> Root:
    write(tmp_path, "proc/sys/kernel/random/boot_id", b"boot\n")
    write(tmp_path, BUILD_ID, note())
    write(tmp_path, PARAMETER, b"N\n")
    write(tmp_path, "sys/kernel/livepatch/lp/enabled", b"1\n")
    write(tmp_path, TRANSITION, b"1\n")
    return Root(tmp_path)


def judging(monkeypatch: pytest.MonkeyPatch, change: Callable[[int], object]) -> list[int]:
    """Have each judgement followed by a change of the host; the first one finds another verdict than those behind."""
    looks: list[int] = []

    def judge(_: RunningKernel) -> GuardFinding:
        looks.append(len(looks))
        change(len(looks))
        return GUARDED if len(looks) == 1 else UNGUARDED

    monkeypatch.setattr(surveying, "judge_kernel", judge)
    return looks


def test_one_look_is_enough_where_nothing_changes(root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = judging(monkeypatch, lambda _: None)
    assert survey(root).guard is GUARDED
    assert len(looks) == 1


@pytest.mark.parametrize(
    ("name", "data"),
    [
        (BUILD_ID, note("ff" * 20)),
        (TRANSITION, b"0\n"),
        (PARAMETER, b"Y\n"),
        ("sys/module/kvm_amd/parameters/avic", b"Y\n"),
        ("sys/module/lp/notes/.note.gnu.build-id", note("ff" * 20)),
    ],
)
def test_a_change_while_it_looks(root: Root, monkeypatch: pytest.MonkeyPatch, name: str, data: bytes) -> None:
    """The verdict of before must not stand beside what is true of the host after."""
    looks = judging(monkeypatch, lambda _: write(root.path, name, data))
    assert survey(root).guard is UNGUARDED
    assert len(looks) == 2


def test_a_host_that_does_not_hold_still(root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    judging(monkeypatch, lambda number: write(root.path, TRANSITION, b"%d\n" % ((number + 1) % 2)))
    found = survey(root)
    assert (found.guard.verdict, found.guard.cause, found.vms_cause) == (Verdict.UNKNOWN, "host-changes", "unstable")


def test_they_say_what_they_are_about(root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it is to be compared later, by whoever reads them."""
    write(root.path, "proc/uptime", b"4711.25 0.1\n")
    judging(monkeypatch, lambda _: None)
    found = survey(root)
    assert (found.taken, found.parameters, found.loads) == (4711, parameters(root), loads(root))
    assert found.parameters == {"kvm.enable_pmu": "N"}
    assert set(found.loads) == {"kvm", "livepatch lp"}


class TestTheQemuThatAVmWouldHaveNext:
    """By the path that it was started by, as libvirt has it from the definition, and not by where that led then."""

    OLD, NEW = b"QEMU emulator version 7", b"QEMU emulator version 11 KVM_PMU_CAP_DISABLE"

    def host(self, root: Root, exe: str = "/usr/bin/qemu-new", argv: str = "/usr/bin/qemu-system-x86_64") -> None:
        """A VM that runs by a link to the new QEMU, beside which there is an old one."""
        memory.process(root.path, memory.Vm(77, 4321, argv=(argv, "-accel", "kvm", "-uuid", UUID)), exe=exe)
        (root.path / "proc/77/root").symlink_to("../..")
        write(root.path, "usr/bin/qemu-new", self.NEW)
        write(root.path, "usr/bin/qemu-old", self.OLD)
        (root.path / "usr/bin/qemu-new").chmod(0o755)
        (root.path / "usr/bin/qemu-system-x86_64").symlink_to("qemu-new")

    def flip(self, root: Root) -> None:
        (root.path / "usr/bin/qemu-system-x86_64").unlink()
        (root.path / "usr/bin/qemu-system-x86_64").symlink_to("qemu-old")

    def said(self, facts: HostFacts) -> list[bool | None]:
        (vm,) = facts.vms
        assert vm.qemu is not None
        assert vm.next_qemu is not None
        return [vm.qemu.disables, vm.next_qemu.disables]

    def test_is_that_which_runs_where_nothing_changed(self, root: Root) -> None:
        self.host(root)
        assert self.said(survey(root)) == [True, True]

    def test_is_another_where_the_link_leads_elsewhere(self, root: Root) -> None:
        self.host(root)
        self.flip(root)
        assert self.said(survey(root)) == [True, None]

    def test_is_not_known_where_the_link_was_turned_since(self, root: Root, tmp_path: Path) -> None:
        self.host(root)
        file = tmp_path / "facts.json"
        file.write_text(dump(survey(root)))
        assert self.said(load(file, root)) == [True, True]
        self.flip(root)
        assert self.said(load(file, root)) == [True, None]

    def test_is_where_it_runs_from_if_its_command_line_has_no_path(self, root: Root) -> None:
        self.host(root, argv="qemu-system-x86_64")
        self.flip(root)
        assert self.said(survey(root)) == [True, True]

    def test_is_not_known_where_its_own_files_cannot_be_seen(self, root: Root) -> None:
        self.host(root)
        (root.path / "proc/77/root").unlink()
        assert self.said(survey(root)) == [True, None]


@pytest.mark.parametrize("name", ["/proc/kallsyms", "/proc/kcore", "/sys/kernel/btf/vmlinux", "/sys/kernel/btf/kvm"])
def test_each_source_is_opened_once_for_the_guard_and_for_the_vms(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    real = Root.open

    def counting(root: Root, called: str) -> BinaryIO:
        opened.append(called)
        return real(root, called)

    monkeypatch.setattr(Root, "open", counting)
    facts = survey(Root(unpack("6.1-guarded", tmp_path)))
    assert (facts.guard.evidence, facts.vms_cause, len(facts.vms)) == (Evidence.OBSERVED, "", 4)
    assert opened.count(name) == 1
