"""A virtual machine of one page of code, made through /dev/kvm: one vCPU in 64-bit mode, no devices, no interrupts.

The numbers are those of include/uapi/linux/kvm.h and of the AMD64 manual (volume 2); no compiler is needed.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import mmap
import os
import platform
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

from pmuconf.errors import PmuconfError
from pmuconf.host.root import Root

__all__ = ["CODE", "Leaf", "MicroVm", "can_disable_pmu", "leaves", "micro_vm", "refused"]

CODE: Final = 0x8000
"""Where the code lies in the guest, and so the address of its first byte."""

_CREATE_VM, _CHECK_EXTENSION, _VCPU_MMAP_SIZE, _SUPPORTED_CPUID = 0xAE01, 0xAE03, 0xAE04, 0xC008AE05
_CREATE_VCPU, _SET_MEMORY, _IOEVENTFD, _ENABLE_CAP = 0xAE41, 0x4020AE46, 0x4040AE79, 0x4068AEA3
_RUN, _GET_REGS, _SET_REGS, _GET_SREGS, _SET_SREGS, _SET_CPUID = (
    *(0xAE80, 0x8090AE81, 0x4090AE82, 0x8138AE83, 0x4138AE84, 0x4008AE90),
)
_CAP_PMU, _PMU_DISABLE, _EXIT_HLT, _BY_PORT = 212, 1, 5, 2
_MAX_LEAVES: Final = 256

_MEMORY: Final = 0x10000
_GDT, _IDT, _TABLES, _STACK = 0x500, 0x1000, 0x2000, 0x7000
_CODE_SELECTOR, _DATA_SELECTOR = 8, 16
_GENERAL_PROTECTION: Final = 13
# What comes after a fault in an instruction of two bytes: add rsp, 8 (its error code); add qword [rsp], 2; iretq
_RESUME: Final = bytes.fromhex("4883c408 4883042402 48cf")
_HANDLER: Final = 0x600
_FEATURES, _PDCM, _INTEL_PMU, _EXTENDED, _PERFCTR_CORE = 1, 1 << 15, 0xA, 0x80000001, 1 << 23
_REAX, _RESI, _RESP, _RIP, _RFLAGS = 0, 4, 6, 16, 17


@dataclass(frozen=True)
class Leaf:
    """One answer of the CPUID instruction: struct kvm_cpuid_entry2."""

    function: int
    index: int
    flags: int
    eax: int
    ebx: int
    ecx: int
    edx: int


@dataclass(frozen=True)
class MicroVm:
    """A VM that was made and has not run yet, or has ended in HLT."""

    vcpu: int
    state: mmap.mmap

    def run(self, at: int, count: int = 0) -> int:
        """Run from the address until HLT, with ``count`` in RSI; what is in RAX then.

        :raises OSError: KVM refuses, or the guest ends in another way.
        """
        registers = [0] * 18
        registers[_RESI], registers[_RESP], registers[_RIP], registers[_RFLAGS] = count, _STACK, at, 2
        fcntl.ioctl(self.vcpu, _SET_REGS, struct.pack("<18Q", *registers))
        while True:
            try:
                fcntl.ioctl(self.vcpu, _RUN, 0)
            except InterruptedError:  # a signal that Python has handled by now
                continue
            break
        (reason,) = struct.unpack_from("<I", self.state, 8)
        if reason != _EXIT_HLT:
            raise OSError(0, f"the micro-VM ended with exit reason {reason}")
        after = bytearray(144)
        fcntl.ioctl(self.vcpu, _GET_REGS, after)
        (rax,) = struct.unpack_from("<Q", after, 8 * _REAX)
        return int(rax)


@contextlib.contextmanager
def micro_vm(
    code: bytes, *, disable_pmu: bool, counters: int | None = None, doorbell: int | None = None
) -> Iterator[MicroVm]:
    """Make a VM with this code at CODE; it is gone afterwards.

    A general protection fault of the guest skips the instruction of two bytes that made it.

    :param disable_pmu: by KVM_CAP_PMU_CAPABILITY, and take the PMU out of the guest's CPUID, as QEMU 11 does.
    :param counters: how many counters the guest's PMU is to have; None: as many as KVM gives.
    :param doorbell: an I/O port; writing a byte to it is handled in the kernel (KVM_IOEVENTFD).
    :raises OSError: KVM refuses something: no /dev/kvm, no right to it, no such capability.
    :raises ValueError: a PMU can't have so many counters.
    """
    with contextlib.ExitStack() as stack:
        kvm = _owned(stack, os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC))
        machine = _owned(stack, fcntl.ioctl(kvm, _CREATE_VM, 0))
        if disable_pmu:
            fcntl.ioctl(machine, _ENABLE_CAP, struct.pack("<II4Q64x", _CAP_PMU, 0, _PMU_DISABLE, 0, 0, 0))
        memory = stack.enter_context(mmap.mmap(-1, _MEMORY))
        _fill(memory, code)
        place = ctypes.c_char.from_buffer(memory)
        try:
            region = struct.pack("<IIQQQ", 0, 0, 0, len(memory), ctypes.addressof(place))
            fcntl.ioctl(machine, _SET_MEMORY, region)
            if doorbell is not None:
                event = _owned(stack, _eventfd())
                fcntl.ioctl(machine, _IOEVENTFD, struct.pack("<QQIiI36x", 0, doorbell, 1, event, _BY_PORT))
            vcpu = _owned(stack, fcntl.ioctl(machine, _CREATE_VCPU, 0))
            state = stack.enter_context(mmap.mmap(vcpu, fcntl.ioctl(kvm, _VCPU_MMAP_SIZE, 0)))
            _set_cpuid(vcpu, leaves(_supported(kvm), pmu=not disable_pmu, counters=counters))
            _set_long_mode(vcpu)
            yield MicroVm(vcpu, state)
        finally:
            del place  # or the memory can't be unmapped


def can_disable_pmu() -> bool:
    """Whether KVM takes KVM_CAP_PMU_CAPABILITY: Linux 5.18 and later, unless kvm.enable_pmu is N.

    :raises OSError: there is no /dev/kvm, or no right to it.
    """
    with contextlib.ExitStack() as stack:
        kvm = _owned(stack, os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC))
        return bool(fcntl.ioctl(kvm, _CHECK_EXTENSION, _CAP_PMU) & _PMU_DISABLE)


def refused(error: OSError, root: Root) -> PmuconfError:
    """Why no VM can be made here, in a sentence: kvm-missing, kvm-permission or kvm-refused."""
    if isinstance(error, PermissionError):
        hint = "Run as root, or as a member of the group kvm"
        return PmuconfError("/dev/kvm may not be opened by this user", cause="kvm-permission", hint=hint)
    if not isinstance(error, FileNotFoundError):
        return PmuconfError(f"KVM refuses to make or run a VM: {error.strerror}", cause="kvm-refused")
    if platform.machine() != "x86_64":
        return PmuconfError("there is no /dev/kvm, and this is no x86-64 host", cause="kvm-missing")
    flags = (root.text("/proc/cpuinfo") or "").partition("\nflags")[2].partition("\n")[0].split()
    if not {"svm", "vmx"} & set(flags):
        return PmuconfError(
            "there is no /dev/kvm: this CPU shows neither SVM nor VMX, so VMs are emulated here and have no such exits",
            cause="kvm-missing",
            hint="Run it on the host itself, with virtualisation enabled in the firmware",
        )
    hint = "modprobe kvm_amd, or kvm_intel"
    return PmuconfError("there is no /dev/kvm: KVM is not loaded", cause="kvm-missing", hint=hint)


def leaves(supported: list[Leaf], *, pmu: bool, counters: int | None) -> list[Leaf]:
    """The guest's CPUID: what KVM supports, with so many counters.

    AMD's PMU has four counters, or six with perfctr_core; Intel's says how many in leaf 0xA. Without a PMU, what
    Intel's shows is gone (leaf 0xA, PDCM), and AMD's is not: so QEMU makes it for pmu=off.

    :raises ValueError: a PMU of this vendor can't have so many.
    """
    vendor = next((leaf for leaf in supported if leaf.function == 0), None)
    amd = vendor is not None and struct.pack("<III", vendor.ebx, vendor.edx, vendor.ecx) in (
        *(b"AuthenticAMD", b"HygonGenuine"),
    )
    if counters is not None and amd and counters not in (4, 6):
        raise ValueError("an AMD guest's PMU has 4 or 6 counters")
    shown = []
    for leaf in supported:
        if leaf.function == _INTEL_PMU and not pmu:
            leaf = replace(leaf, eax=0, ebx=0, ecx=0, edx=0)
        elif leaf.function == _FEATURES and not pmu:
            leaf = replace(leaf, ecx=leaf.ecx & ~_PDCM)
        elif leaf.function == _INTEL_PMU and counters is not None and not amd:
            if not 1 <= counters <= leaf.eax >> 8 & 0xFF:
                raise ValueError(f"KVM gives an Intel guest's PMU 1 to {leaf.eax >> 8 & 0xFF} counters here")
            leaf = replace(leaf, eax=leaf.eax & ~0xFF00 | counters << 8)
        elif leaf.function == _EXTENDED and counters is not None and amd:
            leaf = replace(leaf, ecx=leaf.ecx & ~_PERFCTR_CORE | (_PERFCTR_CORE if counters == 6 else 0))
        shown.append(leaf)
    return shown


def _owned(stack: contextlib.ExitStack, descriptor: int) -> int:
    stack.callback(os.close, descriptor)
    return descriptor


def _eventfd() -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = int(libc.eventfd(0, os.O_CLOEXEC))  # os.eventfd() is there since Python 3.10
    if descriptor < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return descriptor


def _supported(kvm: int) -> list[Leaf]:
    data = bytearray(8 + 40 * _MAX_LEAVES)
    struct.pack_into("<I", data, 0, _MAX_LEAVES)
    fcntl.ioctl(kvm, _SUPPORTED_CPUID, data)
    (number,) = struct.unpack_from("<I", data, 0)
    return [Leaf(*struct.unpack_from("<7I", data, 8 + 40 * at)) for at in range(number)]


def _set_cpuid(vcpu: int, shown: list[Leaf]) -> None:
    data = bytearray(struct.pack("<II", len(shown), 0))
    for leaf in shown:
        data += struct.pack("<7I12x", leaf.function, leaf.index, leaf.flags, leaf.eax, leaf.ebx, leaf.ecx, leaf.edx)
    fcntl.ioctl(vcpu, _SET_CPUID, data)


def _fill(memory: mmap.mmap, code: bytes) -> None:
    if CODE + len(code) > len(memory):
        raise ValueError("more code than the micro-VM has memory")
    # Flat 64-bit code and data; a gate for the fault; three tables that map the first 2 MiB onto themselves.
    memory[_GDT : _GDT + 24] = struct.pack("<3Q", 0, 0x00AF9B000000FFFF, 0x00CF93000000FFFF)
    gate = _IDT + 16 * _GENERAL_PROTECTION
    memory[gate : gate + 16] = struct.pack("<HHBBHII", _HANDLER, _CODE_SELECTOR, 0, 0x8E, 0, 0, 0)
    memory[_HANDLER : _HANDLER + len(_RESUME)] = _RESUME
    for at, entry in enumerate((_TABLES + 0x1007, _TABLES + 0x2007, 0x87)):
        memory[_TABLES + 0x1000 * at : _TABLES + 0x1000 * at + 8] = struct.pack("<Q", entry)
    memory[CODE : CODE + len(code)] = code


def _set_long_mode(vcpu: int) -> None:
    """struct kvm_sregs: eight segments of 24 bytes (cs ds es fs gs ss tr ldt), gdt, idt, cr0 cr2 cr3 cr4 cr8, efer."""
    sregs = bytearray(312)
    fcntl.ioctl(vcpu, _GET_SREGS, sregs)

    def segment(number: int, selector: int, kind: int, *, long: int) -> None:
        # base, limit, selector, type, present, dpl, db, s, l, g, avl, unusable
        values = (0, 0xFFFFFFFF, selector, kind, 1, 0, 1 - long, 1, long, 1, 0, 0, 0)
        struct.pack_into("<QIH10B", sregs, 24 * number, *values)

    segment(0, _CODE_SELECTOR, 11, long=1)
    for number in range(1, 6):
        segment(number, _DATA_SELECTOR, 3, long=0)
    struct.pack_into("<QH", sregs, 192, _GDT, 23)
    struct.pack_into("<QH", sregs, 208, _IDT, 16 * (_GENERAL_PROTECTION + 1) - 1)
    # cr0: paging, ET, protection; cr4: PAE; efer: long mode enabled and active
    struct.pack_into("<6Q", sregs, 224, 0x80000011, 0, _TABLES, 0x20, 0, 0x500)
    fcntl.ioctl(vcpu, _SET_SREGS, bytes(sregs))
