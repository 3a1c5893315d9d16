"""pmuconf audit"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pmuconf.audit import Report, Severity, Vm, audit, audit_files
from pmuconf.commands.base import Table, add_connect, connect, settings
from pmuconf.conf import Settings
from pmuconf.errors import PmuconfError
from pmuconf.policy import Decision
from pmuconf.report.document import record, summary

__all__ = ["Audit", "add_sources", "run_audit"]


class Audit(Table):
    """Show each VM's PMU, what the policy wants, and where they differ. Reads only.

    live, next_boot and saved are PMU states as libvirt has them: on, off, or default (no <pmu> element).
    snapshots counts those whose revert would bring another state back. effective_pmu is what the guest gets:
    default means on with host-passthrough and maximum, off with any other CPU model.

    status: ok; drift (the next boot is not what the policy wants: pmuconf apply); pending (the next boot is right,
    the running guest or its saved image not yet: stop and start it); transient (runs, has no next boot);
    undecided (a rule needs what can't be known here).

    Exit status: 0 all ok, 1 pending or undecided, 2 drift or a domain that can't be judged, 255 error.
    """

    columns = (
        *("name", "uuid", "flavor", "live", "next_boot", "saved", "snapshots", "effective_pmu"),
        *("decision", "rule", "reason", "drift", "pending", "transient", "nova", "error", "status"),
    )
    brief = (
        *("name", "flavor", "live", "next_boot", "saved", "snapshots", "effective_pmu"),
        *("decision", "rule", "status"),
    )

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        add_sources(parser)
        return parser

    def records(self, args: argparse.Namespace) -> Iterable[Mapping[str, Any]]:
        report = run_audit(args, settings(self))
        self.status = int(report.severity)
        for vm in report.vms:
            if vm.error is not None:
                self.app.LOG.warning("%s (%s)", vm.error.message, vm.error.cause)
        self.closing.append(_sentence(report))
        return [{**record(vm), "status": _status(vm)} for vm in report.vms]


def add_sources(parser: argparse.ArgumentParser) -> None:
    """Add what to audit: domains of a connection, or files."""
    add_connect(parser)
    parser.add_argument("domains", nargs="*", metavar="DOMAIN", help="Names or UUIDs; without any, all domains.")
    parser.add_argument(
        "--xml",
        nargs="+",
        type=Path,
        metavar="PATH",
        help="Read these files of domain XML (virsh dumpxml), or DIR/*.xml, instead of asking libvirt.",
    )


def run_audit(args: argparse.Namespace, chosen: Settings) -> Report:
    """Audit what the arguments of add_sources() name."""
    if args.xml:
        if args.domains or args.connect:
            raise PmuconfError("--xml reads files: it goes with neither DOMAIN nor --connect", cause="usage")
        return audit_files(chosen.policy, args.xml, max_bytes=chosen.max_xml_bytes)
    with connect(args, chosen, read_only=True) as hypervisor:
        return audit(hypervisor, chosen.policy, args.domains, max_bytes=chosen.max_xml_bytes)


def _status(vm: Vm) -> str:
    if vm.error is not None:
        return vm.error.cause
    if vm.drift:
        return "drift"
    if vm.pending:
        return "pending"
    if vm.transient:
        return "transient"
    if vm.decision is Decision.UNDECIDED:
        return "undecided"
    return "ok" if vm.severity is Severity.OK else "pending"


def _sentence(report: Report) -> str:
    counts = summary(report)
    total = counts.pop("domains")
    if not total:
        return f"there are no domains on {report.source}"
    wrong = ", ".join(f"{number} {what}" for what, number in counts.items() if number)
    next_step = "; 'pmuconf apply --dry-run' shows what would be changed" if counts["drift"] else ""
    return f"{total} domains: {wrong or 'all as the policy wants'}{next_step}"
