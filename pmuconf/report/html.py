"""The report as one HTML page that needs nothing but a browser: no network, no other file, and no script to be read.

Names and metadata are tenants' text. Three things keep it text: every expression of the template goes through
printable() and is escaped, whatever it is; the page's policy (CSP) lets only its own script and style run, by their
hashes; and the script puts nothing into the page that it did not find there as text.
"""

from __future__ import annotations

import base64
import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cache
from importlib import resources
from typing import Any, Final

from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup

from pmuconf.fastpath import CASES
from pmuconf.report.groups import BY_FAST_PATH, BY_POLICY, Group, fast_path_group, policy_group
from pmuconf.report.plain import printable

__all__ = ["page"]

_EARLY: Final = (
    "document.documentElement.className = 'scripted';"  # so that thousands of rows are not laid out for nothing
)

_FLAVORS: Final = 12
_KINDS: Final = {
    "drift": "drift",
    "pending": "pending",
    "transient": "transient",
    "undecided": "undecided",
    "errors": "not judged",
}


@dataclass(frozen=True)
class Part:
    """A segment of a bar: where it begins and how long it is, in percent of the widest bar."""

    group: Group
    count: int
    start: float
    width: float


@dataclass(frozen=True)
class Bar:
    """One bar of a chart and the text beside it; ``value`` is what its VMs are found by."""

    label: str
    value: str
    parts: Sequence[Part]
    count: int
    note: str = ""

    @property
    def spoken(self) -> str:
        """The bar in words."""
        return f"{self.label}: " + ", ".join(f"{part.count} {part.group.name}" for part in self.parts)


@dataclass(frozen=True)
class Row:
    """One VM of the table: its record, its group, and the words that the links above the table find it by."""

    vm: Mapping[str, Any]
    group: Group
    found_by: str
    pmu: str
    tags: Sequence[str]


@dataclass(frozen=True)
class Step:
    """Something to do, for so many VMs."""

    key: str
    text: str
    count: int
    causes: Sequence[str]


def page(document: Mapping[str, Any]) -> str:
    """A report document as an HTML page: ASCII alone, so that it reads the same however it is stored or sent."""
    style, script = _asset("page.css"), _asset("page.js")
    text = _template().render(
        **_view(document),
        style=Markup(style),
        script=Markup(script),
        early=Markup(_EARLY),
        policy_of_content="; ".join(
            (
                "default-src 'none'",
                f"style-src '{_hash(style)}'",
                f"script-src '{_hash(_EARLY)}' '{_hash(script)}'",
                "img-src data:",  # the icon; without one, a browser asks the server for it
                "base-uri 'none'",
                "form-action 'none'",
            )
        ),
    )
    return text.encode("ascii", "xmlcharrefreplace").decode("ascii")


@cache
def _asset(name: str) -> str:
    return (resources.files("pmuconf.report") / "page" / name).read_text(encoding="ascii")


