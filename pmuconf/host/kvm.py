"""KVM's own settings on this host: module parameters that decide over every VM's PMU at once."""

from __future__ import annotations

from dataclasses import dataclass

from pmuconf.host.names import VENDORS
from pmuconf.host.root import Root

__all__ = ["Kvm", "read_kvm"]


@dataclass(frozen=True)
class Kvm:
    """What KVM was loaded with; None for what this kernel has not or does not show.

    :param enable_pmu: False: the PMU of every VM is disabled in the kernel. KVM sets it so itself where the host
        has no PMU that it can use.
    :param mediated_pmu: since 7.0, guests are given the hardware's counters.
    """

    loaded: bool
    vendor_module: str | None
    enable_pmu: bool | None
    nested: bool | None
    mediated_pmu: bool | None
    release: str | None


def read_kvm(root: Root) -> Kvm:
    """The settings of the KVM on the host below ``root``."""
    vendor = next((name for name in VENDORS if root.exists(f"/sys/module/{name}")), None)

    def switch(module: str | None, parameter: str) -> bool | None:
        text = root.text(f"/sys/module/{module}/parameters/{parameter}") if module else None
        return {"Y": True, "1": True, "N": False, "0": False}.get(text or "")

    mediated = switch("kvm", "enable_mediated_pmu")
    return Kvm(
        loaded=root.exists("/sys/module/kvm"),
        vendor_module=vendor,
        enable_pmu=switch("kvm", "enable_pmu"),
        nested=switch(vendor, "nested"),
        mediated_pmu=mediated if mediated is not None else switch(vendor, "enable_mediated_pmu"),
        release=root.text("/proc/sys/kernel/osrelease"),
    )
