"""Whether libvirt would still start the QEMUs that facts from a file are about: the same files, in the same places.

Only what anybody may see is compared, so that the Nova plugin and an audit without root see what root would. What
can't be seen from here, such as a container's files from another container, is believed for ten minutes after it was
found, and no longer.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import Final

from pmuconf.host.identity import uptime
from pmuconf.host.root import Root
from pmuconf.host.vms.procdir import namespace_of, same_program
from pmuconf.host.vms.search import daemons, place, root_of
from pmuconf.hostfacts import Evidence, HostFacts, Qemu, QemuPlace, Search

__all__ = ["BELIEVED", "installed_now", "same_file", "unknown"]

BELIEVED: Final = 600
"""How long something is believed that can't be seen from here, in seconds after it was found: two turns of the timer
that writes the facts."""


def installed_now(facts: HostFacts, root: Root) -> tuple[Qemu, ...]:
    """The QEMUs that libvirt would start, with what the facts say of them as far as that still holds.

    Nothing is known of a QEMU that may be another file by now. A path where nothing was, and where libvirt would find a
    QEMU first now, is one more QEMU of which nothing is known. The causes:

    - replaced: another file is there.
    - libvirt-restarted: libvirt may have another PATH, or another container's files.
    - unseen: the file can't be seen from here, and the facts are older than BELIEVED.
    """
    doubts = _doubts(facts, root)
    searched = {(candidate.path, candidate.file) for search in facts.searches for candidate in _startable(search)}
    read = {(qemu.path, qemu.file) for qemu in facts.qemus}
    for path, _ in searched ^ read:  # when the file was read, it was another one than the search had found
        doubts.setdefault(path, "replaced")
    qemus = tuple(unknown(qemu, doubts[qemu.path]) if qemu.path in doubts else qemu for qemu in facts.qemus)
    known = {qemu.path for qemu in qemus}
    return qemus + tuple(Qemu(path, None, None, doubts[path]) for path in sorted(doubts) if path not in known)


def same_file(root: Root, qemu: Qemu, pid: int, started: int) -> bool:
    """Whether the path of a QEMU leads to the same file as before, for a process; for us, if that can't be seen."""
    try:
        top = root_of(root, pid, started)
    except OSError:
        top = _our_root(root)
    try:
        return qemu.file is not None and place(top, qemu.path).file == qemu.file
    finally:
        os.close(top)


def unknown(qemu: Qemu, cause: str) -> Qemu:
    """The same QEMU, without what was known of it."""
    return replace(qemu, disables=None, cause=cause, evidence=Evidence.NONE)


@dataclass(frozen=True)
class _View:
    """What this process sees of libvirt.

    :param namespace: of the process ids in our /proc.
    :param restarted: a daemon of libvirt runs here that the facts do not know.
    :param fresh: the facts are young enough to believe what can't be seen.
    """

    namespace: str | None
    restarted: bool
    fresh: bool

    def has_processes_of(self, search: Search) -> bool:
        """Whether the search's process ids are those of our /proc."""
        return search.namespace == self.namespace


def _doubts(facts: HostFacts, root: Root) -> dict[str, str]:
    """The paths of which nothing is known any more, each with the cause."""
    view = _view(facts, root)
    doubts: dict[str, str] = {}
    for search in facts.searches:
        near = view.has_processes_of(search)
        paths = [candidate.path for candidate in _startable(search)]
        runs_on = not near or same_program(root, search.pid, search.started, None, search.threads)
        if view.restarted or not runs_on:
            doubts.update(dict.fromkeys(paths, "libvirt-restarted"))
            continue
        differing, all_seen = _differing(root, search, near=near)
        doubts.update(dict.fromkeys(differing, "replaced"))
        if not (near and all_seen) and not view.fresh:
            doubts.update(dict.fromkeys(paths, "unseen"))
    return doubts


def _view(facts: HostFacts, root: Root) -> _View:
    here = namespace_of(root)
    known = {(search.pid, search.started) for search in facts.searches}
    any_near = any(search.namespace == here for search in facts.searches)
    now = uptime(root)
    return _View(
        here,
        restarted=any_near and not daemons(root) <= known,
        fresh=facts.taken is not None and now is not None and 0 <= now - facts.taken <= BELIEVED,
    )


def _startable(search: Search) -> list[QemuPlace]:
    """The places with a file, or with something that could not be seen and may be one."""
    return [candidate for candidate in search.places if candidate.file is not None or candidate.cause]


def _differing(root: Root, search: Search, *, near: bool) -> tuple[list[str], bool]:
    """The places of a search where something else is now; and whether all of them can be seen from here.

    :param near: the process ids of the search are those of this /proc.
    """
    top = _root_of_daemon(root, search, near=near)
    if top is None:
        return [], False
    try:
        seen = [(then, place(top, then.path)) for then in search.places]
    finally:
        os.close(top)
    pairs = [(then, now) for then, now in seen if not now.cause]
    return [then.path for then, now in pairs if then != now], len(pairs) == len(seen)


def _root_of_daemon(root: Root, search: Search, *, near: bool) -> int | None:
    """The daemon's root directory: by its process, or ours if that is the same."""
    if near:
        try:
            return root_of(root, search.pid, search.started)
        except OSError:
            pass  # it requires root
    top = _our_root(root)
    status = os.fstat(top)
    if (status.st_dev, status.st_ino) == (search.device, search.inode):
        return top
    os.close(top)
    return None


def _our_root(root: Root) -> int:
    return os.open(root.path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
