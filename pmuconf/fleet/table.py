"""The fleet's report and a difference as plain text for a screen, the most important things first."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pmuconf.fleet.reported import KINDS
from pmuconf.report.groups import BY_FAST_PATH
from pmuconf.report.plain import printable
from pmuconf.report.screen import Column, cut, lines_of, table_lines
from pmuconf.wording import counted

__all__ = ["diff_table", "table"]

_ROWS: Final = 12
_MANY: Final = 50
_NUMBERS: Final = frozenset({"hosts", "VMs", "fast", "running", "alone", "waiting", "brings", "in all", "cycles/s"})
_NAMES: Final = frozenset({"kernel", "QEMU", "flavor", "project", "host", "file", "name", "cause before"})
_TEXTS: Final = frozenset({"step", "why", "what it means", "what", "cause now"})
_WIDEST: Final = 200
_INDENT: Final = "  "


@dataclass(frozen=True)
class TextSection:
    """A part of the text: a table with its title, and what stands below it."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    below: str = ""


def table(document: Mapping[str, Any], width: int | None = None) -> str:
    """A fleet document as text. Names are shown as printable() has them.

    :param width: of the screen, in cells, which no line passes; None: no screen.
    """
    return _text(_parts(document), width)


def diff_table(document: Mapping[str, Any], width: int | None = None) -> str:
    """The document of a difference as text."""
    return _text(_diff_parts(document), width)


def _text(parts: Iterable[str | TextSection], width: int | None) -> str:
    return "".join(f"{line}\n" for part in parts for line in _lines(part, width))


def _lines(part: str | TextSection, width: int | None) -> Iterator[str]:
    """The lines of a sentence, or of a section; none of a section without rows."""
    if isinstance(part, str):
        yield from lines_of(part, width)
    elif part.rows:
        yield ""
        yield from lines_of(part.title, width)
        columns = [
            Column(name, cuts=name in _NAMES, folds=name in _TEXTS, right=name in _NUMBERS) for name in part.columns
        ]
        cells = [[_cell(value) for value in row] for row in part.rows]
        room = None if width is None else width - len(_INDENT)
        yield from (f"{_INDENT}{line}" for line in table_lines(columns, cells, room, rule=False))
        if part.below:
            yield f"{_INDENT}{part.below}"


def _parts(document: Mapping[str, Any]) -> Iterator[str | TextSection]:
    yield from _headlines(document)
    yield TextSection(
        "Hosts by what their kernel does",
        ("verdict", "hosts", "VMs", "fast"),
        [
            (share["verdict"] or "not looked at", share["hosts"], share["vms"], _fast(share))
            for share in document["verdicts"]
        ],
    )
    yield from _rounds(document)
    yield TextSection(
        "To be settled first: what stands in the way is not known, or not decided",
        ("cause", "hosts", "VMs", "why"),
        [(entry["cause"], entry["hosts"], entry["vms"], entry["message"]) for entry in document["to_settle"]],
    )
    yield from _vms(document)
    yield from _missing(document)
    yield from _files(document)


def _headlines(document: Mapping[str, Any]) -> Iterator[str]:
    summary = document["summary"]
    fast, running = summary["fast_path"]["yes"], summary["running"]
    yield (
        f"{fast:,} of {counted(running, 'running VM')} {'has' if running == 1 else 'have'} the fast path; "
        f"{counted(summary['vms'], 'VM')} on {counted(summary['hosts'], 'host')}"
    )
    kinds = [f"{summary[kind]:,} {name}" for kind, name in KINDS.items() if summary[kind]]
    if kinds:
        yield f"by the policy: {', '.join(kinds)}"
    worth = document["worth"]
    if worth is not None:
        yield (
            f"at most {worth['saved_per_second']:,} cycles a second saved and {worth['savable_per_second']:,} could "
            f"be saved, by the exits of {counted(worth['vms'], 'VM')} counted on {counted(worth['hosts'], 'host')}"
        )


def _rounds(document: Mapping[str, Any]) -> Iterator[TextSection]:
    """The rounds, a line a step. The gain of a round stands on the line of its first step."""
    steps = {step["id"]: step for step in document["steps"]["listed"]}
    rows: list[tuple[Any, ...]] = []
    for number, round_ in enumerate(document["rounds"][:_ROWS], 1):
        brings = round_["brings"]
        gain = (
            f"{number}.",
            f"+{brings['vms']:,}",
            f"{round_['cumulative']['vms']:,}",
            brings["cycles_per_second_at_most"],
        )
        for name in round_["steps"]:
            rows.append((*gain, steps[name]["hosts"], steps[name]["what"]))
            gain = ("", "", "", "")
    yield TextSection(
        "What would bring the most VMs onto the fast path, best first; steps of one number are taken together",
        ("", "brings", "in all", "cycles/s", "hosts", "step"),
        rows,
        _more(len(document["rounds"][_ROWS:])),
    )


