"""What a definition of a domain says about the PMU, as data. Pure."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import Final

from pmuconf.domain.cpu import has_pmu, is_qemu

__all__ = ["UNKNOWN", "X86", "Domain", "Managed", "Manager", "Nova", "PmuState", "Unknown"]

X86: Final = frozenset({"x86_64", "i686"})


class PmuState(enum.Enum):
    """The PMU state of a domain in libvirt's words; ``DEFAULT`` is an absent element."""

    ON = "on"
    OFF = "off"
    DEFAULT = "default"


class Unknown(enum.Enum):
    """A fact that its reader cannot know, as opposed to None: known to be absent."""

    UNKNOWN = "unknown"


UNKNOWN: Final = Unknown.UNKNOWN


class Manager(enum.Enum):
    """Who writes a domain; or, of a VM that libvirt does not know, who started its process."""

    LIBVIRT = "libvirt"
    NOVA = "nova"
    KUBEVIRT = "kubevirt"
    OVIRT = "ovirt"
    CLOUDSTACK = "cloudstack"
    OPENNEBULA = "opennebula"
    PROXMOX = "proxmox"
    KATA = "kata"
    UNKNOWN = "unknown"

    @property
    def of_libvirt(self) -> bool:
        """Whether it has libvirt run its VMs."""
        return self not in (Manager.PROXMOX, Manager.KATA, Manager.UNKNOWN)

    @property
    def title(self) -> str:
        """Its own name, as its documents write it."""
        return _TITLES[self]


_TITLES: Final = {
    Manager.LIBVIRT: "libvirt",
    Manager.NOVA: "Nova",
    Manager.KUBEVIRT: "KubeVirt",
    Manager.OVIRT: "oVirt",
    Manager.CLOUDSTACK: "CloudStack",
    Manager.OPENNEBULA: "OpenNebula",
    Manager.PROXMOX: "Proxmox",
    Manager.KATA: "Kata Containers",
    Manager.UNKNOWN: "an unknown manager",
}


@dataclass(frozen=True)
class Managed:
    """What a manager other than Nova says of a domain, in its metadata or to its hook.

    None is a known absence: oVirt has no flavors. ``UNKNOWN`` means that this text does not say it.

    :param flavor: KubeVirt's instance type, CloudStack's service offering.
    :param project: KubeVirt's namespace, the UUID of CloudStack's project, OpenNebula's group.
    :param attributes: KubeVirt's labels, oVirt's custom properties, the attributes of OpenNebula's template.
    """

    manager: Manager
    flavor: str | Unknown | None = None
    project: str | Unknown | None = None
    attributes: Mapping[str, str] | Unknown | None = None


@dataclass(frozen=True)
class Nova:
    """What Nova wrote into a domain's metadata (namespace nova/1.1, or nova/1.0 of Nova 22 and earlier).

    Up to Nova 31 the flavor has a name and sizes only. From 32.0.0 on it has its id, its extra specs and the image's
    properties, with the elements there even if empty. A fact that the version does not write is ``UNKNOWN``.
    """

    flavor: str | None
    flavor_id: str | Unknown | None
    project_id: str | None
    extra_specs: Mapping[str, str] | Unknown
    image_properties: Mapping[str, str] | Unknown


