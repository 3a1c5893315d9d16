"""The aggregate of many hosts' reports: what is kept of them when the reports themselves are let go. Pure.

Aggregates of different hosts can be put together in any order and any grouping, and give the same: so the work may be
split over processes. What grows with the fleet: a row a host, and a count a flavor, project, QEMU and set of steps.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from pmuconf.fleet.reading import HostReport
from pmuconf.fleet.steps import Step, kernel_of, qemu_of, steps_of

__all__ = ["Aggregate", "Gain", "HostRow", "Worth", "of_host"]

QemuKey = tuple[str, str, "bool | None"]


@dataclass(frozen=True)
class Worth:
    """Upper bounds of what exits cost, in CPU cycles a second, over the VMs whose exits were counted."""

    vms: int = 0
    saved: int = 0
    to_win: int = 0

    def __add__(self, other: Worth) -> Worth:
        return Worth(self.vms + other.vms, self.saved + other.saved, self.to_win + other.to_win)


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
    groups: Counter[str] = Counter()
    vms: Counter[tuple[Step, ...]] = Counter()
    counted: Counter[tuple[Step, ...]] = Counter()
    cycles: defaultdict[tuple[Step, ...], int] = defaultdict(int)
    qemus: Counter[tuple[QemuKey, str]] = Counter()
    facts = report.data["host_facts"]
    cost = None if facts is None else facts["cycles_per_exit"]
    running = fast = severity = 0
    for record, outlook in zip(report.domains, report.outlooks):
        group = outlook.group
        groups[group] += 1
        running += outlook.running
        severity = max(severity, outlook.severity)
        if outlook.fast_path is not None:
            made.fast_path[outlook.fast_path] += 1
            fast += outlook.fast_path == "yes"
        for kind in outlook.kinds:
            made.kinds[kind] += 1
        cause = outlook.cause or (record["error"] or {"cause": ""})["cause"]
        made.causes[cause, group] += 1
        made.flavors[record["flavor"] or "", group] += 1
        made.projects[record["project"] or "", group] += 1
        if outlook.running and record["qemu"] is not None:
            qemus[(*qemu_of(record["qemu"]), record["qemu"]["disables_pmu"]), group] += 1
        steps = steps_of(report, record, outlook)
        if steps:
            vms[steps] += 1
            exits = record["exits_per_second"]
            if exits is not None and cost is not None and outlook.fast_path == "no":
                counted[steps] += 1
                cycles[steps] += round(exits * cost)
    made.qemus = qemus
    made.qemu_hosts.update({key for key, _ in qemus})
    made.waiting = {steps: Gain(number, 1, counted[steps], cycles[steps]) for steps, number in vms.items()}
    made.step_hosts.update({step for steps in vms for step in steps})
    made.hosts[report.name] = HostRow(
        name=report.name,
        inventory_name=report.inventory_name,
        path=report.path,
        at=report.at,
        verdict=None if report.state is None else report.state.verdict,
        kernel=kernel_of(report),
        enable_pmu=None if report.state is None else report.state.enable_pmu,
        qemus=tuple(sorted(made.qemu_hosts, key=_key)),
        groups=tuple(sorted(groups.items())),
        vms=len(report.domains),
        running=running,
        fast=fast,
        severity=severity,
        worth=_worth(report.data["worth"]),
    )
    return made


def _worth(worth: Any) -> Worth | None:
    if worth is None:
        return None
    return Worth(worth["vms"], worth["saved_per_second"], worth["to_win_per_second"])


def _key(qemu: QemuKey) -> tuple[str, str, str]:
    path, build_id, disables = qemu
    return path, build_id, str(disables)
