"""What became of changes that a crash left in flight, and of a canary: by what each domain says now."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from pmuconf.change.journal import ChangeKind, ChangeStatus, Intent, Journal
from pmuconf.change.settle import confirm_canary, settle, tidied
from pmuconf.domain.definition import PmuState
from pmuconf.domain.rewriting import rewrite
from pmuconf.errors import DomainVanished, PmuconfError
from pmuconf.hypervisor.driver import Driver
from pmuconf.hypervisor.hypervisor import Hypervisor
from pmuconf.hypervisor.listing import Listed
from tests.support.domains import domain_uuid, plain_domain

ON, OFF = PmuState.ON, PmuState.OFF
URI = "qemu:///system"
BEFORE = plain_domain("web", pmu="on")
AFTER = rewrite(BEFORE, OFF)
TITLED = AFTER.replace("</uuid>", "</uuid><title>theirs</title>")


class Host:
    """A host's domains by UUID, as far as settling asks: a text, an error in its place, or nothing."""

    driver = Driver(URI)

    def __init__(self, answer: str | PmuconfError | None, *, persistent: bool = True) -> None:
        self.answer, self.persistent = answer, persistent
        self.secrets: list[bool] = []

    def find(self, uuid: str) -> Listed | None:
        if self.answer is None:
            return None
        return Listed("web", uuid, active=False, persistent=self.persistent, saved=False, snapshots=False)

    def next_boot_xml(self, listed: Listed, *, secrets: bool) -> str:
        assert listed.uuid == domain_uuid("web")
        self.secrets.append(secrets)
        if isinstance(self.answer, PmuconfError):
            raise self.answer
        assert self.answer is not None
        return self.answer


def as_hypervisor(host: Host) -> Hypervisor:
    return cast("Hypervisor", host)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.sqlite"


@pytest.fixture
def journal(path: Path) -> Iterator[Journal]:
    with Journal.open(path, create=True) as journal:
        yield journal


def begin(journal: Journal, uuid: str = "", kind: ChangeKind = ChangeKind.APPLY, uri: str = URI) -> int:
    (number,) = journal.begin([Intent(kind, uri, uuid or domain_uuid("web"), "web", ON, OFF, "default", BEFORE)])
    return number


@pytest.mark.parametrize(
    ("host", "status", "cause"),
    [
        (Host(AFTER), ChangeStatus.DONE, "settled"),
        (Host(BEFORE), ChangeStatus.ABANDONED, "settled"),
        (Host(TITLED), ChangeStatus.DONE, "settled-differs"),
        (Host(rewrite(TITLED, ON)), ChangeStatus.ABANDONED, "settled-differs"),
        (Host(None), ChangeStatus.ABANDONED, "domain-vanished"),
        (Host(AFTER, persistent=False), ChangeStatus.ABANDONED, "domain-vanished"),
        (Host(DomainVanished("gone")), ChangeStatus.ABANDONED, "domain-vanished"),
        (Host(PmuconfError("its storage hangs", cause="domain-timeout")), ChangeStatus.IN_FLIGHT, "domain-timeout"),
        (Host("<domain"), ChangeStatus.IN_FLIGHT, "xml-syntax"),
    ],
)
def test_the_domain_says_how_a_change_ended(journal: Journal, host: Host, status: ChangeStatus, cause: str) -> None:
    number = begin(journal)
    before = journal.entry(number)
    assert settle(as_hypervisor(host), journal) == [(before, status, cause)]
    after = journal.entry(number)
    assert after is not None
    assert (after.status, after.cause) == (status, "" if status is ChangeStatus.IN_FLIGHT else cause)
    assert host.secrets in ([], [True])
    assert bool(journal.in_flight(host.driver)) is (status is ChangeStatus.IN_FLIGHT)


