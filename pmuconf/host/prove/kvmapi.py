"""The calls of /dev/kvm that are made or looked for here, by their numbers in include/uapi/linux/kvm.h."""

from __future__ import annotations

from typing import Final

__all__ = [
    "CAP_PMU",
    "CAP_SPLIT_IRQCHIP",
    "CHECK_EXTENSION",
    "CREATE_VCPU",
    "CREATE_VM",
    "ENABLE_CAP",
    "EXIT_HLT",
    "EXIT_IO",
    "GET_REGS",
    "GET_SREGS",
    "GET_SUPPORTED_CPUID",
    "GET_VCPU_MMAP_SIZE",
    "IOEVENTFD",
    "IOEVENTFD_BY_PORT",
    "PMU_DISABLE",
    "RUN",
    "SET_CPUID",
    "SET_MEMORY",
    "SET_REGS",
    "SET_SREGS",
]

# Of /dev/kvm itself.
CREATE_VM: Final = 0xAE01
CHECK_EXTENSION: Final = 0xAE03
GET_VCPU_MMAP_SIZE: Final = 0xAE04
GET_SUPPORTED_CPUID: Final = 0xC008AE05

# Of a VM.
CREATE_VCPU: Final = 0xAE41
SET_MEMORY: Final = 0x4020AE46
IOEVENTFD: Final = 0x4040AE79
ENABLE_CAP: Final = 0x4068AEA3

# Of a vCPU.
RUN: Final = 0xAE80
GET_REGS: Final = 0x8090AE81
SET_REGS: Final = 0x4090AE82
GET_SREGS: Final = 0x8138AE83
SET_SREGS: Final = 0x4138AE84
SET_CPUID: Final = 0x4008AE90

CAP_PMU: Final = 212
"""KVM_CAP_PMU_CAPABILITY, with the one thing that it can do."""
PMU_DISABLE: Final = 1
CAP_SPLIT_IRQCHIP: Final = 121
"""KVM_CAP_SPLIT_IRQCHIP: the vCPUs' local APICs are in the kernel, and no other interrupt controller is."""

EXIT_IO: Final = 2
EXIT_HLT: Final = 5
"""The exit reason of a vCPU that has executed HLT."""
IOEVENTFD_BY_PORT: Final = 2
"""The flag of an eventfd that listens to an I/O port, not to an address."""
