"""What is said of a running host: from its live text, from a file with its build-id, or why nothing can be said."""

from __future__ import annotations

import errno
import gzip
import lzma
import os
import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import pytest
import zstandard

from pmuconf.errors import PmuconfError
from pmuconf.host import record as recording
from pmuconf.host.code.elf import ObjectFile
from pmuconf.host.guard.verdict import judge_host
from pmuconf.host.record import record
from pmuconf.host.root import Root
from pmuconf.hostfacts import Evidence, Verdict
from tests.unit.host.shapes import COUNT, FLAGS, HEADER, PMU, RETPOLINES, SHAPES, Shape, compiled
from tests.unit.host.sysroot import BUILD_ID, PATCH_TEXT, TEXT, Linked, core, host, link, note, write

KERNEL_FLAGS = ("-O2", *RETPOLINES)
INSTALL = (
    "Install the very kernel package that runs: linux-image-6.1.0-test (kernel-modules-core-6.1.0-test) has KVM as a "
    "module; where KVM is built in, its debug package has /usr/lib/debug/boot/vmlinux-6.1.0-test"
)
BY_NAME = {shape.name: shape for shape in SHAPES}
UNREAD = ("unknown", "unread-copies")


def object_of(name: str, flags: tuple[str, ...] = KERNEL_FLAGS) -> bytes:
    return compiled(BY_NAME[name].source, flags)


def btf_of(data: bytes) -> bytes:
    section = ObjectFile(data, "kvm.ko").section(".BTF")
    assert section is not None
    return section


def host_with(tmp_path: Path, name: str) -> tuple[Root, Linked]:
    data = object_of(name)
    linked = link(data)
    return Root(host(tmp_path / "root", linked, btf_of(data))), linked


def rewrite(root: Root, linked: Linked) -> None:
    write(root.path, "/proc/kcore", core([(linked.address, bytes(linked.text))]))


@pytest.mark.parametrize("flags", [flags for flags in FLAGS if "-O2" in flags], ids=" ".join)
@pytest.mark.parametrize("shape", SHAPES, ids=[shape.name for shape in SHAPES])
def test_live_text_is_judged_as_the_file_is(shape: Shape, flags: tuple[str, ...], tmp_path: Path) -> None:
    data = compiled(shape.source, flags)
    finding = judge_host(Root(host(tmp_path, link(data), btf_of(data))))
    assert finding.verdict.value in shape.right, finding
    assert finding.evidence is (Evidence.NONE if finding.verdict is Verdict.UNKNOWN else Evidence.OBSERVED)


def test_the_deciding_instructions_are_shown(tmp_path: Path) -> None:
    root, _ = host_with(tmp_path, "unlikely")
    finding = judge_host(root)
    shown = "\n".join(finding.instructions)
    assert "cmp byte ptr" in shown
    assert "call kvm_pmu_trigger_event" in shown
    assert finding.build_id == BUILD_ID


class TestWhatTheKernelPatches:
    """Text of a running kernel is not what the file has: nops, patched returns and static calls, probes."""

    def test_returns_and_calls_of_thunks(self, tmp_path: Path) -> None:
        root, linked = host_with(tmp_path, "unlikely")
        thunk = linked.outside["__x86_return_thunk"]
        for at in range(len(linked.text) - 5):
            there = linked.address + at + 5
            if linked.text[at] == 0xE9 and there + struct.unpack_from("<i", linked.text, at + 1)[0] == thunk:
                linked.text[at : at + 5] = b"\xc3\xcc\xcc\xcc\xcc"
        rewrite(root, linked)
        assert judge_host(root).verdict is Verdict.GUARDED

    @pytest.mark.parametrize("thunk", ["srso_return_thunk", "retbleed_return_thunk", "its_return_thunk"])
    def test_other_return_thunks(self, tmp_path: Path, thunk: str) -> None:
        root, _ = host_with(tmp_path, "unlikely")
        path = root.at("/proc/kallsyms")
        path.write_text(path.read_text().replace("__x86_return_thunk", thunk))
        assert judge_host(root).verdict is Verdict.GUARDED

    def test_static_calls_that_go_to_the_vendor_module(self, tmp_path: Path) -> None:
        root, _ = host_with(tmp_path, "unlikely")
        path = root.at("/proc/kallsyms")
        path.write_text(path.read_text().replace("__SCT__kvm_x86_", "svm_"))
        assert judge_host(root).verdict is Verdict.GUARDED

    def test_sealed_endbr(self, tmp_path: Path) -> None:
        root, linked = host_with(tmp_path, "unlikely")
        for address in linked.symbols.values():
            linked.text[address - TEXT : address - TEXT + 4] = b"\x66\x0f\x1f\x00"
        rewrite(root, linked)
        assert judge_host(root).verdict is Verdict.GUARDED