@dataclass(frozen=True)
class Domain:
    """The facts of one domain XML that matter for its PMU."""

    name: str
    uuid: str | None
    virt_type: str
    arch: str
    """Empty if the text leaves it to libvirt, which fills it in when it takes the domain."""
    pmu: PmuState
    cpu_mode: str | None
    nova: Nova | None
    managed: Managed | None = None
    """What another manager than Nova says; None: there is no such manager."""
    running: bool = False
    """Whether this is the definition of a running guest: only that carries an id."""
    tdx: bool = False
    """Whether it is a TDX guest, by ``<launchSecurity>``."""
    machine: str = ""
    cpu_model: str | None = None
    emulator: str | None = None
    arguments: tuple[str, ...] = field(default=(), repr=False)
    """What ``<qemu:commandline>`` gives QEMU behind libvirt's own options, if it may decide about the PMU."""

    @property
    def manager(self) -> Manager:
        """Who writes it, as its metadata says."""
        if self.nova is not None:
            return Manager.NOVA
        return Manager.LIBVIRT if self.managed is None else self.managed.manager

    @property
    def flavor(self) -> str | None:
        """The name of its flavor, instance type or offering; None if it has none, or none that is known."""
        name = self.nova.flavor if self.nova is not None else self.managed and self.managed.flavor
        return name if isinstance(name, str) else None

    @property
    def project(self) -> str | None:
        """The project, namespace or group that it belongs to; None if it has none, or none that is known."""
        name = self.nova.project_id if self.nova is not None else self.managed and self.managed.project
        return name if isinstance(name, str) else None

    @property
    def x86(self) -> bool:
        """Whether QEMU or KVM runs an x86 guest here: the only domains that the policy speaks of."""
        return self.virt_type in ("kvm", "qemu") and self.arch in X86

    @cached_property
    def effective_pmu(self) -> PmuState | None:
        """The PMU that the guest gets: the state, or for ``default`` what QEMU makes of the CPU model; None: unknown.

        QEMU's ``pmu`` property defaults to true for host-passthrough and maximum, and to false for every named
        model, host-model and no ``<cpu>`` at all. With a machine type before 1.6 it defaults to true for all. Options
        in ``<qemu:commandline>`` come last and win (pmuconf.domain.cpu).

        It is unknown if the emulator is no QEMU. So is ``default`` outside x86, and for maximum without KVM, because
        versions of QEMU differ there.
        """
        return self._gets(self.pmu)

    @cached_property
    def obeyed(self) -> bool | None:
        """Whether the guest gets what ``<pmu>`` says, on or off.

        False if ``<qemu:commandline>`` decides, whatever ``<pmu>`` says; None if that is not known.
        """
        results = [self._gets(state) for state in (PmuState.ON, PmuState.OFF)]
        return None if None in results else results == [PmuState.ON, PmuState.OFF]

    def awaits(self, next_boot: Domain | None, wanted: PmuState) -> bool:
        """Whether a guest that runs by this definition lacks the state ``wanted``, and gets it when it starts next.

        False if options for QEMU decide: then it has that PMU already, or it is not sure to get it.

        :param next_boot: the definition of the next start; None: the guest has none, so nobody knows what starts next.
        """
        if self.pmu is wanted or (self.arguments and self.effective_pmu is wanted):
            return False
        if next_boot is None:
            return True
        gets = next_boot.with_pmu(wanted).effective_pmu
        if wanted is PmuState.DEFAULT:  # which a rollback may want, and no guest gets: the default means on or off
            return gets is not None and gets is not self.effective_pmu
        return gets is wanted

    def with_pmu(self, state: PmuState) -> Domain:
        """The same definition with ``<pmu>`` saying ``state``."""
        return replace(self, pmu=state)

    def _gets(self, state: PmuState) -> PmuState | None:
        """What the guest gets if ``<pmu>`` says ``state``; None: unknown."""
        if not self.x86:
            return state if state is not PmuState.DEFAULT and not self.arguments else None
        if self.emulator is not None and not is_qemu(self.emulator):
            return None
        return _made(state, self.virt_type, self.machine, self.cpu_mode, self.cpu_model, self.arguments)


@lru_cache(maxsize=256)
def _made(
    state: PmuState, kind: str, machine: str, mode: str | None, model: str | None, arguments: tuple[str, ...]
) -> PmuState | None:
    """What a QEMU makes of the options that libvirt gives it for such a domain."""
    words = ["qemu", *(("-machine", machine) if machine else ()), "-accel", "kvm" if kind == "kvm" else "tcg"]
    cpu = {"host-passthrough": "host", "maximum": "max", "host-model": "Host-Model"}.get(mode or "", model or "qemu64")
    if mode is not None or state is not PmuState.DEFAULT:
        words += ["-cpu", cpu if state is PmuState.DEFAULT else f"{cpu},pmu={state.value}"]
    result = has_pmu([*words, *arguments])
    return None if result is None else PmuState.ON if result else PmuState.OFF
