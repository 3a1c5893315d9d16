"""The journal: what is written down before a change, how it ends, what a roll back and a canary leave in it."""

from __future__ import annotations

import os
import random
import sqlite3
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from pmuconf.change import retention
from pmuconf.change.journal import ChangeKind, ChangeStatus, Entry, Intent, Journal
from pmuconf.change.retention import forgettable
from pmuconf.domain.definition import PmuState
from pmuconf.errors import PmuconfError
from pmuconf.hypervisor.driver import Driver

URI = "test:///default"
HERE = Driver(URI)
ON, OFF, DEFAULT = PmuState.ON, PmuState.OFF, PmuState.DEFAULT


def intent(
    uuid: str = "u1",
    *,
    kind: ChangeKind = ChangeKind.APPLY,
    uri: str = URI,
    old: PmuState = ON,
    new: PmuState = OFF,
    undoes: tuple[int, ...] = (),
) -> Intent:
    return Intent(kind, uri, uuid, f"name of {uuid}", old, new, "default", f"<domain {uuid}/>", undoes)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "var" / "journal.sqlite"


@pytest.fixture
def journal(path: Path) -> Iterator[Journal]:
    with Journal.open(path, create=True) as opened:
        yield opened


def done(journal: Journal, *intents: Intent) -> list[int]:
    """Changes that were begun together and went well."""
    numbers = journal.begin(intents)
    journal.settle((number, ChangeStatus.DONE, "") for number in numbers)
    return numbers


def age(path: Path, number: int, days: float) -> None:
    """Make a change look as old as that."""
    with sqlite3.connect(path) as connection:
        at = (datetime.now(timezone.utc) - timedelta(days=days)).isoformat(timespec="microseconds")
        connection.execute("UPDATE change SET at = ? WHERE id = ?", (at, number))
    connection.close()


def ids(entries: list[Entry]) -> list[int]:
    return [entry.id for entry in entries]


# ---- begin and settle ----------------------------------------------------------------------------------------------


