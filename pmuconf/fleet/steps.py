"""Steps of a campaign: one kind of change to one kind of thing, for whoever it is waiting for. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final, NamedTuple

from pmuconf.fastpath.cases import CASES
from pmuconf.fleet.hostreport import HostReport, Outlook, explicit
from pmuconf.fleet.outlook import Change, Needs

__all__ = ["Step", "Verb", "kernel_of", "power_cycles", "qemu_of", "steps_of"]

_DELETED: Final = " (deleted)"
_DIGITS: Final = 12


class Step(NamedTuple):
    """One step: a kind of change, what it is about, and the steps without which it does no good.

    :param subject: of a kernel, release and build ID; of a QEMU, path and build ID; of what has to be settled, the
        cause; of the others, the verb of the VMs' manager. What is not known is empty.
    """

    kind: Change
    subject: tuple[str, ...]
    behind: tuple[Step, ...] = ()

    @property
    def id(self) -> str:
        """The same in every plan for the same step: made of what it is about, not of its place."""
        return f"{self.kind.value}-{_digest(self)}"

    @property
    def on_hosts(self) -> bool:
        """Whether it is done to a host rather than to single VMs."""
        return self.kind in (Change.KERNEL, Change.QEMU)

    @property
    def what(self) -> str:
        """The step in a sentence."""
        if self.on_hosts:
            name, build_id = self.subject
            build = f" (build ID {build_id})" if build_id else ""
            return f"{_HOST_STEPS[self.kind]} {name or 'one that is not known'}{build}"
        return CASES[self.subject[0]].message if self.kind is Change.SETTLE else _VERBS[self.subject[0]]


class Verb:
    """What a VM's manager is asked for."""

    APPLY: Final = "pmuconf-apply"
    NOVA_POLICY: Final = "nova-policy"
    REDEFINE: Final = "redefine"
    STOP_START: Final = "stop-start"
    NOVA_HARD: Final = "nova-hard-reboot"
    NOVA: Final = "nova-reboot"


_HOST_STEPS: Final = {
    Change.KERNEL: "a kernel that asks whether the VM has a PMU, on a drained host, in place of",
    Change.QEMU: "a QEMU that disables the PMU in KVM (11.0, or a backport), in place of",
}
_VERBS: Final = {
    Verb.APPLY: "pmuconf apply: the next boot is to be off",
    Verb.NOVA_POLICY: "let Nova write off: the plugin pmuconf-nova, or hw:pmu=false in the flavor",
    Verb.REDEFINE: "who starts these transient domains must ask for <pmu state='off'/>, and start them anew",
    Verb.STOP_START: "power cycle: stop and start (virsh shutdown, virsh start); a reboot from inside keeps the PMU",
    Verb.NOVA_HARD: "power cycle: hard reboot by Nova (openstack server reboot --hard)",
    Verb.NOVA: "power cycle: reboot by Nova, hard where its plugin writes off, soft where pmuconf apply did",
}


def kernel_of(report: HostReport) -> tuple[str, str]:
    """Release and build ID of a host's kernel; empty where not known."""
    facts = report.data["host_facts"]
    return ("", "") if facts is None else (facts["release"] or "", facts["guard"]["build_id"] or "")


def qemu_of(qemu: Mapping[str, Any] | None) -> tuple[str, str]:
    """Path and build ID of a QEMU; that it was replaced since is no part of its name."""
    if qemu is None:
        return "", ""
    path = qemu["path"]
    return path[: -len(_DELETED)] if path.endswith(_DELETED) else path, qemu["build_id"] or ""


def steps_of(report: HostReport, record: Mapping[str, Any], outlook: Outlook) -> tuple[Step, ...]:
    """The steps that a VM waits for, in their order; empty if for none."""
    if not outlook.needs.changes:
        return ()
    replaced = qemu_of(record["next_qemu"] or record["qemu"]) if Change.QEMU in outlook.needs.changes else ("", "")
    nova = "" if not record["nova"] else "explicit" if explicit(record) else "nova"
    return _steps(outlook.needs, kernel_of(report), replaced, nova)


@lru_cache(maxsize=1 << 14)
def _steps(needs: Needs, kernel: tuple[str, str], qemu: tuple[str, str], nova: str) -> tuple[Step, ...]:
    steps: list[Step] = []
    for change in needs.changes:
        if change is Change.KERNEL:
            steps.append(Step(change, kernel))
        elif change is Change.QEMU:
            steps.append(Step(change, qemu))
        elif change is Change.POLICY:
            steps.append(Step(change, (Verb.NOVA_POLICY if nova else Verb.APPLY,)))
        elif change is Change.SETTLE:
            steps.append(Step(change, (needs.unsettled,)))
        else:
            # A new start does good only when it finds the new QEMU and the new definition.
            behind = tuple(step for step in steps if step.kind is not Change.KERNEL)
            steps.append(Step(change, (_start(change, needs.changes, nova),), behind))
    return tuple(steps)


def power_cycles(report: HostReport) -> list[str]:
    """UUIDs of the VMs that a power cycle helps now: the plan's word, asked of the host itself before one is made.

    That step waits for them, and nothing has to be done before it. A VM that KVM does not run is in no plan; of those,
    who runs on with another PMU state than its next boot's.
    """
    return [
        record["uuid"]
        for record, outlook in zip(report.domains, report.outlooks)
        if any(step.kind is Change.CYCLE and not step.behind for step in steps_of(report, record, outlook))
        or (outlook.cause == "not-kvm" and record["running"] and record["pending"])
    ]


def _start(change: Change, needs: tuple[Change, ...], nova: str) -> str:
    if change is Change.REDEFINE:
        return Verb.REDEFINE
    if not nova:
        return Verb.STOP_START
    return Verb.NOVA_HARD if nova == "explicit" or Change.POLICY in needs else Verb.NOVA


@lru_cache(maxsize=1 << 14)
def _digest(step: Step) -> str:
    text = "\0".join((step.kind.value, *step.subject, *(before.id for before in step.behind)))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGITS]