class TestHooks:
    @staticmethod
    def hook(linked: Linked, code: bytes) -> None:
        at = linked.symbols["kvm_skip_emulated_instruction"] - TEXT + 4  # behind endbr64, where the call of fentry is
        linked.text[at : at + len(code)] = code

    def test_a_call_of_an_unnamed_trampoline(self, tmp_path: Path) -> None:
        root, linked = host_with(tmp_path, "unlikely")
        self.hook(linked, b"\xe8" + struct.pack("<i", -0x100000))
        rewrite(root, linked)
        finding = judge_host(root)
        assert (finding.verdict, finding.cause) == (Verdict.UNKNOWN, "hooked")
        assert finding.hooks

    @pytest.mark.parametrize(
        ("listed", "said"),
        [
            ("kvm_skip_emulated_instruction [kvm] (1)    \ttramp: 0xffffffffc0901000 (function_trace_call)", "guarded"),
            ("kvm_skip_emulated_instruction [kvm] (2) R  \t->arch_ftrace_ops_list_func", "guarded"),
            ("kvm_skip_emulated_instruction [kvm] (1) R I", "unknown"),
            ("kvm_skip_emulated_instruction [kvm] (1)   D \tdirect-->bpf_trampoline_1", "unknown"),
            ("kvm_pmu_trigger_event [kvm] (1)", "unknown"),
            ("", "unknown"),
        ],
    )
    def test_what_ftrace_says_of_it(self, tmp_path: Path, listed: str, said: str) -> None:
        root, linked = host_with(tmp_path, "unlikely")
        self.hook(linked, b"\xe8" + struct.pack("<i", -0x100000))
        rewrite(root, linked)
        write(root.path, "/sys/kernel/tracing/enabled_functions", f"schedule (1)\n{listed}\n".encode())
        assert judge_host(root).verdict.value == said

    def test_a_breakpoint(self, tmp_path: Path) -> None:
        root, linked = host_with(tmp_path, "unlikely")
        self.hook(linked, b"\xcc")
        rewrite(root, linked)
        finding = judge_host(root)
        assert (finding.verdict, finding.cause) == (Verdict.UNKNOWN, "hooked")
        assert finding.hooks == ("a breakpoint (kprobe)",)


