"""The types of one kernel are not used for the code of another, and a kernel for boot loaders is called that."""

from __future__ import annotations

import gzip
import platform
from pathlib import Path

import pytest

from pmuconf.errors import PmuconfError
from pmuconf.host.code.elf import ObjectFile
from pmuconf.host.code.files import load_file
from pmuconf.host.code.release import refuse_other_kernel
from pmuconf.host.guard.verdict import judge_file
from pmuconf.hostfacts import Verdict
from tests.unit.host.code.test_live import BY_NAME, KERNEL_FLAGS, btf_of
from tests.unit.host.shapes import FLAGS, compiled
from tests.unit.host.sysroot import link_file

NOTHING_SHOWS = "nothing shows whether the BTF of"


def module(release: str) -> bytes:
    """A kvm.ko, as modpost marks it for a kernel."""
    mark = f'"license=GPL\\0vermagic={release} SMP preempt mod_unload"'
    words = f'__attribute__((section(".modinfo"), used)) static const char info[] = {mark};'
    return compiled(BY_NAME["unlikely"].source + words, FLAGS[0])


def vmlinux(release: str) -> bytes:
    """A linked kernel with its banner and BTF."""
    banner = f'__attribute__((section(".rodata"), used)) const char linux_banner[] = "Linux version {release} (x) #1";'
    return compiled(BY_NAME["unlikely"].source + banner, KERNEL_FLAGS)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "kvm.ko").write_bytes(module("6.1.0-18-amd64"))
    (tmp_path / "same").write_bytes(vmlinux("6.1.0-18-amd64"))
    (tmp_path / "newer").write_bytes(vmlinux("6.12.9"))
    (tmp_path / "newer.gz").write_bytes(gzip.compress(vmlinux("6.12.9")))
    (tmp_path / "alone").write_bytes(btf_of(module("6.1.0-18-amd64")))
    return tmp_path


def test_types_of_the_module_s_own_kernel_are_taken(folder: Path) -> None:
    finding = judge_file(folder / "kvm.ko", folder / "same")
    assert finding.verdict is Verdict.GUARDED
    assert not any(NOTHING_SHOWS in note for note in finding.notes)


@pytest.mark.parametrize("name", ["newer", "newer.gz"])
def test_types_of_another_kernel_are_refused(folder: Path, name: str) -> None:
    with pytest.raises(PmuconfError) as caught:
        judge_file(folder / "kvm.ko", folder / name)
    assert caught.value.cause == "btf-of-another-kernel"
    assert "(6.12.9) than" in caught.value.message
    assert "(6.1.0-18-amd64)" in caught.value.message


def test_types_alone_do_not_say_whose_they_are_and_a_note_says_that(folder: Path) -> None:
    finding = judge_file(folder / "kvm.ko", folder / "alone")
    assert finding.verdict is Verdict.GUARDED
    assert any(NOTHING_SHOWS in note for note in finding.notes)


def test_what_the_running_kernel_shows_is_the_running_kernel_s(folder: Path) -> None:
    running = Path("/sys/kernel/btf/vmlinux")
    if not running.exists():
        pytest.skip("this kernel shows no BTF")
    (folder / "own.ko").write_bytes(module(platform.release()))
    assert refuse_other_kernel(load_file(folder / "own.ko"), running) == ""
    with pytest.raises(PmuconfError, match="another kernel"):
        refuse_other_kernel(load_file(folder / "kvm.ko"), running)


def with_build_id(data: bytes, build_id: str) -> bytes:
    """The file with another build-id of the same length."""
    own = ObjectFile(data, "vmlinux").build_id
    assert own is not None
    return data.replace(bytes.fromhex(own), bytes.fromhex(build_id))


def test_two_kernels_are_told_apart_by_their_build_ids(tmp_path: Path) -> None:
    """Two builds of one release have one name, and may have other structures."""
    linked, _ = link_file(vmlinux("6.1.0"))
    other = with_build_id(linked, "ab" * 20)
    (tmp_path / "vmlinux").write_bytes(linked)
    (tmp_path / "again").write_bytes(linked)
    (tmp_path / "other").write_bytes(other)
    assert refuse_other_kernel(load_file(tmp_path / "vmlinux"), tmp_path / "again") == ""
    with pytest.raises(PmuconfError) as caught:
        refuse_other_kernel(load_file(tmp_path / "vmlinux"), tmp_path / "other")
    assert caught.value.cause == "btf-of-another-kernel"
    assert "ab" * 20 in caught.value.message


def test_a_kernel_for_boot_loaders_is_called_that(tmp_path: Path) -> None:
    """The header is at 0x202 of the setup code (Documentation/arch/x86/boot.rst)."""
    image = tmp_path / "vmlinuz"
    image.write_bytes(b"MZ".ljust(0x202, b"\0") + b"HdrS" + bytes(4096))
    with pytest.raises(PmuconfError) as caught:
        judge_file(image)
    assert caught.value.cause == "compressed-kernel"
    assert "kvm.ko" in caught.value.hint
    assert "vmlinux" in caught.value.hint
