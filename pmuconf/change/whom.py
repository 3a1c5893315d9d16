"""Whom a name means. Names are today's names, as libvirt has them; a UUID may be written in any way.

The journal has the names of the past. A domain that is called like another one was then is another domain.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pmuconf.domain.uuids import as_uuid

if TYPE_CHECKING:
    from pmuconf.change.entry import Entry
    from pmuconf.hypervisor.hypervisor import Hypervisor

__all__ = ["Whom", "changes_of", "whom"]


@dataclass(frozen=True)
class Whom:
    """What a name means to a journal.

    :param uuid: the domain's UUID; None if no domain is called so today, and it is no UUID either.
    :param once: the UUIDs of other domains that were called so when they were changed.
    """

    uuid: str | None
    once: tuple[str, ...]


def whom(name: str, entries: Iterable[Entry], hypervisor: Hypervisor | None) -> Whom:
    """Whom a name means, with a journal's changes; without libvirt, only a UUID means anybody.

    :raises PmuconfError: ambiguous-domain, or what libvirt says.
    """
    listed = None if hypervisor is None else hypervisor.named(name)
    uuid = as_uuid(name) if listed is None else listed.uuid
    once = {entry.uuid for entry in entries if not entry.of_flavor and entry.name == name and entry.uuid != uuid}
    return Whom(uuid, tuple(sorted(once)))


def changes_of(
    names: Sequence[str], entries: Sequence[Entry], hypervisor: Hypervisor | None
) -> tuple[list[Entry], list[str]]:
    """The changes of these domains, to be shown; and sentences about names that nobody has today.

    A name of the past gives the changes of those that had it. What is no domain (a flavor) has the name that it had.

    :raises PmuconfError: as whom().
    """
    uuids: set[str] = set()
    sentences = []
    for name in names:
        found = whom(name, entries, hypervisor)
        if found.uuid is not None:
            uuids.add(found.uuid)
        elif found.once:
            uuids.update(found.once)
            today = "no domain is" if hypervisor is not None else "libvirt was not asked whether a domain is"
            sentences.append(f"{today} called {name!r} today; once it was the name of {', '.join(found.once)}")
    listed = [
        entry
        for entry in entries
        if ({entry.name, entry.uuid} & set(names) if entry.of_flavor else entry.uuid in uuids)
    ]
    return listed, sentences