class TestLivepatch:
    def patched(self, tmp_path: Path, running: str, replacement: str) -> Root:
        data = object_of(running)
        linked = link(data)
        known = {**linked.outside, "kvm_pmu_trigger_event": linked.symbols["kvm_pmu_trigger_event"]}
        patch = BY_NAME[replacement].source.replace("noinline void kvm_pmu_trigger_event", "static void unused")
        new = link(compiled(patch, KERNEL_FLAGS), PATCH_TEXT, known)
        return Root(host(tmp_path, linked, btf_of(data), {"lp_guard": new}))

    def test_the_replacement_is_judged(self, tmp_path: Path) -> None:
        finding = judge_host(self.patched(tmp_path, "stock", "unlikely"))
        assert finding.verdict is Verdict.GUARDED
        assert "lp_guard" in finding.source

    def test_one_that_takes_the_guard_away(self, tmp_path: Path) -> None:
        assert judge_host(self.patched(tmp_path, "unlikely", "stock")).verdict is Verdict.UNGUARDED

    def test_copies_that_it_does_not_reach(self, tmp_path: Path) -> None:
        source = BY_NAME["stock"].source + "int kvm_emulate_halt(struct kvm_vcpu *vcpu) { " + COUNT + " return 1; }"
        linked = link(compiled(source, KERNEL_FLAGS))
        known = {**linked.outside, "kvm_pmu_trigger_event": linked.symbols["kvm_pmu_trigger_event"]}
        patch = BY_NAME["unlikely"].source.replace("noinline void kvm_pmu_trigger_event", "static void unused")
        new = link(compiled(patch, KERNEL_FLAGS), PATCH_TEXT, known)
        root = Root(host(tmp_path / "root", linked, btf_of(object_of("stock")), {"lp_guard": new}))
        said = record(root, tmp_path / "record")
        assert (said.verdict, said.copies.unguarded) == (Verdict.PARTIAL, ("kvm_emulate_halt",))
        assert judge_host(Root(tmp_path / "record")) == said

    def test_copies_that_call_before_the_start_of_the_callee(self, tmp_path: Path) -> None:
        """Call depth tracking puts its count into the padding before each function, and makes calls go there."""
        source = BY_NAME["stock"].source + "int kvm_emulate_halt(struct kvm_vcpu *vcpu) { " + COUNT + " return 1; }"
        linked = link(compiled(source, (*KERNEL_FLAGS, "-fpatchable-function-entry=16,16")))
        callee, halt = linked.symbols["kvm_pmu_trigger_event"], linked.symbols["kvm_emulate_halt"] - TEXT
        for at in range(halt, len(linked.text) - 5):
            if linked.text[at] in (0xE8, 0xE9):
                (distance,) = struct.unpack_from("<i", linked.text, at + 1)
                if TEXT + at + 5 + distance == callee:
                    struct.pack_into("<i", linked.text, at + 1, distance - 10)
        known = {**linked.outside, "kvm_pmu_trigger_event": callee}
        patch = BY_NAME["unlikely"].source.replace("noinline void kvm_pmu_trigger_event", "static void unused")
        new = link(compiled(patch, KERNEL_FLAGS), PATCH_TEXT, known)
        linked.symbols["__pfx_kvm_pmu_trigger_event"] = callee - 16
        said = judge_host(Root(host(tmp_path, linked, btf_of(object_of("stock")), {"lp_guard": new})))
        assert (said.verdict, said.copies.unguarded) == (Verdict.PARTIAL, ("kvm_emulate_halt",))

    def test_kvms_own_text_must_be_read_to_know_of_copies(self, tmp_path: Path) -> None:
        """What /proc/kcore can't read it may show as zeros."""
        root = self.patched(tmp_path, "stock", "unlikely")
        path = root.at("/proc/kcore")
        data = bytearray(path.read_bytes())
        assert judge_host(root).verdict is Verdict.GUARDED
        data[4096:8192] = bytes(4096)  # the first piece
        path.write_bytes(bytes(data))
        assert (judge_host(root).verdict, judge_host(root).cause) == (Verdict.UNKNOWN, "unread-copies")

    @staticmethod
    def with_other_function(tmp_path: Path, name: str, arguments: str, body: str) -> Root:
        """A guarded kernel with a livepatch of kvm_emulate_halt()."""
        halt = "int kvm_emulate_halt(struct kvm_vcpu *vcpu) {{ {} return 1; }}"
        source = BY_NAME["unlikely"].source + halt.format(f"if ({PMU}) {COUNT}")
        linked = link(compiled(source, KERNEL_FLAGS))
        known = {**linked.outside, "kvm_pmu_trigger_event": linked.symbols["kvm_pmu_trigger_event"]}
        new = link(compiled(f"{HEADER}int {name}({arguments}) {{ {body} return 1; }}", KERNEL_FLAGS), PATCH_TEXT, known)
        root = Root(host(tmp_path / "root", linked, btf_of(object_of("unlikely")), {"lp_halt": new}))
        folder = root.at("/sys/kernel/livepatch/lp_halt/kvm")
        (folder / "kvm_skip_emulated_instruction,1").rename(folder / "kvm_emulate_halt,1")
        return root

    @pytest.mark.parametrize(
        ("name", "arguments", "body", "verdict", "cause"),
        [
            ("kvm_emulate_halt", "struct kvm_vcpu *vcpu", COUNT, "partial", "unguarded-copies"),
            ("klpp_kvm_emulate_halt", "struct kvm_vcpu *vcpu", COUNT, "partial", "unguarded-copies"),
            ("kvm_emulate_halt", "struct kvm_vcpu *vcpu", f"if ({PMU}) {COUNT}", "guarded", "guard-in-caller"),
            ("klpp_x86_emulate_instruction", "struct kvm_vcpu *vcpu", COUNT, "guarded", "guard-in-caller"),
            ("kvm_emulate_halt", "struct kvm_vcpu **all", f"struct kvm_vcpu *vcpu = all[3]; {COUNT}", *UNREAD),
        ],
    )
    def test_copies_of_its_own(
        self, tmp_path: Path, name: str, arguments: str, body: str, verdict: str, cause: str
    ) -> None:
        """It does not replace the function itself, but one that the compiler puts a copy of it into."""
        root = self.with_other_function(tmp_path, name, arguments, body)
        said = record(root, tmp_path / "record")
        assert (said.verdict.value, said.cause) == (verdict, cause)
        assert judge_host(Root(tmp_path / "record")) == said

    def test_copies_of_one_source_need_not_be_read(self, tmp_path: Path) -> None:
        """One that is not followed is as guarded as the function, whatever else a livepatch replaces."""
        hypercall = (
            f"int kvm_emulate_hypercall(struct kvm_vcpu **all) {{ struct kvm_vcpu *vcpu = all[3]; {COUNT} return 1; }}"
        )
        linked = link(compiled(BY_NAME["unlikely"].source + hypercall, KERNEL_FLAGS))
        new = link(
            compiled(f"{HEADER}int kvm_vm_ioctl(struct kvm *kvm) {{ return kvm->vcpus; }}", KERNEL_FLAGS), PATCH_TEXT
        )
        root = Root(host(tmp_path, linked, btf_of(object_of("unlikely")), {"lp_other": new}))
        folder = root.at("/sys/kernel/livepatch/lp_other/kvm")
        (folder / "kvm_skip_emulated_instruction,1").rename(folder / "kvm_vm_ioctl,1")
        found = judge_host(root)
        assert (found.verdict, found.copies.unread) == (Verdict.GUARDED, ("kvm_emulate_hypercall",))

    def test_symbols_of_init_code_that_is_gone(self, tmp_path: Path) -> None:
        """Livepatches keep them, at whatever place; KVM's vendor module may lie between the two."""
        data = object_of("stock")
        linked = link(data)
        known = {**linked.outside, "kvm_pmu_trigger_event": linked.symbols["kvm_pmu_trigger_event"]}
        vendor = {name: PATCH_TEXT + 0x10000 + 64 * n for n, name in enumerate(known) if name.startswith("__SCT__")}
        patch = BY_NAME["unlikely"].source.replace("noinline void kvm_pmu_trigger_event", "static void unused")
        new = link(compiled(patch, KERNEL_FLAGS), PATCH_TEXT, {**known, **vendor})
        root = Root(host(tmp_path, linked, btf_of(data), {"lp_guard": new}))
        path = root.at("/proc/kallsyms")
        lines = [f"{at:016x} t {name.replace('__SCT__kvm_x86_', 'svm_')}\t[kvm_amd]\n" for name, at in vendor.items()]
        path.write_text(f"{path.read_text()}{''.join(lines)}{PATCH_TEXT + 0x90000:016x} t start\t[lp_guard]\n")
        assert judge_host(root).verdict is Verdict.GUARDED

    def test_in_transition(self, tmp_path: Path) -> None:
        root = self.patched(tmp_path, "stock", "unlikely")
        write(root.path, "/sys/kernel/livepatch/lp_guard/transition", b"1\n")
        assert judge_host(root).cause == "livepatch-transition"

    def test_disabled(self, tmp_path: Path) -> None:
        root = self.patched(tmp_path, "stock", "unlikely")
        write(root.path, "/sys/kernel/livepatch/lp_guard/enabled", b"0\n")
        assert judge_host(root).verdict is Verdict.UNGUARDED

    def test_without_live_text_nothing_is_said(self, tmp_path: Path) -> None:
        root = self.patched(tmp_path, "unlikely", "stock")
        root.at("/proc/kcore").unlink()
        finding = judge_host(root)
        assert finding.verdict is Verdict.UNKNOWN
        assert "lp_guard" in finding.notes[-1]