def test_a_change_that_was_begun_is_in_flight_with_all_its_facts(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SUDO_USER", raising=False)
    before = datetime.now(timezone.utc)
    (number,) = journal.begin([intent(old=DEFAULT)])
    (entry,) = journal.entries()
    assert before <= entry.at <= datetime.now(timezone.utc)
    assert entry == Entry(
        id=number,
        at=entry.at,
        who=entry.who,
        kind=ChangeKind.APPLY,
        uri=URI,
        uuid="u1",
        name="name of u1",
        old=DEFAULT,
        new=OFF,
        rule="default",
        status=ChangeStatus.IN_FLIGHT,
        cause="",
        undone=False,
    )
    assert entry.who
    assert journal.entry(number) == entry
    assert journal.in_flight(HERE) == [entry]
    assert journal.preimage(number) == "<domain u1/>"


def test_the_ids_come_in_the_order_of_the_changes(journal: Journal) -> None:
    numbers = journal.begin([intent("a"), intent("b"), intent("c")])
    assert [journal.preimage(number) for number in numbers] == ["<domain a/>", "<domain b/>", "<domain c/>"]
    assert ids(journal.entries()) == numbers[::-1]
    assert journal.begin([]) == []


def test_what_was_begun_is_on_the_disk_when_begin_returns(path: Path, journal: Journal) -> None:
    (number,) = journal.begin([intent()])
    with Journal.open(path) as other:
        assert ids(other.in_flight(HERE)) == [number]


@pytest.mark.parametrize("status", [ChangeStatus.DONE, ChangeStatus.ABANDONED, ChangeStatus.RESTORED])
def test_a_settled_change_says_how_it_ended_and_forgets_the_xml(journal: Journal, status: ChangeStatus) -> None:
    first, second = journal.begin([intent("a"), intent("b")])
    journal.settle([(first, status, "some-cause")])
    entry = journal.entry(first)
    assert entry is not None
    assert (entry.status, entry.cause) == (status, "some-cause")
    assert journal.preimage(first) is None
    assert journal.preimage(second) == "<domain b/>"
    assert ids(journal.in_flight(HERE)) == [second]


def test_a_change_that_starts_from_another_text_is_written_down_anew(journal: Journal) -> None:
    (number,) = journal.begin([intent()])
    journal.replan(number, DEFAULT, ON, "perf", "<domain new/>")
    entry = journal.entry(number)
    assert entry is not None
    assert (entry.old, entry.new, entry.rule, entry.status) == (DEFAULT, ON, "perf", ChangeStatus.IN_FLIGHT)
    assert journal.preimage(number) == "<domain new/>"


def test_only_the_changes_of_this_connection_are_its_to_settle(journal: Journal) -> None:
    (ours, _) = journal.begin([intent(), intent(uri="qemu+ssh://other/system")])
    assert ids(journal.in_flight(HERE)) == [ours]


def test_what_is_not_there_is_none(journal: Journal) -> None:
    assert journal.entry(7) is None
    assert journal.preimage(7) is None
    assert journal.entries() == []
    assert journal.in_flight(HERE) == []
    journal.settle([])


def test_a_failed_begin_writes_nothing_down(journal: Journal) -> None:
    wrong = replace(intent("b"), preimage=object())  # type: ignore[arg-type]
    with pytest.raises(PmuconfError):
        journal.begin([intent("a"), wrong])
    assert journal.entries() == []
    assert len(journal.begin([intent("c")])) == 1


def test_several_threads_at_once(journal: Journal) -> None:
    failed: list[BaseException] = []

    def work(worker: int) -> None:
        try:
            for at in range(10):
                (number,) = journal.begin([intent(f"{worker}-{at}")])
                journal.replan(number, ON, OFF, "r", "<domain/>")
                journal.settle([(number, ChangeStatus.DONE, "")])
        except BaseException as error:
            failed.append(error)

    workers = [threading.Thread(target=work, args=(worker,)) for worker in range(4)]
    for one in workers:
        one.start()
    for one in workers:
        one.join()
    assert failed == []
    assert len({entry.uuid for entry in journal.entries() if entry.status is ChangeStatus.DONE}) == 40


@pytest.mark.parametrize(("sudo", "wanted"), [("alice", "alice as root"), (None, "root")])
def test_who_made_a_change_is_told_through_sudo(
    journal: Journal, monkeypatch: pytest.MonkeyPatch, sudo: str | None, wanted: str
) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 0)
    monkeypatch.delenv("SUDO_USER", raising=False)
    if sudo is not None:
        monkeypatch.setenv("SUDO_USER", sudo)
    journal.begin([intent()])
    assert journal.entries()[0].who == wanted


def test_somebody_without_a_name_is_told_by_number(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 3_999_999_999)
    monkeypatch.setenv("SUDO_USER", "alice")  # which anybody may set
    journal.begin([intent()])
    assert journal.entries()[0].who == "3999999999"


# ---- listing -------------------------------------------------------------------------------------------------------


def test_entries_of_one_domain_newest_first_and_no_more_than_asked(journal: Journal) -> None:
    numbers = done(journal, intent("a"), intent("b"), intent("a"), intent("a"))
    assert ids(journal.entries("a")) == [numbers[3], numbers[2], numbers[0]]
    assert ids(journal.entries("a", limit=2)) == [numbers[3], numbers[2]]
    assert ids(journal.entries(limit=1)) == [numbers[3]]
    assert journal.entries("nobody") == []


@pytest.mark.parametrize("name", ["' OR 1=1 --", "a\x00b", "\u202e=cmd()", "\n", "💥", ""])
def test_names_are_kept_whatever_they_are(journal: Journal, name: str) -> None:
    one = Intent(ChangeKind.APPLY, URI, name, name, ON, OFF, name, "<domain/>")
    done(journal, one)
    (entry,) = journal.entries(name)
    assert (entry.uuid, entry.name, entry.rule) == (name, name, name)


# ---- roll back -----------------------------------------------------------------------------------------------------


def test_a_change_is_undone_once_its_roll_back_is_done(journal: Journal) -> None:
    first, second, other = done(journal, intent(), intent(old=OFF, new=ON), intent("u2"))
    (back,) = journal.begin([intent(kind=ChangeKind.ROLLBACK, old=OFF, new=ON, undoes=(second, first))])

    def undone() -> dict[int, bool]:
        return {entry.id: entry.undone for entry in journal.entries()}

    assert undone() == {first: False, second: False, other: False, back: False}
    journal.settle([(back, ChangeStatus.DONE, "")])
    assert undone() == {first: True, second: True, other: False, back: False}


