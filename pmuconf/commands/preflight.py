"""pmuconf preflight qemu"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pmuconf.access import connect, surveyor
from pmuconf.audit.look import audit
from pmuconf.audit.report import Report
from pmuconf.audit.vm import Vm, guest_of
from pmuconf.commands.audit import add_host_facts
from pmuconf.commands.base import Table, add_connect, settings
from pmuconf.domain.definition import PmuState
from pmuconf.errors import PmuconfError
from pmuconf.fastpath.guest import Guest
from pmuconf.fastpath.inkernel import loses_pmu
from pmuconf.mediated import start_hazard
from pmuconf.report.document import record

__all__ = ["PreflightQemu"]


class PreflightQemu(Table):
    """List the VMs of this host that would lose a PMU under another QEMU, before it is installed.

    A QEMU from 11.0 on disables the PMU in KVM for every VM whose CPU has none; under an older one the guest of such a
    VM can still use the counters on AMD. It loses them by a live migration to that QEMU, by a restore under it and by
    its next cold start, with unchanged XML. pmu_in_use says which of them use them now (takes root).

    loses: yes; unknown (it can't be said: as root more can); VMs that lose nothing are left out unless --all is given.

    Exit status: 0 none, 1 it can't be said of some, 2 some would lose it, 255 error.
    """

    columns: Sequence[str] = (
        *("name", "uuid", "flavor", "loses", "by", "pmu_in_use", "running", "in_kernel_pmu", "effective_pmu"),
        *("live", "next_boot", "qemu", "nova"),
    )
    brief: Sequence[str] = ("name", "flavor", "loses", "by", "pmu_in_use", "in_kernel_pmu", "effective_pmu")

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        add_connect(parser)
        add_host_facts(parser)
        parser.add_argument(
            "binary", type=Path, metavar="BINARY", help="The QEMU to come, such as ./qemu-system-x86_64."
        )
        parser.add_argument("--all", action="store_true", help="List the VMs that lose nothing too.")
        return parser

    def records(self, args: argparse.Namespace) -> Iterable[Mapping[str, Any]]:
        chosen = settings(self)
        survey = surveyor(args.host_facts)
        facts = survey()
        from pmuconf.host.root import Root
        from pmuconf.host.vms.proofs import proofs, with_proof
        from pmuconf.host.vms.qemu import qemu_of_file

        known = proofs(Root())
        qemu = with_proof(qemu_of_file(args.binary), known)
        if qemu.cause in ("unreadable", "not-qemu"):
            raise PmuconfError(f"{args.binary} is no QEMU that can be read", cause="not-qemu")
        rows = []
        with connect(chosen, args.connect, read_only=True) as hypervisor:
            if not hypervisor.local:
                raise PmuconfError("its VMs are on another host: run it there", cause="remote-host")
            report = audit(hypervisor, chosen.policy, max_bytes=chosen.max_xml_bytes, survey=lambda: facts, always=True)
            for vm in report.vms:
                guest = guest_of(vm)
                if guest is None:
                    self.app.LOG.warning("%s", vm.error.message if vm.error else vm.name)
                    self.status = max(self.status, 1)
                    continue
                if not guest.running:
                    emulator = None if vm.next_domain is None else vm.next_domain.emulator
                    next_qemu = with_proof(qemu_of_file(emulator), known) if emulator else None
                    guest = replace(guest, next_qemu=next_qemu)
                rows.append(self._row(report, vm, guest, loses_pmu(facts, guest, qemu)))
        does = "may disable the PMU in KVM or not: 'pmuconf host --prove-qemu' finds out"
        if qemu.disables is not None:
            does = "disables the PMU in KVM" if qemu.disables else "leaves the PMU enabled in KVM"
        self.opening.append(f"{args.binary} {does} ({qemu.cause})")
        hazard = start_hazard(facts, sum(vm.effective_pmu is PmuState.ON for vm in report.vms))
        if hazard:
            self.opening.append(hazard)
        lost = sum(row["loses"] == "yes" for row in rows)
        users = sum(row["loses"] == "yes" and bool(row["pmu_in_use"]) for row in rows)
        self.closing.append(f"{lost} of {len(rows)} VMs would lose their PMU, {users} of them use it now")
        return [row for row in rows if args.all or row["loses"] != "no"]

    def _row(self, report: Report, vm: Vm, guest: Guest, loses: bool | None) -> dict[str, Any]:
        self.status = max(self.status, {True: 2, None: 1, False: 0}[loses])
        how = "migration, restore, cold start" if guest.running else "cold start"
        return {
            **record(report, vm),
            "loses": {True: "yes", None: "unknown", False: "no"}[loses],
            "by": "" if loses is False else how,
        }
