"""Calls of what counts from kvm_amd and kvm_intel: a guard in KVM does not reach them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Protocol

import pytest

from pmuconf.host.guard.verdict import judge_file, judge_host
from pmuconf.host.record import record
from pmuconf.host.root import Root
from pmuconf.hostfacts import Verdict
from tests.unit.host.code.test_live import BY_NAME, KERNEL_FLAGS, TestTheFileWithTheBuildId, btf_of, object_of
from tests.unit.host.shapes import CALLEE, COUNT, HEADER, PMU, compiled
from tests.unit.host.sysroot import VENDOR_BUILD_ID, VENDOR_TEXT, Linked, host, link, note, write
from tests.unit.host.test_livepatch import KVM_KO

VENDORS = ("kvm_amd", "kvm_intel", "kvm_pvm")
RETIRED = "void kvm_pmu_instruction_retired(struct kvm_vcpu *vcpu);\n"
SKIPS = "int kvm_skip_emulated_instruction(struct kvm_vcpu *vcpu);\n"
PLAIN = f"{HEADER}{SKIPS}int svm_vcpu_run(struct kvm_vcpu *vcpu) {{ return kvm_skip_emulated_instruction(vcpu); }}"
HALT = f"int kvm_emulate_halt(struct kvm_vcpu *vcpu) {{ {COUNT} return 1; }}"


class Made(Protocol):
    """What makes a host."""

    def __call__(self, tmp_path: Path, text: str, shape: str = ..., vendor: str = ...) -> Root: ...


def source(body: str, name: str = "svm_fastpath", arguments: str = "struct kvm_vcpu *vcpu") -> str:
    return f"{PLAIN}\n{RETIRED}int {name}({arguments}) {{ {body} return 1; }}"


def beside(linked: Linked, text: str) -> Linked:
    """A vendor module that calls KVM's functions."""
    return link(compiled(text, KERNEL_FLAGS), VENDOR_TEXT, {**linked.outside, **linked.symbols})


def live(tmp_path: Path, text: str, shape: str = "unlikely", vendor: str = "kvm_amd") -> Root:
    """A host that runs KVM of that shape with this vendor module."""
    data = object_of(shape)
    linked = link(data)
    return Root(host(tmp_path / "root", linked, btf_of(data), vendors={vendor: beside(linked, text)}))


def from_files(tmp_path: Path, text: str, shape: str = "unlikely", vendor: str = "kvm_amd") -> Root:
    """The same with the running text closed, and the files of both modules there."""
    root = live(tmp_path, text, shape, vendor)
    root.at("/proc/kcore").unlink()
    write(root.path, KVM_KO, TestTheFileWithTheBuildId.with_build_id(tmp_path, BY_NAME[shape].source))
    file = TestTheFileWithTheBuildId.with_build_id(tmp_path, text, VENDOR_BUILD_ID)
    write(root.path, KVM_KO.replace("kvm.ko", f"{vendor.replace('_', '-')}.ko"), file)
    return root


MADE = pytest.mark.parametrize("made", [live, from_files])
GUARDED = (Verdict.GUARDED, "guard-in-caller")


@MADE
@pytest.mark.parametrize("vendor", VENDORS)
def test_an_unguarded_call_makes_it_partial(tmp_path: Path, made: Made, vendor: str) -> None:
    found = judge_host(made(tmp_path, source(COUNT), vendor=vendor))
    assert (found.verdict, found.cause) == (Verdict.PARTIAL, "unguarded-copies")
    assert found.copies.unguarded == ("svm_fastpath",)


@MADE
def test_whatever_depends_on_kvm_is_searched(tmp_path: Path, made: Made) -> None:
    root = made(tmp_path, source(COUNT), vendor="vendorless")
    assert judge_host(root).verdict is Verdict.GUARDED
    root.at("/sys/module/kvm/holders").mkdir()
    root.at("/sys/module/kvm/holders/vendorless").symlink_to("../../vendorless")
    found = judge_host(root)
    assert (found.verdict, found.copies.unguarded) == (Verdict.PARTIAL, ("svm_fastpath",))
    if made is live:
        assert judge_host(root) == record(root, tmp_path / "record") == judge_host(Root(tmp_path / "record"))


