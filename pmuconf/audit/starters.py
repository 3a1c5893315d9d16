"""What to do about a VM that libvirt does not know, in the words of what started its process. Pure.

The words are the same for all VMs of one starter, so that a report can count the VMs that wait for one step.
"""

from __future__ import annotations

from pmuconf.audit.vm import Vm
from pmuconf.domain.definition import Manager, PmuState

__all__ = ["redefine_process", "start_anew"]

_PARAMETER = (
    "no option of what runs it is known here that takes its PMU away: kvm.enable_pmu=N does, on a drained host, for "
    "every VM ('pmuconf host disable-pmu --check')"
)
_ANOTHER_LIBVIRT = "it is of another libvirt: run pmuconf with --connect and the URI of that (qemu:///session, ...)"


def redefine_process(vm: Vm, wanted: PmuState | None) -> str:
    """How a VM gets another PMU state at its next start.

    :param wanted: by the policy; None: off.
    """
    off = wanted is not PmuState.ON
    sign, value = ("-", "off") if off else ("+", "on")
    if vm.manager is Manager.LIBVIRT:
        return _ANOTHER_LIBVIRT
    if vm.process is None or vm.process.qemu is None:
        return _PARAMETER if off else "start it anew with a PMU, if what runs it has an option for that"
    if vm.manager is Manager.PROXMOX:
        return (
            f"a custom CPU model of Proxmox with 'flags {sign}pmu' (/etc/pve/virtual-guest/cpu-models.conf; qm set ID "
            f"--cpu custom-NAME), then {_PROXMOX_CYCLE}"
        )
    if vm.manager is Manager.KATA:
        return f'cpu_features="pmu={value}" in [hypervisor.qemu] of Kata\'s configuration.toml, then start its pod anew'
    return f"start its QEMU anew with pmu={value} behind the model of the last -cpu (-cpu host,pmu={value})"


def start_anew(vm: Vm) -> str:
    """How a VM gets a new process."""
    if vm.manager is Manager.LIBVIRT:
        return _ANOTHER_LIBVIRT
    if vm.manager is Manager.PROXMOX:
        return f"{_PROXMOX_CYCLE}: a reboot from inside keeps the PMU"
    if vm.manager is Manager.KATA:
        return "delete its pod and start it anew"
    return "end its process and start it anew: a reboot from inside keeps the PMU"


_PROXMOX_CYCLE = "stop and start it (qm shutdown ID, qm start ID)"
