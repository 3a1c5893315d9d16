"""A VM's PMU in the kernel (``kvm->arch.enable_pmu``): read there, or concluded from KVM, its process and its QEMU.

Pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from pmuconf.domain.definition import PmuState
from pmuconf.fastpath.guest import Guest
from pmuconf.hostfacts import CONTRADICTORY, Evidence, HostFacts, KernelPmu, Qemu

__all__ = ["WHY_UNKNOWN", "InKernel", "in_kernel_pmu", "loses_pmu"]

WHY_UNKNOWN: Final = {
    "parameter-unknown": "kvm.enable_pmu can't be read",
    "process-unknown": "its process was not found on this host",
    "several-vms": "its process has several VMs in KVM, which differ",
    "kernel-memory-odd": "what kernel memory holds of it contradicts itself, or kvm.enable_pmu",
    "cpu-unknown": "its QEMU's command line does not tell",
    "mediated-pmu": "with mediated PMUs, or where that is not known, it depends on its interrupt controller",
    "tdx-guest": "it is a TDX guest, or may be one: newer kernels give those no PMU, older ones may",
    "qemu-unknown": "its QEMU may disable the PMU or not",
    "vm-remade": "a reset may have given this confidential guest another VM of KVM, with its PMU enabled",
}


@dataclass(frozen=True)
class InKernel:
    """The PMU of a VM in the kernel, how that is known, and from what (or why it is not)."""

    pmu: KernelPmu
    evidence: Evidence
    cause: str


def in_kernel_pmu(host: HostFacts | None, guest: Guest) -> InKernel:
    """The VM's PMU in the kernel: what kernel memory says, else what follows from KVM, the process and its QEMU."""
    vm = guest.vm
    if not guest.running or guest.domain.virt_type != "kvm" or not guest.domain.x86:
        return InKernel(KernelPmu.UNKNOWN, Evidence.NONE, "not-running" if not guest.running else "not-kvm")
    if vm is not None and vm.kernel_pmu is not KernelPmu.UNKNOWN:
        return InKernel(vm.kernel_pmu, Evidence.OBSERVED, "kernel-memory")
    if host is None:
        return InKernel(KernelPmu.UNKNOWN, Evidence.NONE, "remote-host")
    if vm is None:  # nothing shows that it runs here: the facts of this host may not be those of its own
        return InKernel(KernelPmu.UNKNOWN, Evidence.NONE, "process-unknown")
    if vm.cause in CONTRADICTORY:
        return InKernel(KernelPmu.UNKNOWN, Evidence.NONE, vm.cause)
    if host.enable_pmu is None:
        return InKernel(KernelPmu.UNKNOWN, Evidence.NONE, "parameter-unknown")
    if not host.enable_pmu:
        return InKernel(KernelPmu.DISABLED, Evidence.INFERRED, "module-parameter")
    if vm.tdx and host.guard.protected_pmu:  # from birth, whatever its QEMU asks for
        return InKernel(KernelPmu.DISABLED, Evidence.INFERRED, "tdx-guest")
    if vm.tdx is not False or guest.domain.tdx:
        return InKernel(KernelPmu.UNKNOWN, Evidence.NONE, "tdx-guest")
    if vm.pmu_property is None:
        return InKernel(KernelPmu.UNKNOWN, Evidence.NONE, "cpu-unknown")
    if not vm.pmu_property and vm.qemu is not None and vm.qemu.disables and not vm.may_be_recreated:
        return InKernel(KernelPmu.DISABLED, Evidence.INFERRED, "qemu-disables")
    if not vm.pmu_property and (vm.qemu is None or vm.qemu.disables is None):
        return InKernel(KernelPmu.UNKNOWN, Evidence.NONE, "qemu-unknown")
    if host.mediated_pmu is not False:  # it takes the PMU from VMs without an in-kernel irqchip, whatever QEMU does
        return InKernel(KernelPmu.UNKNOWN, Evidence.NONE, "mediated-pmu")
    if vm.pmu_property:
        return InKernel(KernelPmu.ENABLED, Evidence.INFERRED, "qemu-property")
    if vm.qemu is not None and vm.qemu.disables:
        # It makes the call before its first vCPU; not, as far as is known, once more for the VM that a reset gives it.
        return InKernel(KernelPmu.UNKNOWN, Evidence.NONE, "vm-remade")
    return InKernel(KernelPmu.ENABLED, Evidence.INFERRED, "qemu-keeps")


def loses_pmu(host: HostFacts, guest: Guest, qemu: Qemu) -> bool | None:
    """Whether a VM would lose a PMU that it has in the kernel by going on under that QEMU; None: it can't be said.

    A running VM by live migration, restore, or a cold start with the same definition; one that does not run by its
    next start, if ``guest.next_qemu``, under which it would start today, leaves it one.
    """
    if not guest.domain.x86 or guest.domain.virt_type != "kvm" or qemu.disables is False or host.enable_pmu is False:
        return False
    effective = guest.domain.effective_pmu
    has_pmu = None if effective is None else effective is PmuState.ON
    if guest.running:
        held = in_kernel_pmu(host, guest).pmu
        has_pmu = guest.vm.pmu_property if guest.vm is not None else has_pmu
    else:
        leaves = None if guest.next_qemu is None or guest.domain.tdx else guest.next_qemu.disables
        held = {True: KernelPmu.DISABLED, False: KernelPmu.ENABLED, None: KernelPmu.UNKNOWN}[leaves]
    if has_pmu is True or held is KernelPmu.DISABLED:
        return False
    if has_pmu is None or held is KernelPmu.UNKNOWN or qemu.disables is None:
        return None
    return True