def test_each_end_has_its_sentence(journal: Journal) -> None:
    start = "an earlier run was interrupted: its change {} of domain 'web' "
    for answer, became in (
        (AFTER, "was made"),
        (TITLED, "was made, and somebody changed more in it since"),
        (None, "was not made"),
        ("<domain", "is not settled: the domain can't be read (xml-syntax)"),
    ):
        number = begin(journal)
        assert tidied(as_hypervisor(Host(answer)), journal) == [start.format(number) + became]


@pytest.mark.parametrize("cause", ["libvirt-lost", "libvirt-unreachable", "libvirt-timeout", "threads-exhausted"])
def test_an_error_of_the_whole_host_settles_nothing(journal: Journal, cause: str) -> None:
    begin(journal)
    with pytest.raises(PmuconfError) as caught:
        settle(as_hypervisor(Host(PmuconfError("it is gone", cause=cause))), journal)
    assert caught.value.cause == cause
    assert len(journal.in_flight(Host.driver)) == 1


@pytest.mark.parametrize("damaged", ["'<domain'", "7"])
def test_a_damaged_copy_of_the_text_leaves_open_what_else_was_changed(
    path: Path, journal: Journal, damaged: str
) -> None:
    number = begin(journal)
    with sqlite3.connect(path) as connection:
        connection.execute(f"UPDATE change SET preimage = {damaged}")
    connection.close()
    ((_, status, cause),) = settle(as_hypervisor(Host(AFTER)), journal)
    assert (status, cause) == (ChangeStatus.DONE, "preimage-damaged")
    entry = journal.entry(number)
    assert entry is not None
    assert entry.cause == "preimage-damaged"


def test_a_uuid_that_is_none_is_not_asked_for(journal: Journal) -> None:
    number = begin(journal, uuid="../web")
    host = Host(AFTER)
    (sentence,) = tidied(as_hypervisor(host), journal)
    assert sentence == (
        f"an earlier run was interrupted: its change {number} of domain 'web' was not made: "
        "'../web' is no UUID, so the journal is damaged there"
    )
    assert host.secrets == []
    entry = journal.entry(number)
    assert entry is not None
    assert (entry.status, entry.cause) == (ChangeStatus.ABANDONED, "uuid-invalid")


def test_the_change_of_another_host_is_left_to_that_one(journal: Journal) -> None:
    number = begin(journal, uri="qemu+ssh://elsewhere/system")
    assert tidied(as_hypervisor(Host(AFTER)), journal) == [
        f"change {number} of domain 'web' was interrupted on another host, qemu+ssh://elsewhere/system: "
        "a run there settles it, and until then the journal keeps the domain's XML"
    ]
    assert journal.preimage(number) == BEFORE


# ---- the canary ------------------------------------------------------------------------------------------------------


def test_without_a_canary_nothing_is_continued(journal: Journal) -> None:
    for of in (None, journal):
        with pytest.raises(PmuconfError) as caught:
            confirm_canary(as_hypervisor(Host(AFTER)), of)
        assert (caught.value.cause, caught.value.hint) == ("canary-missing", "Start with --canary N")


@pytest.mark.parametrize(
    "host", [Host(BEFORE), Host(None), Host(AFTER, persistent=False), Host(DomainVanished("gone"))]
)
def test_a_canary_that_changed_since_holds_the_others_up(journal: Journal, host: Host) -> None:
    journal.settle([(begin(journal, kind=ChangeKind.CANARY), ChangeStatus.DONE, "")])
    with pytest.raises(PmuconfError) as caught:
        confirm_canary(as_hypervisor(host), journal)
    assert caught.value.cause == "canary-lost"
    assert caught.value.message == "the canary 'web' no longer has the PMU state off"


def test_a_canary_that_still_has_what_it_left_is_counted(journal: Journal) -> None:
    journal.settle([(begin(journal, kind=ChangeKind.CANARY), ChangeStatus.DONE, "")])
    host = Host(TITLED)
    assert confirm_canary(as_hypervisor(host), journal) == 1
    assert host.secrets == [False]
