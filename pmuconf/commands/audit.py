"""The command ``pmuconf audit``."""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

from pmuconf.access import connect, surveyor
from pmuconf.audit.look import PROCESSES, Pace, audit, audit_files, audit_processes, with_processes
from pmuconf.audit.report import Report
from pmuconf.audit.selection import Selection, VmKind
from pmuconf.audit.vm import Status, Vm
from pmuconf.commands.base import Table, add_connect, progress, settings, warning
from pmuconf.commands.plaintable import Brief
from pmuconf.commands.terminal import width_of
from pmuconf.conf import Settings
from pmuconf.domain.definition import Manager, PmuState
from pmuconf.errors import PmuconfError
from pmuconf.fastpath.cases import FastPath
from pmuconf.flavors.map import FlavorMap
from pmuconf.mediated import start_hazard
from pmuconf.report.document import record, summary, worth
from pmuconf.report.groups import KINDS
from pmuconf.wording import counted

__all__ = [
    "Audit",
    "add_host_facts",
    "add_processes",
    "add_sample",
    "add_sources",
    "audit_host",
    "files_given",
    "opening",
    "run_audit",
]

_NOT_JUDGED: Final = {
    None: "read from a file",
    "not-kvm": "not under KVM",
    "not-running": "not running",
    "not-x86": "not an x86 VM",
    "remote-host": "on another host",
    "saved-image": "not running",
}
_FAST_PATH: Final = "fast path: "
_NO_LIBVIRT: Final = ("libvirt-missing", "libvirt-unreachable")
_WORST_FIRST: Final = (
    *("error", "drift", "overridden", "slow", "pending", "transient", "undecided", "partial", "unknown", "ok"),
)


class Audit(Table):
    """Show the PMU of each VM, where the policy wants another, and which VMs have the fast path. Reads only.

    The table fits a terminal and shows the worst VMs first. --wide shows more columns, -c COLUMN any of them, and the
    other formats (-f json, yaml, csv, value) have all. 'pmuconf explain VM' says what to do about one VM.

    PMU live->next is the PMU state of the running guest and that of its next boot, once if they are the same; a VM that
    does not run has - in front. A state is on, off, or default (no <pmu> element), in libvirt's words.

    fast says whether KVM spares the VM the PMU's work at its exits, and cause why not, or why. For that the host's
    kernel, KVM and QEMU processes are examined. Run it as root: only root can read kernel memory, where all this is
    observed. Otherwise it is inferred, or unknown. The fast path is not judged where no VM runs under KVM, on another
    host, and in files: a column says why then.

    status:
      ok          as the policy wants
      drift       the next boot is not what the policy wants: run pmuconf apply
      pending     the next boot is right, the running guest or its saved image is not yet: stop and start it
      overridden  the next boot is right, but options in <qemu:commandline> decide what the guest gets: see remedies
      transient   it runs, and has no next boot, or none that libvirt knows
      undecided   a rule needs a fact that is unknown here
      slow, partial, unknown   as the policy wants, but see fast
      error       it can't be judged (in other formats: the code of the cause)

    Other columns: snapshots is the number of snapshots whose revert would bring another state back. effective_pmu is
    what the guest gets: default means on with host-passthrough and maximum, and off with any other CPU model. Options
    in <qemu:commandline> beat both. Empty means unknown. in_kernel_pmu is the VM's PMU in KVM (enabled or disabled).

    Exit status, of the VMs that are shown: 0 all as wanted, 1 something waits, is undecided or unknown, 2 drift, the
    slow path, or a domain that can't be judged, 255 error. So 'pmuconf audit --only drift' ends with 2 if any VM
    drifts, and with 0 if none is known to. A domain that can't be judged is named in any case, on standard error.
    """

    columns: Sequence[str] = (
        *("name", "uuid", "flavor", "live", "next_boot", "saved", "snapshots", "effective_pmu"),
        *("decision", "rule", "reason", "drift", "pending", "transient", "nova", "running"),
        *("in_kernel_pmu", "pmu_in_use", "fast_path", "cause", "causes", "evidence", "message", "remedies"),
        *("qemu", "exits_per_second", "error", "status", "manager", "by_process", "pid"),
    )
    wide: Sequence[str | Brief] = (
        *("name", "flavor", "live", "next_boot", "saved", "snapshots", "effective_pmu"),
        *("decision", "rule", "status"),
    )
    _joined = ("in_kernel_pmu", "fast_path", "cause", "evidence")

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        add_sources(parser)
        add_selection(parser)
        parser.add_argument(
            "--pmu-users",
            action="store_true",
            help="List the VMs whose PMU counts something now first: their users would notice. Requires root.",
        )
        return parser

    def given(self, args: argparse.Namespace) -> int:
        return files_given(args)

    def records(self, args: argparse.Namespace) -> Iterable[Mapping[str, Any]]:
        report = run_audit(args, settings(self), warning(self), always=args.pmu_users)
        for vm in report.vms:
            if vm.error is not None:
                self.app.LOG.warning("%s (%s)", vm.error.message, vm.error.cause)
        selection = Selection(tuple(map(VmKind, args.only)), tuple(args.flavor), tuple(args.project))
        shown = replace(report, vms=selection.of(report.vms))
        self.status = int(shown.severity)
        self.opening.extend(opening(report))
        self.recalled.extend(line for line in self.opening if line.startswith(_FAST_PATH))
        self.summary.append(_sentence(shown, len(report.vms)))
        vms = shown.vms
        if args.pmu_users:
            vms = tuple(sorted(vms, key=_quiet))
        elif args.formatter == "table" and width_of(sys.stdout) is not None:
            vms = tuple(sorted(vms, key=_urgent))
        self.brief = _brief(report, args)
        if report.facts is not None:
            self.wide = (*self.wide, *self._joined)
        if args.sample:
            self.wide = (*self.wide, "exits_per_second")
        return [{**record(report, vm), "status": _status(vm)} for vm in vms]


