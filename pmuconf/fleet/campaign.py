"""The plan of a campaign: what has to be done on which hosts and VMs, in which order, in waves.

A plan that is made anew from new reports leaves out what was done, so there is no state to keep. Unlike the report, it
grows with the number of VMs: it names each VM that something has to be done to.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple

import pmuconf
from pmuconf.fleet.absent import AbsentHost, absent_hosts, severity, stale_hosts
from pmuconf.fleet.aggregate import Aggregate, Gain, HostRow, of_host
from pmuconf.fleet.files import Problem
from pmuconf.fleet.hostreport import HostReport
from pmuconf.fleet.hosts import Hosts, over
from pmuconf.fleet.outlook import Change
from pmuconf.fleet.ranking import by_step, rounds
from pmuconf.fleet.report import no_reports
from pmuconf.fleet.reported import ReportedVm
from pmuconf.fleet.steps import CampaignStep, policy_step, steps_of

__all__ = ["FORMAT", "VERSION", "Campaign", "campaign", "plan_document"]

FORMAT: Final = "pmuconf-fleet-plan"
VERSION: Final = 1


class NamedVm(NamedTuple):
    """A VM that something has to be done to."""

    uuid: str | None
    name: str


@dataclass
class HostPart:
    """One host's part in the campaign: how many of its VMs wait for each step, and which VMs."""

    name: str
    inventory_name: str
    waiting: Counter[CampaignStep] = field(default_factory=Counter)
    vms: dict[CampaignStep, list[NamedVm]] = field(default_factory=dict)


@dataclass(frozen=True)
class Campaign:
    """All that a plan is made of.

    :param steps: in the order in which they are best done.
    :param hosts: the hosts that something has to be done on, by name.
    """

    at: datetime
    steps: Sequence[CampaignStep]
    hosts: Sequence[HostPart]
    aggregate: Aggregate
    problems: Sequence[Problem]
    absent: Sequence[AbsentHost]
    stale: Sequence[HostRow]

    @property
    def severity(self) -> int:
        """The exit status: 2 if something is to be done, otherwise that of the files and of the hosts left out."""
        return 2 if self.steps else severity(self.problems, self.absent, self.stale)


def campaign(
    hosts: Hosts, *, now: datetime, jobs: int = 1, expected: Iterable[str] = (), stale_after: timedelta | None = None
) -> Campaign:
    """The campaign that follows from all reports. Hosts that are absent or stale are left out, and named.

    :raises PmuconfError: no-reports; worker-lost.
    """
    aggregates: dict[str, Aggregate] = {}
    parts: dict[str, HostPart] = {}
    problems = list(hosts.problems)
    for worked in over(hosts, planned, jobs):
        problems += worked.problems
        for aggregate, part in worked.result:
            aggregates[part.name] = aggregate
            parts[part.name] = part
    rows = {name: aggregate.hosts[name] for name, aggregate in aggregates.items()}
    if not rows:
        raise no_reports(problems)
    absent = absent_hosts(rows, hosts.markers, problems, expected)
    stale = stale_hosts(rows.values(), now, stale_after)
    left_out = {host.host.casefold() for host in absent} | {row.name.casefold() for row in stale}
    whole = Aggregate()
    for name, row in rows.items():
        if not {name.casefold(), row.inventory_name.casefold()} & left_out:
            whole.add(aggregates[name])
    with_steps = [parts[name] for name in sorted(whole.hosts) if parts[name].waiting]
    return Campaign(now, _ordered(whole.waiting, with_steps), with_steps, whole, problems, absent, stale)


def planned(reports: Iterator[HostReport]) -> list[tuple[Aggregate, HostPart]]:
    """The aggregate and the part of each host."""
    return [(of_host(report), _part(report)) for report in reports]


def plan_document(campaign: Campaign, wave_size: int) -> dict[str, Any]:
    """The plan as JSON has it: docs/fleet-plan.schema.json.

    :param wave_size: hosts a wave.
    """
    gains = by_step(campaign.aggregate.waiting)
    counts = _counts(campaign.hosts)
    return {
        "format": FORMAT,
        "version": VERSION,
        "generator": f"pmuconf {pmuconf.__version__}",
        "generated_at": campaign.at.isoformat(timespec="seconds"),
        "hosts": len(campaign.aggregate.hosts),
        "wave_size": wave_size,
        "left_out": _left_out(campaign),
        "steps": [
            _step(step, gains.get(step, (Gain(), Gain()))[0], counts[step], campaign.hosts, wave_size)
            for step in campaign.steps
        ],
    }


def _part(report: HostReport) -> HostPart:
    part = HostPart(report.name, report.inventory_name)
    for vm in report.vms:
        for step in _steps(report, vm):
            part.waiting[step] += 1
            if not step.on_hosts:
                part.vms.setdefault(step, []).append(NamedVm(vm.uuid, vm.name))
    return part


def _steps(report: HostReport, vm: ReportedVm) -> list[CampaignStep]:
    """What is to be done to a VM: the steps onto the fast path, and the one that brings it on policy."""
    steps = [step for step in steps_of(report, vm) if step.kind is not Change.SETTLE]
    on_policy = policy_step(vm)
    if on_policy is not None and on_policy not in steps:
        steps.append(on_policy)
    return steps


def _ordered(waiting: Mapping[tuple[CampaignStep, ...], Gain], hosts: Iterable[HostPart]) -> list[CampaignStep]:
    """The steps round by round. Behind them those that no round takes, by kind, and the most awaited first."""
    in_rounds = [step for round_ in rounds(waiting) for step in round_.steps]
    counts = _counts(hosts)
    others = [step for step in counts if step not in set(in_rounds)]
    order = list(Change)
    return in_rounds + sorted(others, key=lambda step: (order.index(step.kind), -counts[step], step.id))


def _counts(hosts: Iterable[HostPart]) -> Counter[CampaignStep]:
    """How many VMs wait for each step."""
    counts: Counter[CampaignStep] = Counter()
    for part in hosts:
        counts.update(part.waiting)
    return counts


def _step(step: CampaignStep, alone: Gain, waiting: int, hosts: Iterable[HostPart], wave_size: int) -> dict[str, Any]:
    return {
        "id": step.id,
        "kind": step.kind.value,
        "what": step.description,
        "after": [earlier.id for earlier in step.behind],
        "vms_alone": alone.vms,
        "vms_waiting": waiting,
        "waves": list(_waves(step, [part for part in hosts if step in part.waiting], wave_size)),
    }


def _waves(step: CampaignStep, hosts: Sequence[HostPart], size: int) -> Iterator[dict[str, Any]]:
    for number, first in enumerate(range(0, len(hosts), size), 1):
        yield {
            "number": number,
            "hosts": [_host(step, part) for part in hosts[first : first + size]],
        }


def _host(step: CampaignStep, part: HostPart) -> dict[str, Any]:
    return {
        "host": part.name,
        "inventory_name": part.inventory_name,
        "waiting": part.waiting[step],
        "vms": [{"uuid": vm.uuid, "name": vm.name, "verb": step.subject[0]} for vm in part.vms.get(step, ())],
    }


def _left_out(campaign: Campaign) -> list[dict[str, Any]]:
    absent = [{"host": host.host, "cause": host.cause, "message": host.message} for host in campaign.absent]
    stale = [
        {"host": row.name, "cause": "report-stale", "message": f"its report is of {row.at.isoformat()}"}
        for row in campaign.stale
    ]
    return absent + stale
