"""The command ``pmuconf preflight qemu``."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pmuconf.access import connect, surveyor
from pmuconf.audit.look import audit
from pmuconf.audit.report import Report
from pmuconf.audit.vm import Vm, guest_of
from pmuconf.commands.audit import add_host_facts
from pmuconf.commands.base import Table, add_connect, settings
from pmuconf.commands.plaintable import Brief
from pmuconf.domain.definition import PmuState
from pmuconf.errors import PmuconfError
from pmuconf.fastpath.inkernel import loses_pmu
from pmuconf.hostfacts import Qemu, does_to_pmu
from pmuconf.mediated import start_hazard
from pmuconf.report.document import record
from pmuconf.wording import counted

__all__ = ["PreflightQemu"]


class PreflightQemu(Table):
    """List the VMs of this host that would lose a PMU under another QEMU, before it is installed.

    From 11.0 on, QEMU disables the PMU in KVM for every VM whose CPU has none. Under an older QEMU, the guest of such a
    VM can still use the counters on AMD. With unchanged XML it loses them by a live migration to the new QEMU, by a
    restore under it, and by its next cold start. pmu_in_use says which guests use them now (requires root).

    loses: yes; unknown (run it as root to know more). VMs that lose nothing are listed only with --all.

    Exit status: 0 none, 1 unknown for some VMs, 2 some VMs would lose it, 255 error.
    """

    columns: Sequence[str] = (
        *("name", "uuid", "flavor", "loses", "by", "pmu_in_use", "running", "in_kernel_pmu", "effective_pmu"),
        *("live", "next_boot", "qemu", "nova"),
    )
    brief: Sequence[str | Brief] = (
        *("name", Brief.named("flavor", spare=True), "loses", Brief.named("pmu_in_use", "in use")),
        *(Brief.named("in_kernel_pmu", "in KVM"), Brief.named("effective_pmu", "effective")),
        Brief("by", lambda row: row["by"], folds=True),
    )

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        add_connect(parser)
        add_host_facts(parser)
        parser.add_argument("binary", type=Path, metavar="BINARY", help="The new QEMU, such as ./qemu-system-x86_64.")
        parser.add_argument("--all", action="store_true", help="Also list the VMs that lose nothing.")
        return parser

    def records(self, args: argparse.Namespace) -> Iterable[Mapping[str, Any]]:
        chosen = settings(self)
        facts = surveyor(args.host_facts)()
        qemu_of = _qemus()
        qemu = qemu_of(args.binary)
        if qemu.cause in ("unreadable", "not-qemu"):
            raise PmuconfError(f"{args.binary} is no QEMU that can be read", cause="not-qemu")
        with connect(chosen, args.connect, read_only=True) as hypervisor:
            if not hypervisor.local:
                raise PmuconfError("its VMs are on another host: run it there", cause="remote-host")
            report = audit(hypervisor, chosen.policy, max_bytes=chosen.max_xml_bytes, survey=lambda: facts, always=True)
        rows = []
        for vm in report.vms:
            guest = guest_of(vm)
            if guest is None:
                self.app.LOG.warning("%s", vm.error.message if vm.error else vm.name)
                self.status = max(self.status, 1)
                continue
            if not guest.running:
                emulator = None if vm.next_domain is None else vm.next_domain.emulator
                guest = replace(guest, next_qemu=None if emulator is None else qemu_of(Path(emulator)))
            rows.append(self._row(report, vm, running=guest.running, loses=loses_pmu(facts, guest, qemu)))
        self._tell(args.binary, qemu, report, rows)
        return [row for row in rows if args.all or row["loses"] != "no"]

    def _tell(self, binary: Path, qemu: Qemu, report: Report, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add the sentences above and below the table."""
        self.opening.append(f"{binary} {does_to_pmu(disables=qemu.disables)} ({qemu.cause})")
        if qemu.disables is None:
            self.opening.append(f"To find out, start it once: pmuconf qemu prove {binary}")
        if report.facts is not None:
            hazard = start_hazard(report.facts, sum(vm.effective_pmu is PmuState.ON for vm in report.vms))
            self.opening += [hazard] if hazard else []
        losing = [row for row in rows if row["loses"] == "yes"]
        users = sum(bool(row["pmu_in_use"]) for row in losing)
        self.closing.append(f"{len(losing)} of {counted(len(rows), 'VM')} would lose a PMU; in use now: {users}")

    def _row(self, report: Report, vm: Vm, *, running: bool, loses: bool | None) -> dict[str, Any]:
        self.status = max(self.status, {True: 2, None: 1, False: 0}[loses])
        how = "migration, restore, cold start" if running else "cold start"
        return {
            **record(report, vm),
            "loses": {True: "yes", None: "unknown", False: "no"}[loses],
            "by": "" if loses is False else how,
        }


def _qemus() -> Callable[[Path], Qemu]:
    """A function that says of a file which QEMU it is, with the proofs of this host."""
    from pmuconf.host.root import Root
    from pmuconf.host.vms.proofs import proofs, with_proof
    from pmuconf.host.vms.qemu import qemu_of_file

    known = proofs(Root())
    return lambda path: with_proof(qemu_of_file(path), known)