@cache
def _template() -> Template:
    environment = Environment(
        autoescape=True,
        finalize=_shown,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(number=_number, short=_short)
    return environment.from_string(_asset("page.html"))


def _shown(value: Any) -> Any:
    """What an expression of the template becomes before it is escaped."""
    if value is None:
        return ""
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _view(document: Mapping[str, Any]) -> dict[str, Any]:
    """All that the template shows."""
    vms: Sequence[Mapping[str, Any]] = document["domains"]
    judged = any(vm["fast_path"] is not None for vm in vms)
    groups, group_of = (BY_FAST_PATH, fast_path_group) if judged else (BY_POLICY, policy_group)
    by_key = {group.key: group for group in groups}
    kernel = document["host_facts"]["guard"]["remedy"] if document["host_facts"] else ""
    steps = _steps(vms, kernel)
    step_of = {step.text: step.key for step in steps}
    rows = [_row(vm, by_key[group_of(vm)], [step_of[text] for text, _ in _to_do(vm, kernel)]) for vm in vms]
    counts = Counter(row.group.key for row in rows)
    running = [vm for vm in vms if vm["running"]]
    return {
        "report": document,
        "at": datetime.fromisoformat(document["generated_at"]).strftime("%Y-%m-%d %H:%M UTC"),
        "facts": document["host_facts"],
        "worth": document["worth"],
        "shares": _shares(document["worth"]),
        "summary": document["summary"],
        "judged": judged,
        "fast": document["summary"]["fast_path"]["yes"],
        "running": len(running),
        "in_use": sum(vm["pmu_in_use"] is True for vm in vms),
        "kinds": [(key, name, document["summary"][key]) for key, name in _KINDS.items() if document["summary"][key]],
        "groups": [(group, counts[group.key]) for group in groups],
        "whole": next(iter(_bars([("all VMs", "", rows)], groups)), None),
        "flavors": _flavors(rows, groups),
        "causes": _causes(rows, groups),
        "qemus": _qemus(rows, groups),
        "steps": steps,
        "rows": rows,
        "exits": any(vm["exits_per_second"] is not None for vm in vms),
    }


def _row(vm: Mapping[str, Any], group: Group, steps: Sequence[str]) -> Row:
    kinds = [kind for kind in ("drift", "pending", "transient") if vm[kind]]
    found_by = [f"is-{group.key}", *kinds, *steps]
    if vm["decision"] == "undecided":
        found_by.append("undecided")
    if vm["error"] is not None:
        found_by.append("errors")
    if vm["pmu_in_use"]:
        found_by.append("in-use")
    live, next_boot = vm["live"] or "\N{EN DASH}", vm["next_boot"] or "\N{EN DASH}"
    pmu = live if live == next_boot else f"{live} \N{RIGHTWARDS ARROW} {next_boot}"
    return Row(vm, group, " ".join(found_by), "" if vm["error"] and live == next_boot else pmu, kinds)


def _to_do(vm: Mapping[str, Any], kernel: str) -> list[tuple[str, Sequence[str]]]:
    """What is to be done for a VM, and the causes that it removes; what its kernel needs is a step of its own."""
    remedy, causes = vm["remedy"] or "", vm["causes"]
    if kernel and remedy == kernel:
        return [(kernel, causes[:1])]
    if kernel and remedy.startswith(f"{kernel}; "):
        return [(kernel, causes[:1]), (remedy[len(kernel) + 2 :], causes[1:])]
    return [(remedy, causes)] if remedy else []


def _steps(vms: Iterable[Mapping[str, Any]], kernel: str) -> list[Step]:
    """What is to be done, with that first which the most VMs wait for."""
    waiting: Counter[str] = Counter()
    causes: dict[str, dict[str, None]] = {}
    for vm in vms:
        for text, removed in _to_do(vm, kernel):
            waiting[text] += 1
            causes.setdefault(text, {}).update(dict.fromkeys(removed))
    return [
        Step(f"step-{at}", text, count, list(causes[text])) for at, (text, count) in enumerate(waiting.most_common())
    ]


def _flavors(rows: Sequence[Row], groups: Sequence[Group]) -> list[Bar]:
    """A bar a flavor, the largest first; what is beyond the twelfth is one bar together."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row.vm["flavor"] or "", []).append(row)
    ranked = sorted(found.items(), key=lambda item: (-len(item[1]), item[0]))
    shown = [(flavor or "no flavor", f"flavor={printable(flavor)}", those) for flavor, those in ranked[:_FLAVORS]]
    rest = [row for _, those in ranked[_FLAVORS:] for row in those]
    if rest:
        shown.append((f"{len(ranked) - _FLAVORS} other flavors", "", rest))
    return list(_bars(shown, groups))


def _causes(rows: Sequence[Row], groups: Sequence[Group]) -> list[Bar]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        cause = row.vm["cause"] or (row.vm["error"] or {}).get("cause")
        if cause is not None:
            found.setdefault(cause, []).append(row)
    rank = {group.key: at for at, group in enumerate(groups)}
    ordered = sorted(found.items(), key=lambda item: (rank[item[1][0].group.key], -len(item[1]), item[0]))
    messages = {cause: case.message for cause, case in CASES.items()}
    return list(_bars([(cause, f"cause={cause}", those) for cause, those in ordered], groups, messages))


def _qemus(rows: Sequence[Row], groups: Sequence[Group]) -> list[Bar]:
    """A bar a QEMU that runs a VM, and whether it disables the PMU in KVM."""
    found: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        qemu = row.vm["qemu"]
        if qemu is not None and row.vm["running"]:
            said = {True: "disables", False: "does not disable", None: "not known whether it disables"}
            note = f"{said[qemu['disables_pmu']]} the PMU in KVM; build ID {qemu['build_id'] or 'not known'}"
            found.setdefault((qemu["path"], qemu["build_id"] or "", note), []).append(row)
    ordered = sorted(found.items(), key=lambda item: (-len(item[1]), item[0]))[:_FLAVORS]
    return [
        replace(bar, note=note)
        for ((_, _, note), _), bar in zip(
            ordered, _bars([(path, "", those) for (path, _, _), those in ordered], groups)
        )
    ]


def _bars(
    shown: Sequence[tuple[str, str, Sequence[Row]]], groups: Sequence[Group], notes: Mapping[str, str] | None = None
) -> Iterator[Bar]:
    widest = max((len(rows) for _, _, rows in shown), default=0)
    for label, value, rows in shown:
        if rows:
            counts = Counter(row.group.key for row in rows)
            parts = [(group, counts[group.key]) for group in groups if counts[group.key]]
            yield Bar(label, value, list(_parts(parts, widest)), len(rows), (notes or {}).get(label, ""))


def _parts(counts: Iterable[tuple[Group, int]], widest: int) -> Iterator[Part]:
    start = 0.0
    for group, count in counts:
        width = 100 * count / widest
        yield Part(group, count, round(start, 3), round(width, 3))
        start += width


def _shares(worth: Mapping[str, Any] | None) -> float:
    """What part of all that could be saved is saved, in percent."""
    total = worth["saved_per_second"] + worth["to_win_per_second"] if worth else 0
    return 100 * worth["saved_per_second"] / total if worth and total else 0.0


def _number(value: float) -> str:
    return f"{value:,.0f}"


def _short(value: float) -> str:
    """A large number in three digits: 36.4 million."""
    for power, name in ((1e12, "trillion"), (1e9, "billion"), (1e6, "million")):
        if value >= power:
            return f"{value / power:.{1 if value < 100 * power else 0}f} {name}"
    return _number(value)
