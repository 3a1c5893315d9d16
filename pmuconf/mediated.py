"""Why a VM with a PMU may not start where KVM uses a mediated PMU. Pure.

Since Linux 7.0 KVM can give guests the hardware's counters (enable_mediated_pmu of kvm_amd and kvm_intel). They can't
be shared: perf_create_mediated_pmu() refuses them to a VM while a system-wide perf event or the NMI watchdog has one.
"""

from __future__ import annotations

from pmuconf.hostfacts import HostFacts

__all__ = ["start_hazard"]


def start_hazard(facts: HostFacts, with_pmu: int | None = None) -> str:
    """Why a VM with a PMU may not start on this host, in sentences; empty if no reason is known.

    :param with_pmu: how many VMs of the host have a PMU, or will have one at their next start; None: unknown.
    """
    if not facts.mediated_pmu or facts.enable_pmu is False:
        return ""
    watchdog = {
        True: "The NMI watchdog runs now (sysctl kernel.nmi_watchdog=0 stops it)",
        False: "The NMI watchdog is off now; whether a perf event has them is unknown",
        None: "Whether the NMI watchdog runs is not known",
    }[facts.nmi_watchdog]
    concerned = "" if with_pmu is None else f" {with_pmu} VM{'s have' if with_pmu != 1 else ' has'} a PMU."
    return (
        "KVM uses a mediated PMU: a VM with a PMU may not start here while the NMI watchdog or a system-wide perf "
        f"event holds the counters. {watchdog}.{concerned}"
    )
