"""The QEMUs that libvirt might start a new VM with on this host, not only the one that it would take."""

from __future__ import annotations

import os
from collections.abc import Iterable

from pmuconf.host.root import Root
from pmuconf.host.vms.qemu import qemu_of_descriptor
from pmuconf.host.vms.search import open_inside, root_of, search_of, searches
from pmuconf.hostfacts import Qemu, QemuPlace, Search

__all__ = ["installed_qemus", "qemus_of"]


def installed_qemus(root: Root, of_daemons: Iterable[Search] | None = None) -> tuple[Qemu, ...]:
    """The QEMUs that these searches find, by their paths there.

    :param of_daemons: by default the searches of all system daemons of libvirt.
    :raises PmuconfError: as searches().
    """
    of_daemons = searches(root) if of_daemons is None else of_daemons
    qemus = {qemu for search in of_daemons for qemu in _of(root, search)}
    return tuple(sorted(qemus, key=lambda qemu: (qemu.path, qemu.build_id or "", str(qemu.file))))


def qemus_of(root: Root, pid: int) -> tuple[Qemu, ...]:
    """The QEMUs that one process would start; none if it is no daemon of libvirt's that root runs.

    :raises OSError: there is no such process any more, or it may not be looked at.
    :raises PmuconfError: as searches().
    """
    search = search_of(root, pid)
    return () if search is None else tuple(_of(root, search))


def _of(root: Root, search: Search) -> list[Qemu]:
    places = [place for place in search.places if place.file is not None or place.cause]
    try:
        top = root_of(root, search.pid, search.started)
    except OSError:  # the daemon is gone
        return [Qemu(place.path, None, None, "unreadable") for place in places]
    try:
        return [_read(top, place) for place in places]
    finally:
        os.close(top)


def _read(top: int, place: QemuPlace) -> Qemu:
    """The QEMU at a place, if it is the file that the search has found there."""
    try:
        descriptor, real = open_inside(top, place.path)
    except OSError:
        return Qemu(place.path, None, None, "unreadable")
    qemu = qemu_of_descriptor(descriptor, place.path, real)
    return qemu if qemu.file == place.file else Qemu(place.path, None, None, "replaced")
