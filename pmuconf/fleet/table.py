"""The fleet report as plain text: what matters on a screen, in the order in which it matters."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from pmuconf.report.groups import BY_FAST_PATH
from pmuconf.report.plain import printable

__all__ = ["table", "text_table"]

_ROWS: Final = 12
_NUMBERS: Final = frozenset({"hosts", "VMs", "fast", "running", "alone", "waiting", "brings", "in all", "cycles/s"})
_WIDEST: Final = 100


def table(document: Mapping[str, Any]) -> str:
    """The text; names are shown as printable() has them."""
    return "\n".join(_lines(document)) + "\n"


def text_table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> Iterator[str]:
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
            f"at most {worth['saved_per_second']:,} cycles a second saved and {worth['to_win_per_second']:,} to be "
            f"won, by the exits of {worth['vms']:,} VMs that were counted on {worth['hosts']:,} hosts"
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
        yield from ("", title, *text_table(columns, rows))


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
