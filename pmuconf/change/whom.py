"""The domain that a name means: names are today's names, as libvirt has them; a UUID may be written in any way.

The journal has the names of the past. If a domain has today the name that another one had then, they are two domains.
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
    """The domains that a name means to a journal.

    :param uuid: the domain's UUID; None if no domain is called so today, and it is no UUID either.
    :param once: the UUIDs of other domains that were called so when they were changed.
    """

    uuid: str | None
    once: tuple[str, ...]


def whom(name: str, entries: Iterable[Entry], hypervisor: Hypervisor | None) -> Whom:
    """The domain that a name means, with a journal's changes; without libvirt, only a UUID means one.

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

    A name of the past gives the changes of the domains that had it. A flavor is known by the name that it had.

    :raises PmuconfError: as whom().
    """
    uuids: set[str] = set()
    sentences = []
    for name in names:
        meant = whom(name, entries, hypervisor)
        if meant.uuid is not None:
            uuids.add(meant.uuid)
        elif meant.once:
            uuids.update(meant.once)
            today = "no domain is" if hypervisor is not None else "libvirt was not asked whether a domain is"
            sentences.append(f"{today} called {name!r} today; once it was the name of {', '.join(meant.once)}")
    listed = [
        entry
        for entry in entries
        if ({entry.name, entry.uuid} & set(names) if entry.of_flavor else entry.uuid in uuids)
    ]
    return listed, sentences
