"""What would change the verdict on a VM, in the words of what manages it. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pmuconf.policy import Decision

if TYPE_CHECKING:  # which asks for remedies itself
    from pmuconf.fastpath.guest import Guest
    from pmuconf.fastpath.inkernel import InKernel
    from pmuconf.hostfacts import HostFacts

__all__ = ["options_remedy", "power_cycle", "remedies"]

_SETTLE: Final = {
    "process-unknown": "run pmuconf as root on the host itself",
    "qemu-unknown": "run pmuconf as root, to read kernel memory; or test that QEMU: pmuconf host --prove-qemu",
}


def remedies(
    causes: tuple[str, ...], host: HostFacts | None, guest: Guest, held: InKernel, needing: int | None
) -> list[str]:
    """What to do about the causes, one step each, in their order and in the words of the VM's manager."""
    steps: list[str] = []
    for cause in causes:
        if cause in ("kernel-unguarded", "partial-guard", "kernel-unknown") and host is not None:
            steps.append(host.guard.remedy or "'pmuconf host' says what is missing")
        elif cause == "remote-host":
            steps.append("run pmuconf on that host")
        elif cause == "pmu-unknown":
            steps.append(_SETTLE.get(held.cause, "run pmuconf as root, to read kernel memory"))
        elif cause == "qemu-keeps-pmu":
            steps.append(_qemu_remedy(needing))
        elif cause == "mediated-pmu":
            steps.append("its PMU must be off in KVM")
        elif cause == "mediated-unknown":
            steps.append("run pmuconf as root: enable_mediated_pmu of kvm_amd or kvm_intel can't be read")
            steps.append("a PMU that is off in KVM makes it certain" if len(causes) == 1 else "")
        elif cause == "depends-on-guest":
            steps.append("a PMU that is off in KVM makes it certain" if len(causes) == 1 else "")
        elif cause == "undecided":
            steps.append("'pmuconf policy explain' says what the policy lacks")
        elif cause in ("cpu-overridden", "next-boot-unknown"):
            steps.append(options_remedy(cause, guest.decision))
        elif cause == "drift":
            steps.append(_drift_remedy(guest))
        elif cause == "transient":
            steps.append("the tool that starts it must ask for <pmu state='off'/>")
        elif cause == "saved-image":
            steps.append(
                "start it from the image and then stop and start it, or give the image up (virsh managedsave-remove)"
            )
        elif cause in ("qemu-upgraded", "qemu-did-not", "pending-power-cycle"):
            steps.append(power_cycle(nova=guest.domain.nova is not None))
        elif cause == "disabled-by-default" and guest.decision is Decision.OFF:
            steps.append("write the state (pmuconf apply): by default, another QEMU may give it a PMU")
    return [step for at, step in enumerate(steps) if step and step not in steps[:at]]


def _qemu_remedy(needing: int | None) -> str:
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


def _drift_remedy(guest: Guest) -> str:
    if guest.domain.nova is not None:
        return (
            "let Nova write it (the plugin pmuconf-nova, or hw:pmu=false in the flavor), then hard reboot it by Nova; "
            "pmuconf apply lasts until Nova's next hard reboot or start"
        )
    return f"pmuconf apply, then {power_cycle(nova=False)}"


def options_remedy(cause: str, decision: Decision | None) -> str:
    """What to do where something else than ``<pmu>`` decides about the PMU, or may decide."""
    if cause == "next-boot-unknown":
        return (
            "take -cpu, -global, -set and -readconfig out of its <qemu:commandline> (virsh edit), and let its "
            "<emulator> be a QEMU, not a script; then stop and start it"
        )
    pmu = "pmu=on" if decision is Decision.ON else "pmu=off"
    return (
        f"take -cpu and -global out of its <qemu:commandline> (virsh edit), or write {pmu} there; a script as its "
        "<emulator> may do the same; then stop and start it"
    )


def power_cycle(*, nova: bool) -> str:
    """How a VM gets at its next boot, in the words of what manages it."""
    if nova:
        return (
            "reboot it by Nova: hard where Nova itself writes off (plugin or flavor), soft where pmuconf apply did "
            "(openstack server reboot)"
        )
    return "stop and start it (virsh shutdown, virsh start): a reboot from inside keeps the PMU"
