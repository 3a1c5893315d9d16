"""Offsets from debug information, where there is no BTF: own, in a debug file, relocatable, compressed, and broken."""

from __future__ import annotations

import io
import struct
import subprocess
from pathlib import Path

import pytest

from pmuconf.errors import PmuconfError
from pmuconf.host.code import debug, dwarf
from pmuconf.host.code.dwarf import Dwarf
from pmuconf.host.code.members import offsets_of
from pmuconf.host.code.offsets import Offsets
from pmuconf.host.guard.verdict import judge_file, judge_host
from pmuconf.host.names import FUNCTION
from pmuconf.host.root import Root
from pmuconf.hostfacts import Evidence, Verdict
from tests.unit.host.code.test_live import BY_NAME
from tests.unit.host.shapes import HEADER, compiled, compilers
from tests.unit.host.sysroot import BUILD_ID, CORE_TEXT, Linked, host, link, link_file, write

WITH_DWARF = ("-O2", "-gdwarf-4")
ANSWER = """
#include <stddef.h>
struct kvm_vcpu vcpu;
int main(void) {
    return __builtin_printf("%zu %zu %zu %zu %zu", offsetof(struct kvm_vcpu, kvm),
        offsetof(struct kvm, arch) + offsetof(struct kvm_arch, enable_pmu), offsetof(struct kvm_vcpu, arch.pmu),
        sizeof(struct kvm_pmu), offsetof(struct kvm_vcpu, arch.pmu.pmc_counting_instructions)) < 0;
}
"""


def offsets_by(data: bytes) -> Offsets:
    return offsets_of(Dwarf(io.BytesIO(data), "kvm.ko", FUNCTION))


@pytest.fixture(scope="module")
def right(tmp_path_factory: pytest.TempPathFactory) -> Offsets:
    """What the compiler itself says."""
    binary = tmp_path_factory.mktemp("dwarf") / "answer"
    source = HEADER.partition("u64 __SCT__")[0] + ANSWER
    subprocess.run(["gcc", "-w", "-x", "c", "-", "-o", str(binary)], input=source.encode(), check=True)
    said = subprocess.run([str(binary)], check=True, capture_output=True, text=True).stdout
    kvm, enable, pmu, size, counting = map(int, said.split())
    return Offsets(kvm=kvm, enable_pmu=enable, pmu=(pmu, pmu + size - 1), counting=counting)


@pytest.mark.parametrize("form", [("-gdwarf-4",), ("-gdwarf-5",), ("-gdwarf-5", "-gz=zlib")], ids=" ".join)
@pytest.mark.parametrize("compiler", compilers())
def test_a_module_says_what_its_compiler_says(right: Offsets, compiler: str, form: tuple[str, ...]) -> None:
    assert offsets_by(compiled(BY_NAME["unlikely"].source, ("-O2", *form), compiler)) == right


@pytest.mark.parametrize("form", [("-gdwarf-4",), ("-gdwarf-5",)], ids=" ".join)
@pytest.mark.parametrize("compiler", compilers())
def test_a_vmlinux_does_too(right: Offsets, compiler: str, form: tuple[str, ...]) -> None:
    assert offsets_by(link_file(compiled(BY_NAME["unlikely"].source, ("-O2", *form), compiler))[0]) == right


def joined(tmp_path: Path, *sources: str, link: bool = False) -> bytes:
    """Several compilation units in one file."""
    names = []
    for number, source in enumerate(sources):
        names.append(str(tmp_path / f"{number}.o"))
        Path(names[-1]).write_bytes(compiled(source, WITH_DWARF))
    target = tmp_path / "joined"
    how = ["-e", "0", "--unresolved-symbols=ignore-all"] if link else ["-r"]
    subprocess.run(["ld", *how, "-o", str(target), *names], check=True)
    return target.read_bytes()


OTHER = "struct kvm { long other; }; struct kvm other; long use(void) { return other.other; }"


class TestSeveralUnits:
    def test_the_first_that_has_the_structures(self, tmp_path: Path, right: Offsets) -> None:
        assert offsets_by(joined(tmp_path, OTHER, BY_NAME["unlikely"].source)) == right

    def test_that_of_the_function_where_addresses_are_known(self, tmp_path: Path, right: Offsets) -> None:
        # Some other unit that has the structures too, and others: that of the function is what counts.
        source = HEADER.replace("before[300]", "before[3]") + "struct kvm_vcpu *v; long f(void) { return v->cpu; }"
        data = joined(tmp_path, source.replace("extern", "static"), BY_NAME["unlikely"].source, link=True)
        assert offsets_by(data) == right


def debug_file(tmp_path: Path, name: str = "unlikely") -> tuple[Linked, bytes]:
    """Code as it runs, and a file of its debug information alone."""
    data = compiled(BY_NAME[name].source, WITH_DWARF)
    path, kept = tmp_path / "whole", tmp_path / "debug"
    path.write_bytes(link_file(data, CORE_TEXT)[0])
    subprocess.run(["objcopy", "--only-keep-debug", str(path), str(kept)], check=True)
    return link(data), kept.read_bytes()


PLACES = (
    f"/usr/lib/debug/.build-id/{BUILD_ID[:2]}/{BUILD_ID[2:]}.debug",
    "/usr/lib/debug/lib/modules/6.1.0-test/kernel/arch/x86/kvm/kvm.ko",
    "/usr/lib/debug/usr/lib/modules/6.1.0-test/kernel/arch/x86/kvm/kvm.ko.debug",
)


