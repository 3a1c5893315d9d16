"""KVM's own settings on this host: module parameters that decide over every VM's PMU at once."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from pmuconf.host.names import ENABLE_PMU, KVM, MEDIATED, NESTED, VENDORS, is_other_pmu, is_vendor
from pmuconf.host.root import Root

__all__ = ["Kvm", "nmi_watchdog", "read_kvm"]


@dataclass(frozen=True)
class Kvm:
    """What KVM was loaded with; None for what this kernel has not or does not show.

    :param enable_pmu: False: the PMU of every VM is disabled in the kernel. KVM sets it so itself where the host
        has no PMU that it can use.
    :param mediated_pmu: guests are given the hardware's counters, which KVM switches at exits. False where this kernel
        has no such parameter; None only where that can't be said.
    """

    loaded: bool
    vendor_module: str | None
    enable_pmu: bool | None
    nested: bool | None
    mediated_pmu: bool | None
    release: str | None


def read_kvm(root: Root) -> Kvm:
    """The settings of the KVM on the host below ``root``."""
    vendors = list(filter(is_vendor, root.names("/sys/module")))
    vendor = next((name for name in VENDORS if name in vendors), None)
    loaded = root.exists("/sys/module/kvm")
    return Kvm(
        loaded=loaded,
        vendor_module=vendor,
        enable_pmu=_switch(root, KVM, ENABLE_PMU),
        nested=_switch(root, vendor, NESTED) if vendor else None,
        mediated_pmu=_mediated(root, (KVM, *vendors)) if loaded else None,
        release=root.text("/proc/sys/kernel/osrelease"),
    )


def nmi_watchdog(root: Root) -> bool | None:
    """Whether the NMI watchdog runs, which keeps a counter of every CPU for itself; None: not known."""
    return {"1": True, "0": False}.get(root.text("/proc/sys/kernel/nmi_watchdog") or "")


def _switch(root: Root, module: str, parameter: str) -> bool | None:
    text = root.text(f"/sys/module/{module}/parameters/{parameter}")
    return {"Y": True, "1": True, "N": False, "0": False}.get(text or "")


def _mediated(root: Root, modules: Iterable[str]) -> bool | None:
    """Whether KVM switches the hardware's counters; None: a parameter that says so, or that may, can't be read."""
    try:
        said = set(_said(root, modules))
    except OSError:
        return None
    return True if True in said else None if None in said else False


def _said(root: Root, modules: Iterable[str]) -> Iterator[bool | None]:
    """What each parameter says of it that this KVM has: it belongs to the vendor modules, and once did to KVM.

    :raises OSError: they can't be listed.
    """
    for module in modules:
        folder = root.at(f"/sys/module/{module}/parameters")
        try:
            parameters = os.listdir(folder)
        except FileNotFoundError:
            continue
        for parameter in parameters:
            if parameter in MEDIATED:
                yield _switch(root, module, parameter)
            elif is_other_pmu(parameter):  # what it costs is not known
                yield False if _switch(root, module, parameter) is False else None
