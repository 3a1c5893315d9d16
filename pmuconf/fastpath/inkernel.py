"""A VM's PMU in the kernel (``kvm->arch.enable_pmu``): read there, or inferred from KVM, its process and its QEMU.

Pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from pmuconf.domain.definition import Domain, PmuState
from pmuconf.fastpath.guest import Guest
from pmuconf.hostfacts import CONTRADICTORY, MAY_BE_EMULATED, Evidence, HostFacts, KernelPmu, LiveVm, Qemu

__all__ = ["WHY_UNKNOWN", "InKernel", "in_kernel_pmu", "loses_pmu"]

WHY_UNKNOWN: Final = {
    "parameter-unknown": "kvm.enable_pmu can't be read",
    "process-unknown": "its process was not found on this host",
    "several-vms": "its process has several VMs in KVM, which differ",
    "kernel-memory-odd": "what kernel memory says of it contradicts itself, or kvm.enable_pmu",
    "cpu-unknown": "the command line of its QEMU does not say",
    "no-qemu": "no QEMU that is known here runs it, so only kernel memory says it",
    MAY_BE_EMULATED: "its QEMU may run it without KVM, and whether it does can't be seen",
    "mediated-pmu": "with mediated PMUs, or where that is not known, it depends on its interrupt controller",
    "tdx-guest": "it is a TDX guest, or may be one: newer kernels give such guests no PMU, older kernels may",
    "qemu-unknown": "its QEMU may disable the PMU or not",
    "vm-remade": "a reset may have given this confidential guest another VM of KVM, with its PMU enabled",
}


@dataclass(frozen=True)
class InKernel:
    """The PMU of a VM in the kernel, the evidence for it, and the cause: the source, or why it is unknown."""

    pmu: KernelPmu
    evidence: Evidence
    cause: str


def in_kernel_pmu(host: HostFacts | None, guest: Guest) -> InKernel:
    """The VM's PMU in the kernel.

    In this order: what kernel memory says; what holds for every VM of the host; what KVM does with TDX guests; and
    what follows from the QEMU process. Kernel memory that contradicts itself is an observation too: nothing is
    concluded in its place.
    """
    vm = guest.vm
    if not guest.running:
        return _unknown("not-running")
    if guest.domain.virt_type != "kvm" or not guest.domain.x86:
        return _unknown("not-kvm")
    if vm is not None and vm.kernel_pmu is not KernelPmu.UNKNOWN:
        return InKernel(vm.kernel_pmu, Evidence.OBSERVED, "kernel-memory")
    if host is None:
        return _unknown("remote-host")
    if vm is None:  # nothing shows that it runs here: the facts of this host may not be those of its own
        return _unknown("process-unknown")
    if vm.cause in CONTRADICTORY or vm.cause == MAY_BE_EMULATED:
        return _unknown(vm.cause)
    return _by_parameter(host) or _by_tdx(host, guest.domain, vm) or _by_qemu(host, vm)


def _by_parameter(host: HostFacts) -> InKernel | None:
    """What kvm.enable_pmu says of every VM; None: it leaves the PMU to the VM."""
    if host.enable_pmu is None:
        return _unknown("parameter-unknown")
    return None if host.enable_pmu else InKernel(KernelPmu.DISABLED, Evidence.INFERRED, "module-parameter")


def _by_tdx(host: HostFacts, definition: Domain, vm: LiveVm) -> InKernel | None:
    """What follows if it is a TDX guest, or may be one; None: it is none."""
    if vm.tdx and host.guard.protected_pmu:  # from birth, whatever its QEMU asks for
        return InKernel(KernelPmu.DISABLED, Evidence.INFERRED, "tdx-guest")
    return _unknown("tdx-guest") if vm.tdx is not False or definition.tdx else None


def _by_qemu(host: HostFacts, vm: LiveVm) -> InKernel:
    """What follows from the options of the process, and from what its QEMU does."""
    if vm.pmu_property is None:
        return _unknown("no-qemu" if vm.qemu is None else "cpu-unknown")
    disables = None if vm.qemu is None else vm.qemu.disables
    if not vm.pmu_property and disables is None:
        return _unknown("qemu-unknown")
    if not vm.pmu_property and disables and not vm.may_be_recreated:
        return InKernel(KernelPmu.DISABLED, Evidence.INFERRED, "qemu-disables")
    if host.mediated_pmu is not False:  # it takes the PMU from VMs without an in-kernel irqchip, whatever QEMU does
        return _unknown("mediated-pmu")
    if vm.pmu_property:
        return InKernel(KernelPmu.ENABLED, Evidence.INFERRED, "qemu-property")
    if disables:
        # QEMU makes the call before its first vCPU. As far as is known, it does not repeat the call for the VM of KVM
        # that a reset gives to this guest.
        return _unknown("vm-remade")
    return InKernel(KernelPmu.ENABLED, Evidence.INFERRED, "qemu-keeps")


def _unknown(cause: str) -> InKernel:
    return InKernel(KernelPmu.UNKNOWN, Evidence.NONE, cause)


def loses_pmu(host: HostFacts, guest: Guest, qemu: Qemu) -> bool | None:
    """Whether a VM would lose a PMU that it has in the kernel if it went on under ``qemu``; None: unknown.

    A running VM goes on there by live migration, by a restore, or by a cold start with the same definition. A VM that
    does not run goes on there by its next start: it loses what ``guest.next_qemu``, under which it would start today,
    would leave to it.
    """
    if not guest.domain.x86 or guest.domain.virt_type != "kvm" or qemu.disables is False or host.enable_pmu is False:
        return False
    by_definition = guest.domain.effective_pmu
    has_pmu = None if by_definition is None else by_definition is PmuState.ON
    if guest.running:
        in_kernel = in_kernel_pmu(host, guest).pmu
        has_pmu = guest.vm.pmu_property if guest.vm is not None else has_pmu
    else:
        disables = None if guest.next_qemu is None or guest.domain.tdx else guest.next_qemu.disables
        in_kernel = {True: KernelPmu.DISABLED, False: KernelPmu.ENABLED, None: KernelPmu.UNKNOWN}[disables]
    if has_pmu is True or in_kernel is KernelPmu.DISABLED:
        return False
    if has_pmu is None or in_kernel is KernelPmu.UNKNOWN or qemu.disables is None:
        return None
    return True
