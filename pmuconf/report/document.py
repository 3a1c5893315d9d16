"""The report as data: one record a domain, and the whole as one versioned JSON document.

The document's schema is docs/report.schema.json. Its keys are the words of docs/vocabulary.md in snake case.
"""

from __future__ import annotations

from typing import Any, Final

import pmuconf
from pmuconf.audit import Report, Vm
from pmuconf.policy import Decision, Policy

__all__ = ["FORMAT", "VERSION", "document", "record", "summary"]

FORMAT: Final = "pmuconf-report"
VERSION: Final = 1


def document(report: Report, policy: Policy) -> dict[str, Any]:
    """The whole report, ready for json.dump()."""
    return {
        "format": FORMAT,
        "version": VERSION,
        "generator": f"pmuconf {pmuconf.__version__}",
        "generated_at": report.at.isoformat(timespec="seconds"),
        "host": report.host,
        "source": report.source,
        "policy": {
            "default": policy.default.value,
            "rules": [rule.name for rule in policy.rules],
            "nova_domains": policy.nova_domains.value,
        },
        "summary": summary(report),
        "domains": [record(vm) for vm in report.vms],
    }


def record(vm: Vm) -> dict[str, Any]:
    """One domain."""
    return {
        "name": vm.name,
        "uuid": vm.uuid,
        "flavor": vm.flavor,
        "live": vm.live and vm.live.value,
        "next_boot": vm.next_boot and vm.next_boot.value,
        "saved": vm.saved and vm.saved.value,
        "snapshots": vm.snapshots,
        "effective_pmu": vm.effective_pmu and vm.effective_pmu.value,
        "decision": vm.decision and vm.decision.value,
        "rule": vm.rule,
        "reason": vm.reason,
        "drift": vm.drift,
        "pending": vm.pending,
        "transient": vm.transient,
        "nova": vm.nova,
        "error": vm.error and {"cause": vm.error.cause, "message": vm.error.message},
    }


def summary(report: Report) -> dict[str, int]:
    """How many domains there are of each kind; one domain may count as several."""
    vms = report.vms
    return {
        "domains": len(vms),
        "drift": sum(vm.drift for vm in vms),
        "pending": sum(vm.pending for vm in vms),
        "transient": sum(vm.transient for vm in vms),
        "undecided": sum(vm.decision is Decision.UNDECIDED for vm in vms),
        "errors": sum(vm.error is not None for vm in vms),
    }
