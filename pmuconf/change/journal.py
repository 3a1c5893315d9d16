"""The journal: what pmuconf changed, or is about to change, on this host.

A change is written here before it is made, and settled when it has been verified. If a crash leaves a change in
flight, the next run settles it by a look at the domain. The journal keeps facts about the PMU only, with one exception.
A change in flight holds the domain's whole XML with its secrets, so that a crash can be judged by it. When the change
is settled, the XML is wiped from the file (secure_delete, and the write-ahead log is cut off).

SQLite in WAL mode with synchronous=FULL: what is committed is on the disk (https://sqlite.org/wal.html).
"""

from __future__ import annotations

import os
import pwd
import sqlite3
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

from pmuconf.change import retention
from pmuconf.change.entry import CLOUD, COLUMNS, ChangeKind, ChangeStatus, Entry, Intent, moment
from pmuconf.change.retention import Aged, forgettable, nothing_old, older
from pmuconf.change.schema import prepare
from pmuconf.change.store import Store, writer_lock
from pmuconf.domain.definition import PmuState
from pmuconf.hypervisor.driver import Driver

__all__ = ["CLOUD", "ChangeKind", "ChangeStatus", "Entry", "Intent", "Journal", "writer_lock"]

_UNDONE: Final = (
    "EXISTS (SELECT 1 FROM change AS undoing WHERE undoing.id = change.undone_by AND undoing.status = 'done')"
)
_REVOCABLE: Final = f"(status = 'done' AND kind != 'rollback' AND NOT {_UNDONE})"
_ONE_HOST: Final = "uri = ? AND machine = ? AND host_uuid = ?"