@pytest.mark.parametrize("status", [ChangeStatus.ABANDONED, ChangeStatus.RESTORED])
def test_a_roll_back_that_did_not_happen_undoes_nothing_and_may_be_tried_again(
    journal: Journal, status: ChangeStatus
) -> None:
    (first,) = done(journal, intent())
    (failed,) = journal.begin([intent(kind=ChangeKind.ROLLBACK, undoes=(first,))])
    journal.settle([(failed, status, "busy")])
    assert not journal.entries()[-1].undone
    done(journal, intent(kind=ChangeKind.ROLLBACK, undoes=(first,)))
    assert journal.entries()[-1].undone


# ---- whose a change is ---------------------------------------------------------------------------------------------

MACHINE, HOST_UUID = "1" * 32, "6c1f1a4e-9d0b-4c0e-8f6e-0a4b8f0d2c11"
NAMED = Driver("qemu://a.example.org/system")
KNOWN = replace(NAMED, machine=MACHINE, host_uuid=HOST_UUID)


def test_by_what_its_host_is_known_is_written_down_once(journal: Journal) -> None:
    """The name that was written stays, and so do ids that are there, and the changes of others."""
    older, other = done(journal, intent("a", uri=NAMED.uri), intent("b", uri="qemu://b.example.org/system"))
    (of_machine,) = done(journal, replace(intent("c", uri=NAMED.uri), machine=MACHINE))
    journal.claim(KNOWN)
    renamed = replace(KNOWN, uri="qemu://renamed/system")
    journal.claim(renamed)
    entries = {entry.id: entry for entry in journal.entries()}
    assert {entries[older].driver, entries[of_machine].driver} == {KNOWN}
    assert entries[other].driver == Driver("qemu://b.example.org/system")


def test_a_host_that_tells_nothing_of_itself_writes_nothing_down(journal: Journal) -> None:
    (number,) = done(journal, intent("a", uri=NAMED.uri))
    journal.claim(NAMED)
    entry = journal.entry(number)
    assert entry is not None
    assert entry.driver == NAMED


def test_what_is_in_flight_elsewhere_is_told_oldest_first_and_flavors_are_no_domains(journal: Journal) -> None:
    cloud, mine = intent("f", uri="openstack:https://cloud#one"), intent("a", uri=NAMED.uri)
    theirs = [intent(uuid, uri="qemu://b.example.org/system") for uuid in ("b", "c")]
    _, _, first, second = journal.begin([cloud, mine, *theirs])
    done(journal, intent("d", uri="qemu://b.example.org/system"))
    assert ids(journal.in_flight_elsewhere(NAMED)) == [first, second]


def test_a_change_that_was_carried_here_is_found_by_what_it_was(path: Path, journal: Journal) -> None:
    """Whole, and by its domain, its host and its time: its number is another here."""
    (number,) = done(journal, replace(intent("a", uri=NAMED.uri), machine=MACHINE, host_uuid=HOST_UUID))
    carried = journal.entry(number)
    assert carried is not None
    carried = replace(carried, id=77, cause="differs-after", who="somebody", kind=ChangeKind.CANARY)
    with Journal.open(path.with_name("other.sqlite"), create=True) as other:
        assert other.copy_of(carried) is None
        done(other, intent("x"))
        other.adopt([carried])
        copy = other.copy_of(carried)
        assert copy is not None
        assert replace(copy, id=77) == carried
        assert other.preimage(copy.id) is None
        for changed in (
            replace(carried, uuid="b"),
            replace(carried, uri=URI),
            replace(carried, at=carried.at + timedelta(microseconds=1)),
        ):
            assert other.copy_of(changed) is None


# ---- canary --------------------------------------------------------------------------------------------------------


def test_the_last_canary_is_every_change_of_its_run(path: Path, journal: Journal) -> None:
    assert journal.last_canary(HERE) == []
    earlier = done(journal, intent("a", kind=ChangeKind.CANARY))
    with Journal.open(path) as next_run:
        canary = done(next_run, intent("b", kind=ChangeKind.CANARY), intent("c", kind=ChangeKind.CANARY))
        canary += done(next_run, intent("d", kind=ChangeKind.CANARY))
    assert sorted(ids(journal.last_canary(HERE))) == canary
    assert earlier[0] not in canary


