"""The fleet as data: docs/fleet-report.schema.json. Long lists are cut to the entries with the most VMs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Generic, TypeVar

import pmuconf
from pmuconf.fastpath.cases import CASES, FastPath
from pmuconf.fleet.absent import AbsentHost
from pmuconf.fleet.aggregate import Aggregate, Gain, HostRow
from pmuconf.fleet.ranking import Round, by_step, rounds, to_settle
from pmuconf.fleet.report import Fleet
from pmuconf.fleet.reported import KINDS, CountedExits, ReportedQemu
from pmuconf.fleet.steps import CampaignStep, settle_step
from pmuconf.hostfacts import Verdict
from pmuconf.report.groups import BY_FAST_PATH

__all__ = ["FORMAT", "VERSION", "document"]

FORMAT: Final = "pmuconf-fleet-report"
VERSION: Final = 2
_Key = TypeVar("_Key")


def document(fleet: Fleet, top: int = 0) -> dict[str, Any]:
    """The fleet, ready for json.dump().

    :param top: how many flavors, projects, kernels, QEMUs and steps to list; 0: all.
    """
    aggregate = fleet.aggregate
    rows = sorted(aggregate.hosts.values(), key=lambda row: row.name)
    chosen = rounds(aggregate.waiting)
    kernels = _by_host(rows, lambda row: (*row.kernel, row.verdict))
    flavors = _by_vm(aggregate.flavors)
    projects = _by_vm(aggregate.projects)
    return {
        "format": FORMAT,
        "version": VERSION,
        "generator": f"pmuconf {pmuconf.__version__}",
        "generated_at": fleet.at.isoformat(timespec="seconds"),
        "severity": fleet.severity,
        "stale_after_seconds": fleet.stale_after,
        "summary": _summary(fleet, rows),
        "worth": _worth(rows),
        "verdicts": _verdicts(rows),
        "kernels": _cut(kernels, top, _kernel),
        "qemus": _cut(_by_vm(aggregate.qemus), top, lambda qemu: {**_qemu(qemu), "hosts": aggregate.qemu_hosts[qemu]}),
        "causes": _cut(_by_vm(aggregate.causes), 0, _cause)["listed"],
        "flavors": _cut(flavors, top, lambda name: {"flavor": name or None}),
        "projects": _cut(projects, top, lambda name: {"project": name or None}),
        "steps": _steps(aggregate, chosen, top),
        "rounds": [_round(round_) for round_ in chosen],
        "to_settle": [_to_settle(cause, gain, aggregate) for cause, gain in to_settle(aggregate.waiting).items()],
        "absent": [_absent(host) for host in fleet.absent],
        "stale": [{"host": row.name, "generated_at": _time(row.at)} for row in fleet.stale],
        "files": [problem.record() for problem in sorted(fleet.problems)],
        "hosts": [_host(row) for row in rows],
    }


def _host(row: HostRow) -> dict[str, Any]:
    groups = dict(row.groups)
    return {
        "host": row.name,
        "inventory_name": row.inventory_name,
        "generated_at": _time(row.at),
        "severity": row.severity,
        "verdict": row.verdict,
        "release": row.kernel[0] or None,
        "build_id": row.kernel[1] or None,
        "enable_pmu": row.enable_pmu,
        "qemus": [_qemu(qemu) for qemu in row.qemus],
        "vms": row.vms,
        "running": row.running,
        "fast": row.fast,
        "groups": {group.key: groups.get(group.key, 0) for group in BY_FAST_PATH},
        "steps": list(row.steps),
        "worth": None if row.exits is None else _exits(row.exits),
    }


def _summary(fleet: Fleet, rows: Sequence[HostRow]) -> dict[str, Any]:
    aggregate = fleet.aggregate
    groups = Counter[str]()
    for row in rows:
        groups.update(dict(row.groups))
    return {
        "hosts": len(rows),
        "absent": len(fleet.absent),
        "stale": len(fleet.stale),
        "vms": sum(row.vms for row in rows),
        "running": sum(row.running for row in rows),
        "fast_path": {path.value: aggregate.fast_path[path.value] for path in FastPath},
        "groups": {group.key: groups[group.key] for group in BY_FAST_PATH},
        "running_groups": {group.key: aggregate.running_groups[group.key] for group in BY_FAST_PATH},
        **{kind: aggregate.kinds[kind] for kind in KINDS},
    }


def _worth(rows: Iterable[HostRow]) -> dict[str, Any] | None:
    """The sum over all hosts; None if exits were counted on none of them."""
    counted = [row.exits for row in rows if row.exits is not None]
    return {"hosts": len(counted), **_exits(sum(counted, CountedExits()))} if counted else None


def _exits(exits: CountedExits) -> dict[str, int | None]:
    return {
        "vms": exits.vms,
        "saved_per_second": exits.saved,
        "savable_per_second": exits.savable,
        "cpus": exits.cpus,
        "cycles_per_second": exits.capacity,
    }


@dataclass(frozen=True)
class _Share(Generic[_Key]):
    """The VMs that have something in common, by group.

    :param key: what they have in common.
    :param hosts: how many hosts they are on; 0 where that is not counted.
    """

    key: _Key
    groups: Counter[str]
    hosts: int = 0

    @property
    def vms(self) -> int:
        return sum(self.groups.values())


def _by_host(rows: Iterable[HostRow], key: Callable[[HostRow], _Key]) -> list[_Share[_Key]]:
    """The hosts by something that they have in common; the most VMs first."""
    hosts: Counter[_Key] = Counter()
    groups: dict[_Key, Counter[str]] = {}
    for row in rows:
        hosts[key(row)] += 1
        groups.setdefault(key(row), Counter()).update(dict(row.groups))
    return _ranked([_Share(key, groups[key], number) for key, number in hosts.items()])


def _by_vm(counts: Mapping[tuple[_Key, str], int]) -> list[_Share[_Key]]:
    """The VMs by something that they have in common; the most VMs first."""
    groups: dict[_Key, Counter[str]] = {}
    for (key, group), number in counts.items():
        groups.setdefault(key, Counter())[group] += number
    return _ranked([_Share(key, by_group) for key, by_group in groups.items()])


def _ranked(shares: list[_Share[_Key]]) -> list[_Share[_Key]]:
    return sorted(shares, key=lambda share: (-share.vms, -share.hosts, _text(share.key)))


def _cut(shares: Sequence[_Share[_Key]], top: int, named: Callable[[_Key], dict[str, Any]]) -> dict[str, Any]:
    """The first ``top`` shares as records, and how many others there are, with how many VMs.

    :param named: gives the members of a record that say what its VMs have in common.
    """
    shown = shares[:top] if top else shares
    others = shares[len(shown) :]
    return {
        "listed": [_record(share, named(share.key)) for share in shown],
        "others": {"number": len(others), **_counts(sum((share.groups for share in others), Counter[str]()))},
    }


def _record(share: _Share[_Key], named: dict[str, Any]) -> dict[str, Any]:
    hosts = {"hosts": share.hosts} if share.hosts else {}
    return {**named, **hosts, **_counts(share.groups)}


def _counts(groups: Counter[str]) -> dict[str, Any]:
    return {
        "vms": sum(groups.values()),
        "groups": {group.key: groups[group.key] for group in BY_FAST_PATH if groups[group.key]},
    }


def _verdicts(rows: Sequence[HostRow]) -> list[dict[str, Any]]:
    """The hosts by the verdict on their kernel, in the order of Verdict."""
    shares = {share.key: share for share in _by_host(rows, lambda row: row.verdict)}
    order = [*(verdict.value for verdict in Verdict), None]
    return [_record(shares[verdict], {"verdict": verdict}) for verdict in order if verdict in shares]


def _kernel(key: tuple[str, str, str | None]) -> dict[str, Any]:
    release, build_id, verdict = key
    return {"release": release or None, "build_id": build_id or None, "verdict": verdict}


def _qemu(qemu: ReportedQemu) -> dict[str, Any]:
    return {"path": qemu.path, "build_id": qemu.build_id or None, "disables_pmu": qemu.disables_pmu}


def _cause(cause: str) -> dict[str, Any]:
    return {"cause": cause or None, "message": CASES[cause].message if cause in CASES else None}


def _steps(aggregate: Aggregate, chosen: Sequence[Round], top: int) -> dict[str, Any]:
    """The steps that most VMs wait for, and those of the rounds, which name them."""
    gains = by_step(aggregate.waiting)
    in_rounds = {step for round_ in chosen for step in round_.steps}
    shown = [step for place, step in enumerate(gains) if not top or place < top or step in in_rounds]
    return {
        "listed": [_step(step, aggregate.step_hosts[step], *gains[step]) for step in shown],
        "others": len(gains) - len(shown),
    }


def _step(step: CampaignStep, hosts: int, alone: Gain, together: Gain) -> dict[str, Any]:
    return {
        "id": step.id,
        "kind": step.kind.value,
        "what": step.description,
        "after": [earlier.id for earlier in step.behind],
        "hosts": hosts,
        "vms_alone": alone.vms,
        "vms_waiting": together.vms,
    }


def _to_settle(cause: str, gain: Gain, aggregate: Aggregate) -> dict[str, Any]:
    step = settle_step(cause)
    return {
        "id": step.id,
        "cause": cause,
        "message": CASES[cause].message,
        "hosts": aggregate.step_hosts[step],
        "vms": gain.vms,
    }


def _round(round_: Round) -> dict[str, Any]:
    return {
        "steps": [step.id for step in round_.steps],
        "brings": _gain(round_.gain),
        "cumulative": _gain(round_.total),
    }


def _gain(gain: Gain) -> dict[str, Any]:
    """A gain. The cycles are null if no VM's exits were counted: then they are unknown, not zero."""
    return {
        "vms": gain.vms,
        "counted_vms": gain.counted,
        "cycles_per_second_at_most": gain.cycles if gain.counted else None,
    }


def _absent(host: AbsentHost) -> dict[str, Any]:
    return {
        "host": host.host,
        "cause": host.cause,
        "message": host.message,
        "tried_at": None if host.at is None else _time(host.at),
        "last_report": None if host.last_report is None else _time(host.last_report),
    }


def _time(at: datetime) -> str:
    return at.isoformat(timespec="seconds")


def _text(key: object) -> str:
    """A key as text, by which shares of equal size are sorted; None comes behind all texts."""
    return repr(tuple(key)) if isinstance(key, tuple) else repr(key)