def _brief(report: Report, args: argparse.Namespace) -> Sequence[str | Brief]:
    """The columns of the table: those that say how a VM stands, and that a terminal has room for."""
    first = (Brief.named("name"), Brief.named("flavor", spare=True))
    states = Brief("PMU live->next", _states)
    status = Brief("status", lambda row: row["status"] if row["error"] is None else Status.ERROR.value)
    if args.pmu_users:
        return (*first, Brief.named("pmu_in_use", "in use"), Brief.named("in_kernel_pmu", "in KVM"), states, status)
    if report.facts is None:
        return (*first, states, status, Brief("fast path not judged", _why_not))
    cause = Brief("cause", lambda row: row["cause"] if row["error"] is None else row["error"]["cause"])
    exits = (Brief.named("exits_per_second", "exits/s"),) if args.sample else ()
    return (*first, states, status, Brief.named("fast_path", "fast"), cause, *exits)


def _states(row: Mapping[str, Any]) -> str:
    """The PMU states of the guest and of its next boot."""
    live, next_boot = row["live"] or "-", row["next_boot"] or "-"
    return live if live == next_boot else f"{live} -> {next_boot}"


def _why_not(row: Mapping[str, Any]) -> str:
    """Why the fast path of a VM is not judged where the host was not examined."""
    if row["error"] is not None:
        return str(row["error"]["cause"])
    return _NOT_JUDGED[row["cause"]]


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
    parser.add_argument(
        "--flavors",
        type=Path,
        metavar="FILE",
        help="Take the extra specs of flavors from FILE ('pmuconf flavors export') for domains whose metadata does not "
        "have them: before version 32, Nova does not write them.",
    )
    add_processes(parser)
    add_host_facts(parser)
    add_sample(parser)


def add_selection(parser: argparse.ArgumentParser) -> None:
    """Add --only, --flavor and --project."""
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        choices=[kind.value for kind in VmKind],
        help="Show only these VMs: findings (all that exit status 2 is for), drift, pending, slow, or unknown (their "
        "fast path or the decision on them is, or they can't be judged). May be given several times.",
    )
    parser.add_argument(
        "--flavor",
        action="append",
        default=[],
        metavar="GLOB",
        help="Show only VMs of this flavor, or of these: 'm1.*'. May be given several times.",
    )
    parser.add_argument(
        "--project",
        action="append",
        default=[],
        metavar="ID",
        help="Show only VMs of this OpenStack project. May be given several times.",
    )