def test_what_of_a_canary_was_not_made_is_not_part_of_it(journal: Journal) -> None:
    good, bad, open_ = journal.begin([intent(uuid, kind=ChangeKind.CANARY) for uuid in ("a", "b", "c")])
    journal.settle([(good, ChangeStatus.DONE, ""), (bad, ChangeStatus.ABANDONED, "busy")])
    assert ids(journal.last_canary(HERE)) == [good]
    assert ids(journal.in_flight(HERE)) == [open_]


@pytest.mark.parametrize("kind", [ChangeKind.APPLY, ChangeKind.ROLLBACK])
def test_a_canary_is_over_once_anything_was_changed_after_it(journal: Journal, kind: ChangeKind) -> None:
    done(journal, intent("a", kind=ChangeKind.CANARY))
    (number,) = journal.begin([intent("b", kind=kind)])
    assert len(journal.last_canary(HERE)) == 1, "it has not been changed yet"
    journal.settle([(number, ChangeStatus.DONE, "")])
    assert journal.last_canary(HERE) == []


def test_a_canary_belongs_to_its_connection(journal: Journal) -> None:
    done(journal, intent("a", kind=ChangeKind.CANARY))
    done(journal, intent("b", uri="test:///other"))
    assert len(journal.last_canary(HERE)) == 1
    assert journal.last_canary(Driver("test:///other")) == []


# ---- purge ---------------------------------------------------------------------------------------------------------


