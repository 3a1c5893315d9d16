"""The report as CSV: one row a domain, flat, for spreadsheets and for joining the reports of many hosts."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from typing import Any, Final

from pmuconf.report.plain import csv_cell

__all__ = ["COLUMNS", "csv_lines", "csv_rows", "csv_text"]

COLUMNS: Final = (
    *("host", "generated_at", "name", "uuid", "flavor", "nova", "running", "transient"),
    *("live", "next_boot", "saved", "snapshots", "effective_pmu"),
    *("decision", "rule", "reason", "drift", "pending"),
    *("in_kernel_pmu", "pmu_in_use", "fast_path", "cause", "causes", "evidence", "message", "remedies"),
    *("qemu_path", "qemu_build_id", "qemu_disables_pmu", "exits_per_second", "error_cause", "error_message"),
    *(
        "project",
        "cpu_has_pmu",
        "next_qemu_path",
        "next_qemu_build_id",
        "next_qemu_disables_pmu",
        "may_be_recreated",
        "severity",
    ),
    *("next_effective_pmu", "pmu_obeyed", "overridden"),
    *("manager", "by_process", "pid"),
)
"""The header. New columns come at the end, so that the numbers of the old ones stay."""


def csv_text(document: Mapping[str, Any]) -> str:
    """The domains of a report document as CSV, with the header.

    Null is empty, truth values are true and false, causes are separated by spaces, remedies by semicolons. Lines end
    with a line feed. A text that a spreadsheet would take for a formula begins with an apostrophe. Control characters
    are written out.
    """
    return csv_lines([COLUMNS]) + csv_rows(document)


def csv_rows(document: Mapping[str, Any]) -> str:
    """The same without the header."""
    head = {"host": document["host"], "generated_at": document["generated_at"]}
    flat = ({**head, **_flat(domain)} for domain in document["domains"])
    return csv_lines([row.get(column) for column in COLUMNS] for row in flat)


def csv_lines(rows: Iterable[Iterable[Any]]) -> str:
    """Rows of any values as lines."""
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(map(_cell, row) for row in rows)
    return out.getvalue()


def _flat(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record whose mappings have become keys of their own."""
    flat: dict[str, Any] = {}
    for key, value in record.items():
        if key == "remedies":
            flat[key] = "; ".join(remedy["text"] for remedy in value)
        elif isinstance(value, Mapping):
            flat.update({f"{key}_{inner}": what for inner, what in value.items()})
        else:
            flat[key] = value
    return flat


def _cell(value: Any) -> str | int | float:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return round(value, 3)
    return csv_cell(" ".join(value) if isinstance(value, (list, tuple)) else str(value))