def add_processes(parser: argparse.ArgumentParser) -> None:
    """Add --processes."""
    parser.add_argument(
        "--processes",
        action="store_true",
        help="Also list the VMs that KVM runs here and libvirt does not know, by their processes: VMs of Proxmox, "
        "Kata, Firecracker or a QEMU started by hand. Libvirt need not be there. Run it as root: others see few of "
        "them.",
    )


def files_given(args: argparse.Namespace) -> int:
    """The number of files of domain XML that the arguments of add_sources() name."""
    return sum(len(os.listdir(path)) if path.is_dir() else 1 for path in args.xml or ())


def add_sample(parser: argparse.ArgumentParser) -> None:
    """Add --sample."""
    parser.add_argument(
        "--sample",
        type=_seconds,
        default=0.0,
        metavar="SECONDS",
        help="Count the exits of the VMs for this time, such as 5s. The report then has the cycles that the fast path "
        "saves or could save at most.",
    )


def add_host_facts(parser: argparse.ArgumentParser) -> None:
    """Add --host-facts."""
    parser.add_argument(
        "--host-facts",
        type=Path,
        metavar="FILE",
        help="Use this file, which root has written with 'pmuconf host facts --output FILE', instead of looking at "
        "this host. The audit then does not require root. The file must belong to root, and be about this boot, this "
        "KVM with its parameters, and these livepatches.",
    )


def run_audit(
    args: argparse.Namespace, chosen: Settings, warn: Callable[[str], None], *, always: bool = False
) -> Report:
    """The audit that the arguments of add_sources() ask for; the host is examined if a VM runs there, or always."""
    fill = FlavorMap.load(args.flavors).fill if args.flavors else None
    if args.xml:
        if args.domains or args.connect or args.processes or args.host_facts or args.sample:
            raise PmuconfError(
                "--xml reads files: it goes with neither DOMAIN, --connect, --processes, --host-facts nor --sample",
                cause="usage",
            )
        return audit_files(chosen.policy, args.xml, max_bytes=chosen.max_xml_bytes, fill=fill)
    if args.processes and args.domains:
        raise PmuconfError(
            "--processes lists all VMs: it does not go with DOMAIN", cause="usage", hint="Use pmuconf explain"
        )
    report = audit_host(
        args,
        chosen,
        partial(
            audit,
            names=args.domains,
            always=always,
            fill=fill,
            pace=Pace(args.sample, progress),
        ),
    )
    for sentence in report.warnings:
        warn(sentence)
    return report


def audit_host(args: argparse.Namespace, chosen: Settings, look: Callable[..., Report]) -> Report:
    """The audit of this host, by the arguments of add_connect(), add_processes() and add_host_facts().

    With --processes, a host without libvirt is audited by its processes alone. If one of them is a VM of libvirt's,
    libvirt is there and does not answer: that is an error, because VMs would be missing.

    :param look: audit() with what else is asked for.
    """
    survey = surveyor(args.host_facts)
    with ExitStack() as opened:
        try:
            hypervisor = opened.enter_context(connect(chosen, args.connect, read_only=True))
        except PmuconfError as error:
            if not args.processes or args.connect or error.cause not in _NO_LIBVIRT:
                raise
            facts = survey()
            if any(vm.manager == Manager.LIBVIRT.value for vm in facts.vms):
                raise
            report = audit_processes(chosen.policy, facts)
            return replace(report, warnings=(f"only processes were looked at: {error.message} ({error.cause})",))
        always = {"always": True} if args.processes else {}
        report = look(hypervisor, chosen.policy, max_bytes=chosen.max_xml_bytes, survey=survey, **always)
    return with_processes(report, chosen.policy) if args.processes else report


