"""The trait of a host that delivers the fast path: only where its facts say so, and still hold.

The library reads and judges them, and its tests say how. These say that the plugin asks it, and takes all else for no.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pmuconf_nova.trait import delivers

from pmuconf.fastpath import verdict as fastpath
from pmuconf.host import factsfile
from pmuconf.host.identity import loads, parameters
from pmuconf.host.kvm import read_kvm
from pmuconf.host.vms.installed import installed_qemus
from pmuconf.host.vms.search import searches
from pmuconf.hostfacts import Evidence, GuardFinding, HostFacts, Qemu, Verdict
from tests.unit.host.daemons import KVM, NEW, OLD, X86, Host
from tests.unit.host.sysroot import BUILD_ID, note, write

BOOT = "b1e55ed0-0000-4000-8000-000000000000"
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="the file must be root's")


class World(Host):
    """A host as its kernel shows itself, with a libvirt; its facts are in a file."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        write(path, "proc/sys/kernel/random/boot_id", f"{BOOT}\n".encode())
        write(path, "proc/uptime", b"100.0 1.0\n")
        write(path, "sys/module/kvm/notes/.note.gnu.build-id", note())
        write(path, "sys/kernel/livepatch/patch/enabled", b"1\n")
        write(path, "sys/kernel/livepatch/patch/transition", b"0\n")
        self.parameter("Y")
        self.daemon(contained=False, binaries={X86: NEW})

    def parameter(self, value: str) -> None:
        write(self.path, "sys/module/kvm/parameters/enable_pmu", f"{value}\n".encode())

    def facts(self, verdict: Verdict = Verdict.GUARDED, evidence: Evidence = Evidence.OBSERVED) -> HostFacts:
        found = searches(self.root)
        return HostFacts(
            GuardFinding(verdict, "guard-in-caller", "it tests", evidence),
            boot_id=BOOT,
            kvm_build_id=BUILD_ID,
            enable_pmu=read_kvm(self.root).enable_pmu,
            mediated_pmu=read_kvm(self.root).mediated_pmu,
            livepatches=("patch 1 0",),
            parameters=parameters(self.root),
            loads=loads(self.root),
            taken=100,
            qemus=installed_qemus(self.root, found),
            searches=found,
        )

    def said(self, facts: HostFacts, spoil: Callable[[Any], object] = lambda document: None) -> bool:
        path = self.path / "facts"
        document = json.loads(factsfile.dump(facts))
        spoil(document)
        path.write_text(json.dumps(document))
        return delivers(path, self.path)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@needs_root
def test_yes_where_kernel_and_qemu_deliver_it(world: World) -> None:
    assert world.said(world.facts())
    assert world.said(world.facts(Verdict.EARLY_OUT, Evidence.INFERRED))


@needs_root
@pytest.mark.parametrize("verdict", Verdict)
@pytest.mark.parametrize("evidence", Evidence)
@pytest.mark.parametrize("parameter", ["Y", "N"])
@pytest.mark.parametrize("qemu", [None, NEW, OLD])
def test_it_is_what_the_library_says(
    world: World, verdict: Verdict, evidence: Evidence, parameter: str, qemu: bytes | None
) -> None:
    world.parameter(parameter)
    (world.path / X86).unlink()
    if qemu is not None:
        (world.path / X86).write_bytes(qemu)
        (world.path / X86).chmod(0o755)
    facts = world.facts(verdict, evidence)
    assert world.said(facts) is fastpath.delivers(facts)


@needs_root
def test_no_by_any_other_qemu(world: World) -> None:
    path = world.path / KVM
    path.parent.mkdir(parents=True)
    path.write_bytes(OLD)
    path.chmod(0o755)
    assert not world.said(world.facts())


@needs_root
def test_no_once_another_qemu_was_installed(world: World) -> None:
    assert world.said(world.facts())
    other = world.path / "usr/bin/other"
    other.write_bytes(NEW)
    other.chmod(0o755)
    os.replace(other, world.path / X86)
    assert not delivers(world.path / "facts", world.path)


@needs_root
def test_no_where_the_facts_are_void(world: World) -> None:
    facts = world.facts()
    assert not world.said(replace(facts, boot_id="another"))
    assert not world.said(replace(facts, kvm_build_id="00"))
    assert not world.said(replace(facts, livepatches=()))
    assert not world.said(replace(facts, enable_pmu=False))
    write(world.path, "sys/kernel/livepatch/patch/enabled", b"0\n")
    assert not world.said(facts)