class Journal:
    """An open journal. Its methods may be called from several threads; each is one transaction."""

    def __init__(self, connection: sqlite3.Connection, store: Store) -> None:
        self._connection = connection
        self._store = store
        self._lock = threading.Lock()
        self._run = uuid4().hex

    @classmethod
    @contextmanager
    def open(cls, path: Path, *, create: bool = False) -> Iterator[Journal]:
        """Open the journal, and make it where create says so.

        :raises PmuconfError: journal-missing, journal-permission, journal-untrusted, journal-damaged, journal-full,
            journal-busy, journal-version.
        """
        store = Store.find(path, create=create)
        with store.work():
            connection = sqlite3.connect(store.path, check_same_thread=False, isolation_level=None, timeout=20)
        try:
            with store.work():
                prepare(connection, path)
            yield cls(connection, store)
        finally:
            with store.work():  # it tidies its files up
                connection.close()

    def begin(self, intents: Sequence[Intent]) -> list[int]:
        """Write down changes that are about to be made; when this returns they are on the disk. Their ids, in order."""
        now, who, ids = _now(), _who(), []
        with self._transaction() as connection:
            for intent in intents:
                number = self._insert(
                    connection,
                    **_columns(intent),
                    at=now,
                    who=who,
                    status=ChangeStatus.IN_FLIGHT.value,
                    preimage=intent.preimage,
                )
                ids.append(number)
                for undone in intent.undoes:
                    connection.execute("UPDATE change SET undone_by = ? WHERE id = ?", (number, undone))
        return ids

    def replan(self, number: int, old: PmuState, new: PmuState, rule: str, preimage: str) -> None:
        """A change in flight starts from another text than was written down."""
        with self._transaction() as connection:
            connection.execute(
                "UPDATE change SET old = ?, new = ?, rule = ?, preimage = ? WHERE id = ?",
                (old.value, new.value, rule, preimage, number),
            )

    def settle(self, ended: Iterable[tuple[int, ChangeStatus, str]]) -> None:
        """Say how changes ended (id, status, cause) and wipe the XML that they held."""
        with self._transaction() as connection:
            connection.executemany(
                "UPDATE change SET status = ?, cause = ?, preimage = NULL WHERE id = ?",
                [(status.value, cause, number) for number, status, cause in ended],
            )
        with self._lock, self._store.work():
            # The log still holds the pages with the XML: write it back and cut it off.
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()

    def in_flight(self, driver: Driver) -> list[Entry]:
        """The changes on this driver that a crash, or a lost connection, left open."""
        where, values = self._of(driver)
        return self._entries(f"WHERE status = 'in-flight' AND ({where}) ORDER BY id", values)

    def in_flight_elsewhere(self, driver: Driver) -> list[Entry]:
        """Those of other hosts' drivers, which are not this one's to settle."""
        everywhere = self._entries("WHERE status = 'in-flight' ORDER BY id", ())
        return [entry for entry in everywhere if not entry.of_flavor and not entry.driver.same(driver)]

    def claim(self, driver: Driver) -> None:
        """Write down of changes on this driver by which ids its host is known; their names for it stay as they were.

        Of those that an older pmuconf wrote, or that were made when an id could not be had: the name may change.
        """
        known = {"machine": driver.machine, "host_uuid": driver.host_uuid}
        for column, value in known.items():
            if value:
                where, values = self._of(driver, f"{column} = ''")
                with self._transaction() as connection:
                    connection.execute(f"UPDATE change SET {column} = ? WHERE {where}", (value, *values))

    def preimage(self, number: int) -> str | None:
        """The domain's XML from before the change, with its secrets; None once the change is settled."""
        with self._lock, self._store.work():
            row = self._connection.execute("SELECT preimage FROM change WHERE id = ?", (number,)).fetchone()
        return None if row is None else row[0]

    def entries(self, uuid: str | None = None, *, limit: int = -1) -> list[Entry]:
        """The newest changes first, of one domain or of all; limit -1 gives them all."""
        where, values = ("WHERE uuid = ? ", [uuid]) if uuid is not None else ("", [])
        return self._entries(f"{where}ORDER BY id DESC LIMIT ?", [*values, limit])

    def entry(self, number: int) -> Entry | None:
        """The change with this id, None if there is none."""
        entries = self._entries("WHERE id = ?", (number,))
        return entries[0] if entries else None

    def copy_of(self, carried: Entry) -> Entry | None:
        """The entry of a change that another journal, or this one, gave away; None if this journal does not have it."""
        values = (carried.uuid, carried.uri, _text(carried.at))
        entries = self._entries("WHERE uuid = ? AND uri = ? AND at = ?", values)
        return entries[0] if entries else None

    def adopt(self, carried: Sequence[Entry]) -> None:
        """Take finished changes of other journals in, oldest first, that a roll back here can undo them.

        They keep the driver on which they were made, so that nothing here takes them for changes of this host.
        """
        with self._transaction() as connection:
            for entry in carried:
                self._insert(
                    connection,
                    **_columns(entry),
                    at=_text(entry.at),
                    who=entry.who,
                    status=entry.status.value,
                    cause=entry.cause,
                )

    def last_canary(self, driver: Driver) -> list[Entry]:
        """The changes of the newest canary on this driver, if nothing was applied after it."""
        where, values = self._of(driver)
        newest = self._entries(f"WHERE ({where}) AND status = 'done' ORDER BY id DESC LIMIT 1", values)
        if not newest or newest[0].kind is not ChangeKind.CANARY:
            return []
        return self._entries(
            "WHERE kind = 'canary' AND status = 'done' AND run = (SELECT run FROM change WHERE id = ?)",
            (newest[0].id,),
        )

    def refused(self, driver: Driver, causes: Collection[str]) -> frozenset[str]:
        """The UUIDs of the domains on this driver whose last change ended with one of these causes."""
        where, values = self._of(driver)
        tried = f"status = 'done' OR cause IN ({', '.join('?' * len(causes))})"
        newest = f"SELECT max(id) FROM change WHERE ({where}) AND ({tried}) GROUP BY uuid"
        with self._lock, self._store.work():
            rows = self._connection.execute(
                f"SELECT uuid FROM change WHERE status != 'done' AND id IN ({newest})", [*values, *causes]
            ).fetchall()
        return frozenset(uuid for (uuid,) in rows)

    def purge(self, days: int) -> int:
        """Drop finished changes older than so many days, 0 for all; how many there were. Those in flight stay."""
        return self._drop(lambda changes: older(changes, oldest_kept(days)) if days else _finished(changes))

    def retire(self, days: int) -> int:
        """Drop what is older than so many days by every sign there is (see retention); how many there were."""
        now = datetime.now(timezone.utc)
        if not self._any_to_retire(now, days):
            return 0  # a service asks before each of its changes
        return self._drop(lambda changes: forgettable(changes, now, days))

    def to_retire(self, days: int) -> frozenset[int]:
        """The numbers of the changes that retire() would drop."""
        now = datetime.now(timezone.utc)
        return frozenset(forgettable(self._aged(), now, days)) if self._any_to_retire(now, days) else frozenset()

    def damaged(self, which: str = "TRUE") -> list[tuple[int, str]]:
        """The numbers of changes that can't be read, and why; all other methods pass over them."""
        broken = []
        for row in self._rows(f"WHERE {which} ORDER BY id", ()):
            try:
                Entry.of_row(row)
            except (ValueError, TypeError) as error:
                broken.append((row[0], str(error)))
        return broken

    def abandon_damaged(self) -> list[tuple[int, str]]:
        """Settle those changes in flight that can't be read, whose XML would be kept for ever; as damaged()."""
        ended = self.damaged("status = 'in-flight'")
        if ended:
            self.settle((number, ChangeStatus.ABANDONED, "change-damaged") for number, _ in ended)
        return ended

    def _insert(self, connection: sqlite3.Connection, **values: str) -> int:
        """Add a change of this run with these columns; its id."""
        marks = ", ".join("?" * (len(values) + 1))
        query = f"INSERT INTO change (run, {', '.join(values)}) VALUES ({marks})"
        cursor = connection.execute(query, (self._run, *values.values()))
        assert cursor.lastrowid is not None  # an INSERT was made
        return cursor.lastrowid

    def _drop(self, chosen: Callable[[Sequence[Aged]], Iterable[int]]) -> int:
        numbers = [(number,) for number in chosen(self._aged())]
        if numbers:
            with self._transaction() as connection:
                connection.executemany("DELETE FROM change WHERE id = ? AND status != 'in-flight'", numbers)
        return len(numbers)

    def _aged(self) -> list[Aged]:
        with self._lock, self._store.work():
            rows = self._connection.execute(
                f"SELECT id, at, {_REVOCABLE}, status = 'in-flight' FROM change ORDER BY id"
            ).fetchall()
        return [Aged(number, _time(at), bool(revocable), bool(open_)) for number, at, revocable, open_ in rows]

    def _end(self, order: str) -> Aged | None:
        """The first change or the last, as far as its age goes."""
        with self._lock, self._store.work():
            row = self._connection.execute(f"SELECT id, at FROM change ORDER BY id {order} LIMIT 1").fetchone()
        return None if row is None else Aged(row[0], _time(row[1]), revocable=False, in_flight=False)

    def _any_to_retire(self, now: datetime, days: int) -> bool:
        """Whether a change is old by its own time and no part of the floor: most often there is none, said at once."""
        first, last = self._end("ASC"), self._end("DESC")
        if first is None or last is None or nothing_old(first, last, now, days):
            return False
        within = "id > ifnull((SELECT id FROM change ORDER BY id DESC LIMIT 1 OFFSET {}), 0)"
        newest, floor = within.format(retention.NEWEST), within.format(retention.REVOCABLE)
        query = f"at < ? AND status != 'in-flight' AND NOT {newest} AND NOT ({_REVOCABLE} AND {floor})"
        with self._lock, self._store.work():
            row = self._connection.execute(
                f"SELECT 1 FROM change WHERE {query} LIMIT 1", (_text(oldest_kept(days)),)
            ).fetchone()
        return row is not None

    def _of(self, driver: Driver, which: str = "TRUE") -> tuple[str, list[str]]:
        """The condition, with its values, of the changes on this driver, under all its names and ids."""
        with self._lock, self._store.work():
            query = f"SELECT DISTINCT uri, machine, host_uuid FROM change WHERE {which}"
            rows = self._connection.execute(query).fetchall()
        same = [row for row in rows if all(isinstance(text, str) for text in row) and driver.same(Driver(*row))]
        where = " OR ".join([f"({which} AND {_ONE_HOST})"] * len(same)) or "FALSE"
        return where, [text for row in same for text in row]

    def _entries(self, rest: str, values: Sequence[Any]) -> list[Entry]:
        entries = []
        for row in self._rows(rest, values):
            with suppress(ValueError, TypeError):  # damaged() tells of it
                entries.append(Entry.of_row(row))
        return entries

    def _rows(self, rest: str, values: Sequence[Any]) -> list[Sequence[Any]]:
        with self._lock, self._store.work():
            return self._connection.execute(f"SELECT {COLUMNS} FROM change {rest}", values).fetchall()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock, self._store.work():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise


def oldest_kept(days: int) -> datetime:
    """So many days ago."""
    try:
        return datetime.now(timezone.utc) - timedelta(days=days)
    except OverflowError:  # before the year 1
        return datetime.min.replace(tzinfo=timezone.utc)


def _columns(change: Intent | Entry) -> dict[str, str]:
    """What a change is, whoever makes it and whenever, by the columns of the database."""
    return {
        "kind": change.kind.value,
        "uri": change.uri,
        "machine": change.machine,
        "host_uuid": change.host_uuid,
        "uuid": change.uuid,
        "name": change.name,
        "old": change.old.value,
        "new": change.new.value,
        "rule": change.rule,
    }


def _finished(changes: Iterable[Aged]) -> Iterator[int]:
    return (change.id for change in changes if not change.in_flight)


def _time(text: object) -> datetime | None:
    try:
        return moment(str(text))
    except ValueError:
        return None


def _now() -> str:
    return _text(datetime.now(timezone.utc))


def _text(at: datetime) -> str:
    return at.astimezone(timezone.utc).isoformat(timespec="microseconds")


def _who() -> str:
    uid = os.getuid()
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        name = str(uid)
    asked = os.environ.get("SUDO_USER")
    return f"{asked} as {name}" if asked and uid == 0 else name
