"""The fleet as CSV: one row a VM, as in the CSV of a host, or one row a host."""

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
"""The header. New columns come at the end. ``status`` is the exit status of the host's own report."""


def vm_rows(report: HostReport) -> str:
    """The rows of one host's VMs; their header is report.csv.COLUMNS."""
    return csv_rows(report.document)


def host_text(document: Mapping[str, Any]) -> str:
    """The hosts of a fleet document with their header: those with a report, then those without."""
    rows = [_row(host) for host in document["hosts"]]
    with_report = {host["host"] for host in document["hosts"]}
    rows += [host for host in document["absent"] if host["host"] not in with_report]
    return csv_lines([HOST_COLUMNS]) + csv_lines([row.get(column) for column in HOST_COLUMNS] for row in rows)


def _row(host: Mapping[str, Any]) -> dict[str, Any]:
    worth = host["worth"] or {}
    return {
        **host,
        "status": host["severity"],
        "qemus": [f"{qemu['path']}:{qemu['build_id'] or ''}" for qemu in host["qemus"]],
        **{f"group_{key}": number for key, number in host["groups"].items()},
        "counted_vms": worth.get("vms"),
        "saved_per_second": worth.get("saved_per_second"),
        "savable_per_second": worth.get("savable_per_second"),
    }
