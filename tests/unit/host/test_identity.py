"""Which kernel and KVM a host runs: told in one place, by what everybody may see."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pmuconf.host.identity import (
    boot_id,
    kernel_build_id,
    kvm_build_id,
    kvm_built_in,
    livepatches,
    loads,
    parameters,
    uptime,
)
from pmuconf.host.measured import host_key
from pmuconf.host.root import Root
from tests.unit.host.sysroot import BUILD_ID, note, write
from tests.unit.unprivileged import as_nobody

KERNEL = "ff" * 20


@pytest.fixture
def root(tmp_path: Path) -> Root:
    """A host whose KVM is a module."""
    write(tmp_path, "sys/module/kvm/initstate", b"live\n")
    write(tmp_path, "sys/module/kvm/notes/.note.gnu.build-id", note())
    write(tmp_path, "sys/module/kvm/parameters/enable_pmu", b"Y\n")
    write(tmp_path, "sys/kernel/notes", note(KERNEL))
    return Root(tmp_path)


def test_a_module_has_its_own_build_id(root: Root) -> None:
    assert not kvm_built_in(root)
    assert (kvm_build_id(root), kernel_build_id(root)) == (BUILD_ID, KERNEL)


def test_a_module_without_one_has_not_the_kernels(root: Root) -> None:
    shutil.rmtree(root.path / "sys/module/kvm/notes")
    assert kvm_build_id(root) is None
    assert host_key(root).kvm is None  # so no measurement is anybody's


@pytest.mark.parametrize("name", ["notes", "refcnt", "coresize", "sections", "holders"])
def test_what_only_a_module_has_tells_it(root: Root, name: str) -> None:
    (root.path / "sys/module/kvm/initstate").unlink()
    shutil.rmtree(root.path / "sys/module/kvm/notes")
    assert kvm_built_in(root)
    (root.path / "sys/module/kvm" / name).mkdir()
    assert not kvm_built_in(root)


def test_built_in_it_is_the_kernel(root: Root) -> None:
    (root.path / "sys/module/kvm/initstate").unlink()
    shutil.rmtree(root.path / "sys/module/kvm/notes")
    assert kvm_build_id(root) == KERNEL


def test_a_kvm_that_is_not_there_has_none(tmp_path: Path) -> None:
    write(tmp_path, "sys/kernel/notes", note(KERNEL))
    assert (kvm_built_in(Root(tmp_path)), kvm_build_id(Root(tmp_path))) == (False, None)


def test_parameters_of_every_module_of_kvms(root: Root) -> None:
    for module, name in (("kvm_amd", "avic"), ("kvm_intel", "nested"), ("kvm_pvm", "x"), ("kvmgt", "y"), ("snd", "z")):
        write(root.path, f"sys/module/{module}/parameters/{name}", b"1\n")
    assert parameters(root) == {"kvm.enable_pmu": "Y", "kvm_amd.avic": "1", "kvm_intel.nested": "1", "kvm_pvm.x": "1"}


def test_a_parameter_that_cant_be_read_is_there_all_the_same(root: Root) -> None:
    (root.path / "sys/module/kvm/parameters/secret").mkdir()
    assert parameters(root)["kvm.secret"] == "?"


def test_livepatches_and_their_modules(root: Root) -> None:
    for name in ("b-patch", "a"):
        write(root.path, f"sys/kernel/livepatch/{name}/enabled", b"1\n")
        write(root.path, f"sys/kernel/livepatch/{name}/transition", b"0\n")
    write(root.path, "sys/module/b_patch/notes/.note.gnu.build-id", note("0b" * 20))
    assert livepatches(root) == ("a 1 0", "b-patch 1 0")
    found = loads(root)
    number = (root.path / "sys/kernel/livepatch/b-patch").stat().st_ino
    assert found["livepatch b-patch"] == f"{number} {'0b' * 20}"
    assert found["livepatch a"].endswith(" ?")
    assert found["kvm"] == f"{(root.path / 'sys/module/kvm').stat().st_ino} {BUILD_ID}"


def test_the_boot(root: Root) -> None:
    assert (boot_id(root), uptime(root)) == (None, None)
    for name, text in (("sys/kernel/random/boot_id", b"\n"), ("uptime", b"soon\n")):
        write(root.path, f"proc/{name}", text)
    assert (boot_id(root), uptime(root)) == (None, None)
    write(root.path, "proc/uptime", b"12.99 3.00\n")
    assert uptime(root) == 12
    assert abs((uptime(Root()) or 0) - float(Path("/proc/uptime").read_text().split()[0])) < 60


@pytest.mark.skipif(not Path("/sys/module/kvm").exists(), reason="needs KVM")
def test_everybody_sees_the_same_of_this_host() -> None:
    """What root writes into a file is what a user who reads it compares."""

    def seen() -> object:
        here = Root()
        return boot_id(here), kvm_build_id(here), livepatches(here), loads(here), parameters(here)

    assert as_nobody(seen) == seen()
