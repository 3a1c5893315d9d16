"""Steps of a campaign: one kind of change to one kernel or QEMU, or by one verb, for all VMs that wait for it. Pure."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import Final, NamedTuple

from pmuconf.fastpath.cases import CASES
from pmuconf.fleet.hostreport import HostReport
from pmuconf.fleet.outlook import Change, Needs
from pmuconf.fleet.reported import ReportedVm

__all__ = ["CampaignStep", "Verb", "policy_step", "power_cycles", "settle_step", "steps_of"]

_DIGITS: Final = 12


class CampaignStep(NamedTuple):
    """One step: a kind of change, what it is about, and the steps that have to be done before it.

    :param subject: for a kernel, release and build ID; for a QEMU, path and build ID; for something to settle, the
        cause; for the others, the verb of the VMs' manager. What is not known is empty.
    """

    kind: Change
    subject: tuple[str, ...]
    behind: tuple[CampaignStep, ...] = ()

    @property
    def id(self) -> str:
        """The same in every plan for the same step: made of its subject, not of its place."""
        return f"{self.kind.value}-{_digest(self)}"

    @property
    def on_hosts(self) -> bool:
        """Whether a host is changed rather than single VMs."""
        return self.kind in (Change.KERNEL, Change.QEMU)

    @property
    def description(self) -> str:
        """The step in a sentence."""
        if self.on_hosts:
            name, build_id = self.subject
            build = f" (build ID {build_id})" if build_id else ""
            return f"{_HOST_STEPS[self.kind]} {name or 'one that is not known'}{build}"
        return CASES[self.subject[0]].message if self.kind is Change.SETTLE else _VERBS[self.subject[0]]


class Verb:
    """The request to a VM's manager."""

    APPLY: Final = "pmuconf-apply"
    NOVA_POLICY: Final = "nova-policy"
    REDEFINE: Final = "redefine"
    STOP_START: Final = "stop-start"
    NOVA_HARD: Final = "nova-hard-reboot"
    NOVA: Final = "nova-reboot"
    MANAGER_POLICY: Final = "manager-policy"
    MANAGER: Final = "manager-stop-start"


_HOST_STEPS: Final = {
    Change.KERNEL: "a kernel that asks whether the VM has a PMU, on a drained host, in place of",
    Change.QEMU: "a QEMU that disables the PMU in KVM (11.0, or a backport), in place of",
}
_VERBS: Final = {
    Verb.APPLY: "pmuconf apply: the next boot gets the PMU state that the policy wants",
    Verb.NOVA_POLICY: "let Nova write the state that the policy wants: plugin pmuconf-nova, or hw:pmu in the flavor",
    Verb.REDEFINE: "what starts these VMs must ask for no PMU (<pmu state='off'/>, -cpu ...,pmu=off) and start anew",
    Verb.STOP_START: "power cycle: stop and start (virsh shutdown, virsh start); a reboot from inside keeps the PMU",
    Verb.NOVA_HARD: "power cycle: hard reboot by Nova (openstack server reboot --hard)",
    Verb.MANAGER_POLICY: "let the VMs' manager write the state that the policy wants: pmuconf hook (docs/managers.md)",
    Verb.MANAGER: "power cycle: stop and start by the VMs' manager (docs/managers.md)",
    Verb.NOVA: "power cycle: reboot by Nova, hard where its plugin writes off, soft where pmuconf apply did",
}


def settle_step(cause: str) -> CampaignStep:
    """To find out or decide what this cause is about, before anything can be promised."""
    return CampaignStep(Change.SETTLE, (cause,))


def steps_of(report: HostReport, vm: ReportedVm) -> tuple[CampaignStep, ...]:
    """The steps that a VM waits for to get the fast path, in their order; none if it waits for nothing."""
    needs = vm.outlook.needs
    if not needs.changes:
        return ()
    qemu = ("", "")
    replaced = vm.next_qemu or vm.qemu
    if Change.QEMU in needs.changes and replaced is not None:
        qemu = replaced.file
    return _steps(needs, report.kernel, qemu, _Ways(vm.outlook.nova, vm.managed, vm.explicit))


def policy_step(vm: ReportedVm) -> CampaignStep | None:
    """The step that writes the state that the policy wants, whether or not the VM needs it for the fast path.

    None if its next boot has that state, or if it has no next boot.
    """
    if "drift" not in vm.outlook.kinds:
        return None
    return _policy(_Ways(vm.outlook.nova, vm.managed, vm.explicit))


def power_cycles(report: HostReport) -> list[str]:
    """UUIDs of the VMs that a power cycle helps now, with nothing to be done before it.

    For a VM under KVM, this is the plan's own answer. Other VMs are in no plan: those are listed that run on with
    another PMU state than their next boot has.
    """
    uuids = []
    for vm in report.vms:
        in_plan = any(step.kind is Change.CYCLE and not step.behind for step in steps_of(report, vm))
        outlook = vm.outlook
        emulated = outlook.cause == "not-kvm" and outlook.running and "pending" in outlook.kinds
        if vm.uuid is not None and (in_plan or emulated):
            uuids.append(vm.uuid)
    return uuids


class _Ways(NamedTuple):
    """How a VM is changed: by Nova, by another manager, or by libvirt alone.

    :param explicit: flavor or image chose, so Nova itself writes the state.
    """

    nova: bool
    managed: bool
    explicit: bool


@lru_cache(maxsize=1 << 14)
def _steps(needs: Needs, kernel: tuple[str, str], qemu: tuple[str, str], ways: _Ways) -> tuple[CampaignStep, ...]:
    """The steps for these needs."""
    steps: list[CampaignStep] = []
    for change in needs.changes:
        if change in (Change.REDEFINE, Change.CYCLE):
            # A new start helps only under the new QEMU and with the new definition.
            behind = tuple(step for step in steps if step.kind is not Change.KERNEL)
            steps.append(CampaignStep(change, (_start_verb(change, needs, ways),), behind))
        else:
            subjects = {
                Change.KERNEL: kernel,
                Change.QEMU: qemu,
                Change.POLICY: _policy(ways).subject,
                Change.SETTLE: (needs.unsettled,),
            }
            steps.append(CampaignStep(change, subjects[change]))
    return tuple(steps)


def _policy(ways: _Ways) -> CampaignStep:
    verb = Verb.NOVA_POLICY if ways.nova else Verb.MANAGER_POLICY if ways.managed else Verb.APPLY
    return CampaignStep(Change.POLICY, (verb,))


def _start_verb(change: Change, needs: Needs, ways: _Ways) -> str:
    if change is Change.REDEFINE:
        return Verb.REDEFINE
    if not ways.nova:
        return Verb.MANAGER if ways.managed else Verb.STOP_START
    return Verb.NOVA_HARD if ways.explicit or Change.POLICY in needs.changes else Verb.NOVA


@lru_cache(maxsize=1 << 14)
def _digest(step: CampaignStep) -> str:
    text = "\0".join((step.kind.value, *step.subject, *(earlier.id for earlier in step.behind)))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGITS]