class TestWhereTwoReadersDisagreed:
    """The plugin once had a reader of its own. Each of these was answered in two ways; this is the right one."""

    @needs_root
    @pytest.mark.parametrize(
        "spoil",
        [
            lambda document: document["facts"].update(unheard_of=1),
            lambda document: document["facts"].update(vms=7),
            lambda document: document["facts"]["guard"].pop("message"),
            lambda document: document["facts"]["qemus"][0].update(build_id=7),
            lambda document: document.update(version=float(factsfile.VERSION)),
        ],
    )
    def test_a_file_that_is_damaged_where_the_trait_does_not_look(
        self, world: World, spoil: Callable[[Any], object]
    ) -> None:
        """Nothing of it is believed."""
        assert not world.said(world.facts(), spoil)

    @needs_root
    @pytest.mark.parametrize("name", ["enable_mediated_pmu", "ignore_msrs"])
    def test_another_parameter_than_enable_pmu(self, world: World, name: str) -> None:
        facts = world.facts()
        write(world.path, f"sys/module/kvm/parameters/{name}", b"Y\n")
        assert not world.said(facts)

    @needs_root
    def test_a_parameter_that_can_no_longer_be_read(self, world: World) -> None:
        """Not known is not Y."""
        facts = world.facts()
        (world.path / "sys/module/kvm/parameters/enable_pmu").unlink()
        assert not world.said(facts)

    @needs_root
    def test_what_is_no_utf_8(self, world: World) -> None:
        path = world.path / "facts"
        path.write_bytes(factsfile.dump(replace(world.facts(), cpu="AMD")).encode().replace(b"AMD", b"\xff"))
        assert not delivers(path, world.path)

    @needs_root
    def test_a_file_that_belongs_to_nova_itself(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        """An audit takes its own user's word; the trait is root's alone."""
        assert world.said(world.facts())
        os.chown(world.path / "facts", 12345, -1)
        monkeypatch.setattr(os, "geteuid", lambda: 12345)
        assert factsfile.load(world.path / "facts", world.root)
        assert not delivers(world.path / "facts", world.path)

    @needs_root
    @pytest.mark.parametrize("damage", [b"\xff" * 40, b""])
    def test_a_kvm_module_that_does_not_tell_its_build_id(self, world: World, damage: bytes) -> None:
        """The kernel's is not its own."""
        write(world.path, "sys/kernel/notes", note())
        write(world.path, "sys/module/kvm/initstate", b"live\n")
        write(world.path, "sys/module/kvm/notes/.note.gnu.build-id", damage)
        assert not world.said(world.facts())

    @needs_root
    def test_livepatches_in_another_order(self, world: World) -> None:
        write(world.path, "sys/kernel/livepatch/other/enabled", b"0\n")
        assert world.said(replace(world.facts(), livepatches=("patch 1 0", "other 0 None")))


@needs_root
def test_no_and_never_an_error_where_the_file_is_missing_broken_or_not_root_s(world: World) -> None:
    path = world.path / "facts"
    assert not delivers(path, world.path)
    for text in ("", "[]", "{}", "nonsense", '{"format": "pmuconf-host-facts", "version": 2}', "[" * 100_000):
        path.write_text(text)
        assert not delivers(path, world.path)
    spoils: list[Callable[[Any], object]] = [
        lambda document: document.update(version=1),
        lambda document: document.update(version=3),
        lambda document: document["facts"].update(qemus=7),
        lambda document: document["facts"].update(livepatches=None),
        lambda document: document["facts"].pop("guard"),
        lambda document: document["facts"].update(qemus=["x"]),
    ]
    for spoil in spoils:
        assert not world.said(world.facts(), spoil)
    assert world.said(world.facts())
    path.chmod(0o666)
    assert not delivers(path, world.path)
    path.chmod(0o644)
    os.chown(path, 12345, -1)
    assert not delivers(path, world.path)
    os.chown(path, 0, -1)
    os.mkfifo(world.path / "fifo")
    assert not delivers(world.path / "fifo", world.path)
    assert delivers(path, world.path)


def test_one_unknown_qemu_is_no_yes() -> None:
    facts = HostFacts(GuardFinding(Verdict.GUARDED, "", "", Evidence.OBSERVED), enable_pmu=True)
    yes, unseen = Qemu("/a", None, True, ""), Qemu("/b", None, None, "unseen")
    assert fastpath.delivers(replace(facts, qemus=(yes,)))
    assert not fastpath.delivers(replace(facts, qemus=(yes, unseen)))
    assert not fastpath.delivers(facts)
