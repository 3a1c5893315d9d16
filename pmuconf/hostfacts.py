"""The facts of a host: its kernel, its QEMUs and its live VMs. Pure: host/ finds them, fastpath/ judges them."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

__all__ = [
    "CONTRADICTORY",
    "MAY_BE_EMULATED",
    "Copies",
    "Evidence",
    "FileId",
    "GuardFinding",
    "HostFacts",
    "KernelPmu",
    "LiveVm",
    "Qemu",
    "QemuPlace",
    "Search",
    "Thread",
    "Verdict",
    "does_to_pmu",
]


class Verdict(enum.Enum):
    """What the exit path of a kernel does for a VM whose PMU is disabled in the kernel."""

    GUARDED = "guarded"
    PARTIAL = "partial"
    EARLY_OUT = "early-out"
    NO_CALL = "no-call"
    UNGUARDED = "unguarded"
    UNKNOWN = "unknown"

    @property
    def severity(self) -> int:
        """The exit status that it deserves: 0 as wanted, 1 unknown or partial, 2 slow path."""
        if self in (Verdict.GUARDED, Verdict.EARLY_OUT, Verdict.NO_CALL):
            return 0
        return 2 if self is Verdict.UNGUARDED else 1


class Evidence(enum.Enum):
    """How a fact is known: read in the running kernel or from libvirt, inferred from other facts, or not at all."""

    OBSERVED = "observed"
    INFERRED = "inferred"
    NONE = "none"

    def weaker(self, other: Evidence) -> Evidence:
        """The evidence of a conclusion from two facts: that of the weaker one."""
        order = (Evidence.OBSERVED, Evidence.INFERRED, Evidence.NONE)
        return max(self, other, key=order.index)


class KernelPmu(enum.Enum):
    """``kvm->arch.enable_pmu`` of a VM: false is disabled."""

    ENABLED = "enabled"
    DISABLED = "disabled"
    UNKNOWN = "unknown"


CONTRADICTORY: Final = ("several-vms", "kernel-memory-odd")
"""Causes of a VM whose kernel memory contradicts itself: that is an observation, so nothing is inferred instead."""

MAY_BE_EMULATED: Final = "may-be-emulated"
"""The cause of a process whose VM of KVM could not be seen, and whose command line allows QEMU to go without KVM."""


@dataclass(frozen=True)
class Copies:
    """The functions of KVM into which the code was inlined, by what their copy does."""

    guarded: tuple[str, ...] = ()
    unguarded: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()


@dataclass(frozen=True)
class GuardFinding:
    """The verdict on a kernel, and the facts that it stands on.

    :param cause: a stable code: guard-in-caller, guard-in-callee, no-test, test-does-not-decide, kcore-refused ...
    :param instructions: the deciding instructions as text, in the order of their addresses.
    :param offset: of enable_pmu in struct kvm, in bytes; None: there is none, or it is unknown.
    :param notes: why better sources could not be used, and other remarks.
    :param protected_pmu: KVM disables the PMU of TDX guests when it creates them; None: unknown.
    """

    verdict: Verdict
    cause: str
    message: str
    evidence: Evidence = Evidence.NONE
    source: str = ""
    build_id: str | None = None
    offset: int | None = None
    offset_from: str = ""
    instructions: tuple[str, ...] = ()
    copies: Copies = field(default_factory=Copies)
    hooks: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    remedy: str = ""
    protected_pmu: bool | None = None

    @property
    def step(self) -> str:
        """The remedy as one step among others, which begin in lower case; empty if there is none."""
        return self.remedy[:1].lower() + self.remedy[1:]


@dataclass(frozen=True)
class FileId:
    """The identity of a file, by stat(2).

    :param real: its path with all symbolic links followed, as the process that opened it sees it.
    :param mtime_ns: of its contents, in nanoseconds; a copy may bring an older one along.
    :param ctime_ns: of any change of it, in nanoseconds. Only the kernel sets it: no copy and no touch(1) keeps
        an older one.
    """

    real: str
    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int


@dataclass(frozen=True)
class QemuPlace:
    """A path where libvirt looks for a QEMU, and the file that it would start there; None: there is none.

    :param cause: unreadable, if the path can't be examined.
    """

    path: str
    file: FileId | None = None
    cause: str = ""


@dataclass(frozen=True)
class Thread:
    """A thread of a process: its id, and its start in clock ticks after boot. Together they identify it."""

    number: int
    started: int


@dataclass(frozen=True)
class Search:
    """The places where one daemon of libvirt's looks for a QEMU, up to the first one that it would start.

    :param pid: the daemon as the probe sees it, with ``started`` in clock ticks after boot and some of its threads
        besides the first.
    :param namespace: that the process ids are of, as /proc/self/ns/pid names it.
    :param device: of the daemon's root directory, like ``inode``: a daemon with another root sees other files.
    :param places: in the order of the search.
    """

    pid: int
    started: int
    threads: tuple[Thread, ...]
    namespace: str | None
    device: int
    inode: int
    places: tuple[QemuPlace, ...]


@dataclass(frozen=True)
class Qemu:
    """A QEMU binary, and whether it disables the PMU in KVM (KVM_CAP_PMU_CAPABILITY) for a VM without one.

    :param path: of the file; for a process, the target of /proc/PID/exe, with " (deleted)" after an upgrade.
    :param build_id: the note in the file, for display only: anybody can write one.
    :param disables: None: unknown, and ``cause`` says why.
    :param cause: strings-in-binary, tested-build-id, proved, no-known-string, unreadable, not-qemu ...
    :param sha256: of the whole file: the identity of the binary.
    :param file: the file that was read; None: none was.
    """

    path: str
    build_id: str | None
    disables: bool | None
    cause: str
    evidence: Evidence = Evidence.NONE
    sha256: str | None = None
    file: FileId | None = None


def does_to_pmu(*, disables: bool | None) -> str:
    """What a QEMU does to the PMU in KVM, in words that follow its name.

    :param disables: as Qemu has it.
    """
    return {
        True: "disables the PMU in KVM",
        False: "leaves the PMU enabled in KVM",
        None: "may disable the PMU in KVM or not",
    }[disables]


@dataclass(frozen=True)
class LiveVm:
    """One VM of KVM, or a process that runs one.

    :param pid: of the process as the probe sees it; None: the VM's process is unknown.
    :param started: when the process started, in clock ticks after boot (/proc/PID/stat). With pid, it identifies it.
    :param uuid: of the domain, from QEMU's command line.
    :param name: of the VM, from its command line: written by others, of any length.
    :param manager: what started it, by its command line: libvirt, proxmox or kata; empty: unknown, or nobody.
    :param kernel_pmu: by kernel memory; UNKNOWN if that can't be read.
    :param cause: why it is unknown: kcore-refused, no-offsets, unstable, several-vms ...
    :param in_use: whether a vCPU had counters programmed in one of the samples; None: not read.
    :param pmu_shown: whether KVM's PMU of a vCPU has a version other than 0; None: not read.
    :param pmu_property: whether QEMU's CPU has a PMU, by its command line; None: unknown.
    :param incoming: it was started for an incoming migration or a saved state.
    :param may_be_recreated: a reset may give it another VM of KVM within the same process, as it does to
        confidential guests.
    :param tdx: it is a TDX guest; None: it may be one.
    :param started_as: the path by which ``qemu`` was started, the first word of its command line.
    :param next_qemu: the binary at that path now: the VM would start under it next.
    :param exe: the file that the process runs; None: not seen. exec(2) changes it, but not the id and the start.
    :param threads: some of its other threads: exec(2) ends all of them.
    """

    pid: int | None
    started: int | None = None
    command: str = ""
    uuid: str | None = None
    name: str | None = None
    kernel_pmu: KernelPmu = KernelPmu.UNKNOWN
    cause: str = ""
    in_use: bool | None = None
    vcpus: int | None = None
    pmu_property: bool | None = None
    incoming: bool = False
    may_be_recreated: bool = False
    tdx: bool | None = False
    pmu_shown: bool | None = None
    qemu: Qemu | None = None
    started_as: str = ""
    next_qemu: Qemu | None = None
    exe: FileId | None = None
    threads: tuple[Thread, ...] = ()
    manager: str = ""


@dataclass(frozen=True)
class HostFacts:
    """All facts of one host.

    :param enable_pmu: KVM's module parameter; None: there is none, or it can't be read.
    :param mediated_pmu: since 7.0, guests are given the hardware's counters, which KVM switches at every exit that
        leaves its inner loop; None: unknown.
    :param nmi_watchdog: it runs, and holds a counter of each CPU; None: unknown.
    :param cycles: what the guard saves per exit on a CPU like this, and whether that was measured here.
    :param cpus: how many CPUs it has, and their cycles a second together (``capacity``); None: unknown.
    :param parameters: all of KVM's modules, as kvm.enable_pmu.
    :param loads: each module of KVM and each livepatch, with an identity of this load of it.
    :param taken: when they were taken, in seconds after boot.
    :param qemus: the QEMUs with which libvirt may start a new VM here; empty: none was found.
    :param searches: where libvirt's daemons look for them.
    :param vms_cause: why ``vms`` may lack what kernel memory says; empty: all was read.
    """

    guard: GuardFinding
    boot_id: str | None = None
    kvm_build_id: str | None = None
    enable_pmu: bool | None = None
    mediated_pmu: bool | None = None
    nmi_watchdog: bool | None = None
    release: str | None = None
    cpu: str = ""
    mitigations: Mapping[str, str] = field(default_factory=dict)
    cycles: int | None = None
    measured: bool = False
    cpus: int | None = None
    capacity: int | None = None
    livepatches: tuple[str, ...] = ()
    parameters: Mapping[str, str] = field(default_factory=dict)
    loads: Mapping[str, str] = field(default_factory=dict)
    taken: int | None = None
    qemus: tuple[Qemu, ...] = ()
    searches: tuple[Search, ...] = ()
    vms: tuple[LiveVm, ...] = ()
    vms_cause: str = ""