class TestAHostWithoutBtf:
    @pytest.fixture
    def root(self, tmp_path: Path) -> Root:
        linked, data = debug_file(tmp_path)
        root = Root(host(tmp_path / "root", linked, b""))
        root.at("/sys/kernel/btf/vmlinux").unlink()
        write(root.path, "/debug", data)
        return root

    @pytest.mark.parametrize("place", PLACES)
    def test_a_debug_file_with_its_build_id(self, root: Root, place: str, right: Offsets) -> None:
        write(root.path, place, root.read("/debug"))
        said = judge_host(root)
        assert (said.verdict, said.evidence) == (Verdict.GUARDED, Evidence.OBSERVED)
        assert (said.offset, said.offset_from) == (right.enable_pmu, f"DWARF of {place}")

    def test_with_another_build_id_says_nothing(self, root: Root) -> None:
        write(root.path, PLACES[0], root.read("/debug").replace(bytes.fromhex(BUILD_ID), bytes(20)))
        assert judge_host(root).cause == "no-offsets"

    @pytest.mark.parametrize("data", [b"", b"garbage", b"\x7fELF\x02\x01\x01" + bytes(57)])
    def test_a_broken_one_is_passed_over(self, root: Root, data: bytes) -> None:
        write(root.path, PLACES[0], data)
        write(root.path, PLACES[1], root.read("/debug"))
        assert judge_host(root).verdict is Verdict.GUARDED

    def test_a_link_that_leads_out_is_passed_over(self, root: Root) -> None:
        root.at(PLACES[0]).parent.mkdir(parents=True)
        root.at(PLACES[0]).symlink_to(root.path.parent / "debug")
        assert judge_host(root).cause == "no-offsets"

    def test_btf_goes_first(self, root: Root) -> None:
        write(root.path, PLACES[0], root.read("/debug"))
        data = compiled(BY_NAME["unlikely"].source, ("-O2",))
        write(root.path, "/sys/kernel/btf/vmlinux", section_of(data, ".BTF"))
        assert judge_host(root).offset_from == "/sys/kernel/btf/vmlinux"


def section_of(data: bytes, name: str) -> bytes:
    from pmuconf.host.code.elf import ObjectFile

    section = ObjectFile(data, "kvm.ko").section(name)
    assert section is not None
    return section


@pytest.mark.parametrize("name", ["unlikely", "stock", "retired", "other-byte"])
def test_a_module_with_nothing_but_dwarf(tmp_path: Path, name: str) -> None:
    path = tmp_path / "kvm.ko"
    path.write_bytes(compiled(BY_NAME[name].source, WITH_DWARF))
    said = judge_file(path)
    assert said.verdict.value in BY_NAME[name].right
    assert said.offset_from == f"DWARF of {path}"


class TestRefused:
    def test_none_at_all(self) -> None:
        with pytest.raises(PmuconfError) as caught:
            offsets_by(compiled(BY_NAME["unlikely"].source, ("-O2",)))
        assert caught.value.cause == "no-dwarf"

    def test_no_kvm_in_it(self) -> None:
        with pytest.raises(PmuconfError) as caught:
            offsets_by(compiled(OTHER, WITH_DWARF))
        assert caught.value.cause == "no-offsets"

    @pytest.mark.parametrize("form", ["-gdwarf-4", "-gdwarf-5"])
    def test_a_bit_field(self, form: str) -> None:
        source = BY_NAME["stock"].source.replace("bool enable_pmu;", "bool enable_pmu : 1;", 1)
        with pytest.raises(PmuconfError, match="bit field") as caught:
            offsets_by(compiled(source, ("-O2", form)))
        assert caught.value.cause == "dwarf-broken"

    def test_too_many_entries(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(dwarf, "_MAX_ENTRIES", 20)
        with pytest.raises(PmuconfError, match="too many entries"):
            offsets_by(compiled(BY_NAME["unlikely"].source, WITH_DWARF))

    def test_too_many_units(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(dwarf, "_MAX_UNITS", 1)
        with pytest.raises(PmuconfError, match="none of its first 1 units"):
            offsets_by(joined(tmp_path, OTHER, BY_NAME["unlikely"].source))

    def test_a_section_that_unpacks_to_too_much(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(debug, "_MAX_HELD", 1000)
        with pytest.raises(PmuconfError, match="too large") as caught:
            offsets_by(compiled(BY_NAME["unlikely"].source, ("-O2", "-gdwarf-5", "-gz=zlib")))
        assert caught.value.cause == "dwarf-broken"

    def test_another_architecture(self) -> None:
        data = bytearray(compiled(BY_NAME["unlikely"].source, WITH_DWARF))
        struct.pack_into("<H", data, 18, 183)
        with pytest.raises(PmuconfError) as caught:
            offsets_by(bytes(data))
        assert caught.value.cause == "not-x86"

    @pytest.mark.parametrize("size", [0, 4, 63, 64, 1000, 5000, -1, -64, -700])
    def test_truncated(self, size: int) -> None:
        with pytest.raises(PmuconfError):
            offsets_by(compiled(BY_NAME["unlikely"].source, WITH_DWARF)[:size])


def test_compression_with_zstd(right: Offsets, tmp_path: Path) -> None:
    path = tmp_path / "kvm.ko"
    path.write_bytes(compiled(BY_NAME["unlikely"].source, WITH_DWARF))
    how = ["objcopy", "--compress-debug-sections=zstd", str(path)]
    if subprocess.run(how, capture_output=True).returncode:
        pytest.skip("this objcopy can't compress with zstd")
    assert offsets_by(path.read_bytes()) == right
