"""The fleet as data: docs/fleet-report.schema.json. What is long is cut to the most, and the rest is counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, TypeVar

import pmuconf
from pmuconf.fastpath.cases import CASES, FastPath
from pmuconf.fleet.absent import Absent, severity
from pmuconf.fleet.aggregate import Aggregate, Gain, HostRow, Worth
from pmuconf.fleet.files import Problem
from pmuconf.fleet.ranking import Round, by_step, rounds, to_settle
from pmuconf.fleet.steps import Step
from pmuconf.hostfacts import Verdict
from pmuconf.report.groups import BY_FAST_PATH, KINDS

__all__ = ["FORMAT", "VERSION", "Fleet", "document", "host_record"]

FORMAT: Final = "pmuconf-fleet-report"
VERSION: Final = 2
_Key = TypeVar("_Key")


@dataclass(frozen=True)
class Fleet:
    """All that is known of a fleet when its files have been read.

    :param stale_after: seconds; None: no report is too old.
    """

    aggregate: Aggregate
    at: datetime
    problems: Sequence[Problem] = ()
    absent: Sequence[Absent] = ()
    stale: Sequence[HostRow] = ()
    stale_after: int | None = None

    @property
    def severity(self) -> int:
        """The exit status: the worst of the VMs, of the files, and of the hosts that are missing."""
        return max(self.aggregate.severity, severity(self.problems, self.absent, self.stale))


def document(fleet: Fleet, top: int = 0) -> dict[str, Any]:
    """The whole, ready for json.dump().

    :param top: how many flavors, projects, kernels, QEMUs and steps to list; 0: all.
    """
    made = fleet.aggregate
    rows = sorted(made.hosts.values(), key=lambda row: row.name)
    chosen = rounds(made.waiting)
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
        "kernels": _cut(_by(rows, lambda row: (*row.kernel, row.verdict)), top, _kernel),
        "qemus": _cut(_tally(made.qemus), top, lambda key: {**_qemu(key), "hosts": made.qemu_hosts[key]}),
        "causes": _cut(_tally(made.causes), 0, _cause)["listed"],
        "flavors": _cut(_tally(made.flavors), top, lambda name: {"flavor": name or None}),
        "projects": _cut(_tally(made.projects), top, lambda name: {"project": name or None}),
        "steps": _steps(made, chosen, top),
        "rounds": [_round(one) for one in chosen],
        "to_settle": [
            {"cause": cause, "message": CASES[cause].message, "hosts": gain.hosts, "vms": gain.vms}
            for cause, gain in to_settle(made.waiting).items()
        ],
        "absent": [_absent(one) for one in fleet.absent],
        "stale": [{"host": row.name, "generated_at": _time(row.at)} for row in fleet.stale],
        "files": [
            {"path": one.path, "cause": one.cause, "message": one.message, "host": one.host or None}
            for one in sorted(fleet.problems)
        ],
        "hosts": [host_record(row) for row in rows],
    }


def host_record(row: HostRow) -> dict[str, Any]:
    """One host."""
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
        "qemus": [_qemu(key) for key in row.qemus],
        "vms": row.vms,
        "running": row.running,
        "fast": row.fast,
        "groups": {group.key: groups.get(group.key, 0) for group in BY_FAST_PATH},
        "worth": None if row.worth is None else _worth_record(row.worth),
    }


def _summary(fleet: Fleet, rows: Sequence[HostRow]) -> dict[str, Any]:
    made = fleet.aggregate
    groups = Counter[str]()
    for row in rows:
        groups.update(dict(row.groups))
    return {
        "hosts": len(rows),
        "absent": len(fleet.absent),
        "stale": len(fleet.stale),
        "vms": sum(row.vms for row in rows),
        "running": sum(row.running for row in rows),
        "fast_path": {path.value: made.fast_path[path.value] for path in FastPath},
        "groups": {group.key: groups[group.key] for group in BY_FAST_PATH},
        **{kind: made.kinds[kind] for kind in KINDS},
    }


def _worth(rows: Iterable[HostRow]) -> dict[str, Any] | None:
    """The hosts' sum; None if exits were counted on none of them."""
    known = [row.worth for row in rows if row.worth is not None]
    return {"hosts": len(known), **_worth_record(sum(known, Worth()))} if known else None


def _worth_record(worth: Worth) -> dict[str, int]:
    return {"vms": worth.vms, "saved_per_second": worth.saved, "savable_per_second": worth.savable}


