"""The aggregate of many hosts' reports, which is kept when the reports themselves are let go. Pure.

Aggregates of different hosts can be added in any order and any grouping, with the same result: so several processes can
share the work. With the fleet grow one row a host, and one count a flavor, project, QEMU and set of steps.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from pmuconf.fleet.hostreport import HostReport
from pmuconf.fleet.reported import CountedExits, Outlook, ReportedQemu, ReportedVm
from pmuconf.fleet.steps import CampaignStep, steps_of

__all__ = ["Aggregate", "Gain", "HostRow", "of_host"]


@dataclass(frozen=True)
class Gain:
    """VMs that wait for the same steps: how many on how many hosts, and how much the steps would save at most.

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

    :param verdict: of its kernel; None if the host was not looked at.
    :param qemus: the QEMUs that run its VMs.
    :param steps: the ids of the steps that some VM of it waits for, those included that have to be settled first.
    :param groups: the number of its VMs in each group of report.groups.BY_FAST_PATH.
    """

    name: str
    inventory_name: str
    path: str
    at: datetime
    verdict: str | None
    kernel: tuple[str, str]
    enable_pmu: bool | None
    qemus: tuple[ReportedQemu, ...]
    groups: tuple[tuple[str, int], ...]
    vms: int
    running: int
    fast: int
    severity: int
    exits: CountedExits | None
    steps: tuple[str, ...] = ()


@dataclass
class Aggregate:
    """Counts over hosts. ``causes``, ``flavors``, ``projects`` and ``qemus`` count VMs by (name, group).

    ``running_groups`` counts the running VMs by group.
    """

    hosts: dict[str, HostRow] = field(default_factory=dict)
    fast_path: Counter[str] = field(default_factory=Counter)
    running_groups: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    causes: Counter[tuple[str, str]] = field(default_factory=Counter)
    flavors: Counter[tuple[str, str]] = field(default_factory=Counter)
    projects: Counter[tuple[str, str]] = field(default_factory=Counter)
    qemus: Counter[tuple[ReportedQemu, str]] = field(default_factory=Counter)
    qemu_hosts: Counter[ReportedQemu] = field(default_factory=Counter)
    waiting: dict[tuple[CampaignStep, ...], Gain] = field(default_factory=dict)
    step_hosts: Counter[CampaignStep] = field(default_factory=Counter)

    def add(self, other: Aggregate) -> None:
        """Add the aggregate of other hosts.

        :raises ValueError: a host is in both; it would count twice.
        """
        both = self.hosts.keys() & other.hosts.keys()
        if both:
            raise ValueError(f"{min(both)} is counted already")
        self.hosts.update(other.hosts)
        for name in _COUNTERS:
            getattr(self, name).update(getattr(other, name))
        self._add_waiting(other.waiting)

    def count(self, report: HostReport) -> None:
        """Count one host.

        :raises ValueError: it is counted already.
        """
        if report.name in self.hosts:
            raise ValueError(f"{report.name} is counted already")
        vms = report.vms
        outlooks = Counter(vm.outlook for vm in vms)
        for outlook, number in outlooks.items():
            if outlook.fast_path is not None:
                self.fast_path[outlook.fast_path] += number
            if outlook.running:
                self.running_groups[outlook.group] += number
            for kind in outlook.kinds:
                self.kinds[kind] += number
        self.causes.update((vm.outlook.cause or vm.error, vm.outlook.group) for vm in vms)
        self.flavors.update((vm.flavor, vm.outlook.group) for vm in vms)
        self.projects.update((vm.project, vm.outlook.group) for vm in vms)
        qemus = Counter((vm.qemu, vm.outlook.group) for vm in vms if vm.qemu is not None and vm.outlook.running)
        self.qemus.update(qemus)
        waiting = _waiting(report)
        steps_here = {step for steps in waiting for step in steps}
        row = _row(report, outlooks, {qemu for qemu, _ in qemus}, steps_here)
        self.qemu_hosts.update(row.qemus)
        self._add_waiting(waiting)
        self.step_hosts.update(steps_here)
        self.hosts[report.name] = row

    def _add_waiting(self, waiting: Mapping[tuple[CampaignStep, ...], Gain]) -> None:
        for steps, gain in waiting.items():
            self.waiting[steps] = self.waiting.get(steps, Gain()) + gain

    @property
    def severity(self) -> int:
        """The worst of the hosts, as an exit status."""
        return max((row.severity for row in self.hosts.values()), default=0)


_COUNTERS = (
    "fast_path",
    "running_groups",
    "kinds",
    "causes",
    "flavors",
    "projects",
    "qemus",
    "qemu_hosts",
    "step_hosts",
)


def of_host(report: HostReport) -> Aggregate:
    """The aggregate of one host."""
    aggregate = Aggregate()
    aggregate.count(report)
    return aggregate


def _row(
    report: HostReport, outlooks: Mapping[Outlook, int], qemus: set[ReportedQemu], steps: set[CampaignStep]
) -> HostRow:
    groups: Counter[str] = Counter()
    for outlook, number in outlooks.items():
        groups[outlook.group] += number
    host = report.host
    return HostRow(
        name=report.name,
        inventory_name=report.inventory_name,
        path=report.path,
        at=report.at,
        verdict=None if host is None else host.state.verdict,
        kernel=report.kernel,
        enable_pmu=None if host is None else host.state.enable_pmu,
        qemus=tuple(sorted(qemus, key=_place)),
        groups=tuple(sorted(groups.items())),
        vms=len(report.vms),
        running=sum(number for outlook, number in outlooks.items() if outlook.running),
        fast=sum(number for outlook, number in outlooks.items() if outlook.fast_path == "yes"),
        severity=max((outlook.severity for outlook in outlooks), default=0),
        exits=report.exits,
        steps=tuple(sorted(step.id for step in steps)),
    )


def _waiting(report: HostReport) -> dict[tuple[CampaignStep, ...], Gain]:
    """The VMs of one host that wait for steps, by all steps that they wait for."""
    cost = None if report.host is None else report.host.cycles_per_exit
    waiting: dict[tuple[CampaignStep, ...], list[ReportedVm]] = {}
    for vm in report.vms:
        if vm.outlook.needs.changes:
            waiting.setdefault(steps_of(report, vm), []).append(vm)
    return {steps: _gain(vms, cost) for steps, vms in waiting.items()}


def _gain(vms: Sequence[ReportedVm], cost: int | None) -> Gain:
    """What these VMs of one host gain.

    :param cost: of an exit, in cycles; None: not known.
    """
    if cost is None:
        return Gain(len(vms), 1)
    exits = [vm.exits_per_second for vm in vms if vm.outlook.fast_path == "no" and vm.exits_per_second is not None]
    return Gain(len(vms), 1, len(exits), sum(round(rate * cost) for rate in exits))


def _place(qemu: ReportedQemu) -> tuple[str, str, str]:
    return qemu.path, qemu.build_id, str(qemu.disables_pmu)
