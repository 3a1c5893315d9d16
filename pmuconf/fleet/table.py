"""The fleet's report and a difference as plain text for a screen, the most important things first."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from pmuconf.fleet.reported import KINDS
from pmuconf.report.groups import BY_FAST_PATH
from pmuconf.report.plain import printable

__all__ = ["diff_table", "table"]

_ROWS: Final = 12
_MANY: Final = 50
_NUMBERS: Final = frozenset({"hosts", "VMs", "fast", "running", "alone", "waiting", "brings", "in all", "cycles/s"})
_WIDEST: Final = 100


def table(document: Mapping[str, Any]) -> str:
    """A fleet document as text. Names are shown as printable() has them."""
    return "\n".join(_lines(document)) + "\n"


def diff_table(document: Mapping[str, Any]) -> str:
    """The document of a difference as text."""
    return "\n".join(_diff_lines(document)) + "\n"


def _lines(document: Mapping[str, Any]) -> Iterator[str]:
    yield from _headlines(document)
    yield from _section(
        "Hosts by what their kernel does",
        ("verdict", "hosts", "VMs", "fast"),
        [
            (share["verdict"] or "not looked at", share["hosts"], share["vms"], _fast(share))
            for share in document["verdicts"]
        ],
    )
    yield from _rounds(document)
    yield from _section(
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
        f"{fast:,} of {running:,} running VMs have the fast path; {summary['vms']:,} VMs on {summary['hosts']:,} hosts"
    )
    kinds = [f"{summary[kind]:,} {name}" for kind, name in KINDS.items() if summary[kind]]
    if kinds:
        yield f"by the policy: {', '.join(kinds)}"
    worth = document["worth"]
    if worth is not None:
        yield (
            f"at most {worth['saved_per_second']:,} cycles a second saved and {worth['savable_per_second']:,} could "
            f"be saved, by the exits of {worth['vms']:,} VMs that were counted on {worth['hosts']:,} hosts"
        )


def _rounds(document: Mapping[str, Any]) -> Iterator[str]:
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
    yield from _section(
        "What would bring the most VMs onto the fast path, best first; steps of one number are taken together",
        ("", "brings", "in all", "cycles/s", "hosts", "step"),
        rows,
    )
    yield from _more(len(document["rounds"][_ROWS:]))


def _vms(document: Mapping[str, Any]) -> Iterator[str]:
    """The VMs by everything that they may have in common."""
    groups = document["summary"]["groups"]
    yield from _section(
        "VMs by group",
        ("group", "VMs"),
        [(group.name, groups[group.key]) for group in BY_FAST_PATH if groups[group.key]],
    )
    yield from _section(
        "VMs by cause",
        ("cause", "VMs", "what it means"),
        [(share["cause"] or "not asked", share["vms"], share["message"]) for share in document["causes"]],
    )
    yield from _cut(
        document["kernels"],
        ("kernel", "build ID", "verdict", "hosts", "VMs", "fast"),
        lambda share: (
            *(share["release"], _id(share), share["verdict"]),
            *(share["hosts"], share["vms"], _fast(share)),
        ),
    )
    yield from _cut(
        document["qemus"],
        ("QEMU", "build ID", "disables the PMU", "hosts", "VMs", "fast"),
        lambda share: (
            *(share["path"], _id(share), share["disables_pmu"]),
            *(share["hosts"], share["vms"], _fast(share)),
        ),
    )
    yield from _cut(
        document["flavors"], ("flavor", "VMs", "fast"), lambda share: (share["flavor"], share["vms"], _fast(share))
    )
    yield from _cut(
        document["projects"], ("project", "VMs", "fast"), lambda share: (share["project"], share["vms"], _fast(share))
    )


def _missing(document: Mapping[str, Any]) -> Iterator[str]:
    yield from _section(
        "Hosts without a report, or not reached since",
        ("host", "cause", "last report", "why"),
        [(host["host"], host["cause"], host["last_report"], host["message"]) for host in document["absent"]],
    )
    yield from _section(
        "Stale reports", ("host", "made"), [(host["host"], host["generated_at"]) for host in document["stale"]]
    )


def _files(document: Mapping[str, Any]) -> Iterator[str]:
    yield from _section(
        "Files",
        ("file", "cause", "why"),
        [(file["path"], file["cause"], file["message"]) for file in document["files"]],
    )


def _diff_lines(document: Mapping[str, Any]) -> Iterator[str]:
    vms, hosts = document["vms"], document["hosts"]
    yield (
        f"{vms['gained']:,} VMs gained the fast path, {vms['lost']:,} lost it; {vms['moved']:,} others moved, "
        f"{vms['same']:,} are as they were; {vms['came']:,} came, {vms['gone']:,} are gone"
    )
    if hosts["unheard"]:
        yield f"{len(hosts['unheard']):,} hosts were not heard of in one of the two, with {vms['unheard']:,} VMs"
    yield from _section(
        "VMs that gained or lost the fast path",
        ("change", "VMs", "cause before", "cause now"),
        [(cause["change"], cause["vms"], cause["old"], cause["new"]) for cause in document["causes"]],
    )
    rows = [(change, host, "") for change in ("came", "went", "unheard") for host in hosts[change]]
    rows += [("changed", change["host"], _host_change(change)) for change in hosts["changed"]]
    yield from _section("Hosts", ("change", "host", "what"), rows[:_MANY])
    yield from _more(len(rows[_MANY:]))
    listed = document["listed"]
    yield from _section(
        "VMs",
        ("change", "name", "UUID", "host", "cause before", "cause now"),
        [_vm_change(change) for change in listed[:_MANY]],
    )
    yield from _more(len(listed[_MANY:]) + document["not_listed"])
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
) -> Iterator[str]:
    """A section of the shares with the most VMs, and how many others there are."""
    listed, others = shares["listed"], shares["others"]
    yield from _section(f"VMs by {columns[0]}", columns, [row(share) for share in listed[:_ROWS]])
    number = others["number"] + len(listed[_ROWS:])
    if number:
        vms = others["vms"] + sum(share["vms"] for share in listed[_ROWS:])
        yield f"  and {number:,} more with {vms:,} VMs: -f json has them"


def _more(number: int) -> Iterator[str]:
    if number:
        yield f"  and {number:,} more: -f json has them"


def _section(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> Iterator[str]:
    if rows:
        yield from ("", title, *_text_table(columns, rows))


def _text_table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> Iterator[str]:
    """Aligned columns under their names, with numbers to the right."""
    shown = [[_cell(value) for value in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(columns, *shown)]
    numeric = [name in _NUMBERS for name in columns]
    for row in (columns, *shown):
        cells = (cell.rjust(width) if right else cell.ljust(width) for cell, width, right in zip(row, widths, numeric))
        yield "  " + "  ".join(cells).rstrip()


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
    text = printable(str(value))
    return text if len(text) <= _WIDEST else f"{text[: _WIDEST - 3]}..."
