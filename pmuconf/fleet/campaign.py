"""The plan of a campaign: docs/fleet-plan.schema.json. What is to be done, to whom, in which order, in waves.

Made anew from new reports it leaves out what was done: there is no state to keep. Unlike the report it grows with the
VMs, for it names each that something has to be done to.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

import pmuconf
from pmuconf.fleet.absent import Absent, absent, stale
from pmuconf.fleet.aggregate import Aggregate, HostRow, of_host
from pmuconf.fleet.files import Problem
from pmuconf.fleet.hostreport import HostReport
from pmuconf.fleet.hosts import Hosts, over
from pmuconf.fleet.outlook import Change
from pmuconf.fleet.ranking import by_step, rounds
from pmuconf.fleet.report import no_reports
from pmuconf.fleet.steps import Step, steps_of

__all__ = ["FORMAT", "VERSION", "Campaign", "campaign", "document"]

FORMAT: Final = "pmuconf-fleet-plan"
VERSION: Final = 1

Vm = tuple["str | None", str]
"""UUID and name."""


@dataclass
class HostPart:
    """What a host has to do with the campaign: how many of its VMs wait for each step, and who they are."""

    name: str
    inventory_name: str
    waiting: Counter[Step] = field(default_factory=Counter)
    vms: dict[Step, list[Vm]] = field(default_factory=dict)


@dataclass(frozen=True)
class Campaign:
    """All that a plan is made of.

    :param steps: in the order in which they are best done.
    :param hosts: those that something has to be done on, by name.
    """

    at: datetime
    steps: Sequence[Step]
    hosts: Sequence[HostPart]
    aggregate: Aggregate
    problems: Sequence[Problem]
    absent: Sequence[Absent]
    stale: Sequence[HostRow]


def campaign(
    hosts: Hosts, *, now: datetime, jobs: int = 1, expected: Iterable[str] = (), stale_after: timedelta | None = None
) -> Campaign:
    """Read all reports and find out what has to be done. Hosts that are absent or stale are left out, and named.

    :raises PmuconfError: no-reports; worker-lost.
    """
    every = Aggregate()
    parts: dict[str, HostPart] = {}
    problems = list(hosts.problems)
    aggregates: dict[str, Aggregate] = {}
    for worked in over(hosts, planned, jobs):
        problems += worked.problems
        for made, part in worked.result:
            aggregates[part.name] = made
            parts[part.name] = part
    rows = {name: made.hosts[name] for name, made in aggregates.items()}
    if not rows:
        raise no_reports(problems)
    missing = absent(rows, hosts.markers, problems, expected)
    old = stale(rows.values(), now, stale_after)
    gone = {one.host.casefold() for one in missing} | {row.name.casefold() for row in old}
    for name, row in rows.items():
        if not {name.casefold(), row.inventory_name.casefold()} & gone:
            every.add(aggregates[name])
    done = [parts[name] for name in sorted(every.hosts) if parts[name].waiting]
    return Campaign(now, _ordered(every.waiting), done, every, problems, missing, old)


def planned(reports: Iterator[HostReport]) -> list[tuple[Aggregate, HostPart]]:
    """The parts of some hosts."""
    return [(of_host(report), _part(report)) for report in reports]


def document(made: Campaign, wave_size: int) -> dict[str, Any]:
    """The plan, ready for json.dump().

    :param wave_size: hosts a wave.
    """
    gains = by_step(made.aggregate.waiting)
    return {
        "format": FORMAT,
        "version": VERSION,
        "generator": f"pmuconf {pmuconf.__version__}",
        "generated_at": made.at.isoformat(timespec="seconds"),
        "hosts": len(made.aggregate.hosts),
        "wave_size": wave_size,
        "left_out": _left_out(made),
        "steps": [
            {
                "id": step.id,
                "kind": step.kind.value,
                "what": step.what,
                "after": [before.id for before in step.behind],
                "vms_alone": gains[step][0].vms,
                "vms_waiting": gains[step][1].vms,
                "waves": list(_waves(step, made.hosts, wave_size)),
            }
            for step in made.steps
        ],
    }


def _part(report: HostReport) -> HostPart:
    part = HostPart(report.name, report.inventory_name)
    for record, outlook in zip(report.domains, report.outlooks):
        steps = steps_of(report, record, outlook)
        for step in steps:
            if step.kind is Change.SETTLE:
                continue
            part.waiting[step] += 1
            if not step.on_hosts:
                part.vms.setdefault(step, []).append((record["uuid"], record["name"]))
    return part


def _ordered(waiting: Mapping[tuple[Step, ...], Any]) -> list[Step]:
    """Round by round; what the rounds don't reach behind them, that first which most wait for."""
    steps = [step for one in rounds(waiting) for step in one.steps]
    chosen = set(steps)
    rest = [step for step in by_step(waiting) if step not in chosen]
    order = list(Change)
    return steps + sorted(rest, key=lambda step: order.index(step.kind))


def _waves(step: Step, hosts: Iterable[HostPart], size: int) -> Iterator[dict[str, Any]]:
    those = [part for part in hosts if step in part.waiting]
    for at in range(0, len(those), size):
        yield {
            "number": at // size + 1,
            "hosts": [
                {
                    "host": part.name,
                    "inventory_name": part.inventory_name,
                    "waiting": part.waiting[step],
                    "vms": [
                        {"uuid": uuid, "name": name, "verb": step.subject[0]} for uuid, name in part.vms.get(step, ())
                    ],
                }
                for part in those[at : at + size]
            ],
        }


def _left_out(made: Campaign) -> list[dict[str, Any]]:
    absent_hosts = [{"host": one.host, "cause": one.cause, "message": one.message} for one in made.absent]
    old = [
        {"host": row.name, "cause": "report-stale", "message": f"its report is of {row.at.isoformat()}"}
        for row in made.stale
    ]
    return absent_hosts + old
