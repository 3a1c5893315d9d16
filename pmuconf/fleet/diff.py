"""The difference between two collections of reports: docs/fleet.md.

Hosts are compared one by one and let go. What is kept are the VMs that left a host or arrived at one, or that run there
on one side alone, until it is known whether they moved. A host that one of the collections knows of without a usable
report is unheard: neither the host nor its VMs have come or gone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any, Final, NamedTuple

import pmuconf
from pmuconf.fleet.absent import DOUBTFUL, HARMLESS, severity
from pmuconf.fleet.files import Head, Problem, inventory_name
from pmuconf.fleet.hostreport import HostReport
from pmuconf.fleet.hosts import HostPair, Hosts, pairs
from pmuconf.fleet.report import no_reports

__all__ = ["FORMAT", "VERSION", "FleetDifference", "diff", "diff_document"]

FORMAT: Final = "pmuconf-fleet-diff"
VERSION: Final = 1
_CHANGES: Final = ("lost", "gained", "moved")
_LEFT, _ARRIVED = 0, 1
_ON_ONE_SIDE: Final = ("gone", "came")
"""What has become of a VM that only one collection has: of one that left a host, and of one that arrived."""


class VmOnHost(NamedTuple):
    """A VM in one of the collections."""

    uuid: str | None
    name: str
    host: str
    fast_path: str | None
    cause: str | None
    running: bool

    @property
    def key(self) -> str:
        """The VM's identity on its host: its UUID, or its name if it has none."""
        return self.uuid or f"name {self.name}"


class VmInBoth(NamedTuple):
    """A VM in both collections."""

    old: VmOnHost
    new: VmOnHost

    @property
    def change(self) -> str:
        """One of gained and lost (the fast path); otherwise moved (to another host); otherwise empty."""
        before, now = self.old.fast_path == "yes", self.new.fast_path == "yes"
        if before != now:
            return "gained" if now else "lost"
        return "moved" if self.old.host != self.new.host else ""


@dataclass(frozen=True)
class Compared:
    """The part of a host's report that is compared."""

    verdict: str | None
    kernel: tuple[str, str]
    qemus: tuple[tuple[str, str], ...]


@dataclass
class Changes:
    """What changed on some hosts.

    :param counts: VMs that gained, lost, moved, came, are as they were (``same``), are gone (``gone``), or are on an
        unheard host (``unheard``).
    :param causes: VMs that gained or lost the fast path, by the change, the cause before and the cause now.
    :param left: VMs that left a host, or no longer run there, and may be found on another; so do ``arrived``.
    """

    counts: Counter[str] = field(default_factory=Counter)
    causes: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    came: list[str] = field(default_factory=list)
    went: list[str] = field(default_factory=list)
    unheard: list[str] = field(default_factory=list)
    changed: list[tuple[str, Compared, Compared]] = field(default_factory=list)
    vms: list[VmInBoth] = field(default_factory=list)
    left: list[VmOnHost] = field(default_factory=list)
    arrived: list[VmOnHost] = field(default_factory=list)

    def add_vm(self, old: VmOnHost, new: VmOnHost) -> None:
        """Count a VM that is in both collections."""
        vm = VmInBoth(old, new)
        self.counts[vm.change or "same"] += 1
        if vm.change:
            self.vms.append(vm)
        if vm.change in ("gained", "lost"):
            self.causes[vm.change, old.cause or "", new.cause or ""] += 1

    def add(self, other: Changes) -> None:
        """Add the changes on other hosts, but for their VMs that left or arrived."""
        self.counts.update(other.counts)
        self.causes.update(other.causes)
        self.came += other.came
        self.went += other.went
        self.unheard += other.unheard
        self.changed += other.changed
        self.vms += other.vms


@dataclass(frozen=True)
class FleetDifference:
    """All that changed."""

    at: datetime
    changes: Changes
    problems: Sequence[Problem]

    @property
    def severity(self) -> int:
        """2 if a VM lost the fast path or a file can't be used, 1 if a host went or is unheard, otherwise 0."""
        if self.changes.counts["lost"]:
            return 2
        hosts = 1 if self.changes.went or self.changes.unheard else 0
        return max(severity(self.problems, (), ()), hosts)


def diff(old: Hosts, new: Hosts, *, now: datetime, jobs: int = 1) -> FleetDifference:
    """The difference between two collections.

    :raises PmuconfError: no-reports; worker-lost.
    """
    for collection in (old, new):
        if not collection.reports:
            raise no_reports(collection.problems)
    problems = [*old.problems, *new.problems]
    whole = Changes()
    migration = _Migration(whole)
    for worked in pairs(old, new, partial(compared, _silent(old), _silent(new)), jobs):
        problems += worked.problems
        whole.add(worked.result)
        for vm in worked.result.left:
            migration.meet(_LEFT, vm)
        for vm in worked.result.arrived:
            migration.meet(_ARRIVED, vm)
    migration.end()
    return FleetDifference(now, whole, problems)


class _Migration:
    """VMs that one host does not settle alone: the same VM may be on another host in the other collection.

    A definition stays behind where a VM ran before it migrated, unless it is undefined there. So a VM may be on several
    hosts of a collection. The one that runs is the VM.
    """

    def __init__(self, changes: Changes) -> None:
        self._changes = changes
        self._met: dict[str, tuple[list[VmOnHost], list[VmOnHost]]] = {}

    def meet(self, side: int, vm: VmOnHost) -> None:
        """Keep a VM of one collection until end()."""
        if not vm.uuid:  # a name alone does not say that a VM on another host is the same
            self._changes.counts[_ON_ONE_SIDE[side]] += 1
            return
        self._met.setdefault(vm.uuid, ([], []))[side].append(vm)

    def end(self) -> None:
        """Count the VMs: those of both collections together, and the others by their collection."""
        unheard = set(self._changes.unheard)
        for sides in self._met.values():
            old, new = (sorted(vms, key=lambda vm: (not vm.running, vm.host)) for vms in sides)
            both = min(len(old), len(new))
            if both:
                self._changes.add_vm(old[0], new[0])
                self._changes.counts["same"] += both - 1  # definitions that stayed behind, wherever they are
            for side, vms in enumerate((old, new)):
                for vm in vms[both:]:
                    self._changes.counts["unheard" if vm.host in unheard else _ON_ONE_SIDE[side]] += 1


