"""The aggregate of many hosts' reports: what is kept of them when the reports themselves are let go. Pure.

Aggregates of different hosts can be put together in any order and any grouping, and give the same: so the work may be
split over processes. What grows with the fleet: a row a host, and a count a flavor, project, QEMU and set of steps.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from pmuconf.fleet.hostreport import HostReport
from pmuconf.fleet.steps import Step, kernel_of, qemu_of, steps_of

__all__ = ["Aggregate", "Gain", "HostRow", "Worth", "count", "of_host"]

QemuKey = tuple[str, str, "bool | None"]


@dataclass(frozen=True)
class Worth:
    """Upper bounds of what exits cost, in CPU cycles a second, over the VMs whose exits were counted."""

    vms: int = 0
    saved: int = 0
    savable: int = 0

    def __add__(self, other: Worth) -> Worth:
        return Worth(self.vms + other.vms, self.saved + other.saved, self.savable + other.savable)


@dataclass(frozen=True)
class Gain:
    """What VMs wait for together: how many on how many hosts, and what they would win at most.

    :param cycles: a second, over those ``counted`` VMs whose exits and their cost are known.
    """

    vms: int = 0
    hosts: int = 0
    counted: int = 0
    cycles: int = 0

    def __add__(self, other: Gain) -> Gain:
        return Gain(
            self.vms + other.vms,
            self.hosts + other.hosts,
            self.counted + other.counted,
            self.cycles + other.cycles,
        )


@dataclass(frozen=True)
class HostRow:
    """One host in a line.

    :param verdict: of its kernel; None where it was not looked at.
    :param groups: how many of its VMs are in each group of report.groups.BY_FAST_PATH.
    :param qemus: those that run its VMs.
    """

    name: str
    inventory_name: str
    path: str
    at: datetime
    verdict: str | None
    kernel: tuple[str, str]
    enable_pmu: bool | None
    qemus: tuple[QemuKey, ...]
    groups: tuple[tuple[str, int], ...]
    vms: int
    running: int
    fast: int
    severity: int
    worth: Worth | None


@dataclass
class Aggregate:
    """Counts over hosts. ``causes``, ``flavors`` and ``projects`` count VMs by (name, group), ``qemus`` too."""

    hosts: dict[str, HostRow] = field(default_factory=dict)
    fast_path: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    causes: Counter[tuple[str, str]] = field(default_factory=Counter)
    flavors: Counter[tuple[str, str]] = field(default_factory=Counter)
    projects: Counter[tuple[str, str]] = field(default_factory=Counter)
    qemus: Counter[tuple[QemuKey, str]] = field(default_factory=Counter)
    qemu_hosts: Counter[QemuKey] = field(default_factory=Counter)
    waiting: dict[tuple[Step, ...], Gain] = field(default_factory=dict)
    step_hosts: Counter[Step] = field(default_factory=Counter)

    def add(self, other: Aggregate) -> None:
        """Take in the aggregate of other hosts.

        :raises ValueError: a host is in both; it would count twice.
        """
        both = self.hosts.keys() & other.hosts.keys()
        if both:
            raise ValueError(f"{min(both)} is counted already")
        self.hosts.update(other.hosts)
        for name in _COUNTERS:
            getattr(self, name).update(getattr(other, name))
        for steps, gain in other.waiting.items():
            self.waiting[steps] = self.waiting.get(steps, Gain()) + gain

    @property
    def severity(self) -> int:
        """The worst of the hosts, as an exit status."""
        return max((row.severity for row in self.hosts.values()), default=0)


_COUNTERS = ("fast_path", "kinds", "causes", "flavors", "projects", "qemus", "qemu_hosts", "step_hosts")


def of_host(report: HostReport) -> Aggregate:
    """The aggregate of one host."""
    made = Aggregate()
    count(report, made)
    return made


def count(report: HostReport, made: Aggregate) -> None:
    """Count one host in.

    :raises ValueError: it is counted already.
    """
    if report.name in made.hosts:
        raise ValueError(f"{report.name} is counted already")
    # Few outlooks are shared by many VMs: what follows from one is counted once for all who have it.
    alike = Counter(map(id, report.outlooks))
    outlooks = {id(outlook): outlook for outlook in report.outlooks}
    groups: Counter[str] = Counter()
    fast = 0
    for key, outlook in outlooks.items():
        number = alike[key]
        groups[outlook.group] += number
        fast += number * (outlook.fast_path == "yes")
        if outlook.cause is not None:
            made.causes[outlook.cause, outlook.group] += number
        if outlook.fast_path is not None:
            made.fast_path[outlook.fast_path] += number
        for kind in outlook.kinds:
            made.kinds[kind] += number
    those = [outlook.group for outlook in report.outlooks]
    made.flavors.update(zip([record["flavor"] or "" for record in report.domains], those))
    made.projects.update(zip([record["project"] or "" for record in report.domains], those))
    if any(outlook.cause is None for outlook in outlooks.values()):
        _without_cause(report, made)
    qemus = _qemus(report, made)
    _waiting(report, made)
    made.hosts[report.name] = HostRow(
        name=report.name,
        inventory_name=report.inventory_name,
        path=report.path,
        at=report.at,
        verdict=None if report.state is None else report.state.verdict,
        kernel=kernel_of(report),
        enable_pmu=None if report.state is None else report.state.enable_pmu,
        qemus=tuple(sorted(qemus, key=_key)),
        groups=tuple(sorted(groups.items())),
        vms=len(report.domains),
        running=sum(alike[key] for key, outlook in outlooks.items() if outlook.running),
        fast=fast,
        severity=max((outlook.severity for outlook in outlooks.values()), default=0),
        worth=_worth(report.data["worth"]),
    )


def _without_cause(report: HostReport, made: Aggregate) -> None:
    """Where no verdict was made, an error may say why."""
    for record, outlook in zip(report.domains, report.outlooks):
        if outlook.cause is None:
            error = record["error"]
            made.causes["" if error is None else error["cause"], outlook.group] += 1


def _qemus(report: HostReport, made: Aggregate) -> set[QemuKey]:
    """Those that run VMs here, counted."""
    found = set()
    for record, outlook in zip(report.domains, report.outlooks):
        qemu = record["qemu"]
        if qemu is not None and outlook.running:
            key = (*qemu_of(qemu), qemu["disables_pmu"])
            found.add(key)
            made.qemus[key, outlook.group] += 1
    made.qemu_hosts.update(found)
    return found


def _waiting(report: HostReport, made: Aggregate) -> None:
    facts = report.data["host_facts"]
    cost = None if facts is None else facts["cycles_per_exit"]
    vms: Counter[tuple[Step, ...]] = Counter()
    counted: Counter[tuple[Step, ...]] = Counter()
    cycles: Counter[tuple[Step, ...]] = Counter()
    for record, outlook in zip(report.domains, report.outlooks):
        if not outlook.needs.changes:
            continue
        steps = steps_of(report, record, outlook)
        vms[steps] += 1
        exits = record["exits_per_second"]
        if exits is not None and cost is not None and outlook.fast_path == "no":
            counted[steps] += 1
            cycles[steps] += round(exits * cost)
    for steps, number in vms.items():
        gain = Gain(number, 1, counted[steps], cycles[steps])
        made.waiting[steps] = made.waiting.get(steps, Gain()) + gain
    made.step_hosts.update({step for steps in vms for step in steps})


def _worth(worth: Any) -> Worth | None:
    if worth is None:
        return None
    return Worth(worth["vms"], worth["saved_per_second"], worth["savable_per_second"])


def _key(qemu: QemuKey) -> tuple[str, str, str]:
    path, build_id, disables = qemu
    return path, build_id, str(disables)
