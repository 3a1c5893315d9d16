"""The guest's CPUID: what KVM supports, and what a guest with or without a PMU is shown of it."""

from __future__ import annotations

import fcntl
import struct
from dataclasses import dataclass, replace
from typing import Final

from pmuconf.host.prove.kvmapi import GET_SUPPORTED_CPUID, SET_CPUID

__all__ = ["Leaf", "leaves", "set_cpuid", "supported"]

_MAX_LEAVES: Final = 256
_HEAD: Final = struct.Struct("<II")
"""struct kvm_cpuid2: the number of entries, and padding."""
_ENTRY: Final = struct.Struct("<7I12x")
"""struct kvm_cpuid_entry2."""

_VENDOR: Final = 0
_FEATURES: Final = 1
_PDCM: Final = 1 << 15
_INTEL_PMU: Final = 0xA
_AMD_EXTENDED: Final = 0x80000001
_PERFCTR_CORE: Final = 1 << 23
_AMD_NAMES: Final = (b"AuthenticAMD", b"HygonGenuine")
_AMD_COUNTERS: Final = (4, 6)
"""The number of counters of AMD's PMU: without perfctr_core, and with it."""


@dataclass(frozen=True)
class Leaf:
    """One answer of the CPUID instruction."""

    function: int
    index: int
    flags: int
    eax: int
    ebx: int
    ecx: int
    edx: int


def supported(kvm: int) -> list[Leaf]:
    """The leaves that KVM supports on this host.

    :param kvm: a descriptor of /dev/kvm.
    :raises OSError: KVM refuses.
    """
    data = bytearray(_HEAD.size + _ENTRY.size * _MAX_LEAVES)
    _HEAD.pack_into(data, 0, _MAX_LEAVES, 0)
    fcntl.ioctl(kvm, GET_SUPPORTED_CPUID, data)
    number, _ = _HEAD.unpack_from(data)
    return [Leaf(*_ENTRY.unpack_from(data, _HEAD.size + _ENTRY.size * at)) for at in range(number)]


def set_cpuid(vcpu: int, shown: list[Leaf]) -> None:
    """Give a vCPU these leaves.

    :raises OSError: KVM refuses.
    """
    data = bytearray(_HEAD.pack(len(shown), 0))
    for leaf in shown:
        data += _ENTRY.pack(leaf.function, leaf.index, leaf.flags, leaf.eax, leaf.ebx, leaf.ecx, leaf.edx)
    fcntl.ioctl(vcpu, SET_CPUID, data)


def leaves(of_kvm: list[Leaf], *, pmu: bool, counters: int | None) -> list[Leaf]:
    """The leaves that a guest is shown.

    Without a PMU, Intel's leaves of it are gone (leaf 0xA, PDCM), and AMD's stay: QEMU does the same for pmu=off.

    :param of_kvm: the leaves that KVM supports.
    :param counters: the number of counters of the guest's PMU; None: as many as KVM gives. AMD's has four, or six with
        perfctr_core; Intel's says in leaf 0xA how many.
    :raises ValueError: a PMU of this vendor can't have so many.
    """
    amd = _is_amd(of_kvm)
    if amd and counters is not None and counters not in _AMD_COUNTERS:
        raise ValueError("an AMD guest's PMU has 4 or 6 counters")
    return [_shown(leaf, amd=amd, pmu=pmu, counters=counters) for leaf in of_kvm]


def _is_amd(of_kvm: list[Leaf]) -> bool:
    vendors = [struct.pack("<III", leaf.ebx, leaf.edx, leaf.ecx) for leaf in of_kvm if leaf.function == _VENDOR]
    return bool(vendors) and vendors[0] in _AMD_NAMES


def _shown(leaf: Leaf, *, amd: bool, pmu: bool, counters: int | None) -> Leaf:
    """One leaf as the guest is shown it."""
    if leaf.function == _INTEL_PMU and not pmu:
        return replace(leaf, eax=0, ebx=0, ecx=0, edx=0)
    if leaf.function == _FEATURES and not pmu:
        return replace(leaf, ecx=leaf.ecx & ~_PDCM)
    if leaf.function == _INTEL_PMU and not amd and counters is not None:
        return _with_intel_counters(leaf, counters)
    if leaf.function == _AMD_EXTENDED and amd and counters is not None:
        six = counters == max(_AMD_COUNTERS)
        return replace(leaf, ecx=leaf.ecx & ~_PERFCTR_CORE | (_PERFCTR_CORE if six else 0))
    return leaf


def _with_intel_counters(leaf: Leaf, counters: int) -> Leaf:
    most = leaf.eax >> 8 & 0xFF
    if not 1 <= counters <= most:
        raise ValueError(f"KVM gives an Intel guest's PMU 1 to {most} counters here")
    return replace(leaf, eax=leaf.eax & ~0xFF00 | counters << 8)
