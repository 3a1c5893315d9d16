"""The fleet as CSV: a row a domain, as the host's own CSV has it, or a row a host."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from pmuconf.fleet.hostreport import HostReport
from pmuconf.report.csv import csv_lines, csv_rows
from pmuconf.report.groups import BY_FAST_PATH

__all__ = ["HOST_COLUMNS", "host_text", "vm_rows"]

HOST_COLUMNS: Final = (
    *("host", "inventory_name", "generated_at", "status", "verdict", "release", "build_id", "enable_pmu", "qemus"),
    *("vms", "running", "fast", *(f"group_{group.key}" for group in BY_FAST_PATH)),
    *("counted_vms", "saved_per_second", "savable_per_second", "cause", "message"),
)
"""The header. New columns come at the end. ``status`` is the exit status that the host's own report makes."""


def vm_rows(report: HostReport) -> str:
    """The rows of one host's domains; their header is report.csv.COLUMNS."""
    return csv_rows(report.data)


def host_text(document: Mapping[str, Any]) -> str:
    """A fleet document's hosts with their header: those with a report, then those without."""
    rows = [_row(one) for one in document["hosts"]]
    known = {one["host"] for one in document["hosts"]}
    rows += [one for one in document["absent"] if one["host"] not in known]
    return csv_lines([HOST_COLUMNS]) + csv_lines([row.get(column) for column in HOST_COLUMNS] for row in rows)


def _row(one: Mapping[str, Any]) -> dict[str, Any]:
    worth = one["worth"] or {}
    return {
        **one,
        "status": one["severity"],
        "qemus": [f"{qemu['path']}:{qemu['build_id'] or ''}" for qemu in one["qemus"]],
        **{f"group_{key}": number for key, number in one["groups"].items()},
        "counted_vms": worth.get("vms"),
        "saved_per_second": worth.get("saved_per_second"),
        "savable_per_second": worth.get("savable_per_second"),
    }
