"""The live VMs: what kernel memory holds of them, which process each is of, and what is said where that is not sure."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import subprocess
import sys
import uuid
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pmuconf.errors import PmuconfError
from pmuconf.host.code.btf import Btf
from pmuconf.host.code.kernel import RunningKernel
from pmuconf.host.code.offsets import Member
from pmuconf.host.root import Root
from pmuconf.host.vms import live as vms_module
from pmuconf.host.vms.kvmlist import KvmList, KvmVm
from pmuconf.host.vms.layout import Layout
from pmuconf.host.vms.live import live_vms, open_list
from pmuconf.host.vms.procdir import directory_of, file_id, other_threads, same_program, start_of
from pmuconf.host.vms.process import VmProcess, vm_processes
from pmuconf.host.vms.qemu_args import QemuArgs
from pmuconf.hostfacts import KernelPmu, LiveVm
from tests.unit.host.memory import ENABLED, HEAD, HEAP, Kernel, Vm, process, stat
from tests.unit.host.sysroot import write
from tests.unit.unprivileged import as_nobody

WALKS = int(os.environ.get("PMUCONF_WALKS", "10000"))


def name_of(number: int) -> str:
    return str(uuid.UUID(int=number))


def qemu(number: int, enabled: int = 1, vcpus: int = 1, thread: int = 0) -> Vm:
    return Vm(1000 + number, 50_000 + number, enabled, vcpus, thread, uuid=name_of(number))


def looked(root: Path, samples: int = 1) -> tuple[tuple[LiveVm, ...], str]:
    return live_vms(Root(root), samples=samples, sleep=lambda _: None)


def said(root: Path) -> list[tuple[int | None, str, str]]:
    found, _ = looked(root)
    return [(vm.pid, vm.kernel_pmu.value, vm.cause) for vm in found]


class TestAnotherProgram:
    """exec(2) keeps a process's id and start, as QEMU's migration mode cpr-exec uses it; its other threads end."""

    def test_within_the_process_while_it_is_looked_at(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        kernel = Kernel()
        kernel.add(qemu(1, enabled=0))
        kernel.add(qemu(2, enabled=0))
        root = kernel.write(tmp_path)

        def executes(of: Root, pid: int, *rest: object) -> None:
            if pid == 1001:
                shutil.rmtree(root / "proc/1001/task/901001")

        monkeypatch.setattr(vms_module, "qemu_of_process", executes)
        found, _ = looked(root)
        assert [(vm.pid, vm.kernel_pmu.value, vm.cause, vm.pmu_property) for vm in found] == [
            (1001, "unknown", "unstable", None),
            (1002, "disabled", "", False),
        ]

    def test_a_process_that_ends_while_it_is_looked_at_is_left_out(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        kernel = Kernel()
        kernel.add(qemu(1, enabled=0))
        kernel.add(qemu(2, enabled=0))
        root = kernel.write(tmp_path)
        monkeypatch.setattr(vms_module, "qemu_of_process", lambda *_: shutil.rmtree(root / "proc/1001", True))
        assert said(root) == [(1002, "disabled", "")]

    def test_before_kernel_memory_was_read(self, tmp_path: Path) -> None:
        """What KVM holds is not of the program that the process was seen to run."""
        kernel = Kernel()
        kernel.add(qemu(1, enabled=0))
        root = Root(kernel.write(tmp_path))
        write(tmp_path, "/proc/uptime", b"600.00 1.00\n")
        listed = open_list(RunningKernel(root))
        assert live_vms(root, samples=0)[0][0].kernel_pmu is KernelPmu.DISABLED

        def executes() -> tuple[KvmVm, ...]:
            (tmp_path / "proc/1001/task/901001/stat").write_bytes(stat(901001, 999_999, "call_rcu"))
            return KvmList.vms(listed)

        listed.vms = executes  # type: ignore[method-assign]
        found, _ = live_vms(root, samples=0, listed=listed)
        assert [(vm.pid, vm.kernel_pmu.value, vm.cause) for vm in found] == [
            (1001, "unknown", "not-listed"),
            (None, "disabled", "no-process"),
        ]

    def test_is_told_of_a_live_process_by_anybody(self, tmp_path: Path) -> None:
        """Two threads and the same file: only the threads tell it."""
        script = (
            "import os, sys, threading, time\nthreading.Thread(target=time.sleep, args=(300,), daemon=True).start()\n"
        )
        script += "print(flush=True)\nsys.stdin.readline()\nos.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
        again = script.replace("sys.stdin.readline()", "time.sleep(300)")
        command = [sys.executable, "-c", script, "-c", again]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            try:
                process.stdout.readline()
                with directory_of(Root(), process.pid) as directory:
                    started, others = start_of(directory), other_threads(directory, process.pid)
                    status = os.stat("exe", dir_fd=directory)
                assert len(others) == 1
                file = file_id(status, "")
                for which in (file, None):
                    assert same_program(Root(), process.pid, started, which, others)
                assert not same_program(Root(), process.pid, started + 1, file, others)
                assert not same_program(Root(), process.pid, started, replace(file, inode=file.inode + 1), others)
                assert not same_program(Root(), process.pid, started, None, ())
                process.stdin.write(b"\n")
                process.stdin.flush()
                process.stdout.readline()
                for which in (file, None):
                    assert not same_program(Root(), process.pid, started, which, others)
                assert as_nobody(lambda: same_program(Root(), process.pid, started, file, others)) is False
            finally:
                process.kill()


class TestWhatKernelMemorySays:
    def test_each_vm_with_its_process(self, tmp_path: Path) -> None:
        kernel = Kernel()
        kernel.add(qemu(1, enabled=1))
        kernel.add(qemu(2, enabled=0, vcpus=3))
        kernel.add(qemu(3, enabled=1, thread=1777))  # made by a thread that is not the first
        found, cause = looked(kernel.write(tmp_path))
        assert cause == ""
        assert [(vm.pid, vm.uuid, vm.kernel_pmu, vm.vcpus, vm.cause) for vm in found] == [
            (1001, name_of(1), KernelPmu.ENABLED, 1, ""),
            (1002, name_of(2), KernelPmu.DISABLED, 3, ""),
            (1003, name_of(3), KernelPmu.ENABLED, 1, ""),
        ]
        assert [(vm.started, vm.name, vm.command, vm.in_use) for vm in found[:1]] == [
            (50_001, "vm1001", "qemu-system-x86", False)
        ]

    def test_no_vms(self, tmp_path: Path) -> None:
        assert looked(Kernel().write(tmp_path)) == ((), "")

    def test_the_thread_that_made_it_is_gone_and_its_id_another_vms(self, tmp_path: Path) -> None:
        kernel = Kernel()
        kernel.add(qemu(1, enabled=0, thread=1002))
        kernel.add(qemu(2, enabled=1, thread=9999))
        assert said(kernel.write(tmp_path)) == [(1001, "disabled", ""), (1002, "enabled", "")]

    def test_the_id_of_a_process_that_is_gone_is_another_qemus(self, tmp_path: Path) -> None:
        kernel = Kernel()
        old = kernel.add(qemu(1, enabled=0))
        root = kernel.write(tmp_path)
        write(root, "/proc/1001/stat", stat(1001, old.started + 1, "qemu"))
        assert said(root) == [(1001, "unknown", "not-listed"), (None, "disabled", "no-process")]

    def test_its_process_has_ended(self, tmp_path: Path) -> None:
        kernel = Kernel()
        vm = kernel.add(qemu(1))
        kernel.set(vm.mm, "mm_struct.owner", 0)
        assert said(kernel.write(tmp_path)) == [(1001, "unknown", "not-listed"), (None, "enabled", "no-process")]

    def test_a_process_that_only_inherited_the_file(self, tmp_path: Path) -> None:
        kernel = Kernel()
        kernel.add(qemu(1, enabled=0))
        root = kernel.write(tmp_path)
        process(root, qemu(2))
        assert said(root) == [(1001, "disabled", ""), (1002, "unknown", "not-listed")]

    def test_other_vmms(self, tmp_path: Path) -> None:
        kernel = Kernel()
        kernel.add(replace(qemu(1), argv=("/usr/bin/firecracker", "--id", "-uuid", name_of(9))))
        (vm,), _ = looked(kernel.write(tmp_path))
        assert (vm.command, vm.uuid, vm.name, vm.pmu_property, vm.qemu) == ("firecracker", None, None, None, None)
        assert vm.kernel_pmu is KernelPmu.ENABLED

    def test_several_vms_of_a_process(self, tmp_path: Path) -> None:
        kernel = Kernel()
        one = kernel.add(qemu(1, enabled=0))
        other = kernel.add(replace(qemu(1, enabled=0, vcpus=2), mm=one.mm, task=one.task))
        (tmp_path / "agree").mkdir()
        kernel.vms.pop()
        root = kernel.write(tmp_path / "agree")
        (vm,), _ = looked(root)
        assert (vm.kernel_pmu, vm.vcpus, vm.cause) == (KernelPmu.DISABLED, 3, "")
        kernel.set(other.address, "kvm.arch.enable_pmu", 1, 1)
        (vm,), _ = looked(kernel.write(tmp_path / "differ"))
        assert (vm.kernel_pmu, vm.cause) == (KernelPmu.UNKNOWN, "several-vms")

    def test_another_namespace(self, tmp_path: Path) -> None:
        kernel = Kernel()
        kernel.add(qemu(1, enabled=0))
        root = kernel.write(tmp_path)
        link = root / "proc/1/ns/pid"
        link.unlink()
        link.symlink_to("pid:[4026532000]")
        assert said(root) == [(1001, "unknown", "pid-namespace"), (None, "disabled", "pid-namespace")]

    @pytest.mark.parametrize("flag", [2, 0x80, 0xFF])
    def test_a_flag_that_is_none(self, tmp_path: Path, flag: int) -> None:
        kernel = Kernel()
        kernel.add(qemu(1, enabled=flag))
        assert said(kernel.write(tmp_path)) == [(1001, "unknown", "kernel-memory-odd")]

    def test_a_flag_that_the_parameter_rules_out(self, tmp_path: Path) -> None:
        kernel = Kernel()
        kernel.add(qemu(1, enabled=1))
        kernel.add(qemu(2, enabled=0))
        root = kernel.write(tmp_path)
        write(root, "/sys/module/kvm/parameters/enable_pmu", b"N\n")
        assert said(root) == [(1001, "unknown", "kernel-memory-odd"), (1002, "disabled", "")]

    def test_before_its_first_vcpu_it_may_still_change(self, tmp_path: Path) -> None:
        kernel = Kernel()
        kernel.add(qemu(1, vcpus=0))
        assert said(kernel.write(tmp_path)) == [(1001, "unknown", "no-vcpu-yet")]

    @pytest.mark.parametrize(
        ("path", "value", "size"),
        [
            ("kvm.mm", 0x1000, 8),
            ("kvm.mm", 0xFFFF888100000003, 8),
            ("kvm.userspace_pid", 1 << 23, 4),
            ("kvm.userspace_pid", 1002, 4),
            ("kvm.users_count", 0xC0000000, 4),
            ("kvm.created_vcpus", 0, 4),
            ("kvm.online_vcpus", 0xFFFFFFFF, 4),
            ("kvm.stats_id", b"kvm-100x", 8),
            ("kvm.stats_id", b"kvm-10011", 9),
        ],
    )
    def test_what_no_vm_looks_like(self, tmp_path: Path, path: str, value: int | bytes, size: int) -> None:
        kernel = Kernel()
        vm = kernel.add(qemu(1, enabled=0))
        kernel.set(vm.address, path, value, size)
        assert said(kernel.write(tmp_path)) == [(1001, "unknown", "not-listed"), (None, "unknown", "kernel-memory-odd")]

    def test_one_that_is_being_made(self, tmp_path: Path) -> None:
        kernel = Kernel()
        vm = kernel.add(qemu(1))
        kernel.set(vm.address, "kvm.userspace_pid", 0, 4)
        assert said(kernel.write(tmp_path)) == [(1001, "unknown", "unstable"), (None, "unknown", "unstable")]


class TestOtherKernels:
    def test_vcpus_in_a_plain_array(self, tmp_path: Path) -> None:
        kernel = Kernel(VCPUS="struct kvm_vcpu *vcpus[1024];")
        vm = kernel.add(qemu(1, vcpus=3))
        kernel.program(vm, "gp_counters.eventsel", ENABLED, vcpu=2)
        (found,), _ = looked(kernel.write(tmp_path))
        assert (found.vcpus, found.in_use) == (3, True)

    def test_no_state_of_one_vm(self, tmp_path: Path) -> None:
        kernel = Kernel(ENABLE="")
        kernel.add(qemu(1))
        assert said(kernel.write(tmp_path)) == [(1001, "unknown", "no-enable-pmu")]

    def test_a_flag_of_another_width(self, tmp_path: Path) -> None:
        kernel = Kernel(ENABLE="int enable_pmu;")
        kernel.add(qemu(1))
        assert looked(kernel.write(tmp_path))[1] == "no-offsets"

    def test_no_text_at_the_end(self, tmp_path: Path) -> None:
        kernel = Kernel(STATS="")
        kernel.add(qemu(1, enabled=0))
        assert said(kernel.write(tmp_path)) == [(1001, "disabled", "")]

    def test_types_of_another_build_give_no_answer(self, tmp_path: Path) -> None:
        kernel = Kernel()
        kernel.add(qemu(1, enabled=1))
        root = kernel.write(tmp_path)
        for filler in ("char new[8]; bool enable_pmu;", "bool enable_pmu; char new[16];"):
            write(root, "/sys/kernel/btf/vmlinux", Kernel(ENABLE=filler).types.btf)
            assert ("enabled" in str(said(root)), "disabled" in str(said(root))) == (False, False)

    def test_a_module_without_types(self, tmp_path: Path) -> None:
        kernel = Kernel()
        kernel.add(qemu(1))
        root = kernel.write(tmp_path)
        (root / "sys/kernel/btf/kvm").unlink()
        assert looked(root)[1] == "no-offsets"
        assert said(root) == [(1001, "unknown", "no-offsets")]

    def test_built_in(self, tmp_path: Path) -> None:
        kernel = Kernel()
        kernel.add(qemu(1, enabled=0))
        root = kernel.write(tmp_path)
        for name in ("sys/kernel/btf/kvm", "sys/module/kvm/initstate", "sys/module/kvm/notes/.note.gnu.build-id"):
            (root / name).unlink()
        (root / "sys/module/kvm/notes").rmdir()
        write(root, "/proc/kallsyms", (root / "proc/kallsyms").read_bytes().replace(b"\t[kvm]", b""))
        assert said(root) == [(1001, "disabled", "")]

    def test_no_variables_among_the_symbols(self, tmp_path: Path) -> None:
        kernel = Kernel()
        kernel.add(qemu(1))
        root = kernel.write(tmp_path)
        write(root, "/proc/kallsyms", (root / "proc/kallsyms").read_bytes().splitlines(keepends=True)[0])
        assert looked(root)[1] == "list-not-found"


class TestWithoutOwners:
    """A kernel without CONFIG_MEMCG: threads' ids are all there is, and must leave nothing open."""

    def two(self) -> Kernel:
        kernel = Kernel(OWNER="")
        kernel.add(qemu(1, enabled=1))
        kernel.add(qemu(2, enabled=0, thread=2222))
        return kernel

    def test_all_fits(self, tmp_path: Path) -> None:
        assert said(self.two().write(tmp_path)) == [(1001, "enabled", ""), (1002, "disabled", "")]

    def test_a_thread_is_gone(self, tmp_path: Path) -> None:
        root = self.two().write(tmp_path)
        (root / "proc/1002/task/2222").rmdir()
        assert [vm[1] for vm in said(root)[:2]] == ["unknown", "unknown"]

    def test_a_process_is_left_over(self, tmp_path: Path) -> None:
        root = self.two().write(tmp_path)
        process(root, qemu(3))
        assert [vm[1] for vm in said(root)[:3]] == ["unknown"] * 3

    def test_two_memories_in_one_process(self, tmp_path: Path) -> None:
        kernel = self.two()
        vm = kernel.vms[1]
        kernel.set(vm.address, "kvm.userspace_pid", 1001, 4)
        kernel.set(vm.address, "kvm.stats_id", b"kvm-1001\0\0")
        assert [vm[1] for vm in said(kernel.write(tmp_path))[:2]] == ["unknown", "unknown"]


