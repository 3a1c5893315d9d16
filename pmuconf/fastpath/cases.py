"""Every cause of a verdict on a VM's fast path: the table that says what each means. Pure."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

__all__ = ["CASES", "WANTED", "Case", "FastPath"]


class FastPath(enum.Enum):
    """Whether KVM skips the PMU's work at this VM's exits."""

    YES = "yes"
    PARTIAL = "partial"
    NO = "no"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Case:
    """One cause: its answer, the sentence for a person, and the exit status that a VM in it deserves."""

    fast_path: FastPath
    message: str
    severity: int


_YES, _PARTIAL, _NO, _UNKNOWN = FastPath.YES, FastPath.PARTIAL, FastPath.NO, FastPath.UNKNOWN

CASES: Final = {
    "no-call": Case(_YES, "this kernel does nothing for the PMU there", 0),
    "guarded-disabled": Case(_YES, "its PMU is disabled in the kernel, which asks before it counts", 0),
    "guard-in-callee": Case(_YES, "its PMU is disabled in the kernel, and the function that counts asks first", 0),
    "disabled-by-parameter": Case(_YES, "kvm.enable_pmu=N: the PMU of every VM is disabled in the kernel", 0),
    "disabled-by-default": Case(_YES, "no state is written; this QEMU disables the PMU of such a CPU model", 0),
    "migrated-in": Case(_YES, "it came by migration or restore, to a QEMU that disables its PMU in the kernel", 0),
    "early-out-disabled": Case(_YES, "its PMU is disabled in the kernel, which returns while nothing counts", 0),
    "early-out-idle": Case(_YES, "its PMU is there but counts nothing now, so the kernel returns at once", 0),
    "mediated-pmu": Case(_NO, "it has a PMU, and KVM switches the hardware's counters at its exits, idle or not", 2),
    "partial-guard": Case(_PARTIAL, "the kernel asks in one place, copies of the code elsewhere do not", 1),
    "not-x86": Case(_NO, "it is no x86 VM", 0),
    "not-kvm": Case(_NO, "KVM does not run it", 0),
    "not-running": Case(_NO, "it is not running", 0),
    "saved-image": Case(_NO, "its saved image brings another PMU state back at the next start", 1),
    "pmu-on-by-policy": Case(_NO, "it has a PMU, as the policy wants", 0),
    "pmu-kept": Case(_NO, "it has a PMU, and the policy leaves it as it is", 0),
    "undecided": Case(_NO, "it has a PMU, and the policy could not decide", 1),
    "kernel-unguarded": Case(_NO, "the kernel does the PMU's work for every VM", 2),
    "qemu-keeps-pmu": Case(_NO, "it must not have a PMU, but its QEMU leaves the PMU enabled in KVM", 2),
    "qemu-upgraded": Case(_NO, "it still runs under an older QEMU, which leaves the PMU enabled in KVM", 1),
    "qemu-did-not": Case(_NO, "its QEMU should have disabled the PMU in KVM and did not", 2),
    "transient": Case(_NO, "it is transient: only a new definition can take its PMU away", 1),
    "cpu-overridden": Case(_NO, "its <pmu> is without effect: other options of its QEMU decide about the PMU", 2),
    "next-boot-unknown": Case(_NO, "it has a PMU, and it is not known whether its next boot has one", 1),
    "drift": Case(_NO, "its next boot is not what the policy wants", 2),
    "pending-power-cycle": Case(_NO, "its next boot is right, the running guest still has a PMU", 1),
    "kernel-unknown": Case(_UNKNOWN, "it is not known what this kernel does", 1),
    "pmu-unknown": Case(_UNKNOWN, "it is not known whether its PMU is disabled in the kernel", 1),
    "depends-on-guest": Case(_UNKNOWN, "the kernel returns early only while this guest counts nothing", 1),
    "mediated-unknown": Case(_UNKNOWN, "it has a PMU, and it is not known whether KVM switches counters for it", 1),
    "remote-host": Case(_UNKNOWN, "it runs on another host, whose kernel can't be looked at from here", 1),
}
"""Every cause there is, by its code."""

WANTED: Final = ("pmu-on-by-policy", "pmu-kept")
"""The causes of a VM that is to have its PMU."""
