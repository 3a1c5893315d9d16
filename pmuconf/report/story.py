"""One VM of a report as sentences: what is wanted, what is so, what follows, and what to do. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from pmuconf.audit.remedy import needless
from pmuconf.audit.report import Report
from pmuconf.audit.vm import Status, Vm
from pmuconf.domain.definition import Manager
from pmuconf.hostfacts import HostFacts, does_to_pmu
from pmuconf.policy import Policy
from pmuconf.report.document import document, record, worth

__all__ = ["Explanation", "story"]

FORMAT: Final = "pmuconf-explanation"
VERSION: Final = 1

_OFF_POLICY = {
    Status.DRIFT: ": drift, the next boot is not what the policy wants",
    Status.PENDING: ": pending, the next boot is right already",
}


@dataclass(frozen=True)
class Explanation:
    """All that is known of one VM of a report."""

    report: Report
    vm: Vm
    policy: Policy

    def lines(self) -> Iterator[str]:
        """The story in sentences, one a line."""
        return story(self.report, self.vm)

    def record(self) -> dict[str, Any]:
        """The same as a JSON document (docs/commands.md), with the keys of the report."""
        whole = document(self.report, self.policy)
        shared = ("generator", "generated_at", "host", "source", "policy", "host_facts", "worth")
        return {
            "format": FORMAT,
            "version": VERSION,
            **{key: whole[key] for key in shared},
            "domain": record(self.report, self.vm),
            "no_remedy": None if self.report.remedies(self.vm) else needless(self.vm),
        }


def story(report: Report, vm: Vm) -> Iterator[str]:
    """The sentences, one a line."""
    manager = "transient" if vm.transient else "a plain libvirt domain"
    if vm.writer is not Manager.LIBVIRT:
        manager = f"managed by {vm.writer.title}{', transient' * vm.transient}"
    if vm.by_process and vm.process is not None:
        manager = _starter(vm.process.pid, vm.manager)
    flavor = f", flavor {vm.flavor}" if vm.flavor else ""
    if vm.error is not None and vm.domain is None:  # nothing of it was read: neither of these is known
        yield f"{vm.name}: {vm.uuid}"
    else:
        yield f"{vm.name}: {manager}{flavor}, {'running' if vm.live else 'not running'}, {vm.uuid}"
    if vm.error is not None:
        yield f"can't be judged: {vm.error.message} ({vm.error.cause})"
    else:
        yield from _of_definitions(vm)
        yield from _of_qemu(vm)
        yield from _of_verdict(report, vm)
    steps = "; ".join(remedy.text for remedy in report.remedies(vm))
    yield f"what to do: {steps or f'nothing: {needless(vm)}'}"


def _of_definitions(vm: Vm) -> Iterator[str]:
    decision = vm.decision.value if vm.decision else "-"
    yield f"policy: {decision}, by {vm.rule}" + (f": {vm.reason}" if vm.reason else "")
    states = {"live": vm.live, "next boot": vm.next_boot, "saved": vm.saved}
    known = ", ".join(f"{name} {state.value if state else '-'}" for name, state in states.items())
    snapshots = f", {vm.snapshots} snapshot{'s' * (vm.snapshots > 1)} with another" if vm.snapshots else ""
    effective = vm.effective_pmu.value if vm.effective_pmu else "unknown"
    yield f"PMU state: {known}{snapshots}; effective {effective}" + _OFF_POLICY.get(vm.status, "")
    if vm.obeyed is not True:
        may = "may not decide" if vm.obeyed is None else "does not decide"
        gets = vm.next_effective.value if vm.next_effective else "a PMU or not, which is unknown"
        yield f"its <pmu> {may}, options of its QEMU do: at its next boot the guest gets {gets}"


def _starter(pid: int | None, manager: Manager | None) -> str:
    """What a VM is that libvirt does not know."""
    process = "without a process" if pid is None else f"process {pid}"
    of = f" of {manager.title}" if manager not in (None, Manager.UNKNOWN) else ""
    return f"not known to this libvirt, {process}{of}"


def _of_qemu(vm: Vm) -> Iterator[str]:
    process = vm.process
    if process is not None and process.qemu is not None:
        does = does_to_pmu(disables=process.qemu.disables)
        yield f"QEMU: {process.qemu.path}, process {process.pid}, {does} ({process.qemu.cause})"


def _of_verdict(report: Report, vm: Vm) -> Iterator[str]:
    """The PMU in KVM, the kernel, and the fast path; nothing if the host was not asked."""
    answer = vm.answer
    if answer is None:
        return
    if vm.live is not None:
        in_use = vm.process.in_use if vm.process else None
        use = {True: "counts something now", False: "counts nothing now", None: "use unknown"}[in_use]
        in_kernel = answer.in_kernel
        yield f"PMU in KVM: {in_kernel.pmu.value} ({in_kernel.evidence.value}: {in_kernel.cause}), {use}"
    if report.facts is not None:
        yield from _of_host(report.facts)
    causes = ", ".join(answer.causes)
    yield f"fast path: {answer.fast_path.value} ({answer.evidence.value}): {answer.message} ({causes})"
    if vm.exits_per_second is not None:
        yield f"exits: {vm.exits_per_second:,.0f} a second{_of_worth(report)}"


def _of_host(facts: HostFacts) -> Iterator[str]:
    guard = facts.guard
    yield f"kernel {facts.release or ''}: {guard.verdict.value} ({guard.evidence.value}): {guard.message}"
    if facts.enable_pmu is False:
        yield "kvm.enable_pmu: N, the PMU of every VM on this host is disabled in the kernel"
    elif facts.mediated_pmu:
        yield "mediated PMU: KVM switches the hardware's counters for every VM that has a PMU in the kernel"


def _of_worth(report: Report) -> str:
    """What its exits cost at most, or would without the fast path; empty if that is unknown."""
    value = worth(report)
    if value is None:
        return ""
    gain = value["saved_per_second"] or value["savable_per_second"]
    word = "saved" if value["saved_per_second"] else "could be saved"
    return f", at most {gain:,} cycles a second {word}" if gain else ""