class TestWhoUsesThePmu:
    @pytest.mark.parametrize(
        ("path", "value", "expected"),
        [
            ("gp_counters.eventsel", ENABLED, True),
            ("gp_counters.eventsel", ENABLED - 1, False),
            ("gp_counters.perf_event", 0xFFFF888100001000, True),
            ("fixed_counters.perf_event", 0xFFFF888100001000, True),
            ("fixed_ctr_ctrl", 0x0B0, True),
            ("fixed_ctr_ctrl", 0x888, False),  # interrupts for counters that do not count
            ("pmc_in_use", 0x3F, False),  # it has looked at its counters once
        ],
    )
    def test_is_seen_in_its_counters(self, path: str, value: int, expected: bool, tmp_path: Path) -> None:
        kernel = Kernel()
        vm = kernel.add(qemu(1, vcpus=2))
        _, _, inner = path.partition(".")
        kernel.program(vm, path, value, vcpu=1, index=2 if inner else 0)
        (found,), _ = looked(kernel.write(tmp_path))
        assert found.in_use is expected

    def test_where_the_kernel_keeps_a_map_of_what_counts(self, tmp_path: Path) -> None:
        kernel = Kernel(COUNTING="u64 pmc_counting_instructions[1];")
        kernel.program(kernel.add(qemu(1)), "pmc_counting_instructions", 2)
        (found,), _ = looked(kernel.write(tmp_path))
        assert found.in_use is True

    @pytest.mark.parametrize("vcpus", [1, 2, 64, 65, 300])
    def test_every_vcpu_is_looked_at(self, vcpus: int, tmp_path: Path) -> None:
        kernel = Kernel()
        vm = kernel.add(qemu(1, vcpus=vcpus))
        (found,), _ = looked(kernel.write(tmp_path / "idle"))
        assert (found.vcpus, found.in_use) == (vcpus, False)
        kernel.program(vm, "gp_counters.eventsel", ENABLED, vcpu=vcpus - 1, index=7)
        (found,), _ = looked(kernel.write(tmp_path / "counting"))
        assert found.in_use is True

    def test_a_vcpu_that_can_not_be_read_leaves_it_open(self, tmp_path: Path) -> None:
        kernel = Kernel()
        vm = kernel.add(qemu(1, vcpus=2))
        kernel.set(vm.vcpu[1], "kvm_vcpu.kvm", vm.address + 64)
        (found,), _ = looked(kernel.write(tmp_path / "another's"))
        assert found.in_use is None
        kernel.program(vm, "gp_counters.eventsel", ENABLED)
        (found,), _ = looked(kernel.write(tmp_path / "counting"))
        assert found.in_use is True

    @pytest.mark.parametrize("version", [1, 2, 0x80])
    def test_a_pmu_with_a_version_is_shown_to_the_guest(self, version: int, tmp_path: Path) -> None:
        kernel = Kernel()
        vm = kernel.add(qemu(1, vcpus=2))
        (found,), _ = looked(kernel.write(tmp_path / "none"))
        assert found.pmu_shown is False
        kernel.program(vm, "version", version, vcpu=1)
        (found,), _ = looked(kernel.write(tmp_path / "shown"))
        assert (found.pmu_shown, found.in_use) == (True, False)
        kernel.set(vm.vcpu[1], "kvm_vcpu.kvm", vm.address + 64)
        (found,), _ = looked(kernel.write(tmp_path / "another's"))
        assert found.pmu_shown is None

    def test_a_tree_that_goes_round_in_circles(self, tmp_path: Path) -> None:
        kernel = Kernel()
        vm = kernel.add(qemu(1, vcpus=2))
        node = kernel.xarray(vm.vcpu) - 2
        kernel.set(node, "xa_node.shift", 6, 1)
        for slot in range(64):
            kernel.set(node + 8 * slot, "xa_node.slots", node + 2)
        kernel.set(vm.address, "kvm.vcpu_array.xa_head", node + 2)
        (found,), _ = looked(kernel.write(tmp_path))
        assert (found.in_use, found.kernel_pmu) == (None, KernelPmu.ENABLED)

    def test_one_sample_of_several_is_enough(self, tmp_path: Path) -> None:
        kernel = Kernel()
        vm = kernel.add(qemu(1))
        root = Root(kernel.write(tmp_path))
        layout = Layout(Btf(kernel.types.btf))
        waited: list[float] = []

        def wait(seconds: float) -> None:
            waited.append(seconds)
            kernel.program(vm, "gp_counters.eventsel", ENABLED if len(waited) == 2 else 0)

        for samples, expected in ((2, False), (3, True), (0, None)):
            waited.clear()
            kernel.program(vm, "gp_counters.eventsel", 0)
            (found,), _ = live_vms(root, samples=samples, pause=0.004, sleep=wait, listed=KvmList(kernel, HEAD, layout))
            assert found.in_use is expected
            assert waited == [0.004] * max(samples - 1, 0)