class TestTheFileWithTheBuildId:
    @pytest.fixture
    def data(self, tmp_path: Path) -> bytes:
        return self.with_build_id(tmp_path, BY_NAME["unlikely"].source)

    @staticmethod
    def with_build_id(tmp_path: Path, source: str, build_id: str = BUILD_ID) -> bytes:
        path = tmp_path / "kvm.ko"
        path.write_bytes(compiled(source, KERNEL_FLAGS))
        (tmp_path / "note").write_bytes(struct.pack("<III4s", 4, 20, 3, b"GNU\0") + bytes.fromhex(build_id))
        subprocess.run(
            ["objcopy", "--add-section", f".note.gnu.build-id={tmp_path}/note", str(path)], check=True, timeout=60
        )
        return path.read_bytes()

    @staticmethod
    def without_live_text(tmp_path: Path) -> Root:
        root, _ = host_with(tmp_path, "stock")
        root.at("/proc/kcore").unlink()
        return root

    @pytest.mark.parametrize(
        ("suffix", "pack"),
        [("", bytes), (".gz", gzip.compress), (".xz", lzma.compress), (".zst", zstandard.compress)],
        ids=["plain", "gz", "xz", "zst"],
    )
    def test_is_judged(self, tmp_path: Path, data: bytes, suffix: str, pack: Callable[[bytes], bytes]) -> None:
        root = self.without_live_text(tmp_path)
        write(root.path, f"/lib/modules/6.1.0-test/kernel/arch/x86/kvm/kvm.ko{suffix}", pack(data))
        finding = judge_host(root)
        assert (finding.verdict, finding.evidence) == (Verdict.GUARDED, Evidence.INFERRED)

    def test_is_found_by_modules_dep(self, tmp_path: Path, data: bytes) -> None:
        root = self.without_live_text(tmp_path)
        write(root.path, "/lib/modules/6.1.0-test/updates/dkms/kvm.ko", data)
        write(root.path, "/lib/modules/6.1.0-test/modules.dep", b"updates/dkms/kvm.ko: kernel/x.ko\n")
        assert judge_host(root).verdict is Verdict.GUARDED

    @pytest.mark.parametrize(("function", "verdict"), [("kvm_emulate_halt", "unknown"), ("kvm_vm_ioctl", "guarded")])
    def test_does_not_tell_what_a_livepatch_runs_instead(self, tmp_path: Path, function: str, verdict: str) -> None:
        source = BY_NAME["unlikely"].source + f"int kvm_emulate_halt(struct kvm_vcpu *vcpu) {{ if ({PMU}) {COUNT} }}"
        root = self.without_live_text(tmp_path)
        write(root.path, "/lib/modules/6.1.0-test/kernel/arch/x86/kvm/kvm.ko", self.with_build_id(tmp_path, source))
        write(root.path, "/sys/kernel/livepatch/lp/enabled", b"1\n")
        root.at(f"/sys/kernel/livepatch/lp/kvm/{function},1").mkdir(parents=True)
        assert judge_host(root).verdict.value == verdict

    def test_another_build_id_says_nothing(self, tmp_path: Path, data: bytes) -> None:
        root = self.without_live_text(tmp_path)
        other = data.replace(bytes.fromhex(BUILD_ID), bytes(20))
        write(root.path, "/lib/modules/6.1.0-test/kernel/arch/x86/kvm/kvm.ko", other)
        finding = judge_host(root)
        assert (finding.verdict, finding.cause) == (Verdict.UNKNOWN, "no-kcore")
        assert "no-file-with-build-id" in finding.notes[-1]
        assert finding.remedy == f"Boot a kernel with CONFIG_PROC_KCORE=y. Or: {INSTALL}"

    def test_without_a_build_id_no_file_can_stand_for_what_runs(self, tmp_path: Path, data: bytes) -> None:
        root = self.without_live_text(tmp_path)
        write(root.path, "/lib/modules/6.1.0-test/kernel/arch/x86/kvm/kvm.ko", data)
        shutil.rmtree(root.at("/sys/module/kvm/notes"))
        finding = judge_host(root)
        assert (finding.verdict, finding.cause) == (Verdict.UNKNOWN, "no-kcore")
        assert finding.notes[-1] == "the running KVM tells no build-id (no-build-id)"

    def test_a_truncated_archive_says_nothing(self, tmp_path: Path, data: bytes) -> None:
        root = self.without_live_text(tmp_path)
        name = "/lib/modules/6.1.0-test/kernel/arch/x86/kvm/kvm.ko.xz"
        write(root.path, name, lzma.compress(data)[:-40])
        finding = judge_host(root)
        assert finding.verdict is Verdict.UNKNOWN
        assert "cannot-decompress" in finding.notes[-1]