@MADE
@pytest.mark.parametrize("text", [PLAIN, source(f"if ({PMU}) {COUNT}")], ids=["none", "guarded"])
def test_no_call_and_a_guarded_one_leave_it_guarded(tmp_path: Path, made: Made, text: str) -> None:
    found = judge_host(made(tmp_path, text))
    assert (found.verdict, found.cause) == GUARDED
    assert found.copies.unguarded == ()


@MADE
def test_one_that_cannot_be_followed_makes_it_unknown(tmp_path: Path, made: Made) -> None:
    """In KVM itself it is as guarded as the function, being of the same source. Elsewhere it may be anything."""
    text = source(f"struct kvm_vcpu *vcpu = all[3]; {COUNT}", arguments="struct kvm_vcpu **all")
    found = judge_host(made(tmp_path, text))
    assert (found.verdict, found.cause) == (Verdict.UNKNOWN, "unread-copies")
    assert found.copies.unread == ("svm_fastpath",)


@MADE
@pytest.mark.parametrize("name", ["nested_vmx_run", "nested_svm_vmrun", "handle_vmlaunch"])
def test_what_counts_by_itself_in_every_kernel_is_let_be(tmp_path: Path, made: Made, name: str) -> None:
    found = judge_host(made(tmp_path, source(COUNT, name)))
    assert (found.verdict, found.cause) == GUARDED


@MADE
def test_a_guard_in_the_callee_serves_vendor_modules_too(tmp_path: Path, made: Made) -> None:
    found = judge_host(made(tmp_path, source(COUNT), "in-callee"))
    assert (found.verdict, found.cause) == (Verdict.GUARDED, "guard-in-callee")
    assert found.copies.guarded == ("svm_fastpath",)


@MADE
def test_an_early_out_serves_them_too(tmp_path: Path, made: Made) -> None:
    found = judge_host(made(tmp_path, source("kvm_pmu_instruction_retired(vcpu);"), "retired"))
    assert (found.verdict, found.copies.guarded) == (Verdict.EARLY_OUT, ("svm_fastpath",))


@MADE
def test_a_callee_that_returns_early_does_not_save_a_guarded_kernel_from_one_that_does_not(
    tmp_path: Path, made: Made
) -> None:
    found = judge_host(made(tmp_path, source("kvm_pmu_instruction_retired(vcpu);"), "retired-guarded"))
    assert (found.verdict, found.copies.unguarded) == (Verdict.GUARDED, ())


def test_an_unguarded_kernel_stays_so(tmp_path: Path) -> None:
    found = judge_host(live(tmp_path, source(COUNT), "stock"))
    assert (found.verdict, found.copies.unguarded) == (Verdict.UNGUARDED, ("svm_fastpath",))


@pytest.mark.parametrize("text", [PLAIN, source(COUNT), source(f"if ({PMU}) {COUNT}")])
def test_a_record_has_the_vendor_module(tmp_path: Path, text: str) -> None:
    root = live(tmp_path, text)
    said = record(root, tmp_path / "record")
    assert judge_host(Root(tmp_path / "record")) == judge_host(root) == said


FAR = 'asm volatile(".fill 4500, 1, 0x90");'


def test_a_call_that_lies_on_another_page_than_its_function_begins_on(tmp_path: Path) -> None:
    """The last function of a module has no symbol behind it that says how far it goes."""
    root = live(tmp_path, source(f"{FAR} {COUNT}"))
    assert (judge_host(root).verdict, judge_host(root).copies.unguarded) == (Verdict.PARTIAL, ("svm_fastpath",))
    assert judge_host(root) == record(root, tmp_path / "record") == judge_host(Root(tmp_path / "record"))