def _verdicts(rows: Sequence[HostRow]) -> list[dict[str, Any]]:
    found = {verdict: (hosts, groups) for verdict, hosts, groups in _by(rows, lambda row: row.verdict)}
    order = [*(verdict.value for verdict in Verdict), None]
    return [
        {"verdict": verdict, "hosts": found[verdict][0], **_counts(found[verdict][1])}
        for verdict in order
        if verdict in found
    ]


def _by(rows: Iterable[HostRow], key: Callable[[HostRow], _Key]) -> list[tuple[_Key, int, Counter[str]]]:
    """Hosts that are alike in something: how many, and their VMs by group; the most VMs first."""
    hosts: Counter[_Key] = Counter()
    groups: dict[_Key, Counter[str]] = {}
    for row in rows:
        hosts[key(row)] += 1
        groups.setdefault(key(row), Counter()).update(dict(row.groups))
    return _ranked([(one, hosts[one], groups[one]) for one in hosts])


def _tally(counts: Mapping[tuple[_Key, str], int]) -> list[tuple[_Key, int, Counter[str]]]:
    groups: dict[_Key, Counter[str]] = {}
    for (key, group), number in counts.items():
        groups.setdefault(key, Counter())[group] += number
    return _ranked([(key, 0, by_group) for key, by_group in groups.items()])


def _ranked(found: list[tuple[_Key, int, Counter[str]]]) -> list[tuple[_Key, int, Counter[str]]]:
    return sorted(found, key=lambda one: (-sum(one[2].values()), -one[1], repr(one[0])))


def _cut(
    ranked: Sequence[tuple[_Key, int, Counter[str]]], top: int, named: Callable[[_Key], dict[str, Any]]
) -> dict[str, Any]:
    """The first so many, and how many others with how many VMs."""
    shown, rest = (ranked[:top], ranked[top:]) if top else (ranked, ())
    listed = [{**named(key), **({"hosts": hosts} if hosts else {}), **_counts(groups)} for key, hosts, groups in shown]
    others = sum((groups for _, _, groups in rest), Counter[str]())
    return {"listed": listed, "others": {"number": len(rest), **_counts(others)}}


def _counts(groups: Counter[str]) -> dict[str, Any]:
    return {
        "vms": sum(groups.values()),
        "groups": {group.key: groups[group.key] for group in BY_FAST_PATH if groups[group.key]},
    }


def _kernel(key: tuple[str, str, str | None]) -> dict[str, Any]:
    release, build_id, verdict = key
    return {"release": release or None, "build_id": build_id or None, "verdict": verdict}


def _qemu(key: tuple[str, str, bool | None]) -> dict[str, Any]:
    path, build_id, disables = key
    return {"path": path, "build_id": build_id or None, "disables_pmu": disables}


def _cause(cause: str) -> dict[str, Any]:
    return {"cause": cause or None, "message": CASES[cause].message if cause in CASES else None}


def _steps(made: Aggregate, chosen: Sequence[Round], top: int) -> dict[str, Any]:
    """What is in a round is listed always, for the rounds name it."""
    found = by_step(made.waiting)
    named = {step for one in chosen for step in one.steps}
    shown = [step for at, step in enumerate(found) if not top or at < top or step in named]
    return {
        "listed": [_step(step, made.step_hosts[step], *found[step]) for step in shown],
        "others": len(found) - len(shown),
    }


def _step(step: Step, hosts: int, alone: Gain, together: Gain) -> dict[str, Any]:
    return {
        "id": step.id,
        "kind": step.kind.value,
        "what": step.what,
        "after": [one.id for one in step.behind],
        "hosts": hosts,
        "vms_alone": alone.vms,
        "vms_waiting": together.vms,
    }


def _round(one: Round) -> dict[str, Any]:
    return {"steps": [step.id for step in one.steps], "brings": _gain(one.gain), "cumulative": _gain(one.total)}


def _gain(gain: Gain) -> dict[str, Any]:
    """Null, where no VM's exits were counted: nothing is known then, which is not nothing to win."""
    return {
        "vms": gain.vms,
        "counted_vms": gain.counted,
        "cycles_per_second_at_most": gain.cycles if gain.counted else None,
    }


def _absent(one: Absent) -> dict[str, Any]:
    return {
        "host": one.host,
        "cause": one.cause,
        "message": one.message,
        "tried_at": None if one.at is None else _time(one.at),
        "last_report": None if one.last_report is None else _time(one.last_report),
    }


def _time(at: datetime) -> str:
    return at.isoformat(timespec="seconds")
