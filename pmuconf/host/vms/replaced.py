"""Whether libvirt would still start the QEMUs that facts from a file are about: the very files, where it looks now.

By what anybody may see, so that the Nova plugin and an audit without root see what root would. What can't be seen from
here, as a container's files can't from another one, is believed for ten minutes after it was found, and no longer.
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Final

from pmuconf.host.identity import uptime
from pmuconf.host.root import Root
from pmuconf.host.vms.process import namespace_of, same_program
from pmuconf.host.vms.search import daemons, place, root_of
from pmuconf.hostfacts import Evidence, HostFacts, Qemu, QemuPlace, Search

__all__ = ["BELIEVED", "installed_now", "same_file", "unknown"]

BELIEVED: Final = 600
"""How long after it was found something is believed that can't be seen from here, in seconds: two turns of the timer
that writes the facts."""


def installed_now(facts: HostFacts, root: Root) -> tuple[Qemu, ...]:
    """The QEMUs that libvirt would start, with what was said of them as far as it still holds.

    Of one that may be another file by now nothing is known, and a path where libvirt would find one first, that was
    not there then, is one more QEMU of which nothing is known. The causes: replaced; libvirt-restarted: it may have
    another PATH, or another container's files; unseen: it can't be seen from here, and the facts are older than
    BELIEVED.
    """
    doubts = _doubts(facts, root)
    places = {(one.path, one.file) for search in facts.searches for one in search.places if _chosen(one)}
    for qemu in facts.qemus:
        if (qemu.path, qemu.file) not in places:  # it was read as another file than the one that was found
            doubts.setdefault(qemu.path, "replaced")
    read = {(qemu.path, qemu.file) for qemu in facts.qemus}
    for path, file in places:
        if (path, file) not in read:
            doubts.setdefault(path, "replaced")
    qemus = tuple(unknown(qemu, doubts[qemu.path]) if qemu.path in doubts else qemu for qemu in facts.qemus)
    known = {qemu.path for qemu in qemus}
    return qemus + tuple(Qemu(path, None, None, doubts[path]) for path in sorted(doubts) if path not in known)


def same_file(root: Root, qemu: Qemu, pid: int, started: int) -> bool:
    """Whether the path of a QEMU leads to the very file that it did, for a process or else for us."""
    try:
        top = root_of(root, pid, started)
    except OSError:
        top = _ours(root)
    try:
        return qemu.file is not None and place(top, qemu.path).file == qemu.file
    finally:
        os.close(top)


def unknown(qemu: Qemu, cause: str) -> Qemu:
    """The same QEMU, without what was said of it."""
    return replace(qemu, disables=None, cause=cause, evidence=Evidence.NONE)


def _doubts(facts: HostFacts, root: Root) -> dict[str, str]:
    """The paths of which nothing is known any more, each with the cause."""
    here, doubts = namespace_of(root), dict[str, str]()
    known = {(search.pid, search.started) for search in facts.searches}
    near = any(search.namespace == here for search in facts.searches)
    others = bool(daemons(root) - known) if near else False
    fresh = _fresh(facts, root)
    for search in facts.searches:
        near = search.namespace == here
        paths = [one.path for one in search.places if _chosen(one)]
        if others or (near and not same_program(root, search.pid, search.started, None, search.threads)):
            doubts.update(dict.fromkeys(paths, "libvirt-restarted"))
            continue
        differing, seen = _differing(root, search, near)
        doubts.update(dict.fromkeys(differing, "replaced"))
        if not (near and seen) and not fresh:
            doubts.update(dict.fromkeys(paths, "unseen"))
    return doubts


def _chosen(one: QemuPlace) -> bool:
    return one.file is not None or bool(one.cause)


def _fresh(facts: HostFacts, root: Root) -> bool:
    now = uptime(root)
    return facts.taken is not None and now is not None and 0 <= now - facts.taken <= BELIEVED


def _differing(root: Root, search: Search, near: bool) -> tuple[list[str], bool]:
    """The places of a search where something else is now; and whether all of them can be seen from here.

    :param near: the process ids of the search are those of this /proc.
    """
    top = _top(root, search, near)
    if top is None:
        return [], False
    try:
        now = [place(top, one.path) for one in search.places]
    finally:
        os.close(top)
    pairs = [(then, one) for then, one in zip(search.places, now) if not one.cause]
    return [then.path for then, one in pairs if then != one], len(pairs) == len(now)


def _top(root: Root, search: Search, near: bool) -> int | None:
    """The daemon's root directory: by its process, or ours if that is the same."""
    if near:
        try:
            return root_of(root, search.pid, search.started)
        except OSError:
            pass  # it takes root
    top = _ours(root)
    status = os.fstat(top)
    if (status.st_dev, status.st_ino) == (search.device, search.inode):
        return top
    os.close(top)
    return None


def _ours(root: Root) -> int:
    return os.open(root.path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
