"""Domains as the list of the host has them, and their handles."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import libvirt

from pmuconf.domain.uuids import as_uuid
from pmuconf.errors import PmuconfError
from pmuconf.hypervisor.line import Line

__all__ = ["Listed", "handle_of", "listed_of", "look_up"]


@dataclass(frozen=True)
class Listed:
    """One domain as the list of the host has it.

    ``persistent`` is false for a transient domain, which has no next boot. ``saved`` says whether it has a managed save
    image, ``snapshots`` whether it has a snapshot.
    """

    name: str
    uuid: str
    active: bool
    persistent: bool
    saved: bool
    snapshots: bool


def handle_of(line: Line, uuid: str) -> libvirt.virDomain:
    """The domain's handle. The first time they are all listed, which is cheaper than to look each of them up."""
    if line.handles is None:
        line.handles = {handle.UUIDString(): handle for handle in line.raw.listAllDomains()}
    if uuid not in line.handles:
        line.handles[uuid] = line.raw.lookupByUUIDString(uuid)
    return line.handles[uuid]


def listed_of(line: Line, handles: Sequence[libvirt.virDomain]) -> list[Listed]:
    """These domains by name, with the facts that libvirt lists of all at once; the line keeps their handles."""

    def uuids_of(flag: int) -> frozenset[str]:
        return frozenset(handle.UUIDString() for handle in line.raw.listAllDomains(flag))

    line.handles = {handle.UUIDString(): handle for handle in handles}
    transient = uuids_of(libvirt.VIR_CONNECT_LIST_DOMAINS_TRANSIENT)
    saved = uuids_of(libvirt.VIR_CONNECT_LIST_DOMAINS_MANAGEDSAVE)
    snapshots = uuids_of(libvirt.VIR_CONNECT_LIST_DOMAINS_HAS_SNAPSHOT)
    listed = [
        Listed(
            name=handle.name(),
            uuid=uuid,
            active=handle.ID() != -1,
            persistent=uuid not in transient,
            saved=uuid in saved,
            snapshots=uuid in snapshots,
        )
        for uuid, handle in line.handles.items()
    ]
    return sorted(listed, key=lambda domain: domain.name)


def look_up(raw: libvirt.virConnect, name: str) -> libvirt.virDomain | None:
    """The domain with this name or UUID; None if there is none.

    :raises PmuconfError: ambiguous-domain.
    """
    named = _sought(raw.lookupByName, name)
    uuid = as_uuid(name)
    other = None if uuid is None else _sought(raw.lookupByUUIDString, uuid)
    if named is None or other is None or named.UUIDString() == other.UUIDString():
        return named if other is None else other
    raise PmuconfError(
        f"{name!r} is the name of domain {named.UUIDString()} and the UUID of domain {other.name()!r}",
        cause="ambiguous-domain",
        hint="Give the UUID of the one, or the name of the other",
    )


def _sought(find: Callable[[str], libvirt.virDomain], what: str) -> libvirt.virDomain | None:
    try:
        return find(what)
    except ValueError:  # no name that libvirt could have
        return None
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
            return None
        raise
