"""Entries of earlier runs: settled by a look at their domains, before anything else is written."""

from __future__ import annotations

import sys
from typing import Final

from pmuconf.change.journal import ChangeStatus, Entry, Journal
from pmuconf.domain.difference import same_but_pmu
from pmuconf.domain.reading import read_libvirt
from pmuconf.domain.uuids import as_uuid
from pmuconf.domain.xmltext import DomainXmlError
from pmuconf.errors import DomainVanished, PmuconfError
from pmuconf.hypervisor.hypervisor import Hypervisor

__all__ = ["confirm_canary", "settle", "tidied"]

# What libvirt hands out on the way of a change was within the configured limit when it was planned.
_ANY_SIZE: Final = sys.maxsize

# What concerns all domains, not the one that was asked for.
_OF_ALL: Final = frozenset({"libvirt-lost", "libvirt-unreachable", "libvirt-timeout", "threads-exhausted"})


def tidied(hypervisor: Hypervisor, journal: Journal) -> list[str]:
    """Leave nothing of this host in flight; a sentence for each thing that was in the journal, and what became of it.

    The sentences are about changes that a crash left in flight, that can't be read, or that belong to another host.

    :raises PmuconfError: an error that concerns all domains, or the journal's.
    """
    journal.claim(hypervisor.driver)
    sentences = [
        f"change {number} of an earlier run can't be read ({why}): it counts as not made"
        for number, why in journal.abandon_damaged()
    ]
    sentences += [_sentence(*ended) for ended in settle(hypervisor, journal)]
    for entry in journal.in_flight_elsewhere(hypervisor.driver):
        what = f"change {entry.id} of domain {entry.name!r} was interrupted on another host, {entry.uri}"
        sentences.append(f"{what}: a run there settles it, and until then the journal keeps the domain's XML")
    return sentences


def _sentence(entry: Entry, status: ChangeStatus, cause: str) -> str:
    became = "was made" if status is ChangeStatus.DONE else "was not made"
    if status is ChangeStatus.IN_FLIGHT:
        became = f"is not settled: the domain can't be read ({cause})"
    more = {
        "settled-differs": ", and somebody changed more in it since",
        "preimage-damaged": "; what else was changed in it is not known, for the journal's copy of it is damaged",
        "uuid-invalid": f": {entry.uuid!r} is no UUID, so the journal is damaged there",
    }.get(cause, "")
    return f"an earlier run was interrupted: its change {entry.id} of domain {entry.name!r} {became}{more}"


def settle(hypervisor: Hypervisor, journal: Journal) -> list[tuple[Entry, ChangeStatus, str]]:
    """Close what a crash left in flight, by what each domain says now: each entry with how it ended and the cause.

    A define is atomic, so each domain has its old or its new state. Nothing is changed here: a domain that still
    has the old state is drift, which the run that follows finds by itself. The cause ``settled-differs`` says that
    more than the PMU state is not as it was before the crash: somebody else edited the domain since.

    A fault of one entry or one domain does not stop the others: ``preimage-damaged``, ``uuid-invalid``, or the cause of
    a domain that can't be read. The entry of such a domain stays in flight.
    """
    ended = [(entry, *_ended(hypervisor, journal, entry)) for entry in journal.in_flight(hypervisor.driver)]
    closed = [(entry.id, status, cause) for entry, status, cause in ended if status is not ChangeStatus.IN_FLIGHT]
    if closed:
        journal.settle(closed)
    return ended


def _ended(hypervisor: Hypervisor, journal: Journal, entry: Entry) -> tuple[ChangeStatus, str]:
    """How a change ended that was left in flight, and the cause."""
    if as_uuid(entry.uuid) is None:
        return ChangeStatus.ABANDONED, "uuid-invalid"
    try:
        xml = _next_boot(hypervisor, entry.uuid, secrets=True)
        state = None if xml is None else read_libvirt(xml, max_bytes=_ANY_SIZE).pmu
    except PmuconfError as error:
        if error.cause in _OF_ALL:
            raise
        return ChangeStatus.IN_FLIGHT, error.cause
    if xml is None:
        return ChangeStatus.ABANDONED, "domain-vanished"
    status = ChangeStatus.DONE if state is entry.new else ChangeStatus.ABANDONED
    try:
        preimage = journal.preimage(entry.id)
        differs = preimage is not None and not same_but_pmu(preimage, xml)
    except (DomainXmlError, TypeError):
        return status, "preimage-damaged"
    return status, "settled-differs" if differs else "settled"


def confirm_canary(hypervisor: Hypervisor, journal: Journal | None) -> int:
    """Check that the domains of the last canary still have what it left; how many there are.

    :raises PmuconfError: canary-missing, canary-lost.
    """
    canary = [] if journal is None else journal.last_canary(hypervisor.driver)
    if not canary:
        raise PmuconfError("there is no canary to continue from", cause="canary-missing", hint="Start with --canary N")
    for entry in canary:
        xml = _next_boot(hypervisor, entry.uuid, secrets=False)
        if xml is None or read_libvirt(xml, max_bytes=_ANY_SIZE).pmu is not entry.new:
            raise PmuconfError(
                f"the canary {entry.name!r} no longer has the PMU state {entry.new.value}",
                cause="canary-lost",
                hint="Find out why before the others follow",
            )
    return len(canary)


def _next_boot(hypervisor: Hypervisor, uuid: str, *, secrets: bool) -> str | None:
    listed = hypervisor.find(uuid)
    if listed is None or not listed.persistent:
        return None
    try:
        return hypervisor.next_boot_xml(listed, secrets=secrets)
    except DomainVanished:
        return None