def test_what_lies_behind_the_next_symbol_belongs_to_somebody_else(tmp_path: Path) -> None:
    root = live(tmp_path, source(f"{FAR} {COUNT}"))
    path = root.at("/proc/kallsyms")
    path.write_text(f"{path.read_text()}{VENDOR_TEXT + 4096 + 64:016x} t somebody\t[other]\n")
    assert judge_host(root).verdict is Verdict.GUARDED


class TestUnread:
    def older(self, tmp_path: Path, shape: str) -> Root:
        """A record as pmuconf made it before it looked at vendor modules: it has nothing of them but that they ran."""
        root = live(tmp_path, PLAIN, shape)
        path = root.at("/proc/kallsyms")
        path.write_text("".join(line for line in path.open() if "[kvm_amd]" not in line))
        return root

    def test_a_record_without_it_is_not_called_guarded(self, tmp_path: Path) -> None:
        found = judge_host(self.older(tmp_path, "unlikely"))
        assert (found.verdict, found.cause) == (Verdict.UNKNOWN, "unread-modules")
        assert any("kvm_amd" in note for note in found.notes)
        assert "record" in found.remedy

    @pytest.mark.parametrize("shape", ["stock", "retired", "no-call"])
    def test_a_record_without_it_is_of_use_for_other_verdicts(self, tmp_path: Path, shape: str) -> None:
        found = judge_host(self.older(tmp_path, shape))
        assert found.verdict.value in BY_NAME[shape].right
        assert any("kvm_amd" in note for note in found.notes)

    def test_text_that_shows_as_zeros_is_not_read(self, tmp_path: Path) -> None:
        root = live(tmp_path, source(COUNT))
        path = root.at("/proc/kcore")
        data = bytearray(path.read_bytes())
        size = len(data) // 4096 * 4096
        data[size - 4096 : size] = bytes(4096)  # the last piece: the vendor module lies behind KVM
        path.write_bytes(bytes(data))
        assert judge_host(root).cause == "unread-modules"

    def test_without_its_file_the_running_text_is_missed(self, tmp_path: Path) -> None:
        root = from_files(tmp_path, PLAIN)
        root.at(KVM_KO.replace("kvm.ko", "kvm-amd.ko")).unlink()
        found = judge_host(root)
        assert (found.verdict, found.cause) == (Verdict.UNKNOWN, "unread-modules")

    def test_a_file_with_another_build_id_is_not_what_runs(self, tmp_path: Path) -> None:
        root = from_files(tmp_path, PLAIN)
        path = root.at(KVM_KO.replace("kvm.ko", "kvm-amd.ko"))
        path.write_bytes(path.read_bytes().replace(bytes.fromhex(VENDOR_BUILD_ID), bytes(20)))
        assert judge_host(root).cause == "unread-modules"

    def test_a_file_that_is_judged_tells_what_was_not(self, tmp_path: Path) -> None:
        (tmp_path / "kvm.ko").write_bytes(object_of("unlikely"))
        found = judge_file(tmp_path / "kvm.ko")
        assert found.verdict is Verdict.GUARDED
        assert any("kvm_amd, kvm_intel" in note for note in found.notes)

    def test_a_kernel_that_has_all_built_in_is_read_whole(self, tmp_path: Path) -> None:
        inside = "int svm_vcpu_run(struct kvm_vcpu *v) { return 1; } int vmx_vcpu_run(struct kvm_vcpu *v) { return 1; }"
        (tmp_path / "vmlinux").write_bytes(compiled(BY_NAME["unlikely"].source + inside, KERNEL_FLAGS))
        assert judge_file(tmp_path / "vmlinux").notes == ()


