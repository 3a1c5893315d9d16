"""The report as one HTML page: of a host, what it was found to be, what to do, and every VM."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pmuconf.domain.definition import Manager
from pmuconf.fastpath.cases import CASES
from pmuconf.hostfacts import does_to_pmu
from pmuconf.report.bars import Bar, Counted, bars
from pmuconf.report.document import GENERATOR, VERSION
from pmuconf.report.groups import BY_FAST_PATH, BY_POLICY, KINDS, OF_RUNNING, Group, fast_path_group, policy_group
from pmuconf.report.plain import visible
from pmuconf.report.saving import Capacity
from pmuconf.report.template import render

__all__ = ["page", "waiting_page"]

_FLAVORS: Final = 12
_APART: Final = {"stopped": "not running", "unread": "not judged"}
"""Why a VM is not among the running ones, with its name on the page."""


@dataclass(frozen=True)
class VmRow:
    """One VM of the table: its record, its group, and the words by which the links above the table find it.

    :param in_headline: it is counted in the headline and in the bar below that: the running VMs, or all if none runs.
    """

    vm: Mapping[str, Any]
    group: Group
    found_by: str
    pmu: str
    tags: Sequence[str]
    in_headline: bool


@dataclass(frozen=True)
class ToDo:
    """One step, how many VMs wait for it, and the causes that it removes."""

    key: str
    text: str
    count: int
    causes: Sequence[str]


def page(document: Mapping[str, Any]) -> str:
    """A report document as an HTML page: ASCII alone, so that it reads the same however it is stored or sent."""
    return render("host.html", _view(document))


def waiting_page(host: str, problems: Sequence[str]) -> str:
    """The page that is shown while there is no report yet, with what is wrong, in sentences."""
    report = {"host": host, "generator": GENERATOR, "version": VERSION}
    return render("waiting.html", {"report": report, "problems": problems})


def _view(document: Mapping[str, Any]) -> dict[str, Any]:
    """All that the template shows."""
    vms: Sequence[Mapping[str, Any]] = document["domains"]
    judged = any(vm["fast_path"] is not None for vm in vms)
    groups, group_of = (BY_FAST_PATH, fast_path_group) if judged else (BY_POLICY, policy_group)
    by_key = {group.key: group for group in groups}
    steps = _steps(vms)
    step_of = {step.text: step.key for step in steps}
    running = sum(vm["running"] for vm in vms)
    of_running = judged and running > 0
    whole = OF_RUNNING if of_running else groups
    rows = [
        _row(
            vm,
            by_key[group_of(vm)],
            [step_of[remedy["text"]] for remedy in vm["remedies"]],
            in_headline=vm["running"] or not of_running,
        )
        for vm in vms
    ]
    in_headline = [row for row in rows if row.in_headline]
    counts = Counter(row.group.key for row in in_headline)
    apart = Counter(_why_apart(row.vm) for row in rows if not row.in_headline)
    return {
        "report": document,
        "facts": document["host_facts"],
        "worth": document["worth"],
        "shares": _shares(document["worth"]),
        "capacity": _capacity(document["host_facts"] or {}),
        "summary": document["summary"],
        "judged": judged,
        "of_running": of_running,
        "running": running,
        "apart": [(word, name, apart[word]) for word, name in _APART.items() if apart[word]],
        "in_use": sum(vm["pmu_in_use"] is True for vm in vms),
        "kinds": [(key, name, document["summary"][key]) for key, name in KINDS.items() if document["summary"][key]],
        "groups": [(group, counts[group.key]) for group in whole],
        "whole": next(bars([_counted("running VMs" if of_running else "all VMs", "", in_headline)], whole), None),
        "flavors": _flavors(rows, groups),
        "causes": _causes(rows, groups),
        "qemus": _qemus(rows, groups),
        "steps": steps,
        "rows": rows,
        "starters": {manager.value: manager.title for manager in Manager if manager is not Manager.UNKNOWN},
        "exits": any(vm["exits_per_second"] is not None for vm in vms),
    }


def _row(vm: Mapping[str, Any], group: Group, steps: Sequence[str], *, in_headline: bool) -> VmRow:
    kinds = [kind for kind in ("drift", "pending", "transient") if vm[kind]]
    found_by = [f"is-{group.key}" if in_headline else _why_apart(vm), *kinds, *steps]
    if vm["decision"] == "undecided":
        found_by.append("undecided")
    if vm["error"] is not None:
        found_by.append("errors")
    if vm["pmu_in_use"]:
        found_by.append("in-use")
    live, next_boot = vm["live"] or "\N{EN DASH}", vm["next_boot"] or "\N{EN DASH}"
    pmu = live if live == next_boot else f"{live} \N{RIGHTWARDS ARROW} {next_boot}"
    pmu = "" if vm["error"] and live == next_boot else pmu
    return VmRow(vm, group, " ".join(found_by), pmu, kinds, in_headline)


def _why_apart(vm: Mapping[str, Any]) -> str:
    """The key in _APART of a VM that is not in the headline."""
    return "unread" if vm["error"] is not None else "stopped"


def _steps(vms: Iterable[Mapping[str, Any]]) -> list[ToDo]:
    """The steps of all VMs, the one that most VMs wait for first."""
    waiting: Counter[str] = Counter()
    causes: dict[str, dict[str, None]] = {}
    for vm in vms:
        for remedy in vm["remedies"]:
            text = remedy["text"]
            waiting[text] += 1
            causes.setdefault(text, {}).update(dict.fromkeys(remedy["causes"]))
    return [ToDo(f"step-{_digest(text)}", text, count, list(causes[text])) for text, count in waiting.most_common()]


def _digest(text: str) -> str:
    """Short, and the same in every report: an address that is kept never leads to the VMs of another step."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]


