"""The fleet report as plain text: what matters on a screen, in the order in which it matters."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from pmuconf.report.groups import BY_FAST_PATH
from pmuconf.report.plain import printable

__all__ = ["diff_table", "table"]

_ROWS: Final = 12
_MANY: Final = 50
_NUMBERS: Final = frozenset({"hosts", "VMs", "fast", "running", "alone", "waiting", "brings", "in all", "cycles/s"})
_WIDEST: Final = 100


def table(document: Mapping[str, Any]) -> str:
    """The text; names are shown as printable() has them."""
    return "\n".join(_lines(document)) + "\n"


def diff_table(document: Mapping[str, Any]) -> str:
    """The same of what changed between two collections."""
    return "\n".join(_diff_lines(document)) + "\n"


def _text_table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> Iterator[str]:
    """Aligned columns under their names; numbers to the right."""
    shown = [[_cell(value) for value in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(columns, *shown)]
    numeric = [name in _NUMBERS for name in columns]
    for row in (columns, *shown):
        cells = (cell.rjust(width) if right else cell.ljust(width) for cell, width, right in zip(row, widths, numeric))
        yield "  " + "  ".join(cells).rstrip()


def _lines(document: Mapping[str, Any]) -> Iterator[str]:
    summary = document["summary"]
    fast, running = summary["fast_path"]["yes"], summary["running"]
    yield (
        f"{fast:,} of {running:,} running VMs have the fast path; {summary['vms']:,} VMs on {summary['hosts']:,} hosts"
    )
    worth = document["worth"]
    if worth is not None:
        yield (
            f"at most {worth['saved_per_second']:,} cycles a second saved and {worth['savable_per_second']:,} could "
            f"be saved, by the exits of {worth['vms']:,} VMs that were counted on {worth['hosts']:,} hosts"
        )
    yield from _section(
        "Hosts by what their kernel does",
        ("verdict", "hosts", "VMs", "fast"),
        [(one["verdict"] or "not looked at", one["hosts"], one["vms"], _fast(one)) for one in document["verdicts"]],
    )
    yield from _rounds(document)
    yield from _section(
        "To be settled first: what stands in the way is not known, or not decided",
        ("cause", "hosts", "VMs", "why"),
        [(one["cause"], one["hosts"], one["vms"], one["message"]) for one in document["to_settle"]],
    )
    names = {group.key: group.name for group in BY_FAST_PATH}
    yield from _section("VMs by group", ("group", "VMs"), [(names[k], n) for k, n in summary["groups"].items() if n])
    yield from _section(
        "VMs by cause",
        ("cause", "VMs", "what it means"),
        [(one["cause"] or "not asked", one["vms"], one["message"]) for one in document["causes"]],
    )
    yield from _cut(
        document["kernels"],
        ("kernel", "build ID", "verdict", "hosts", "VMs", "fast"),
        lambda one: (one["release"], _id(one), one["verdict"], one["hosts"], one["vms"], _fast(one)),
    )
    yield from _cut(
        document["qemus"],
        ("QEMU", "build ID", "disables the PMU", "hosts", "VMs", "fast"),
        lambda one: (one["path"], _id(one), one["disables_pmu"], one["hosts"], one["vms"], _fast(one)),
    )
    for kind in ("flavor", "project"):
        yield from _cut(
            document[f"{kind}s"], (kind, "VMs", "fast"), lambda one, kind=kind: (one[kind], one["vms"], _fast(one))
        )
    yield from _section(
        "Hosts without a report, or not reached since", ("host", "cause", "last report", "why"),
        [(one["host"], one["cause"], one["last_report"], one["message"]) for one in document["absent"]],
    )  # fmt: skip
    yield from _section(
        "Stale reports", ("host", "made"), [(one["host"], one["generated_at"]) for one in document["stale"]]
    )
    yield from _section(
        "Files", ("file", "cause", "why"), [(one["path"], one["cause"], one["message"]) for one in document["files"]]
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
        [(one["change"], one["vms"], one["old"], one["new"]) for one in document["causes"]],
    )
    kinds = [(kind, host, "") for kind in ("came", "went", "unheard") for host in hosts[kind]]
    kinds += [
        ("changed", one["host"], "; ".join(f"{what}: {_shown(one[what])}" for what in one if what != "host"))
        for one in hosts["changed"]
    ]
    yield from _section("Hosts", ("change", "host", "what"), kinds[:_MANY])
    if kinds[_MANY:]:
        yield f"  and {len(kinds[_MANY:]):,} more: -f json has them"
    listed = document["listed"]
    yield from _section(
        "VMs",
        ("change", "name", "UUID", "host", "cause before", "cause now"),
        [
            (
                one["change"], one["name"], one["uuid"],
                one["new"]["host"] if one["old"]["host"] == one["new"]["host"] else _arrow(one, "host"),
                one["old"]["cause"], one["new"]["cause"],
            )
            for one in listed[:_MANY]
        ],
    )  # fmt: skip
    if len(listed[_MANY:]) + document["not_listed"]:
        yield f"  and {len(listed[_MANY:]) + document['not_listed']:,} more: -f json has them"
    yield from _section(
        "Files", ("file", "cause", "why"), [(one["path"], one["cause"], one["message"]) for one in document["files"]]
    )


def _shown(change: Mapping[str, Any]) -> str:
    old, new = (
        ", ".join(side) if isinstance(side, list) else side or "not known" for side in (change["old"], change["new"])
    )
    return f"{old} -> {new}"


def _arrow(one: Mapping[str, Any], key: str) -> str:
    return f"{one['old'][key]} -> {one['new'][key]}"


def _rounds(document: Mapping[str, Any]) -> Iterator[str]:
    steps = {one["id"]: one for one in document["steps"]["listed"]}
    rows: list[tuple[Any, ...]] = []
    for at, one in enumerate(document["rounds"][:_ROWS], 1):
        for place, name in enumerate(one["steps"]):
            step, first = steps[name], not place
            brings, cycles = one["brings"], one["brings"]["cycles_per_second_at_most"]
            rows.append(
                (
                    f"{at}." if first else "", f"+{brings['vms']:,}" if first else "",
                    f"{one['cumulative']['vms']:,}" if first else "", cycles if first else "",
                    step["hosts"], step["what"],
                )
            )  # fmt: skip
    yield from _section(
        "What would bring the most VMs onto the fast path, best first; steps of one number are taken together",
        ("", "brings", "in all", "cycles/s", "hosts", "step"),
        rows,
    )
    if len(document["rounds"]) > _ROWS:
        yield f"  and {len(document['rounds']) - _ROWS} more: -f json has them"


def _section(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> Iterator[str]:
    if rows:
        yield from ("", title, *_text_table(columns, rows))


def _cut(found: Mapping[str, Any], columns: Sequence[str], row: Any) -> Iterator[str]:
    listed, others = found["listed"], found["others"]
    yield from _section(f"VMs by {columns[0]}", columns, [row(one) for one in listed[:_ROWS]])
    number = others["number"] + len(listed[_ROWS:])
    if number:
        vms = others["vms"] + sum(one["vms"] for one in listed[_ROWS:])
        yield f"  and {number:,} more with {vms:,} VMs: -f json has them"


def _fast(one: Mapping[str, Any]) -> int:
    fast: int = one["groups"].get("fast", 0)
    return fast


def _id(one: Mapping[str, Any]) -> str:
    return (one["build_id"] or "")[:12]


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    text = printable(str(value))
    return text if len(text) <= _WIDEST else f"{text[: _WIDEST - 3]}..."
