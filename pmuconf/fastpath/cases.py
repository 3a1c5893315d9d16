"""Every cause of a verdict on a VM's fast path: the table that says what each means. Pure."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

__all__ = ["CASES", "WANTED", "Basis", "Case", "FastPath", "RemedyKind"]


class FastPath(enum.Enum):
    """Whether KVM skips the PMU's work at this VM's exits."""

    YES = "yes"
    PARTIAL = "partial"
    NO = "no"
    UNKNOWN = "unknown"


class Basis(enum.Enum):
    """The facts that a verdict stands on; its evidence is that of the weakest of them."""

    LIBVIRT = "what libvirt says, which is observed"
    KERNEL = "the verdict on the kernel"
    PMU = "the VM's PMU in the kernel"
    BOTH = "the verdict on the kernel and the VM's PMU in the kernel"
    NOTHING = "nothing: it is unknown"


class RemedyKind(enum.Enum):
    """What has to be done about a cause; pmuconf.audit.remedy has the words for each.

    The kinds that begin with NONE need nothing: their value is the reason.
    """

    NONE_FAST = "it has the fast path"
    NONE_OUTSIDE = "there are no exits of an x86 guest that KVM runs"
    NONE_WANTED = "it has the PMU that the policy wants or leaves to it"
    APPLY = "write the state that the policy wants"
    EXPLAIN = "see what the policy lacks"
    FIND_OUT = "find out what KVM holds"
    IMAGE = "give up the saved image"
    KERNEL = "another kernel, or a look at this one"
    OPTIONS = "take out the options that decide about the PMU"
    OPTIONS_UNKNOWN = "take out the options that may decide about the PMU"
    PMU_CERTAIN = "a PMU that is off makes the verdict certain"
    PMU_OFF = "its PMU must be off in KVM"
    POWER_CYCLE = "a new start"
    QEMU = "another QEMU"
    READ_PARAMETER = "read a parameter of KVM"
    REDEFINE = "a new definition by the tool that starts it"
    RUN_THERE = "run pmuconf on its host"
    WRITE = "write what is so by default"

    @property
    def needless(self) -> bool:
        """Whether nothing has to be done."""
        return self.name.startswith("NONE_")


@dataclass(frozen=True)
class Case:
    """One cause.

    :param message: the sentence for a person.
    :param severity: the exit status that a VM in this case deserves.
    :param basis: the facts whose evidence the verdict has.
    :param remedies: what has to be done about it, in this order.
    """

    fast_path: FastPath
    message: str
    severity: int
    basis: Basis
    remedies: tuple[RemedyKind, ...]


def _yes(message: str, basis: Basis = Basis.BOTH, remedy: RemedyKind = RemedyKind.NONE_FAST) -> Case:
    return Case(FastPath.YES, message, 0, basis, (remedy,))


def _outside(message: str, severity: int = 0, remedy: RemedyKind = RemedyKind.NONE_OUTSIDE) -> Case:
    return Case(FastPath.NO, message, severity, Basis.LIBVIRT, (remedy,))


def _no(message: str, severity: int, remedy: RemedyKind, basis: Basis = Basis.BOTH) -> Case:
    return Case(FastPath.NO, message, severity, basis, (remedy,))


def _unknown(message: str, *remedies: RemedyKind) -> Case:
    return Case(FastPath.UNKNOWN, message, 1, Basis.NOTHING, remedies)


CASES: Final = {
    "no-call": _yes("this kernel does nothing for the PMU there", Basis.KERNEL),
    "guarded-disabled": _yes("its PMU is disabled in the kernel, which asks before it counts"),
    "guard-in-callee": _yes("its PMU is disabled in the kernel, and the function that counts asks first"),
    "disabled-by-parameter": _yes("kvm.enable_pmu=N: the PMU of every VM is disabled in the kernel"),
    "disabled-by-default": _yes(
        "no state is written; this QEMU disables the PMU of such a CPU model", remedy=RemedyKind.WRITE
    ),
    "migrated-in": _yes("it came by migration or restore, to a QEMU that disables its PMU in the kernel"),
    "early-out-disabled": _yes("its PMU is disabled in the kernel, which returns while nothing counts"),
    "early-out-idle": _yes("its PMU is there but counts nothing now, so the kernel returns at once", Basis.KERNEL),
    "mediated-pmu": _no(
        "it has a PMU, and KVM switches the hardware's counters at its exits, idle or not",
        2,
        RemedyKind.PMU_OFF,
        Basis.PMU,
    ),
    "partial-guard": Case(
        FastPath.PARTIAL,
        "the kernel asks in one place, copies of the code elsewhere do not",
        1,
        Basis.BOTH,
        (RemedyKind.KERNEL,),
    ),
    "not-x86": _outside("it is no x86 VM"),
    "not-kvm": _outside("KVM does not run it"),
    "not-running": _outside("it is not running"),
    "saved-image": _outside("its saved image brings another PMU state back at the next start", 1, RemedyKind.IMAGE),
    "pmu-on-by-policy": _no("it has a PMU, as the policy wants", 0, RemedyKind.NONE_WANTED),
    "pmu-kept": _no("it has a PMU, and the policy leaves it as it is", 0, RemedyKind.NONE_WANTED),
    "undecided": _no("it has a PMU, and the policy could not decide", 1, RemedyKind.EXPLAIN),
    "kernel-unguarded": _no("the kernel does the PMU's work for every VM", 2, RemedyKind.KERNEL, Basis.KERNEL),
    "qemu-keeps-pmu": _no("it must not have a PMU, but its QEMU leaves the PMU enabled in KVM", 2, RemedyKind.QEMU),
    "qemu-upgraded": _no(
        "it still runs under an older QEMU, which leaves the PMU enabled in KVM", 1, RemedyKind.POWER_CYCLE
    ),
    "qemu-did-not": _no("its QEMU should have disabled the PMU in KVM and did not", 2, RemedyKind.POWER_CYCLE),
    "transient": _no("it is transient: only a new definition can take its PMU away", 1, RemedyKind.REDEFINE),
    "cpu-overridden": _no(
        "its <pmu> is without effect: other options of its QEMU decide about the PMU", 2, RemedyKind.OPTIONS
    ),
    "next-boot-unknown": _no(
        "it has a PMU, and it is not known whether its next boot has one", 1, RemedyKind.OPTIONS_UNKNOWN
    ),
    "drift": _no("its next boot is not what the policy wants", 2, RemedyKind.APPLY),
    "pending-power-cycle": _no("its next boot is right, the running guest still has a PMU", 1, RemedyKind.POWER_CYCLE),
    "kernel-unknown": _unknown("it is not known what this kernel does", RemedyKind.KERNEL),
    "pmu-unknown": _unknown("it is not known whether its PMU is disabled in the kernel", RemedyKind.FIND_OUT),
    "depends-on-guest": _unknown(
        "the kernel returns early only while this guest counts nothing", RemedyKind.PMU_CERTAIN
    ),
    "mediated-unknown": _unknown(
        "it has a PMU, and it is not known whether KVM switches counters for it",
        RemedyKind.READ_PARAMETER,
        RemedyKind.PMU_CERTAIN,
    ),
    "remote-host": _unknown("it runs on another host, whose kernel can't be looked at from here", RemedyKind.RUN_THERE),
}
"""Every cause there is, by its code."""

WANTED: Final = ("pmu-on-by-policy", "pmu-kept")
"""The causes of a VM that is to have its PMU."""