def compared(silent_old: frozenset[str], silent_new: frozenset[str], hosts: Iterable[HostPair]) -> Changes:
    """What changed on some hosts.

    :param silent_old: the hosts that the old collection knows of without a usable report; see _silent().
    """
    changes = Changes()
    for pair in hosts:
        names = {name.casefold() for head in (*pair.old_heads, *pair.new_heads) for name in _names(head)}
        if pair.old is not None and pair.new is not None:
            _compare(pair.name, pair.old, pair.new, changes)
        elif pair.new is not None:
            known_before = bool(pair.old_heads) or bool(names & silent_old)
            (changes.unheard if known_before else changes.came).append(pair.name)
            changes.arrived += _vms(pair.new)
        elif pair.old is not None:
            known_now = bool(pair.new_heads) or bool(names & silent_new)
            (changes.unheard if known_now else changes.went).append(pair.name)
            changes.left += _vms(pair.old)
        else:
            changes.unheard.append(pair.name)
    return changes


def _silent(hosts: Hosts) -> frozenset[str]:
    """The names of hosts that a collection knows of only from a marker, or from a file that can't be used."""
    unusable = {problem.host for problem in hosts.problems if problem.cause not in (*HARMLESS, *DOUBTFUL)}
    return frozenset(name.casefold() for name in unusable | set(hosts.markers) if name)


def _names(head: Head) -> tuple[str, str]:
    return head.host, inventory_name(head.path)


def _compare(name: str, old: HostReport, new: HostReport, changes: Changes) -> None:
    before, now = _compared(old), _compared(new)
    if before != now:
        changes.changed.append((name, before, now))
    left = {vm.key: vm for vm in _vms(old)}
    for vm in _vms(new):
        old_vm = left.pop(vm.key, None)
        if old_vm is None:
            changes.arrived.append(vm)
        elif vm.uuid and old_vm.running != vm.running:  # it may run on another host now, or have run there before
            changes.left.append(old_vm)
            changes.arrived.append(vm)
        else:
            changes.add_vm(old_vm, vm)
    changes.left += left.values()


def _compared(report: HostReport) -> Compared:
    qemus = {qemu.file for vm in report.vms for qemu in (vm.qemu, vm.next_qemu) if qemu is not None}
    verdict = None if report.host is None else report.host.state.verdict
    return Compared(verdict, report.kernel, tuple(sorted(qemus)))


def _vms(report: HostReport) -> Iterator[VmOnHost]:
    for vm in report.vms:
        outlook = vm.outlook
        yield VmOnHost(vm.uuid, vm.name, report.name, outlook.fast_path, outlook.cause, outlook.running)


def diff_document(difference: FleetDifference, top: int = 0) -> dict[str, Any]:
    """The difference as JSON has it: counts first.

    :param top: how many VMs to list; 0: all. All are counted.
    """
    changes = difference.changes
    vms = sorted(changes.vms, key=lambda vm: (_CHANGES.index(vm.change), vm.new.host, vm.new.name, vm.old.host))
    listed = vms[:top] if top else vms
    return {
        "format": FORMAT,
        "version": VERSION,
        "generator": f"pmuconf {pmuconf.__version__}",
        "generated_at": difference.at.isoformat(timespec="seconds"),
        "severity": difference.severity,
        "vms": {change: changes.counts[change] for change in (*_CHANGES, "same", *_ON_ONE_SIDE, "unheard")},
        "causes": [
            {"change": change, "old": old or None, "new": new or None, "vms": number}
            for (change, old, new), number in sorted(changes.causes.items(), key=lambda item: (-item[1], item[0]))
        ],
        "hosts": {
            "came": sorted(changes.came),
            "went": sorted(changes.went),
            "unheard": sorted(changes.unheard),
            "changed": [
                {"host": name, **_host_changes(old, new)}
                for name, old, new in sorted(changes.changed, key=lambda change: change[0])
            ],
        },
        "files": [problem.record() for problem in sorted(difference.problems)],
        "listed": [_vm_record(vm) for vm in listed],
        "not_listed": len(vms) - len(listed),
    }


def _host_changes(old: Compared, new: Compared) -> dict[str, Any]:
    """What differs, and nothing else."""
    differing: dict[str, Any] = {}
    if old.verdict != new.verdict:
        differing["verdict"] = {"old": old.verdict, "new": new.verdict}
    if old.kernel != new.kernel:
        differing["kernel"] = {"old": _words(old.kernel), "new": _words(new.kernel)}
    if old.qemus != new.qemus:
        differing["qemus"] = {"old": [*map(_words, old.qemus)], "new": [*map(_words, new.qemus)]}
    return differing


def _words(texts: tuple[str, str]) -> str:
    return " ".join(filter(None, texts))


def _vm_record(vm: VmInBoth) -> dict[str, Any]:
    sides = {"old": vm.old, "new": vm.new}
    return {
        "change": vm.change,
        "uuid": vm.new.uuid,
        "name": vm.new.name,
        **{side: {"host": seen.host, "fast_path": seen.fast_path, "cause": seen.cause} for side, seen in sides.items()},
    }
