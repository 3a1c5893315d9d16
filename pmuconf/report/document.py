"""The report as data: one record a domain, and the whole as one versioned JSON document.

The document's schema is docs/report.schema.json. Its keys are the words of docs/vocabulary.md in snake case.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from typing import Any, Final

import pmuconf
from pmuconf.audit.report import Report
from pmuconf.audit.vm import Vm
from pmuconf.fastpath.cases import FastPath
from pmuconf.hostfacts import GuardFinding, HostFacts, Qemu
from pmuconf.policy import Decision, Policy

__all__ = ["FORMAT", "GENERATOR", "VERSION", "document", "guard_record", "host_record", "record", "summary", "worth"]

FORMAT: Final = "pmuconf-report"
VERSION: Final = 2
GENERATOR: Final = f"pmuconf {pmuconf.__version__}"


def document(report: Report, policy: Policy) -> dict[str, Any]:
    """The whole report, ready for json.dump()."""
    return {
        "format": FORMAT,
        "version": VERSION,
        "generator": GENERATOR,
        "generated_at": report.at.isoformat(timespec="seconds"),
        "host": report.host,
        "source": report.source,
        "policy": {
            "default": policy.default.value,
            "rules": [rule.name for rule in policy.rules],
            "nova_domains": policy.nova_domains.value,
        },
        "host_facts": None if report.facts is None else _host(report.facts, report),
        "summary": summary(report),
        "worth": worth(report),
        "domains": [record(report, vm) for vm in report.vms],
    }


def record(report: Report, vm: Vm) -> dict[str, Any]:
    """One domain of a report."""
    return {
        "name": vm.name,
        "uuid": vm.uuid,
        "flavor": vm.flavor,
        "project": vm.domain and vm.domain.project,
        "live": vm.live and vm.live.value,
        "next_boot": vm.next_boot and vm.next_boot.value,
        "saved": vm.saved and vm.saved.value,
        "snapshots": vm.snapshots,
        "effective_pmu": vm.effective_pmu and vm.effective_pmu.value,
        "next_effective_pmu": vm.next_effective and vm.next_effective.value,
        "pmu_obeyed": vm.obeyed,
        "decision": vm.decision and vm.decision.value,
        "rule": vm.rule,
        "reason": vm.reason,
        "drift": vm.drift,
        "pending": vm.pending,
        "transient": vm.transient,
        "nova": vm.nova,
        "manager": vm.manager and vm.manager.value,
        "by_process": vm.by_process,
        "pid": vm.process and vm.process.pid,
        "running": vm.live is not None,
        "overridden": vm.overridden,
        **_fast_path(vm),
        "remedies": [{"text": remedy.text, "causes": list(remedy.causes)} for remedy in report.remedies(vm)],
        "error": vm.error and {"cause": vm.error.cause, "message": vm.error.message},
        "severity": int(vm.severity),
    }


def guard_record(guard: GuardFinding) -> dict[str, Any]:
    """The verdict on a kernel, with the facts that it stands on."""
    return {
        "verdict": guard.verdict.value,
        "cause": guard.cause,
        "message": guard.message,
        "evidence": guard.evidence.value,
        "source": guard.source,
        "build_id": guard.build_id,
        "enable_pmu_offset": guard.offset,
        "offset_from": guard.offset_from,
        "instructions": list(guard.instructions),
        "copies": {kind: list(names) for kind, names in asdict(guard.copies).items()},
        "hooks": list(guard.hooks),
        "notes": list(guard.notes),
        "remedy": guard.remedy,
    }


def host_record(facts: HostFacts) -> dict[str, Any]:
    """The facts of a host, without its VMs."""
    return {
        "guard": guard_record(facts.guard),
        "release": facts.release,
        "livepatches": list(facts.livepatches),
        "enable_pmu": facts.enable_pmu,
        "mediated_pmu": facts.mediated_pmu,
        "nmi_watchdog": facts.nmi_watchdog,
        "cpu": facts.cpu,
        "mitigations": dict(facts.mitigations),
        "cycles_per_exit": facts.cycles,
        "cycles_measured": facts.measured,
        "cpus": facts.cpus,
        "cycles_per_second": facts.capacity,
        "qemus": [{**_qemu(qemu), "cause": qemu.cause} for qemu in facts.qemus],
        "vms_cause": facts.vms_cause,
    }


def _host(facts: HostFacts, report: Report) -> dict[str, Any]:
    return {
        **host_record(facts),
        "other_vms": [
            {"pid": vm.pid, "command": vm.command, "in_kernel_pmu": vm.kernel_pmu.value, "pmu_in_use": vm.in_use}
            for vm in report.others
        ],
    }


def _fast_path(vm: Vm) -> dict[str, Any]:
    """The verdict on a VM and the facts of its process; all null if the host was not asked."""
    answer, process = vm.answer, vm.process
    return {
        "in_kernel_pmu": answer and answer.in_kernel.pmu.value,
        "pmu_in_use": process.in_use if process else None,
        "fast_path": answer and answer.fast_path.value,
        "cause": answer and answer.cause,
        "causes": list(answer.causes) if answer else [],
        "evidence": answer and answer.evidence.value,
        "message": answer and answer.message,
        "cpu_has_pmu": process.pmu_property if process else None,
        "may_be_recreated": vm.may_be_recreated,
        "qemu": process and process.qemu and _qemu(process.qemu),
        "next_qemu": process and process.next_qemu and _qemu(process.next_qemu),
        "exits_per_second": vm.exits_per_second,
    }


def _qemu(qemu: Qemu) -> dict[str, Any]:
    return {"path": qemu.path, "build_id": qemu.build_id, "disables_pmu": qemu.disables}


def summary(report: Report) -> dict[str, Any]:
    """The number of domains of each kind; a domain may be of several kinds."""
    vms = report.vms
    answers = [vm.answer for vm in vms if vm.answer is not None]
    paths = Counter(answer.fast_path for answer in answers)
    return {
        "domains": len(vms),
        "running": sum(vm.live is not None for vm in vms),
        "fast_path": {path.value: paths[path] for path in FastPath},
        "causes": dict(sorted(Counter(answer.cause for answer in answers).items())),
        "drift": sum(vm.drift for vm in vms),
        "pending": sum(vm.pending for vm in vms),
        "transient": sum(vm.transient for vm in vms),
        "undecided": sum(vm.decision is Decision.UNDECIDED for vm in vms),
        "errors": sum(vm.error is not None for vm in vms),
    }


def worth(report: Report) -> dict[str, Any] | None:
    """The cycles that the fast path saves and could save, in CPU cycles per second: upper bounds.

    None without counted exits, or if the cost of an exit on this CPU is unknown. KVM counts all exits of a VM. Only
    exits that it ends by skipping an instruction gain (CPUID, MSR, port I/O, HLT, hypercalls), and it does not count
    CPUID and MSR exits separately. A VM with an unknown verdict is in neither number.
    """
    facts = report.facts
    counted = [vm for vm in report.vms if vm.exits_per_second is not None and vm.answer is not None]
    if facts is None or facts.cycles is None or not counted:
        return None
    rates = dict.fromkeys(FastPath, 0.0)
    for vm in counted:
        if vm.answer is not None and not vm.answer.wanted_on:
            rates[vm.answer.fast_path] += vm.exits_per_second or 0.0
    return {
        "cycles_per_exit": facts.cycles,
        "measured": facts.measured,
        "vms": len(counted),
        "saved_per_second": round(rates[FastPath.YES] * facts.cycles),
        "savable_per_second": round(rates[FastPath.NO] * facts.cycles),
    }