class TestKernelMemoryIsClosed:
    @pytest.mark.parametrize(
        ("name", "cause"),
        [
            ("/proc/kallsyms", "no-kallsyms"),
            ("/proc/kcore", "no-kcore"),
            ("/sys/kernel/btf/vmlinux", "no-offsets"),
        ],
    )
    def test_the_processes_are_listed(self, name: str, cause: str, tmp_path: Path) -> None:
        kernel = Kernel()
        vm = replace(qemu(1), argv=("qemu-system-x86_64", "-uuid", name_of(1), "-cpu", "host,pmu=off"))
        kernel.add(vm)
        root = kernel.write(tmp_path)
        (root / name[1:]).unlink()
        (found,), why = looked(root)
        assert why == cause
        assert (found.pid, found.uuid, found.kernel_pmu, found.cause) == (1001, name_of(1), KernelPmu.UNKNOWN, cause)
        assert (found.pmu_property, found.in_use, found.vcpus) == (False, None, None)

    def test_no_kvm(self, tmp_path: Path) -> None:
        assert looked(tmp_path) == ((), "kvm-not-loaded")


class TestProcesses:
    def test_what_holds_no_vm_is_none(self, tmp_path: Path) -> None:
        process(tmp_path, qemu(1), fds=("/dev/kvm", "anon_inode:kvm-vcpu:0", "anon_inode:[eventfd]"))
        process(tmp_path, qemu(2), fds=("socket:[1]", "anon_inode:[kvm-vm]"))
        (tmp_path / "proc/3").mkdir()
        (tmp_path / "proc/self").symlink_to("1001")
        (tmp_path / "proc/٣").mkdir()
        assert [one.pid for one in vm_processes(Root(tmp_path))] == [1002]

    @pytest.mark.parametrize("name", ["a) S 1 2 (b", "\n", ") R 7 7 7 7 7 7 7 7 7 7 7 7 7 7 7 7 7 7 7 7 7 7 ", ""])
    def test_any_name(self, name: str, tmp_path: Path) -> None:
        process(tmp_path, qemu(1))
        write(tmp_path, "/proc/1001/stat", stat(1001, 50_001, name))
        (found,) = vm_processes(Root(tmp_path))
        assert (found.command, found.started) == (name, 50_001)

    @pytest.mark.parametrize("data", [b"", b"1001", b"1001 (qemu) S 1 2 3", b"\xff" * 9000])
    def test_a_broken_stat_is_no_process(self, data: bytes, tmp_path: Path) -> None:
        process(tmp_path, qemu(1))
        write(tmp_path, "/proc/1001/stat", data)
        assert vm_processes(Root(tmp_path)) == ()

    def test_a_fifo_for_a_file_does_not_hang(self, tmp_path: Path) -> None:
        process(tmp_path, qemu(1))
        (tmp_path / "proc/1001/cmdline").unlink()
        os.mkfifo(tmp_path / "proc/1001/cmdline")
        (found,) = vm_processes(Root(tmp_path))
        assert found.args == QemuArgs()

    def test_a_process_that_leads_out_of_the_record(self, tmp_path: Path) -> None:
        (tmp_path / "root/proc").mkdir(parents=True)
        (tmp_path / "root/proc/7").symlink_to("/proc/self")
        with pytest.raises(PmuconfError) as caught:
            looked(tmp_path / "root")
        assert caught.value.cause == "record-escapes"

    def test_our_own(self) -> None:
        """A real /proc can be read, whatever runs here."""
        assert {one.pid for one in vm_processes(Root())} <= {
            int(name) for name in os.listdir("/proc") if name.isdigit()
        }


