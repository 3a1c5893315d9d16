"""The micro-VM: what its CPUID shows, what its code is, and, where there is a /dev/kvm, that it runs."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import capstone
import pytest

from pmuconf.bench.loops import DOORBELL, Exit, Loop, program
from pmuconf.host.prove import microvm
from pmuconf.host.prove.cpuid import Leaf, leaves
from pmuconf.host.prove.microvm import CODE, END, micro_vm, refused
from pmuconf.host.root import Root
from tests.unit.host.sysroot import write

needs_kvm = pytest.mark.skipif(not os.access("/dev/kvm", os.R_OK | os.W_OK), reason="needs /dev/kvm")


def vendor(name: bytes) -> Leaf:
    ebx, edx, ecx = struct.unpack("<III", name)
    return Leaf(0, 0, 0, 16, ebx, ecx, edx)


AMD = [vendor(b"AuthenticAMD"), Leaf(0x80000001, 0, 0, 1, 2, 1 << 23 | 7, 4)]
INTEL = [vendor(b"GenuineIntel"), Leaf(0xA, 0, 0, 0x07300802, 5, 0, 0x603)]


@pytest.mark.parametrize(("counters", "ecx"), [(4, 7), (6, 1 << 23 | 7), (None, 1 << 23 | 7)])
def test_amd_counters(counters: int | None, ecx: int) -> None:
    assert leaves(AMD, pmu=True, counters=counters)[1].ecx == ecx
    assert leaves(AMD, pmu=False, counters=counters)[1].ecx == ecx  # as QEMU: KVM alone takes them away


def test_without_a_pmu_intel_shows_no_capabilities_of_it() -> None:
    given = [*INTEL, Leaf(1, 0, 0, 1, 2, 1 << 15 | 1, 4)]
    assert leaves(given, pmu=False, counters=None)[2].ecx == 1
    assert leaves(given, pmu=True, counters=None) == given


def test_more_counters_than_kvm_shows_can_be_asked_for_on_amd() -> None:
    without = [AMD[0], Leaf(0x80000001, 0, 0, 1, 2, 7, 4)]
    assert leaves(without, pmu=True, counters=6)[1].ecx == 1 << 23 | 7
    assert leaves(without, pmu=True, counters=None) == without


def test_intel_counters() -> None:
    assert leaves(INTEL, pmu=True, counters=None) == INTEL
    assert leaves(INTEL, pmu=True, counters=4)[1].eax == 0x07300402
    off = leaves(INTEL, pmu=False, counters=4)[1]
    assert (off.eax, off.ebx, off.ecx, off.edx) == (0, 0, 0, 0)


@pytest.mark.parametrize(("given", "counters"), [(AMD, 5), (AMD, 8), (INTEL, 9), (INTEL, 0)])
def test_counters_that_cannot_be(given: list[Leaf], counters: int) -> None:
    with pytest.raises(ValueError, match="counters"):
        leaves(given, pmu=True, counters=counters)


def disassembled(kind: Exit, loop: Loop) -> list[str]:
    made = program(kind)
    start = made.entries[loop] - CODE
    found = []
    for one in capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64).disasm(made.code[start:], made.entries[loop]):
        found.append(f"{one.mnemonic} {one.op_str}".strip())
        if one.op_str == f"{END:#x}, al":
            break
    return found


@pytest.mark.parametrize("kind", Exit)
def test_the_loops_differ_in_the_exit_alone(kind: Exit) -> None:
    exiting, empty = disassembled(kind, Loop.EXIT), disassembled(kind, Loop.EMPTY)
    (at,) = [at for at, (one, other) in enumerate(zip(exiting, empty)) if one != other and not one.startswith("jne")]
    assert exiting[at].split()[0] == {Exit.CPUID: "cpuid", Exit.MSR: "rdmsr", Exit.PORT: "out"}[kind]
    assert empty[at] == "nop"
    assert len(exiting) == len(empty)
    assert exiting.count("rdtsc") == 2
    assert exiting[-2:] == ["sub rax, r8", f"out {END:#x}, al"]


@pytest.mark.parametrize("kind", Exit)
@pytest.mark.parametrize("loop", Loop)
def test_a_loop_jumps_back_to_its_body(kind: Exit, loop: Loop) -> None:
    code = disassembled(kind, loop)
    at = next(at for at, line in enumerate(code) if line.startswith("jne"))
    target = int(code[at].split()[1], 16)
    made = program(kind)
    body = made.code[target - CODE :]
    first = next(capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64).disasm(body, target))
    assert f"{first.mnemonic} {first.op_str}".strip() == code[code.index("mov r8, rax") + 1]
    assert code[at - 1] == "dec esi"


@needs_kvm
@pytest.mark.parametrize("local_apic", [False, True])
@pytest.mark.parametrize("kind", Exit)
def test_every_loop_ends_in_a_vm(kind: Exit, local_apic: bool) -> None:
    made = program(kind)
    doorbell = DOORBELL if kind is Exit.PORT else None
    with micro_vm(made.code, disable_pmu=False, doorbell=doorbell, local_apic=local_apic) as machine:
        for loop in Loop:
            few, many = (machine.run(made.entries[loop], turns) for turns in (2, 200))
            assert min(few, many) > 0


@needs_kvm
def test_a_port_that_nobody_hears_ends_the_run() -> None:
    made = program(Exit.PORT)
    with micro_vm(made.code, disable_pmu=False) as machine:
        with pytest.raises(OSError, match="exit reason 2"):  # KVM_EXIT_IO
            machine.run(made.entries[Loop.EXIT], 1)
        machine.run(made.entries[Loop.EMPTY], 1)


@needs_kvm
def test_the_fault_is_answered_by_skipping_it() -> None:
    # mov ecx, 0x1b; mov eax, -1; mov edx, -1; wrmsr; mov eax, 7; hlt
    code = bytes.fromhex("b91b000000 b8ffffffff baffffffff 0f30 b807000000 f4")
    with micro_vm(code, disable_pmu=False) as machine:
        assert machine.run(CODE) == 7


@needs_kvm
def test_nothing_is_left_open() -> None:
    before = sorted(os.listdir("/proc/self/fd"))
    with micro_vm(b"\xf4", disable_pmu=False, doorbell=1) as machine:
        machine.run(CODE)
    assert sorted(os.listdir("/proc/self/fd")) == before


def test_more_code_than_memory() -> None:
    with pytest.raises(ValueError, match="more code"):
        microvm._fill(bytearray(0x10000), bytes(0x8001))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("error", "flags", "cause", "words"),
    [
        (FileNotFoundError(2, "No such file"), "fpu svm", "kvm-missing", "KVM is not loaded"),
        (FileNotFoundError(2, "No such file"), "fpu vmx", "kvm-missing", "KVM is not loaded"),
        (FileNotFoundError(2, "No such file"), "fpu", "kvm-missing", "VMs are emulated here"),
        (PermissionError(13, "Permission denied"), "fpu svm", "kvm-permission", "may not be opened"),
        (OSError(12, "Cannot allocate memory"), "fpu svm", "kvm-refused", "Cannot allocate memory"),
    ],
)
def test_a_sentence_for_each_refusal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError, flags: str, cause: str, words: str
) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    write(tmp_path, "/proc/cpuinfo", f"processor\t: 0\nflags\t\t: {flags}\n".encode())
    said = refused(error, Root(tmp_path))
    assert said.cause == cause
    assert words in said.message
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert ("x86" in refused(error, Root(tmp_path)).message) == isinstance(error, FileNotFoundError)