class TestNothingCanBeSaid:
    def test_hidden_addresses(self, tmp_path: Path) -> None:
        root, _ = host_with(tmp_path, "unlikely")
        lines = root.at("/proc/kallsyms").read_text().splitlines()
        root.at("/proc/kallsyms").write_text("".join(f"{0:016x}{line[16:]}\n" for line in lines))
        finding = judge_host(root)
        assert (finding.verdict, finding.cause) == (Verdict.UNKNOWN, "kallsyms-hidden")
        assert finding.remedy

    def test_no_kvm(self, tmp_path: Path) -> None:
        assert judge_host(Root(tmp_path)).cause == "kvm-not-loaded"

    def test_another_architecture(self, tmp_path: Path) -> None:
        write(tmp_path, "/proc/sys/kernel/arch", b"aarch64\n")
        assert judge_host(Root(tmp_path)).cause == "not-x86"

    def test_no_offsets(self, tmp_path: Path) -> None:
        root, _ = host_with(tmp_path, "unlikely")
        root.at("/sys/kernel/btf/vmlinux").unlink()
        assert judge_host(root).cause == "no-offsets"

    def test_two_functions_of_that_name(self, tmp_path: Path) -> None:
        root, _ = host_with(tmp_path, "unlikely")
        path = root.at("/proc/kallsyms")
        path.write_text(f"{path.read_text()}ffffffffc0a01234 t kvm_skip_emulated_instruction\t[kvm]\n")
        assert judge_host(root).cause == "function-not-found"

    def test_symbols_that_are_no_symbols(self, tmp_path: Path) -> None:
        root, _ = host_with(tmp_path, "unlikely")
        path = root.at("/proc/kallsyms")
        path.write_text(f"{path.read_text()}ffffffffc0a01234 t {'x' * 5000}\t[kvm]\n")
        with pytest.raises(PmuconfError) as caught:
            judge_host(root)
        assert caught.value.cause == "kallsyms-broken"

    @pytest.mark.parametrize("size", [0, 10, 63, 64, 100, 4096])
    def test_a_truncated_core(self, tmp_path: Path, size: int) -> None:
        root, _ = host_with(tmp_path, "unlikely")
        os.truncate(root.at("/proc/kcore"), size)
        with pytest.raises(PmuconfError) as caught:
            judge_host(root)
        assert caught.value.cause == "kcore-broken"

    def test_a_core_whose_headers_are_nowhere(self, tmp_path: Path) -> None:
        root, _ = host_with(tmp_path, "unlikely")
        data = bytearray(root.at("/proc/kcore").read_bytes())
        struct.pack_into("<Q", data, 32, 1 << 63)  # found by fuzzing: the place does not fit a file offset
        write(root.path, "/proc/kcore", bytes(data))
        with pytest.raises(PmuconfError) as caught:
            judge_host(root)
        assert caught.value.cause == "kcore-broken"

    @pytest.mark.parametrize("lockdown", ["none integrity [confidentiality]\n", "[none] integrity confidentiality\n"])
    def test_a_core_that_is_refused_to_root(
        self, tmp_path: Path, lockdown: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        root, _ = host_with(tmp_path, "unlikely")
        write(root.path, "/sys/kernel/security/lockdown", lockdown.encode())
        real = Root.open

        def refused(root: Root, name: str) -> BinaryIO:
            if name == "/proc/kcore":
                raise PermissionError(errno.EPERM, "Operation not permitted")
            return real(root, name)

        monkeypatch.setattr(Root, "open", refused)
        monkeypatch.setattr(os, "geteuid", lambda: 0)
        finding = judge_host(root)
        assert (finding.cause, finding.remedy) == ("kcore-refused", INSTALL)

    def test_a_record_that_leads_out(self, tmp_path: Path) -> None:
        root, _ = host_with(tmp_path, "unlikely")
        root.at("/proc/kcore").unlink()
        (root.path / "proc/kcore").symlink_to("/proc/kcore")
        with pytest.raises(PmuconfError) as caught:
            judge_host(root)
        assert caught.value.cause == "record-escapes"


@pytest.mark.parametrize("name", ["unlikely", "stock", "retired"])
def test_kvm_built_into_the_kernel(tmp_path: Path, name: str) -> None:
    root, _ = host_with(tmp_path, name)
    shutil.rmtree(root.at("/sys/module/kvm/notes"))
    root.at("/sys/module/kvm/initstate").unlink()
    write(root.path, "/sys/kernel/notes", note())
    path = root.at("/proc/kallsyms")
    path.write_text(path.read_text().replace("\t[kvm]", ""))
    said = record(root, tmp_path / "record")
    assert said.verdict.value in BY_NAME[name].right
    assert (said.evidence, said.build_id) == (Evidence.OBSERVED, BUILD_ID)
    assert judge_host(Root(tmp_path / "record")) == said


@pytest.mark.parametrize("name", ["unlikely", "stock", "retired", "helper-calls"])
def test_a_record_gives_the_same_answer(tmp_path: Path, name: str) -> None:
    root, _ = host_with(tmp_path, name)
    said = record(root, tmp_path / "record")
    assert judge_host(Root(tmp_path / "record")) == judge_host(root) == said


def test_a_record_goes_where_its_folder_was_made_whatever_is_put_in_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever owns the folder above can swap it at any time."""
    root, _ = host_with(tmp_path / "host", "unlikely")
    target, real = tmp_path / "theirs/record", recording._copy
    target.parent.mkdir()
    (tmp_path / "victim").mkdir()

    def swapping(*given: Any) -> None:
        if not target.is_symlink():
            target.rename(target.with_name("away"))
            target.symlink_to(tmp_path / "victim")
        real(*given)

    monkeypatch.setattr(recording, "_copy", swapping)
    record(root, target)
    assert list((tmp_path / "victim").iterdir()) == []
    assert (target.with_name("away") / "proc/kallsyms").exists()


def test_a_record_of_a_patched_host(tmp_path: Path) -> None:
    root = TestLivepatch().patched(tmp_path / "host", "stock", "unlikely")
    said = record(root, tmp_path / "record")
    assert said.verdict is Verdict.GUARDED
    assert judge_host(Root(tmp_path / "record")) == said
