"""What a host's kernel, its QEMUs and its live VMs were found to be. Pure: host/ finds it, fastpath judges it."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

__all__ = [
    "CONTRADICTORY",
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
    "Verdict",
]


class Verdict(enum.Enum):
    """What this kernel's exit path does for a VM whose PMU is disabled in the kernel."""

    GUARDED = "guarded"
    PARTIAL = "partial"
    EARLY_OUT = "early-out"
    NO_CALL = "no-call"
    UNGUARDED = "unguarded"
    UNKNOWN = "unknown"

    @property
    def severity(self) -> int:
        """The exit status that it becomes: 0 as wanted, 1 can't be known or partly, 2 slow path."""
        if self in (Verdict.GUARDED, Verdict.EARLY_OUT, Verdict.NO_CALL):
            return 0
        return 2 if self is Verdict.UNGUARDED else 1


class Evidence(enum.Enum):
    """How something is known: read in the running kernel, concluded from something else, or not at all."""

    OBSERVED = "observed"
    INFERRED = "inferred"
    NONE = "none"

    def weaker(self, other: Evidence) -> Evidence:
        """The evidence of what stands on both."""
        order = (Evidence.OBSERVED, Evidence.INFERRED, Evidence.NONE)
        return max(self, other, key=order.index)


class KernelPmu(enum.Enum):
    """``kvm->arch.enable_pmu`` of a VM: false is disabled."""

    ENABLED = "enabled"
    DISABLED = "disabled"
    UNKNOWN = "unknown"


CONTRADICTORY: Final = ("several-vms", "kernel-memory-odd")
"""Causes of a VM whose kernel memory was read and does not say one thing: an observation, which outranks inference."""


@dataclass(frozen=True)
class Copies:
    """Functions of KVM that the code was inlined into, by what their copy does."""

    guarded: tuple[str, ...] = ()
    unguarded: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()


@dataclass(frozen=True)
class GuardFinding:
    """The verdict on a kernel and all that it stands on.

    :param cause: a stable code: guard-in-caller, guard-in-callee, no-test, test-does-not-decide, kcore-refused ...
    :param instructions: the deciding instructions, as text, in the order of their addresses.
    :param offset: of enable_pmu in struct kvm, in bytes; None if there is none or it is not known.
    :param notes: why better sources were not to be had, and what else is worth knowing.
    :param protected_pmu: KVM here disables the PMU of TDX guests when it makes them; None: not known.
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


@dataclass(frozen=True)
class FileId:
    """The identity of a file, by stat(2).

    :param real: its path with all symbolic links followed, as whoever opened it sees it.
    :param mtime_ns: of its contents, in nanoseconds; a copy may bring an older one along.
    :param ctime_ns: of any change of it, in nanoseconds, set by the kernel: no copy and no touch(1) brings one along.
    """

    real: str
    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int


@dataclass(frozen=True)
class QemuPlace:
    """A path where libvirt looks for a QEMU, and the file that it would start from there; None: there is none.

    :param cause: unreadable, if it can't be seen what is there.
    """

    path: str
    file: FileId | None = None
    cause: str = ""


@dataclass(frozen=True)
class Search:
    """Where one daemon of libvirt's looks for a QEMU, as far as it gets, and what was there.

    :param pid: the daemon as the probe sees it, with ``started`` in clock ticks after boot and some of its threads
        (as LiveVm has them).
    :param namespace: that the process ids are of, as /proc/self/ns/pid names it.
    :param device: of the daemon's root directory, as ``inode``: whose root is another sees other files.
    :param places: in the order of the search.
    """

    pid: int
    started: int
    threads: tuple[str, ...]
    namespace: str | None
    device: int
    inode: int
    places: tuple[QemuPlace, ...]


@dataclass(frozen=True)
class Qemu:
    """A QEMU binary, and whether it disables the PMU in KVM (KVM_CAP_PMU_CAPABILITY) for a VM that is to have none.

    :param path: where it was found; of a process, what /proc/PID/exe leads to, with " (deleted)" after an upgrade.
    :param build_id: the note in the file. Anybody can write one, so it is only shown.
    :param disables: None: it can't be said, and ``cause`` says why.
    :param cause: strings-in-binary, tested-build-id, proved, no-known-string, unreadable, not-qemu ...
    :param sha256: of the whole file: the identity of the binary.
    :param file: which file was read; None if none was.
    """

    path: str
    build_id: str | None
    disables: bool | None
    cause: str
    evidence: Evidence = Evidence.NONE
    sha256: str | None = None
    file: FileId | None = None


@dataclass(frozen=True)
class LiveVm:
    """One VM that KVM holds, or a process that runs one.

    :param pid: of the process as the probe sees it; None if the VM could not be given to any.
    :param started: the process's start, in clock ticks after boot (/proc/PID/stat): with pid, who it is.
    :param uuid: of the domain, from QEMU's command line.
    :param kernel_pmu: what kernel memory says; UNKNOWN where that can't be read.
    :param cause: why it is unknown: kcore-refused, no-offsets, unstable, several-vms ...
    :param in_use: whether any vCPU had counters programmed in one of the samples; None: not read.
    :param pmu_shown: whether KVM's PMU of any vCPU has a version other than 0; None: not read.
    :param pmu_property: whether QEMU's CPU has a PMU, from its command line; None: can't be said.
    :param incoming: it was started to take a migration or a saved state in.
    :param may_be_recreated: a reset may give it another VM of KVM within the same process, as it does to
        confidential guests.
    :param tdx: it is a TDX guest; None: it may be one.
    :param started_as: the path by which ``qemu`` was started, the first word of its command line.
    :param next_qemu: the binary to which that path leads now: under it, the VM would start next.
    :param exe: the file that the process runs; None: not seen. exec(2) changes it, but neither its id nor its start.
    :param threads: some of its other threads, each as "ID START": exec(2) ends all of them.
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
    threads: tuple[str, ...] = ()


@dataclass(frozen=True)
class HostFacts:
    """All that was found of one host.

    :param enable_pmu: KVM's module parameter; None if there is none.
    :param mediated_pmu: since 7.0, guests are given the hardware's counters, which KVM switches at every exit that
        leaves its inner loop; None: not known.
    :param nmi_watchdog: it runs, and holds a counter of each CPU; None: not known.
    :param cycles: what the guard saves per exit on a CPU like this, and whether that was measured here.
    :param parameters: all of KVM's modules, as kvm.enable_pmu.
    :param loads: each module of KVM and each livepatch, with what tells this load of it from any other.
    :param taken: when they were found, in seconds after boot.
    :param qemus: those that libvirt here would start a new VM with, all that it might; empty if none was found.
    :param searches: where libvirt's daemons look for those.
    :param vms_cause: why ``vms`` may be without what kernel memory says; empty if all was read.
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
    livepatches: tuple[str, ...] = ()
    parameters: Mapping[str, str] = field(default_factory=dict)
    loads: Mapping[str, str] = field(default_factory=dict)
    taken: int | None = None
    qemus: tuple[Qemu, ...] = ()
    searches: tuple[Search, ...] = ()
    vms: tuple[LiveVm, ...] = ()
    vms_cause: str = ""
