"""pmuconf explain"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from pmuconf.access import connect, surveyor
from pmuconf.audit.look import audit
from pmuconf.audit.remedy import needless
from pmuconf.audit.report import Report
from pmuconf.audit.vm import Vm
from pmuconf.commands.audit import add_host_facts, add_sample
from pmuconf.commands.base import Action, add_connect, settings, warning
from pmuconf.errors import PmuconfError
from pmuconf.report.document import worth
from pmuconf.report.plain import printable

__all__ = ["Explain", "story"]


class Explain(Action):
    """Tell one VM's whole story: policy, PMU states, QEMU, kernel, verdict, and what to do.

    As root, who may read kernel memory, what KVM holds of the VM is observed; else it is inferred, or unknown.

    Exit status: 0 as wanted, 1 something waits, is undecided or unknown, 2 drift, the slow path, or a domain that
    can't be judged, 255 error.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        add_connect(parser)
        parser.add_argument("domain", metavar="DOMAIN", help="Name or UUID.")
        add_host_facts(parser)
        add_sample(parser)
        return parser

    def take_action(self, args: argparse.Namespace) -> int:
        chosen = settings(self)
        with connect(chosen, args.connect, read_only=True) as hypervisor:
            report = audit(
                hypervisor,
                chosen.policy,
                [args.domain],
                max_bytes=chosen.max_xml_bytes,
                survey=surveyor(args.host_facts),
                always=True,
                sample=args.sample,
                warn=warning(self),
            )
        if not report.vms:
            raise PmuconfError(f"domain {args.domain!r} went away while it was looked at", cause="domain-vanished")
        for line in story(report, report.vms[0]):
            self.app.stdout.write(printable(line) + "\n")
        return int(report.severity)


def story(report: Report, vm: Vm) -> Iterator[str]:
    """One VM of a report, a line a step: what is wanted, what is so, what follows, what to do."""
    manager = "managed by Nova" if vm.nova else "transient" if vm.transient else "a plain libvirt domain"
    flavor = f", flavor {vm.flavor}" if vm.flavor else ""
    yield f"{vm.name}: {manager}{flavor}, {'running' if vm.live else 'not running'}, {vm.uuid}"
    if vm.error is not None:
        yield f"can't be judged: {vm.error.message} ({vm.error.cause})"
        yield _what_to_do(report, vm)
        return
    decision = vm.decision.value if vm.decision else "-"
    yield f"policy: {decision}, by {vm.rule}" + (f": {vm.reason}" if vm.reason else "")
    states = {"live": vm.live, "next boot": vm.next_boot, "saved": vm.saved}
    said = ", ".join(f"{name} {state.value if state else '-'}" for name, state in states.items())
    snapshots = f", {vm.snapshots} snapshots with another" if vm.snapshots else ""
    effective = vm.effective_pmu.value if vm.effective_pmu else "unknown"
    yield f"PMU state: {said}{snapshots}; effective {effective}" + _off_policy(vm)
    if vm.obeyed is not True:
        gets = (
            f"at its next boot the guest gets {vm.next_effective.value}" if vm.next_effective else "what it gets then"
        )
        may = "may not decide" if vm.obeyed is None else "does not decide"
        yield f"its <pmu> {may}, options of its QEMU do: {gets}" + ("" if vm.next_effective else " is not known")
    process = vm.process
    if process is not None and process.qemu is not None:
        disables = process.qemu.disables
        what = "may disable the PMU in KVM or not" if disables is None else "disables the PMU in KVM"
        what = "leaves the PMU enabled in KVM" if disables is False else what
        yield f"QEMU: {process.qemu.path}, process {process.pid}, {what} ({process.qemu.cause})"
    answer, facts = vm.answer, report.facts
    if answer is None:
        yield _what_to_do(report, vm)
        return
    if vm.live is not None:
        in_use = process.in_use if process else None
        use = "use unknown" if in_use is None else "counts something now" if in_use else "counts nothing now"
        held = answer.in_kernel
        yield f"PMU in KVM: {held.pmu.value} ({held.evidence.value}: {held.cause}), {use}"
    if facts is not None:
        guard = facts.guard
        yield f"kernel {facts.release or ''}: {guard.verdict.value} ({guard.evidence.value}): {guard.message}"
        if facts.enable_pmu is False:
            yield "kvm.enable_pmu: N, the PMU of every VM on this host is disabled in the kernel"
        elif facts.mediated_pmu:
            yield "mediated PMU: KVM switches the hardware's counters for every VM that has a PMU in the kernel"
    causes = ", ".join(answer.causes)
    yield f"fast path: {answer.fast_path.value} ({answer.evidence.value}): {answer.message} ({causes})"
    if vm.exits_per_second is not None:
        value = worth(report)
        gain = 0 if value is None else value["saved_per_second"] or value["savable_per_second"]
        word = "saved" if value is not None and value["saved_per_second"] else "could be saved"
        upper = f", at most {gain:,} cycles a second {word}" if gain else ""
        yield f"exits: {vm.exits_per_second:,.0f} a second{upper}"
    yield _what_to_do(report, vm)


def _what_to_do(report: Report, vm: Vm) -> str:
    steps = "; ".join(remedy.text for remedy in report.remedies(vm))
    return f"what to do: {steps or f'nothing: {needless(vm)}'}"


def _off_policy(vm: Vm) -> str:
    if vm.drift:
        return ": drift, the next boot is not what the policy wants"
    return ": pending, the next boot is right already" if vm.pending else ""
