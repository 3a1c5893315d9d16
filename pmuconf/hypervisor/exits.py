"""How often VMs leave their guests, as KVM counts it and libvirt reports it. No QEMU that hangs stops the count."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import libvirt

from pmuconf.errors import PmuconfError
from pmuconf.hypervisor.line import Line

__all__ = ["Exits", "exits_of"]

_SECONDS: Final = 6.0
_ATTEMPTS: Final = 3
_OCCUPIED_MS: Final = 2000
_EXITS: Final = re.compile(r"vcpu\.\d+\.exits\.sum")


@dataclass(frozen=True)
class Exits:
    """How often each running domain has left its guest since it was started, by UUID.

    ``silent`` has the names of those whose QEMU did not answer in time: they are not in it.
    """

    counted: Mapping[str, int] = field(default_factory=dict)
    silent: frozenset[str] = frozenset()


class _Ask(Protocol):
    """Hypervisor's way to libvirt, with a limit."""

    def __call__(self, function: Callable[[Line], Any], *, seconds: float | None = None) -> Any:
        """The function's answer; it is called with the connection."""


def exits_of(ask: _Ask) -> Exits:
    """All exits of all vCPUs of the running domains.

    A domain is left out if libvirt (before 8.x), QEMU (before 7.1) or the kernel counts nothing. It is one request for
    the whole host. libvirt waits for each QEMU without a limit, so a request that hangs is given up. The QEMU that it
    waits for has a job then, so the next request passes over it. A few such QEMUs are got over in this way.

    :raises PmuconfError: as Hypervisor's methods.
    """
    silent: set[str] = set()
    for _ in range(_ATTEMPTS):
        try:
            exits: Exits = ask(lambda line: _exits(line.raw), seconds=_SECONDS)
        except PmuconfError as error:
            if error.cause != "libvirt-timeout":
                raise
            silent |= ask(lambda line: _occupied(_active(line.raw)))
        else:
            return Exits(exits.counted, exits.silent | silent)
    return Exits({}, frozenset(silent))


def _exits(raw: libvirt.virConnect) -> Exits:
    active = libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_ACTIVE | libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT
    counted, without = {}, []
    for handle, stats in raw.getAllDomainStats(libvirt.VIR_DOMAIN_STATS_VCPU, active):
        exits = [stats[key] for key in stats if _EXITS.fullmatch(key)]
        if exits:
            counted[handle.UUIDString()] = sum(exits)
        else:
            without.append(handle)
    return Exits(counted, frozenset(_occupied(without)))


def _active(raw: libvirt.virConnect) -> list[libvirt.virDomain]:
    return list(raw.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE))


def _occupied(handles: Iterable[libvirt.virDomain]) -> set[str]:
    """The names of those whose QEMU was asked something a while ago and has not answered yet.

    libvirt knows that without asking it (virDomainGetControlInfo).
    """
    names = set()
    for handle in handles:
        with suppress(libvirt.libvirtError):  # it is gone
            state, _, milliseconds = handle.controlInfo()
            if state == libvirt.VIR_DOMAIN_CONTROL_OCCUPIED and milliseconds >= _OCCUPIED_MS:
                names.add(str(handle.name()))
    return names