def test_a_run_begins_without_reading_what_is_finished_and_young(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A service does it before each change, of journals with years in them."""
    done(journal, *(intent() for _ in range(50)))
    (left,) = journal.begin([intent()])
    read: list[object] = []
    real = Entry.of_row

    def of_row(row: tuple[int, ...]) -> Entry:
        read.append(row[0])
        return real(row)

    monkeypatch.setattr(Entry, "of_row", of_row)
    monkeypatch.setattr(Journal, "_aged", lambda _: pytest.fail("all of the journal was read"))
    assert journal.retire(365) == 0
    assert journal.abandon_damaged() == []
    assert read == [left]


def test_purge_drops_what_is_older_and_finished(path: Path, journal: Journal) -> None:
    old, failed, open_, young = journal.begin([intent(uuid) for uuid in "abcd"])
    journal.settle([(old, ChangeStatus.DONE, ""), (young, ChangeStatus.DONE, ""), (failed, ChangeStatus.ABANDONED, "")])
    age(path, old, 31)
    age(path, young, 29)
    age(path, open_, 400)
    age(path, failed, 31)
    assert journal.purge(30) == 2
    assert ids(journal.entries()) == [young, open_]
    assert journal.preimage(open_) == "<domain c/>"
    assert journal.purge(30) == 0


def test_purge_of_everything_leaves_what_is_in_flight(journal: Journal) -> None:
    done(journal, intent("a"), intent("b"))
    (open_,) = journal.begin([intent("c")])
    assert journal.purge(0) == 2
    assert ids(journal.entries()) == [open_]


def test_purge_of_everything_takes_what_the_clock_puts_into_the_future_too(path: Path, journal: Journal) -> None:
    (number,) = done(journal, intent("a"))
    age(path, number, -400)
    assert journal.purge(30) == 0
    assert journal.purge(0) == 1


def damage(path: Path, column: str, value: object, number: int) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute(f"UPDATE change SET {column} = ? WHERE id = ?", (value, number))
    connection.close()


@pytest.mark.parametrize(
    ("column", "value", "why"),
    [
        ("at", "yesterday", "Invalid isoformat string: 'yesterday'"),
        ("at", "2024-01-01", "the time '2024-01-01' has no zone"),
        ("rule", b"x", "its rule is no text"),
        ("new", "maybe", "'maybe' is not a valid PmuState"),
    ],
)
def test_what_can_t_be_read_is_told_and_passed_over(
    path: Path, journal: Journal, column: str, value: object, why: str
) -> None:
    ended, open_, well = journal.begin([intent("a"), intent("b"), intent("c")])
    journal.settle([(ended, ChangeStatus.DONE, "")])
    for number in (ended, open_):
        damage(path, column, value, number)
    assert journal.damaged() == [(ended, why), (open_, why)]
    assert ids(journal.entries()) == [well]
    assert journal.entry(ended) is None
    assert journal.abandon_damaged() == [(open_, why)]
    damage(path, column, {"at": "2024-01-01T00:00:00+00:00", "rule": "r", "new": "off"}[column], open_)
    entry = journal.entry(open_)
    assert entry is not None
    assert (entry.status, entry.cause, journal.preimage(open_)) == (ChangeStatus.ABANDONED, "change-damaged", None)


def test_whose_last_change_libvirt_refused_is_told(journal: Journal) -> None:
    """Not one that succeeded since, nor one whose last try failed for another reason, nor those of other hosts."""
    causes = ("refused-by-libvirt", "libvirt-permission")

    def tried(uuid: str, status: ChangeStatus, cause: str, uri: str = URI) -> None:
        (number,) = journal.begin([intent(uuid, uri=uri)])
        journal.settle([(number, status, cause)])

    tried("a", ChangeStatus.ABANDONED, "refused-by-libvirt")
    tried("b", ChangeStatus.ABANDONED, "libvirt-permission")
    tried("c", ChangeStatus.ABANDONED, "refused-by-libvirt")
    tried("c", ChangeStatus.DONE, "")
    tried("d", ChangeStatus.DONE, "")
    tried("d", ChangeStatus.ABANDONED, "refused-by-libvirt")
    tried("e", ChangeStatus.ABANDONED, "busy")
    tried("f", ChangeStatus.ABANDONED, "refused-by-libvirt")
    tried("f", ChangeStatus.ABANDONED, "busy")
    tried("g", ChangeStatus.ABANDONED, "refused-by-libvirt", uri="qemu://elsewhere/system")
    assert journal.refused(HERE, causes) == {"a", "b", "d", "f"}
    assert journal.refused(HERE, causes[1:]) == {"b"}
    assert journal.refused(Driver("test:///none"), causes) == frozenset()


@pytest.mark.parametrize("days", [100_000, 999_999_999, 10**12])
def test_purge_of_what_is_older_than_time_itself_drops_nothing(journal: Journal, days: int) -> None:
    done(journal, intent())
    assert journal.purge(days) == 0
    assert len(journal.entries()) == 1


@pytest.mark.parametrize("seed", range(60))
def test_what_retires_is_what_the_rule_says_of_all_changes(
    path: Path, journal: Journal, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """That there is nothing to do is said without looking at all of them."""
    monkeypatch.setattr(retention, "NEWEST", 2)
    monkeypatch.setattr(retention, "REVOCABLE", 6)
    chance = random.Random(seed)
    for _ in range(chance.randrange(1, 14)):
        undoes = [entry.id for entry in journal.entries() if entry.revocable][: chance.randrange(2)]
        kind = ChangeKind.ROLLBACK if undoes else ChangeKind.APPLY
        (number,) = journal.begin([intent(kind=kind, undoes=tuple(undoes))])
        if chance.random() < 0.9:
            journal.settle(
                [(number, chance.choice([ChangeStatus.DONE, ChangeStatus.DONE, ChangeStatus.ABANDONED]), "")]
            )
        age(path, number, chance.choice([500, 400, 366, 30, 1, 0, -400]))
    wanted = forgettable(journal._aged(), datetime.now(timezone.utc), 365)
    revocable = [entry.id for entry in journal.entries(limit=6) if entry.revocable]
    assert journal.to_retire(365) == set(wanted)
    assert journal.retire(365) == len(wanted)
    left = ids(journal.entries())
    assert not set(wanted) & set(left)
    assert [number for number in revocable if number in left] == revocable


def test_an_id_is_never_used_again(journal: Journal) -> None:
    """Else an old 'roll back change 7' might take a newer change back."""
    (number,) = done(journal, intent())
    journal.purge(0)
    assert done(journal, intent())[0] > number


def test_a_closed_journal_is_refused_as_an_error_of_ours(path: Path) -> None:
    with Journal.open(path, create=True) as journal:
        calls: list[Callable[[], object]] = [
            lambda: journal.begin([intent()]),
            journal.entries,
            lambda: journal.purge(1),
            lambda: journal.preimage(1),
        ]
    for call in calls:
        with pytest.raises(PmuconfError):
            call()


class TestCarried:
    """Changes that go to another host's journal, and are undone there."""

    def given(self, journal: Journal) -> Entry:
        """A change that was made here."""
        (number,) = done(journal, intent("0a1b2c3d-0000-4000-8000-000000000001"))
        entry = journal.entry(number)
        assert entry is not None
        return entry

    def test_a_record_is_the_entry(self, journal: Journal) -> None:
        entry = self.given(journal)
        assert Entry.of_record(entry.record()) == entry
        undone = replace(entry, undone=True)
        assert Entry.of_record(undone.record()) == undone
        assert not undone.revocable

    @pytest.mark.parametrize(
        ("key", "value"),
        [
            *(("time", "yesterday"), ("time", "2031-02-03T04:05:06"), ("uuid", "web1"), ("uuid", None)),
            *(("old", "perhaps"), ("status", "fine"), ("kind", 3), ("change", "one")),
            *(("time", "0001-01-01T00:00:00+14:00"), ("time", "9999-12-31T23:59:59-14:00"), ("time", 5)),
            *(("change", float("inf")), ("change", 1 << 63), ("change", "1" * 5000)),
        ],
    )
    def test_what_is_no_record(self, journal: Journal, key: str, value: object) -> None:
        record = {**self.given(journal).record(), key: value}
        with pytest.raises(PmuconfError) as caught:
            Entry.of_record(record)
        assert caught.value.cause == "change-invalid"
        del record[key]
        with pytest.raises(PmuconfError, match=f"'{key}' is missing"):
            Entry.of_record(record)

    def test_what_was_undone_elsewhere_is_known_there(self, journal: Journal, tmp_path: Path) -> None:
        entry = self.given(journal)
        with Journal.open(tmp_path / "other/journal.sqlite", create=True) as other:
            done(other, intent("u1"))  # so that the numbers differ
            assert other.copy_of(entry) is None
            other.adopt([entry])
            copy = other.copy_of(entry)
            assert copy is not None
            assert replace(copy, id=entry.id) == entry
            assert copy.id != entry.id
            done(other, intent(entry.uuid, kind=ChangeKind.ROLLBACK, uri="elsewhere", undoes=(copy.id,)))
            copy = other.copy_of(entry)
            assert copy is not None
            assert copy.undone
            assert other.last_canary(HERE) == []
        assert journal.copy_of(entry) == entry, "its own journal knows it too"
        assert entry.revocable


class TestRefused:
    """Which domains libvirt refused to define the last time that it was tried."""

    CAUSES = frozenset({"refused", "denied"})

    def ended(self, journal: Journal, status: ChangeStatus, cause: str, uuid: str = "u1", uri: str = URI) -> None:
        (number,) = journal.begin([intent(uuid, uri=uri)])
        journal.settle([(number, status, cause)])

    def test_by_the_causes_that_are_asked_for(self, journal: Journal) -> None:
        self.ended(journal, ChangeStatus.ABANDONED, "refused", "a")
        self.ended(journal, ChangeStatus.ABANDONED, "denied", "b")
        self.ended(journal, ChangeStatus.ABANDONED, "busy", "c")
        self.ended(journal, ChangeStatus.DONE, "", "d")
        assert journal.refused(HERE, self.CAUSES) == {"a", "b"}

    def test_a_change_that_was_made_since_ends_it(self, journal: Journal) -> None:
        self.ended(journal, ChangeStatus.ABANDONED, "refused")
        self.ended(journal, ChangeStatus.DONE, "")
        assert journal.refused(HERE, self.CAUSES) == frozenset()

    def test_one_that_was_not_even_begun_does_not(self, journal: Journal) -> None:
        self.ended(journal, ChangeStatus.ABANDONED, "refused")
        self.ended(journal, ChangeStatus.ABANDONED, "too-many-failures")
        assert journal.refused(HERE, self.CAUSES) == {"u1"}

    def test_another_drivers_are_none(self, journal: Journal) -> None:
        self.ended(journal, ChangeStatus.ABANDONED, "refused", uri="test:///other")
        assert journal.refused(HERE, self.CAUSES) == frozenset()
