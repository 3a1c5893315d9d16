"""A virtual machine of one page of code, made through /dev/kvm: one vCPU in 64-bit mode, no devices, no interrupts.

The numbers of the machine's state are those of the AMD64 manual, volume 2. No compiler is needed.
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
from dataclasses import dataclass
from typing import Final

from pmuconf.errors import PmuconfError
from pmuconf.host.prove import kvmapi
from pmuconf.host.prove.cpuid import leaves, set_cpuid, supported
from pmuconf.host.root import Root

__all__ = ["CODE", "END", "MicroVm", "can_disable_pmu", "micro_vm", "no_capability", "refused"]

CODE: Final = 0x8000
"""The address of the code in the guest."""
END: Final = 0xF4
"""The port to which a guest writes a byte to end its run. HLT ends it too, but not with a local APIC in the kernel."""

# The guest's memory: where its tables are, and where its stack ends.
_MEMORY: Final = 0x10000
_GDT: Final = 0x500
_HANDLER: Final = 0x600
_IDT: Final = 0x1000
_TABLES: Final = 0x2000
_STACK: Final = 0x7000

_CODE_SELECTOR: Final = 8
_DATA_SELECTOR: Final = 16
_CODE_SEGMENT: Final = 11  # execute, read, accessed
_DATA_SEGMENT: Final = 3  # read, write, accessed
_GENERAL_PROTECTION: Final = 13
# What comes after a fault in an instruction of two bytes: add rsp, 8 (its error code); add qword [rsp], 2; iretq
_RESUME: Final = bytes.fromhex("4883c408 4883042402 48cf")

_REGISTERS: Final = struct.Struct("<18Q")
"""struct kvm_regs, in the order of the numbers that follow."""
_RAX, _RSI, _RSP, _RIP, _RFLAGS = 0, 4, 6, 16, 17
_NO_FLAGS: Final = 2  # a bit that is always set
_EXIT_REASON, _EXIT_PORT = 8, 34
"""The offsets of the exit reason, and of the port of an exit for port I/O, in struct kvm_run."""
_PINS: Final = 24


@dataclass(frozen=True)
class MicroVm:
    """A VM that was made and has not run yet, or has ended."""

    vcpu: int
    state: mmap.mmap

    def run(self, at: int, count: int = 0) -> int:
        """Run from this address until HLT, or a write to END: the value of RAX then.

        :param count: the value of RSI at the start.
        :raises OSError: KVM refuses, or the guest ends in another way.
        """
        registers = [0] * 18
        registers[_RSI], registers[_RSP], registers[_RIP], registers[_RFLAGS] = count, _STACK, at, _NO_FLAGS
        fcntl.ioctl(self.vcpu, kvmapi.SET_REGS, _REGISTERS.pack(*registers))
        self._run()
        (reason,) = struct.unpack_from("<I", self.state, _EXIT_REASON)
        (port,) = struct.unpack_from("<H", self.state, _EXIT_PORT)
        if reason != kvmapi.EXIT_HLT and (reason, port) != (kvmapi.EXIT_IO, END):
            raise OSError(0, f"the micro-VM ended with exit reason {reason}")
        after = bytearray(_REGISTERS.size)
        fcntl.ioctl(self.vcpu, kvmapi.GET_REGS, after)
        return int(_REGISTERS.unpack(after)[_RAX])

    def _run(self) -> None:
        while True:
            try:
                fcntl.ioctl(self.vcpu, kvmapi.RUN, 0)
            except InterruptedError:  # a signal that Python has handled by now
                continue
            return


@contextlib.contextmanager
def micro_vm(
    code: bytes,
    *,
    disable_pmu: bool,
    counters: int | None = None,
    doorbell: int | None = None,
    local_apic: bool = False,
) -> Iterator[MicroVm]:
    """Make a VM with this code at CODE; it is gone afterwards.

    A general protection fault of the guest skips the instruction of two bytes that made it.

    :param disable_pmu: by KVM_CAP_PMU_CAPABILITY, and take the PMU out of the guest's CPUID, as QEMU 11 does.
    :param counters: the number of counters of the guest's PMU; None: as many as KVM gives.
    :param doorbell: an I/O port; writing a byte to it is handled in the kernel (KVM_IOEVENTFD).
    :param local_apic: the vCPU's local APIC is in the kernel. Without one, KVM gives a VM no mediated PMU, and disables
        its PMU (kvm_arch_vcpu_precreate() of Linux 7.0).
    :raises OSError: KVM refuses something: no /dev/kvm, no right to it, no such capability.
    :raises ValueError: a PMU can't have so many counters.
    """
    # KVM allows the capability only before the first vCPU, so it comes directly after the VM.
    with contextlib.ExitStack() as stack:
        kvm = _owned(stack, os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC))
        vm = _owned(stack, fcntl.ioctl(kvm, kvmapi.CREATE_VM, 0))
        if disable_pmu:
            _enable(vm, kvmapi.CAP_PMU, kvmapi.PMU_DISABLE)
        memory = stack.enter_context(mmap.mmap(-1, _MEMORY))
        _fill(memory, code)
        memory_start = ctypes.c_char.from_buffer(memory)
        try:
            _set_memory(vm, ctypes.addressof(memory_start), len(memory))
            if local_apic:
                _enable(vm, kvmapi.CAP_SPLIT_IRQCHIP, _PINS)
            if doorbell is not None:
                _listen(vm, doorbell, _owned(stack, _eventfd()))
            vcpu = _owned(stack, fcntl.ioctl(vm, kvmapi.CREATE_VCPU, 0))
            state = stack.enter_context(mmap.mmap(vcpu, fcntl.ioctl(kvm, kvmapi.GET_VCPU_MMAP_SIZE, 0)))
            set_cpuid(vcpu, leaves(supported(kvm), pmu=not disable_pmu, counters=counters))
            _set_long_mode(vcpu)
            yield MicroVm(vcpu, state)
        finally:
            del memory_start  # or the memory can't be unmapped


def can_disable_pmu() -> bool:
    """Whether KVM has KVM_CAP_PMU_CAPABILITY: Linux 5.18 and later, unless kvm.enable_pmu is N.

    :raises OSError: there is no /dev/kvm, or no right to it.
    """
    with contextlib.ExitStack() as stack:
        kvm = _owned(stack, os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC))
        return bool(fcntl.ioctl(kvm, kvmapi.CHECK_EXTENSION, kvmapi.CAP_PMU) & kvmapi.PMU_DISABLE)


def no_capability() -> PmuconfError:
    """That this KVM can't disable the PMU of a VM, as an error: pmu-capability-refused."""
    return PmuconfError(
        "this KVM has no KVM_CAP_PMU_CAPABILITY, so it can't disable the PMU of a VM",
        cause="pmu-capability-refused",
        hint="It is there since Linux 5.18",
    )