@pytest.mark.parametrize("extra", [f"int svm_fastpath(struct kvm_vcpu *vcpu) {{ {COUNT} return 1; }}", ""])
def test_built_in_the_vendors_part_is_searched_with_kvms(tmp_path: Path, extra: str) -> None:
    """It lies behind everything whose name begins with kvm_."""
    data = compiled(BY_NAME["unlikely"].source + extra, KERNEL_FLAGS)
    root = Root(host(tmp_path, link(data), btf_of(object_of("unlikely"))))
    shutil.rmtree(root.at("/sys/module/kvm/notes"))
    root.at("/sys/module/kvm/initstate").unlink()
    write(root.path, "/sys/kernel/notes", note())
    write(root.path, "/sys/module/kvm_amd/parameters/nested", b"1\n")
    path = root.at("/proc/kallsyms")
    path.write_text(path.read_text().replace("\t[kvm]", ""))
    found = judge_host(root)
    expected = Verdict.PARTIAL if extra else Verdict.UNKNOWN
    assert (found.verdict, found.cause) == (expected, "unguarded-copies" if extra else "unread-modules")


def test_a_function_without_a_call_does_not_vouch_for_others(tmp_path: Path) -> None:
    """A livepatch may take the call away, and not from the copies."""
    data = compiled(BY_NAME["no-call"].source + CALLEE.format(guard="") + HALT, KERNEL_FLAGS)
    found = judge_host(Root(host(tmp_path, link(data), btf_of(data))))
    assert (found.verdict, found.copies.unguarded) == (Verdict.PARTIAL, ("kvm_emulate_halt",))


COUNTS_BESIDE = BY_NAME["no-call"].source + CALLEE.format(guard="")
FOLLOWED_BY_NOBODY = f"struct kvm_vcpu *vcpu = all[3]; {COUNT}"


class TestWithoutACall:
    """A kernel that has what counts, and whose function does not call it."""

    def host(self, tmp_path: Path, text: str = COUNTS_BESIDE, vendor: str = PLAIN) -> Root:
        data = compiled(text, KERNEL_FLAGS)
        linked = link(data)
        return Root(host(tmp_path, linked, btf_of(data), vendors={"kvm_amd": beside(linked, vendor)}))

    def test_it_is_no_call_where_all_was_read(self, tmp_path: Path) -> None:
        assert judge_host(self.host(tmp_path)).verdict is Verdict.NO_CALL

    def test_a_vendor_module_that_was_not_read_may_call_it(self, tmp_path: Path) -> None:
        root = self.host(tmp_path)
        path = root.at("/proc/kallsyms")
        path.write_text("".join(line for line in path.open() if "[kvm_amd]" not in line))
        assert judge_host(root).cause == "unread-modules"

    @pytest.mark.parametrize("inside", [True, False], ids=["kvm", "vendor"])
    def test_a_call_that_cannot_be_followed_may_be_unguarded(self, tmp_path: Path, *, inside: bool) -> None:
        arguments = "struct kvm_vcpu **all"
        text = f"{COUNTS_BESIDE}int kvm_other({arguments}) {{ {FOLLOWED_BY_NOBODY} return 1; }}"
        vendor = source(FOLLOWED_BY_NOBODY, arguments=arguments)
        root = self.host(tmp_path, text) if inside else self.host(tmp_path, vendor=vendor)
        assert judge_host(root).cause == "unread-copies"


@MADE
def test_what_an_early_out_does_not_serve_has_to_be_read(tmp_path: Path, made: Made) -> None:
    """It calls another function that counts, of which the early-out says nothing."""
    other = "void kvm_pmu_branch_retired(struct kvm_vcpu *vcpu);\nint svm_jump(struct kvm_vcpu **all)"
    text = f"{PLAIN}\n{other} {{ kvm_pmu_branch_retired(all[3]); return 1; }}"
    found = judge_host(made(tmp_path, text, "retired"))
    assert (found.verdict, found.cause, found.copies.unread) == (Verdict.UNKNOWN, "unread-copies", ("svm_jump",))