def opening(report: Report) -> list[str]:
    """The host and the number of fast VMs, in sentences; none if the host was not examined."""
    facts = report.facts
    if facts is None:
        return []
    guard, paths = facts.guard, summary(report)["fast_path"]
    lines = [f"kernel {facts.release or ''}: {guard.verdict.value} ({guard.evidence.value}): {guard.message}"]
    if facts.enable_pmu is False:
        lines.append("kvm.enable_pmu is N: the PMU of every VM on this host is disabled in the kernel")
    hazard = start_hazard(facts, sum(vm.effective_pmu is PmuState.ON for vm in report.vms))
    if hazard:
        lines.append(hazard)
    if facts.vms_cause:
        lines.append(f"kernel memory was not read ({facts.vms_cause}), so the VMs' PMU in KVM is inferred")
    running = [vm for vm in report.vms if vm.live is not None and vm.answer is not None]
    causes = Counter(cause for vm in running if vm.answer for cause in vm.answer.causes[:1] if vm.answer.severity)
    why = "".join(f"; {number} {cause}" for cause, number in causes.most_common())
    lines.append(f"{_FAST_PATH}{paths['yes']} of {counted(len(running), 'running VM')}{why}")
    value = worth(report)
    if value is not None:
        basis = "measured here" if value["measured"] else "expected on a CPU like this"
        lines.append(
            f"at most {value['saved_per_second']:,} cycles a second saved and {value['savable_per_second']:,} could "
            f"be saved: all exits of {counted(value['vms'], 'VM')} at {value['cycles_per_exit']} cycles, {basis}"
        )
    return lines


def _quiet(vm: Vm) -> tuple[int, str]:
    """The place of a VM: VMs that use their PMU are listed first, then running VMs of which that is unknown."""
    in_use = vm.process.in_use if vm.process else None
    return (0 if in_use else 1 if in_use is None and vm.live is not None else 2), vm.name


def _urgent(vm: Vm) -> tuple[int, int, str]:
    """The place of a VM where the worst come first."""
    word = Status.ERROR.value if vm.error is not None else _status(vm)
    return -int(vm.severity), _WORST_FIRST.index(word), vm.name


def _seconds(text: str) -> float:
    try:
        seconds = float(text.removesuffix("s"))
    except ValueError:
        seconds = -1.0
    if not 0 < seconds <= 3600:
        raise argparse.ArgumentTypeError(f"{text!r} is no time between 0 and 3600 seconds, such as 5s")
    return seconds


def _status(vm: Vm) -> str:
    """The word of the column status: of what the policy has to say, else of the verdict on the fast path."""
    if vm.error is not None:
        return vm.error.cause
    if vm.status in (Status.DRIFT, Status.OVERRIDDEN, Status.PENDING):
        return str(vm.status.value)
    if vm.transient and not (vm.by_process and vm.status is Status.OK):
        return "transient"
    if vm.status is Status.UNDECIDED:
        return "undecided"
    if vm.answer is not None and vm.answer.severity:
        return "slow" if vm.answer.fast_path is FastPath.NO else vm.answer.fast_path.value
    return "pending" if vm.status is Status.STUCK else "ok"  # a dump of a guest tells of no next boot


def _sentence(shown: Report, total: int) -> str:
    """How many of the VMs that are shown are off policy, and what to do next.

    :param total: how many there are.
    """
    if not total:
        return "no VM of KVM was seen here" if shown.source == PROCESSES else f"there are no domains on {shown.source}"
    counts = summary(shown)
    counts["overridden"] = sum(vm.overridden for vm in shown.vms)
    counts["pending"] = sum(map(VmKind.PENDING.has, shown.vms))
    wrong = ", ".join(f"{counts[what]} {what}" for what in (*KINDS, "overridden") if counts[what])
    number = len(shown.vms)
    if not number:
        return f"none of {counted(total, 'domain')} is one that was asked for"
    next_step = "; 'pmuconf apply --dry-run' shows what would be changed" if counts["drift"] else ""
    share = "" if number == total else f"{number:,} of "
    return f"{share}{counted(total, 'domain')}: {wrong or 'all as the policy wants'}{next_step}"