def test_a_thousand_vms_are_told_apart(tmp_path: Path) -> None:
    kernel = Kernel(64 << 20)
    for number in range(1000):
        kernel.add(qemu(number, enabled=number % 2, vcpus=1 + number % 4))
    root = kernel.write(tmp_path)
    found, cause = looked(root, samples=3)
    assert cause == ""
    assert [(vm.uuid, vm.kernel_pmu, vm.vcpus, vm.in_use) for vm in found] == [
        (name_of(n), KernelPmu.ENABLED if n % 2 else KernelPmu.DISABLED, 1 + n % 4, False) for n in range(1000)
    ]


class World(Kernel):
    """A host whose VMs come and go at every read, in places and with process ids that are used again."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._random = random.Random(seed)
        self._places = [(self.take("kvm"), self.take("mm_struct"), self.take("task_struct")) for _ in range(8)]
        self._cpus = {place[0]: self.take("kvm_vcpu") for place in self._places}
        self._born = 0
        self.rate = 0.0
        self.true: set[tuple[str, bool]] = set()
        for _ in range(4):
            self.change()

    def change(self) -> None:
        """One VM ends, begins, gets its first vCPU, or moves to the end of the list."""
        random = self._random
        what = random.randrange(6)
        if what < 2 and len(self.vms) > 1:
            gone = self.vms.pop(random.randrange(len(self.vms)))
            self.link()
            node = gone.address + self.types.at["kvm.vm_list"]
            self.put(node, 0xDEAD000000000100)
            self.put(node + 8, 0xDEAD000000000122)
            if random.random() < 0.5:
                self.set(gone.mm, "mm_struct.owner", 0)
        elif what < 4:
            self.birth()
        elif what == 4 and self.vms:
            self.vms.append(self.vms.pop(random.randrange(len(self.vms))))
            self.link()
        else:
            for vm in self.vms:
                if not vm.vcpus:
                    vm.enabled, vm.vcpus = random.randrange(2), 1
                    self.true.add((vm.uuid, bool(vm.enabled)))
                    self.fill(vm)
                    break

    def birth(self) -> None:
        """A VM in places that others have left, with an id that others have had."""
        random = self._random
        free = [tuple(p[i] for p in self._places if p[i] not in self._used(i)) for i in range(3)]
        if not all(free):
            return
        self._born += 1
        pid = 100 + random.choice([n for n in range(9) if all(vm.pid != 100 + n for vm in self.vms)])
        address, mm, task = (random.choice(places) for places in free)
        vm = Vm(pid, 1000 + self._born, enabled=1, vcpus=random.randrange(2), uuid=name_of(self._born))
        vm.enabled = random.randrange(2) if vm.vcpus else 1
        vm.address, vm.mm, vm.task, vm.thread = address, mm, task, pid
        vm.vcpu = [self._cpus[address]]
        self.set(self._cpus[address], "kvm_vcpu.kvm", address)
        if vm.vcpus:
            self.true.add((vm.uuid, bool(vm.enabled)))
        self.add(vm)

    def _used(self, which: int) -> set[int]:
        return {(vm.address, vm.mm, vm.task)[which] for vm in self.vms}

    def read(self, address: int, size: int) -> bytes:
        """As the kernel's, but the world moves on before, after and in the middle."""
        if self._random.random() < self.rate:
            self.change()
        if size > 8 and self._random.random() < self.rate:
            cut = self._random.randrange(1, size // 8 + 1) * 8
            first = super().read(address, min(cut, size))
            self.change()
            return first + (super().read(address + cut, size - cut) if cut < size else b"")
        return super().read(address, size)

    def processes(self) -> tuple[VmProcess, ...]:
        """Those that there are now."""
        if self._random.random() < self.rate:
            self.change()
        return tuple(
            VmProcess(vm.pid, vm.started, "qemu", "", QemuArgs(vm.uuid), seen=True, threads=frozenset({vm.thread}))
            for vm in self.vms
        )


# How many of every hundred walks, at which rate of changes a read. PMUCONF_WALKS=N walks so often.
@pytest.mark.parametrize(("share", "rate"), [(50, 0.001), (35, 0.01), (12, 0.05), (2, 0.2), (1, 0.7)])
def test_a_list_that_changes_under_the_walk(share: int, rate: float, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(seed=int(rate * 1000))
    layout = Layout(Btf(world.types.btf))
    monkeypatch.setattr(vms_module, "initial_namespace", lambda root: True)
    monkeypatch.setattr(vms_module, "vm_processes", lambda root: world.processes())
    monkeypatch.setattr(vms_module, "qemu_of_process", lambda *_: None)
    monkeypatch.setattr(vms_module, "same_program", lambda *_: True)
    world.rate = rate
    known, walks = 0, WALKS * share // 100
    for _ in range(walks):
        found, cause = live_vms(Root(), samples=1, listed=KvmList(world, HEAD, layout))
        assert cause in ("", "unstable")
        for vm in found:
            if vm.uuid is not None and vm.kernel_pmu is not KernelPmu.UNKNOWN:
                assert (vm.uuid, vm.kernel_pmu is KernelPmu.ENABLED) in world.true
                known += 1
        for _ in range(3):
            world.change()
    assert known > (walks // 2 if rate < 0.1 else -1)


@settings(max_examples=300, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_garbage_for_memory(data: st.DataObject) -> None:
    kernel = Kernel()
    for number in range(3):
        kernel.add(qemu(number, enabled=number % 2, vcpus=number))
    layout = Layout(Btf(kernel.types.btf))
    edits = data.draw(st.lists(st.tuples(st.integers(0, 140_000), st.binary(min_size=1, max_size=16)), max_size=40))
    for at, new in edits:
        kernel.heap[at : at + len(new)] = new
    for vm in kernel.vms:
        for path in ("kvm.vm_list", "kvm.mm", "kvm.vcpu_array.xa_head", "kvm.online_vcpus"):
            if data.draw(st.booleans()):
                value = data.draw(st.sampled_from([0, 2, 8, vm.address, vm.mm + 2, HEAP + 2, HEAD, (1 << 64) - 8]))
                kernel.set(vm.address, path, value)
    listed = KvmList(kernel, HEAD, layout)
    with contextlib.suppress(PmuconfError):
        for one in listed.vms():
            assert listed.in_use(one) in (None, True, False)


@pytest.mark.parametrize("fill", [b"\0", b"\xff", b"\x80", b"\xff\xff\xff\xff\x81\x88\xff\xff"])
def test_memory_of_nothing(fill: bytes, tmp_path: Path) -> None:
    kernel = Kernel()
    kernel.add(qemu(1))
    root = kernel.write(tmp_path)
    kernel.head[:] = (fill * 64)[:64]
    kernel.heap[:] = (fill * len(kernel.heap))[: len(kernel.heap)]
    found, cause = live_vms(Root(root), listed=KvmList(kernel, HEAD, Layout(Btf(kernel.types.btf))))
    assert cause in ("unstable", "kernel-memory-odd")
    assert [(vm.pid, vm.kernel_pmu, vm.cause) for vm in found] == [(1001, KernelPmu.UNKNOWN, cause)]


def test_a_vm_that_the_list_no_longer_links_to_is_not_believed() -> None:
    """Its memory looks like it until it is used again."""
    kernel = Kernel()
    left = kernel.add(qemu(1))
    kernel.add(qemu(2))
    listed = KvmList(kernel, HEAD, Layout(Btf(kernel.types.btf)))
    node = left.address + kernel.types.at["kvm.vm_list"]
    assert listed._vm(node).cause == ""
    kernel.vms.remove(left)
    kernel.link()
    assert listed._vm(node).cause == "unstable"


@pytest.mark.parametrize("place", [("kvm_pmu", "fixed_ctr_ctrl"), ("kvm_pmu", "gp_counters")])
@pytest.mark.parametrize("behind", [1, 1 << 12])
def test_counters_outside_of_the_pmu_are_not_read(place: tuple[str, str], behind: int) -> None:
    """So types that are not the running kernel's can't make other memory a counter."""

    class Moved(Btf):
        def find(self, structure: str, path: str) -> Member | None:
            member = super().find(structure, path)
            return replace(member, offset=member.offset + behind) if member and (structure, path) == place else member

    kernel = Kernel()
    assert Layout(Btf(kernel.types.btf)).pmu is not None
    assert Layout(Moved(kernel.types.btf)).pmu is None
