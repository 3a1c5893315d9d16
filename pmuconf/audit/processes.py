"""VMs that KVM holds and libvirt does not know, judged by their processes. Pure.

Each becomes a Vm like those of libvirt, without a next boot: pmuconf can write none for it. Its PMU state is that of
its CPU, by QEMU's command line; where that says nothing, off if KVM has its PMU disabled, and otherwise default.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from pmuconf.audit.vm import Vm, guest_of, judge
from pmuconf.domain.definition import UNKNOWN, Domain, Managed, Manager, PmuState
from pmuconf.fastpath.inkernel import in_kernel_pmu
from pmuconf.fastpath.verdict import Answer, answer
from pmuconf.hostfacts import HostFacts, KernelPmu, LiveVm
from pmuconf.policy import Policy, Subject

__all__ = ["named", "others", "vms_of_processes"]

_LONGEST: Final = 200
_UNKNOWN_MACHINE: Final = "of-a-process"
"""A machine type that says nothing about the PMU: what the guest gets is not known then, as nothing else says it."""
_ONLY_ITS_STARTER: Final = "it has a PMU, and libvirt does not know it: only what starts it can take the PMU away"


def others(facts: HostFacts | None, vms: Sequence[Vm]) -> tuple[LiveVm, ...]:
    """The VMs of KVM, and the processes that run one, that are not of one of these running VMs."""
    known = {vm.process.pid for vm in vms if vm.process is not None and vm.live is not None}
    return tuple(vm for vm in facts.vms if vm.pid is None or vm.pid not in known) if facts is not None else ()


def named(process: LiveVm) -> str:
    """A name for a VM by its process: bounded, and still as its starter wrote it."""
    name = process.name or f"PID {process.pid} {_executable(process)}".rstrip()
    if process.pid is None:
        name = "a VM without a process"
    return name if len(name) <= _LONGEST else f"{name[:_LONGEST]}..."


def vms_of_processes(policy: Policy, facts: HostFacts, vms: Sequence[Vm] = ()) -> tuple[Vm, ...]:
    """The VMs of a host that are not among those of libvirt, sorted by name.

    In a container, KVM's VMs can't be given to the processes that are seen there: then only those are listed.

    :param vms: libvirt's, with their processes.
    """
    listed = (vm for vm in others(facts, vms) if vm.pid is not None or vm.cause != "pid-namespace")
    return tuple(sorted((_vm(policy, facts, process) for process in listed), key=lambda vm: (vm.name, _pid(vm))))


def _vm(policy: Policy, facts: HostFacts, process: LiveVm) -> Vm:
    definition = _definition(facts, process)
    unread = not process.started_as  # nothing is known of its command line
    subject = replace(
        Subject.of_domain(definition),
        name=process.name or (UNKNOWN if unread else None),
        uuid=process.uuid or (UNKNOWN if unread else None),
    )
    vm = judge(policy, live=definition, subject=subject)
    vm = replace(vm, transient=True, by_process=True, process=process)
    guest = guest_of(vm)
    return vm if guest is None else replace(vm, answer=_in_its_words(answer(facts, guest)))


def _in_its_words(verdict: Answer) -> Answer:
    return replace(verdict, message=_ONLY_ITS_STARTER) if verdict.cause == "transient" else verdict


def _definition(facts: HostFacts, process: LiveVm) -> Domain:
    """What libvirt would have of the VM, as far as its process and KVM show it."""
    try:
        manager = Manager(process.manager)
    except ValueError:
        manager = Manager.UNKNOWN
    by_kvm = Domain(named(process), process.uuid, "kvm", "x86_64", PmuState.DEFAULT, None, None, Managed(manager))
    definition = replace(by_kvm, running=True, machine=_UNKNOWN_MACHINE)
    return replace(definition, pmu=_state(facts, definition, process))


def _state(facts: HostFacts, definition: Domain, process: LiveVm) -> PmuState:
    if process.pmu_property is not None:
        return PmuState.ON if process.pmu_property else PmuState.OFF
    guest = guest_of(Vm(definition.name, None, live=definition.pmu, domain=definition, process=process))
    disabled = guest is not None and in_kernel_pmu(facts, guest).pmu is KernelPmu.DISABLED
    return PmuState.OFF if disabled else PmuState.DEFAULT


def _executable(process: LiveVm) -> str:
    """The name of the executable; without the right to see that, of the process."""
    path = process.exe.real.removesuffix(" (deleted)") if process.exe is not None else ""
    return path.rpartition("/")[2] or process.command


def _pid(vm: Vm) -> int:
    return vm.process.pid or 0 if vm.process is not None else 0