def refused(error: OSError, root: Root) -> PmuconfError:
    """The reason why no VM can be made here, as an error: kvm-missing, kvm-permission or kvm-refused."""
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


def _owned(stack: contextlib.ExitStack, descriptor: int) -> int:
    """The same descriptor, which the stack closes."""
    stack.callback(os.close, descriptor)
    return descriptor


def _eventfd() -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = int(libc.eventfd(0, os.O_CLOEXEC))  # os.eventfd() is there since Python 3.10
    if descriptor < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return descriptor


def _enable(vm: int, capability: int, argument: int) -> None:
    # struct kvm_enable_cap: the capability, flags, four arguments, padding
    fcntl.ioctl(vm, kvmapi.ENABLE_CAP, struct.pack("<II4Q64x", capability, 0, argument, 0, 0, 0))


def _set_memory(vm: int, address: int, size: int) -> None:
    # struct kvm_userspace_memory_region: slot, flags, guest's address, size, our address
    fcntl.ioctl(vm, kvmapi.SET_MEMORY, struct.pack("<IIQQQ", 0, 0, 0, size, address))


def _listen(vm: int, port: int, event: int) -> None:
    # struct kvm_ioeventfd: a value to match, the port, bytes, the eventfd, flags, padding
    fcntl.ioctl(vm, kvmapi.IOEVENTFD, struct.pack("<QQIiI36x", 0, port, 1, event, kvmapi.IOEVENTFD_BY_PORT))


def _fill(memory: mmap.mmap, code: bytes) -> None:
    """Write the guest's tables, the handler of its fault, and its code."""
    if CODE + len(code) > len(memory):
        raise ValueError("more code than the micro-VM has memory")
    # The segments: none, flat 64-bit code, flat data.
    memory[_GDT : _GDT + 24] = struct.pack("<3Q", 0, 0x00AF9B000000FFFF, 0x00CF93000000FFFF)
    gate = _IDT + 16 * _GENERAL_PROTECTION
    memory[gate : gate + 16] = struct.pack("<HHBBHII", _HANDLER, _CODE_SELECTOR, 0, 0x8E, 0, 0, 0)
    memory[_HANDLER : _HANDLER + len(_RESUME)] = _RESUME
    # Three page tables, which map the first 2 MiB onto themselves.
    for number, entry in enumerate((_TABLES + 0x1007, _TABLES + 0x2007, 0x87)):
        table = _TABLES + 0x1000 * number
        memory[table : table + 8] = struct.pack("<Q", entry)
    memory[CODE : CODE + len(code)] = code


def _set_long_mode(vcpu: int) -> None:
    """Put the vCPU into 64-bit mode, with the tables that _fill() has written.

    struct kvm_sregs has eight segments of 24 bytes (cs ds es fs gs ss tr ldt), gdt, idt, cr0 cr2 cr3 cr4 cr8, efer.
    """
    sregs = bytearray(312)
    fcntl.ioctl(vcpu, kvmapi.GET_SREGS, sregs)

    def segment(number: int, selector: int, kind: int, *, long: int) -> None:
        # base, limit, selector, type, present, dpl, db, s, l, g, avl, unusable
        values = (0, 0xFFFFFFFF, selector, kind, 1, 0, 1 - long, 1, long, 1, 0, 0, 0)
        struct.pack_into("<QIH10B", sregs, 24 * number, *values)

    segment(0, _CODE_SELECTOR, _CODE_SEGMENT, long=1)
    for number in range(1, 6):
        segment(number, _DATA_SELECTOR, _DATA_SEGMENT, long=0)
    struct.pack_into("<QH", sregs, 192, _GDT, 23)
    struct.pack_into("<QH", sregs, 208, _IDT, 16 * (_GENERAL_PROTECTION + 1) - 1)
    # cr0: paging, ET, protection; cr4: PAE; efer: long mode enabled and active
    struct.pack_into("<6Q", sregs, 224, 0x80000011, 0, _TABLES, 0x20, 0, 0x500)
    fcntl.ioctl(vcpu, kvmapi.SET_SREGS, bytes(sregs))
