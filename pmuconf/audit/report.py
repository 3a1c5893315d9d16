"""The audit of one host: its VMs joined with what was found of the host. Pure."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from functools import cached_property

from pmuconf.audit.processes import others
from pmuconf.audit.remedy import Remedy, remedies
from pmuconf.audit.vm import Severity, Vm, guest_of
from pmuconf.domain.definition import PmuState
from pmuconf.fastpath.verdict import answer
from pmuconf.hostfacts import HostFacts, KernelPmu, LiveVm, Qemu
from pmuconf.policy import Decision

__all__ = ["Report", "asks_host", "join"]


@dataclass(frozen=True)
class Report:
    """The audit of one host.

    :param source: the libvirt URI, the files that were read instead, or ``processes``.
    :param facts: of the host; None if it was not asked: no VM of it runs under KVM, it is another host, or files were
        read.
    :param whole: the VMs are all that the host has.
    :param warnings: sentences about what could not be done.
    """

    source: str
    vms: tuple[Vm, ...]
    facts: HostFacts | None = None
    host: str = field(default_factory=socket.gethostname)
    at: datetime = field(default_factory=lambda: datetime.now(timezone.utc))
    whole: bool = True
    warnings: tuple[str, ...] = ()

    @property
    def severity(self) -> Severity:
        """The worst of its domains."""
        return max((vm.severity for vm in self.vms), default=Severity.OK)

    @cached_property
    def others(self) -> tuple[LiveVm, ...]:
        """What KVM holds beside the running VMs of this report; empty if the host was not asked."""
        return others(self.facts, self.vms)

    def remedies(self, vm: Vm) -> tuple[Remedy, ...]:
        """What is to be done about one of its VMs, in the order in which to do it; empty if it is as wanted."""
        return remedies(vm, self.facts, self._needing)

    @cached_property
    def _needing(self) -> int | None:
        """How many VMs of the host have a PMU that no policy takes from them; None: unknown.

        VMs of others than libvirt count too.
        """
        if self.facts is None or not self.whole:
            return None
        kept = sum(vm.decision is not Decision.OFF and vm.effective_pmu is not PmuState.OFF for vm in self.vms)
        return kept + sum(vm.kernel_pmu is not KernelPmu.DISABLED for vm in self.others)


def join(vms: Sequence[Vm], facts: HostFacts | None) -> tuple[Vm, ...]:
    """The same VMs with their processes and with the verdict on their fast path. Pure.

    :param facts: of the host that they are on, None if it can't be looked at from here.
    """
    processes: dict[str, list[LiveVm]] = {}
    for process in facts.vms if facts is not None else ():
        if process.uuid:
            processes.setdefault(process.uuid, []).append(process)
    seen = [_with(vm, _only(processes.get(vm.uuid or "none", ()))) for vm in vms]
    guests = [(vm, guest_of(vm)) for vm in seen]
    return tuple(vm if guest is None else replace(vm, answer=answer(facts, guest)) for vm, guest in guests)


def _with(vm: Vm, process: LiveVm | None) -> Vm:
    """The VM with its process: what that was started with decides what the running guest has."""
    if process is not None and vm.domain is not None and vm.next_domain is not None:
        emulator = vm.next_domain.emulator
        if emulator != vm.domain.emulator:  # of that file nothing is known
            process = replace(process, next_qemu=Qemu(emulator or "", None, None, "another-emulator"))
    if process is None or process.pmu_property is None or vm.live is None:
        return replace(vm, process=process)
    return replace(vm, process=process, effective_pmu=PmuState.ON if process.pmu_property else PmuState.OFF)


def _only(processes: Sequence[LiveVm]) -> LiveVm | None:
    """The process of a domain, if there is exactly one that says so."""
    return processes[0] if len(processes) == 1 else None


def asks_host(vms: Iterable[Vm]) -> bool:
    """Whether any VM runs under KVM, so that the host's facts say something about it."""
    return any(
        vm.domain is not None and vm.live is not None and vm.domain.x86 and vm.domain.virt_type == "kvm" for vm in vms
    )
