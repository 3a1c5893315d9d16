"""KVM's own settings on this host: the module parameters that decide over the PMU of every VM."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from pmuconf.host.names import ENABLE_PMU, KVM, MEDIATED, NESTED, VENDORS, is_other_pmu, is_vendor
from pmuconf.host.root import Root

__all__ = ["Kvm", "nmi_watchdog", "read_kvm"]


@dataclass(frozen=True)
class Kvm:
    """The settings that KVM was loaded with; None for what this kernel does not have or does not show.

    :param enable_pmu: False: the PMU of every VM is disabled in the kernel. KVM sets it so itself if the host has no
        PMU that it can use.
    :param mediated_pmu: guests are given the hardware's counters, which KVM switches at exits. False if this kernel
        has no such parameter; None only if that can't be read.
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
    """Whether the NMI watchdog runs, which keeps a counter of every CPU for itself; None: unknown."""
    return {"1": True, "0": False}.get(root.text("/proc/sys/kernel/nmi_watchdog") or "")


def _switch(root: Root, module: str, parameter: str) -> bool | None:
    text = root.text(f"/sys/module/{module}/parameters/{parameter}")
    return {"Y": True, "1": True, "N": False, "0": False}.get(text or "")


def _mediated(root: Root, modules: Iterable[str]) -> bool | None:
    """Whether KVM switches the hardware's counters; None: a parameter that says so, or that may, can't be read."""
    try:
        answers = set(_mediated_parameters(root, modules))
    except OSError:
        return None
    return True if True in answers else None if None in answers else False


def _mediated_parameters(root: Root, modules: Iterable[str]) -> Iterator[bool | None]:
    """The values of the parameters that say it: the vendor modules have it today, and KVM itself had it once.

    :raises OSError: the parameters can't be listed.
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
            elif is_other_pmu(parameter):  # an unknown parameter: only if it is off, it surely costs nothing
                yield False if _switch(root, module, parameter) is False else None