def _flavors(rows: Sequence[VmRow], groups: Sequence[Group]) -> list[Bar]:
    """A bar for each flavor, the largest first; the flavors beyond the twelfth are one bar together."""
    by_flavor: dict[str, list[VmRow]] = {}
    for row in rows:
        by_flavor.setdefault(row.vm["flavor"] or "", []).append(row)
    ranked = sorted(by_flavor.items(), key=lambda item: (-len(item[1]), item[0]))
    shown = [
        _counted(flavor or "no flavor", f"flavor={visible(flavor)}", of_flavor)
        for flavor, of_flavor in ranked[:_FLAVORS]
    ]
    rest = [row for _, of_flavor in ranked[_FLAVORS:] for row in of_flavor]
    if rest:
        shown.append(_counted(f"{len(ranked) - _FLAVORS} other flavors", "", rest))
    return list(bars(shown, groups))


def _causes(rows: Sequence[VmRow], groups: Sequence[Group]) -> list[Bar]:
    """A bar for each cause, in the order of the groups, and within a group the largest first."""
    by_cause: dict[str, list[VmRow]] = {}
    for row in rows:
        cause = row.vm["cause"] or (row.vm["error"] or {}).get("cause")
        if cause is not None:
            by_cause.setdefault(cause, []).append(row)
    rank = {group.key: at for at, group in enumerate(groups)}
    ordered = sorted(by_cause.items(), key=lambda item: (rank[item[1][0].group.key], -len(item[1]), item[0]))
    shown = [
        _counted(cause, f"cause={cause}", of_cause, CASES[cause].message if cause in CASES else "")
        for cause, of_cause in ordered
    ]
    return list(bars(shown, groups))


def _qemus(rows: Sequence[VmRow], groups: Sequence[Group]) -> list[Bar]:
    """A bar for each QEMU that runs a VM, with a note whether it disables the PMU in KVM."""
    by_qemu: dict[tuple[str, str, str], list[VmRow]] = {}
    for row in rows:
        qemu = row.vm["qemu"]
        if qemu is not None and row.vm["running"]:
            note = f"{does_to_pmu(disables=qemu['disables_pmu'])}; build ID {qemu['build_id'] or 'not known'}"
            by_qemu.setdefault((qemu["path"], qemu["build_id"] or "", note), []).append(row)
    ordered = sorted(by_qemu.items(), key=lambda item: (-len(item[1]), item[0]))[:_FLAVORS]
    return list(bars([_counted(path, "", of_qemu, note) for (path, _, note), of_qemu in ordered], groups))


def _counted(label: str, value: str, rows: Sequence[VmRow], note: str = "") -> Counted:
    return Counted(label, value, Counter(row.group.key for row in rows), note)


def _capacity(facts: Mapping[str, Any]) -> Capacity | None:
    """The host's CPUs; None where they are not known, as in older reports."""
    cpus, cycles = facts.get("cpus"), facts.get("cycles_per_second")
    return Capacity(cpus, cycles) if cpus and cycles else None


def _shares(worth: Mapping[str, Any] | None) -> float:
    """The part of the cycles that the fast path saves of all that it could save, in percent."""
    total = worth["saved_per_second"] + worth["savable_per_second"] if worth else 0
    return 100 * worth["saved_per_second"] / total if worth and total else 0.0