def _vms(document: Mapping[str, Any]) -> Iterator[TextSection]:
    """The VMs by everything that they may have in common."""
    groups = document["summary"]["groups"]
    yield TextSection(
        "VMs by group",
        ("group", "VMs"),
        [(group.name, groups[group.key]) for group in BY_FAST_PATH if groups[group.key]],
    )
    yield TextSection(
        "VMs by cause",
        ("cause", "VMs", "what it means"),
        [(share["cause"] or "not asked", share["vms"], share["message"]) for share in document["causes"]],
    )
    yield _cut(
        document["kernels"],
        ("kernel", "build ID", "verdict", "hosts", "VMs", "fast"),
        lambda share: (
            *(share["release"], _id(share), share["verdict"]),
            *(share["hosts"], share["vms"], _fast(share)),
        ),
    )
    yield _cut(
        document["qemus"],
        ("QEMU", "build ID", "disables the PMU", "hosts", "VMs", "fast"),
        lambda share: (
            *(share["path"], _id(share), share["disables_pmu"]),
            *(share["hosts"], share["vms"], _fast(share)),
        ),
    )
    yield _cut(
        document["flavors"], ("flavor", "VMs", "fast"), lambda share: (share["flavor"], share["vms"], _fast(share))
    )
    yield _cut(
        document["projects"], ("project", "VMs", "fast"), lambda share: (share["project"], share["vms"], _fast(share))
    )


def _missing(document: Mapping[str, Any]) -> Iterator[TextSection]:
    yield TextSection(
        "Hosts without a report, or not reached since",
        ("host", "cause", "last report", "why"),
        [(host["host"], host["cause"], host["last_report"], host["message"]) for host in document["absent"]],
    )
    yield TextSection(
        "Stale reports", ("host", "made"), [(host["host"], host["generated_at"]) for host in document["stale"]]
    )


def _files(document: Mapping[str, Any]) -> Iterator[TextSection]:
    yield TextSection(
        "Files",
        ("file", "cause", "why"),
        [(file["path"], file["cause"], file["message"]) for file in document["files"]],
    )


def _diff_parts(document: Mapping[str, Any]) -> Iterator[str | TextSection]:
    vms, hosts = document["vms"], document["hosts"]
    yield (
        f"{counted(vms['gained'], 'VM')} gained the fast path, {vms['lost']:,} lost it; of the others moved: "
        f"{vms['moved']:,}, as they were: {vms['same']:,}; new: {vms['came']:,}, gone: {vms['gone']:,}"
    )
    if hosts["unheard"]:
        number = len(hosts["unheard"])
        were = "was" if number == 1 else "were"
        yield f"{counted(number, 'host')} {were} not heard of in one of the two, with {counted(vms['unheard'], 'VM')}"
    yield TextSection(
        "VMs that gained or lost the fast path",
        ("change", "VMs", "cause before", "cause now"),
        [(cause["change"], cause["vms"], cause["old"], cause["new"]) for cause in document["causes"]],
    )
    rows = [(change, host, "") for change in ("came", "went", "unheard") for host in hosts[change]]
    rows += [("changed", change["host"], _host_change(change)) for change in hosts["changed"]]
    yield TextSection("Hosts", ("change", "host", "what"), rows[:_MANY], _more(len(rows[_MANY:])))
    listed = document["listed"]
    yield TextSection(
        "VMs",
        ("change", "name", "UUID", "host", "cause before", "cause now"),
        [_vm_change(change) for change in listed[:_MANY]],
        _more(len(listed[_MANY:]) + document["not_listed"]),
    )
    yield from _files(document)


def _host_change(change: Mapping[str, Any]) -> str:
    return "; ".join(f"{what}: {_old_and_new(change[what])}" for what in change if what != "host")


def _old_and_new(change: Mapping[str, Any]) -> str:
    sides = [", ".join(side) if isinstance(side, list) else side or "not known" for side in _sides(change)]
    return " -> ".join(sides)


def _vm_change(change: Mapping[str, Any]) -> tuple[Any, ...]:
    old, new = _sides(change)
    host = new["host"] if old["host"] == new["host"] else f"{old['host']} -> {new['host']}"
    return change["change"], change["name"], change["uuid"], host, old["cause"], new["cause"]


def _sides(change: Mapping[str, Any]) -> tuple[Any, Any]:
    return change["old"], change["new"]


def _cut(
    shares: Mapping[str, Any], columns: Sequence[str], row: Callable[[Mapping[str, Any]], tuple[Any, ...]]
) -> TextSection:
    """A section of the shares with the most VMs, and how many others there are."""
    listed, others = shares["listed"], shares["others"]
    number = others["number"] + len(listed[_ROWS:])
    vms = others["vms"] + sum(share["vms"] for share in listed[_ROWS:])
    more = f"and {number:,} more with {counted(vms, 'VM')}: -f json has them" if number else ""
    return TextSection(f"VMs by {columns[0]}", columns, [row(share) for share in listed[:_ROWS]], more)


def _more(number: int) -> str:
    return f"and {number:,} more: -f json has them" if number else ""


def _fast(share: Mapping[str, Any]) -> int:
    fast: int = share["groups"].get("fast", 0)
    return fast


def _id(share: Mapping[str, Any]) -> str:
    return (share["build_id"] or "")[:12]


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return cut(printable(str(value)), _WIDEST)
