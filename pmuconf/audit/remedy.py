"""What is to be done about a VM: one step for each thing that is wrong with it, in the words of its manager. Pure.

The steps come from the verdict on its fast path and from its status with the policy. A VM that does not run has no
verdict that asks for anything, and may be off policy all the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from pmuconf.audit.managers import apply_by, cycle_by, lasts, redefine_by
from pmuconf.audit.starters import redefine_process, start_anew
from pmuconf.audit.vm import Status, Vm
from pmuconf.domain.definition import Manager, PmuState
from pmuconf.fastpath.cases import CASES, RemedyKind
from pmuconf.hostfacts import HostFacts
from pmuconf.policy import Decision

__all__ = ["EXPLAIN", "Remedy", "needless", "options_remedy", "power_cycle", "redefine", "remedies"]

EXPLAIN: Final = "'pmuconf policy explain' says what the policy lacks"
_AS_ROOT: Final = "run pmuconf as root, to read kernel memory"
_FIND_OUT: Final = {
    "process-unknown": "run pmuconf as root on the host itself",
    "qemu-unknown": f"{_AS_ROOT}; or test that QEMU: pmuconf qemu prove BINARY",
}
_UNREAD: Final = {
    "file-unreadable": "let pmuconf read that file, or leave it out",
    "libvirt-error": "see what libvirt says of it (virsh dumpxml), then run pmuconf again",
    "domain-timeout": "see whether libvirt answers for it (virsh dumpxml), then run pmuconf again",
}
_MEND: Final = "mend its XML (virsh edit), then run pmuconf again"
_SIMPLE: Final = {
    RemedyKind.EXPLAIN: EXPLAIN,
    RemedyKind.IMAGE: (
        "start it from the image and then stop and start it, or give the image up (virsh managedsave-remove)"
    ),
    RemedyKind.PMU_CERTAIN: "a PMU that is off in KVM makes it certain",
    RemedyKind.PMU_OFF: "its PMU must be off in KVM",
    RemedyKind.READ_PARAMETER: "run pmuconf as root: enable_mediated_pmu of kvm_amd or kvm_intel can't be read",
    RemedyKind.RUN_THERE: "run pmuconf on that host",
    RemedyKind.WRITE: "write the state (pmuconf apply): by default, another QEMU may give it a PMU",
}
"""The kinds whose words are the same for every VM."""

_BY_STATUS: Final = {
    Status.DRIFT: RemedyKind.APPLY,
    Status.OVERRIDDEN: RemedyKind.OPTIONS,
    Status.STUCK: RemedyKind.REDEFINE,
    Status.UNDECIDED: RemedyKind.EXPLAIN,
}


@dataclass(frozen=True)
class Remedy:
    """One step.

    :param causes: what it removes: causes of the verdict, words of Status, or the cause of an error.
    """

    text: str
    causes: tuple[str, ...]


def remedies(vm: Vm, host: HostFacts | None, needing: int | None) -> tuple[Remedy, ...]:
    """What is to be done about a VM, in the order in which to do it; empty if it is as wanted.

    :param host: of the VM; None: it was not looked at.
    :param needing: how many VMs of the host keep a PMU: what speaks against a module parameter for all. None: unknown.
    """
    causes_of: dict[RemedyKind, list[str]] = {}
    for kind, cause in _of_verdict(vm):
        causes_of.setdefault(kind, []).append(cause)
    for kind, word in _of_status(vm):
        causes_of.setdefault(kind, [word])
    if vm.error is not None:  # the policy was not asked, or could not answer
        causes_of.pop(RemedyKind.EXPLAIN, None)
    if RemedyKind.WRITE in causes_of:
        causes_of[RemedyKind.WRITE] += causes_of.pop(RemedyKind.APPLY, [])
    if RemedyKind.APPLY in causes_of:  # whose words end with the new start
        causes_of[RemedyKind.APPLY][:0] = causes_of.pop(RemedyKind.POWER_CYCLE, [])
    steps = (Remedy(_words(kind, vm, host, needing), tuple(causes)) for kind, causes in causes_of.items())
    return (*_of_error(vm), *steps)


def needless(vm: Vm) -> str:
    """Why nothing is to be done about a VM for which remedies() gives nothing."""
    if vm.answer is None:
        return "it is as the policy wants"
    return CASES[vm.answer.cause].remedies[0].value


def _of_error(vm: Vm) -> Iterator[Remedy]:
    """What lets the VM be judged, if it could not be."""
    if vm.error is not None:
        yield Remedy(vm.error.hint or _UNREAD.get(vm.error.cause, _MEND), (vm.error.cause,))


def _of_verdict(vm: Vm) -> Iterator[tuple[RemedyKind, str]]:
    """What the causes of the verdict ask for."""
    if vm.answer is None:
        return
    for cause in vm.answer.causes:
        for kind in CASES[cause].remedies:
            if kind.needless or (kind is RemedyKind.PMU_CERTAIN and len(vm.answer.causes) > 1):
                continue
            if kind is RemedyKind.WRITE and not (vm.drift and vm.decision is Decision.OFF):
                continue
            yield kind, cause


def _of_status(vm: Vm) -> Iterator[tuple[RemedyKind, str]]:
    """What the status with the policy asks for."""
    status = vm.status
    if status in _BY_STATUS:
        yield _BY_STATUS[status], status.value
    if status is Status.PENDING:
        wanted = vm.next_boot or PmuState.OFF
        if vm.guest_waits(wanted):
            yield RemedyKind.POWER_CYCLE, status.value
        if vm.image_waits(wanted):
            yield RemedyKind.IMAGE, status.value


def _words(kind: RemedyKind, vm: Vm, host: HostFacts | None, needing: int | None) -> str:
    if kind in _SIMPLE:
        return _SIMPLE[kind]
    if kind is RemedyKind.KERNEL:
        return (host.guard.step if host is not None else "") or "'pmuconf host' says what is missing"
    if kind is RemedyKind.FIND_OUT:
        return _FIND_OUT.get(vm.answer.in_kernel.cause if vm.answer else "", _AS_ROOT)
    if kind is RemedyKind.QEMU:
        return _qemu(needing)
    if kind is RemedyKind.APPLY:
        return _apply(vm)
    if kind is RemedyKind.REDEFINE:
        wanted = PmuState.OFF if vm.decision is None else vm.decision.state
        return redefine_process(vm, wanted) if vm.by_process else redefine(wanted, vm.writer)
    if kind is RemedyKind.POWER_CYCLE:
        return start_anew(vm) if vm.by_process else power_cycle(vm.writer)
    return options_remedy(kind, vm.decision)


def _qemu(needing: int | None) -> str:
    if needing is None:
        others = "which takes the PMU from every VM of it"
    elif needing == 0:
        others = "where no VM keeps a PMU"
    else:
        others = f"which takes the PMU from {needing} VM{'s' * (needing > 1)} here that keep{'s' * (needing == 1)} one"
    return (
        "a QEMU that disables the PMU in KVM (11.0, or a backport), and a power cycle under it; or, on a drained host, "
        f"kvm.enable_pmu=N, {others}"
    )


def _apply(vm: Vm) -> str:
    wanted = PmuState.OFF if vm.decision is None or vm.decision.state is None else vm.decision.state
    cycle = vm.guest_waits(wanted)
    if vm.nova:
        choice = f"hw:pmu={'true' if wanted is PmuState.ON else 'false'}"
        then = ", then hard reboot it by Nova" if cycle else ""
        return (
            f"let Nova write it (the plugin pmuconf-nova, or {choice} in the flavor){then}; "
            f"pmuconf apply lasts {lasts(Manager.NOVA)}"
        )
    by_manager = apply_by(vm.writer, cycle=cycle)
    if by_manager:
        return by_manager
    return f"pmuconf apply, then {power_cycle(Manager.LIBVIRT)}" if cycle else "pmuconf apply"


def redefine(wanted: PmuState | None, manager: Manager = Manager.LIBVIRT) -> str:
    """What to do about a VM that has no next boot."""
    state = wanted or PmuState.OFF
    return redefine_by(manager, state) or f"the tool that starts it must ask for <pmu state='{state.value}'/>"


def options_remedy(kind: RemedyKind, decision: Decision | None) -> str:
    """What to do where something else than ``<pmu>`` decides about the PMU, or may decide."""
    if kind is RemedyKind.OPTIONS_UNKNOWN:
        return (
            "take -cpu, -global, -set and -readconfig out of its <qemu:commandline> (virsh edit), and let its "
            "<emulator> be a QEMU, not a script; then stop and start it"
        )
    pmu = "pmu=on" if decision is Decision.ON else "pmu=off"
    return (
        f"take -cpu and -global out of its <qemu:commandline> (virsh edit), or write {pmu} there; a script as its "
        "<emulator> may do the same; then stop and start it"
    )


def power_cycle(manager: Manager) -> str:
    """How a VM gets at its next boot, in the words of what manages it."""
    if manager is Manager.NOVA:
        return (
            "reboot it by Nova: hard where Nova itself writes off (plugin or flavor), soft where pmuconf apply did "
            "(openstack server reboot)"
        )
    return cycle_by(manager) or "stop and start it (virsh shutdown, virsh start): a reboot from inside keeps the PMU"
