"""The journal: what pmuconf changed, or is about to change, on this host.

A change is written here before it is made, and settled when it has been verified; what a crash leaves in flight
the next run settles by looking at the domain. It keeps PMU facts only. The one exception is a change in flight,
which holds the domain's whole XML with its secrets, so that a define that went wrong can be put right; when the
change is settled it is wiped from the file (secure_delete, and the write-ahead log is cut off).

SQLite in WAL mode with synchronous=FULL: what is committed is on the disk (https://sqlite.org/wal.html).
"""

from __future__ import annotations

import enum
import errno
import fcntl
import os
import pwd
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, Final
from uuid import UUID, uuid4

from pmuconf.domain import PmuState
from pmuconf.errors import PmuconfError

__all__ = ["CLOUD", "Entry", "Intent", "Journal", "Kind", "Status", "oldest_kept", "writer_lock"]

# What the identity of a cloud begins with, where that of a libvirt connection has its URI.
CLOUD: Final = "openstack:"

_ROOM: Final = "Make room on the file system of {}"
_VERSION: Final = 1
_SCHEMA: Final = """
CREATE TABLE change (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    run TEXT NOT NULL,
    at TEXT NOT NULL,
    who TEXT NOT NULL,
    kind TEXT NOT NULL,
    uri TEXT NOT NULL,
    uuid TEXT NOT NULL,
    name TEXT NOT NULL,
    old TEXT NOT NULL,
    new TEXT NOT NULL,
    rule TEXT NOT NULL,
    status TEXT NOT NULL,
    cause TEXT NOT NULL DEFAULT '',
    undone_by INTEGER,
    preimage TEXT
);
CREATE INDEX change_uuid ON change (uuid, id);
CREATE INDEX change_status ON change (status);
"""


class Kind(enum.Enum):
    """What made a change: the policy, its canary, or a roll back."""

    APPLY = "apply"
    CANARY = "canary"
    ROLLBACK = "rollback"


class Status(enum.Enum):
    """How a change ended: ``ABANDONED`` left the domain as it was, ``RESTORED`` put it back after a bad define."""

    IN_FLIGHT = "in-flight"
    DONE = "done"
    ABANDONED = "abandoned"
    RESTORED = "restored"


@dataclass(frozen=True)
class Intent:
    """A change that is about to be made; ``undoes`` are the ids of the changes that it rolls back."""

    kind: Kind
    uri: str
    uuid: str
    name: str
    old: PmuState
    new: PmuState
    rule: str
    preimage: str
    undoes: tuple[int, ...] = ()


@dataclass(frozen=True)
class Entry:
    """A change as the journal has it; ``undone`` says that a roll back took it away again."""

    id: int
    at: datetime
    who: str
    kind: Kind
    uri: str
    uuid: str
    name: str
    old: PmuState
    new: PmuState
    rule: str
    status: Status
    cause: str
    undone: bool

    @property
    def standing(self) -> bool:
        """Whether there is something in it to be taken back."""
        return self.status is Status.DONE and self.kind is not Kind.ROLLBACK and not self.undone

    @property
    def of_flavor(self) -> bool:
        """Whether it is one of a cloud's flavor; otherwise it is one of a domain."""
        return self.uri.startswith(CLOUD)

    def record(self) -> dict[str, Any]:
        """The same as data, for tables, programs and other hosts."""
        return {
            "change": self.id,
            "time": self.at.isoformat(timespec="microseconds"),
            "name": self.name,
            "uuid": self.uuid,
            "old": self.old.value,
            "new": self.new.value,
            "rule": self.rule,
            "kind": self.kind.value,
            "status": "undone" if self.undone else self.status.value,
            "cause": self.cause,
            "who": self.who,
            "uri": self.uri,
        }

    @classmethod
    def of_record(cls, record: Mapping[str, Any]) -> Entry:
        """The entry of which another host's journal gave this record.

        :raises PmuconfError: change-invalid.
        """
        try:
            at = datetime.fromisoformat(record["time"])
            undone = record["status"] == "undone"
            if at.tzinfo is None or str(UUID(record["uuid"])) != record["uuid"]:
                raise ValueError("a time without its zone, or a UUID that is none")
            return cls(
                id=int(record["change"]),
                at=at,
                who=str(record["who"]),
                kind=Kind(record["kind"]),
                uri=str(record["uri"]),
                uuid=record["uuid"],
                name=str(record["name"]),
                old=PmuState(record["old"]),
                new=PmuState(record["new"]),
                rule=str(record["rule"]),
                status=Status.DONE if undone else Status(record["status"]),
                cause=str(record["cause"]),
                undone=undone,
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            what = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else str(error)
            raise PmuconfError(
                f"this is no change of a journal: {what}",
                cause="change-invalid",
                hint="Take changes as pmuconf.kvm.journal_info returns them",
            ) from None


_COLUMNS: Final = (
    "id, at, who, kind, uri, uuid, name, old, new, rule, status, cause, "
    "EXISTS (SELECT 1 FROM change AS undoing WHERE undoing.id = change.undone_by AND undoing.status = 'done')"
)


class Journal:
    """An open journal. Its methods may be called from several threads; each is one transaction."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._connection = connection
        self._path = path
        self._lock = threading.Lock()
        self._run = uuid4().hex

    @classmethod
    @contextmanager
    def open(cls, path: Path, *, create: bool = False) -> Iterator[Journal]:
        """Open the journal, and make it where create says so.

        :raises PmuconfError: journal-missing, journal-permission, journal-damaged, journal-full, journal-version.
        """
        with _translated(path):
            if create:
                path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
            elif not path.exists():
                raise PmuconfError(f"there is no journal at {path}", cause="journal-missing")
            elif not os.access(path, os.R_OK | os.W_OK):
                raise PermissionError(f"{path} belongs to another user")
            connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=20)
        try:
            with _translated(path):
                _prepare(connection, path)
            yield cls(connection, path)
        finally:
            connection.close()

    def begin(self, intents: Sequence[Intent]) -> list[int]:
        """Write down changes that are about to be made; when this returns they are on the disk. Their ids, in order."""
        now, who, ids = _now(), _who(), []
        with self._transaction() as connection:
            for intent in intents:
                cursor = connection.execute(
                    "INSERT INTO change (run, at, who, kind, uri, uuid, name, old, new, rule, status, preimage) "
                    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    (
                        self._run,
                        now,
                        who,
                        intent.kind.value,
                        intent.uri,
                        intent.uuid,
                        intent.name,
                        intent.old.value,
                        intent.new.value,
                        intent.rule,
                        Status.IN_FLIGHT.value,
                        intent.preimage,
                    ),
                )
                assert cursor.lastrowid is not None  # an INSERT was made
                ids.append(cursor.lastrowid)
                for undone in intent.undoes:
                    connection.execute("UPDATE change SET undone_by = ? WHERE id = ?", (cursor.lastrowid, undone))
        return ids

    def replan(self, number: int, old: PmuState, new: PmuState, rule: str, preimage: str) -> None:
        """A change in flight starts from another text than was written down."""
        with self._transaction() as connection:
            connection.execute(
                "UPDATE change SET old = ?, new = ?, rule = ?, preimage = ? WHERE id = ?",
                (old.value, new.value, rule, preimage, number),
            )

    def settle(self, ended: Iterable[tuple[int, Status, str]]) -> None:
        """Say how changes ended (id, status, cause) and wipe the XML that they held."""
        with self._transaction() as connection:
            connection.executemany(
                "UPDATE change SET status = ?, cause = ?, preimage = NULL WHERE id = ?",
                [(status.value, cause, number) for number, status, cause in ended],
            )
        with self._lock, _translated(self._path):
            # The log still holds the pages with the XML: write it back and cut it off.
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()

    def in_flight(self, uri: str) -> list[Entry]:
        """The changes on this driver that a crash, or a lost connection, left open."""
        return self._entries("WHERE status = 'in-flight' AND uri = ? ORDER BY id", (uri,))

    def preimage(self, number: int) -> str | None:
        """The domain's XML from before the change, with its secrets; None once the change is settled."""
        with self._lock, _translated(self._path):
            row = self._connection.execute("SELECT preimage FROM change WHERE id = ?", (number,)).fetchone()
        return None if row is None else row[0]

    def entries(self, uuid: str | None = None, *, limit: int = -1) -> list[Entry]:
        """The newest changes first, of one domain or of all; limit -1 gives them all."""
        where, values = ("WHERE uuid = ? ", [uuid]) if uuid is not None else ("", [])
        return self._entries(f"{where}ORDER BY id DESC LIMIT ?", [*values, limit])

    def entry(self, number: int) -> Entry | None:
        """The change with this id, None if there is none."""
        found = self._entries("WHERE id = ?", (number,))
        return found[0] if found else None

    def copy_of(self, carried: Entry) -> Entry | None:
        """What this journal has of a change that some journal, perhaps this one, gave away; None if nothing."""
        found = self._entries("WHERE uuid = ? AND uri = ? AND at = ?", (carried.uuid, carried.uri, _text(carried.at)))
        return found[0] if found else None

    def adopt(self, carried: Sequence[Entry]) -> None:
        """Take finished changes of other journals in, that a roll back here can undo them.

        They keep the driver on which they were made, so that nothing here takes them for changes of this host.
        """
        with self._transaction() as connection:
            for entry in carried:
                values = (entry.who, entry.kind.value, entry.uri, entry.uuid, entry.name, entry.old.value)
                connection.execute(
                    "INSERT INTO change (run, at, who, kind, uri, uuid, name, old, new, rule, status, cause) "
                    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    (
                        *(self._run, _text(entry.at), *values),
                        *(entry.new.value, entry.rule, entry.status.value, entry.cause),
                    ),
                )

    def last_canary(self, uri: str) -> list[Entry]:
        """The changes of the newest canary on this driver, if nothing was applied after it."""
        newest = self._entries("WHERE uri = ? AND status = 'done' ORDER BY id DESC LIMIT 1", (uri,))
        if not newest or newest[0].kind is not Kind.CANARY:
            return []
        return self._entries(
            "WHERE kind = 'canary' AND status = 'done' AND run = (SELECT run FROM change WHERE id = ?)",
            (newest[0].id,),
        )

    def purge(self, days: int) -> int:
        """Drop finished changes older than so many days; how many there were. Those in flight stay."""
        before = _text(oldest_kept(days))
        with self._transaction() as connection:
            return connection.execute(
                "DELETE FROM change WHERE at < ? AND status != ?", (before, Status.IN_FLIGHT.value)
            ).rowcount

    def _entries(self, rest: str, values: Sequence[Any]) -> list[Entry]:
        with self._lock, _translated(self._path):
            rows = self._connection.execute(f"SELECT {_COLUMNS} FROM change {rest}", values).fetchall()
            try:
                return [_entry(row) for row in rows]
            except (ValueError, TypeError) as error:  # a word that is none of ours
                raise sqlite3.DatabaseError(str(error)) from None

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock, _translated(self._path):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise


@contextmanager
def writer_lock(journal: Path) -> Iterator[None]:
    """Hold the one lock for all writers of this host; it ends with the process that holds it.

    :raises PmuconfError: locked, or as Journal.open().
    """
    path = journal.with_name("writer.lock")
    with _translated(path):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(handle, 64, 0).decode("ascii", "replace").strip() or "unknown"
            raise PmuconfError(
                f"another pmuconf (process {holder}) is changing domains",
                cause="locked",
                hint=f"Wait for it to end; it holds {path}",
            ) from None
        os.ftruncate(handle, 0)
        with suppress(OSError):  # a full disk: the number only helps the reader, the lock holds without it
            os.pwrite(handle, str(os.getpid()).encode("ascii"), 0)
        yield
    finally:
        os.close(handle)


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    connection.execute("PRAGMA journal_mode=WAL").fetchone()
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA secure_delete=ON").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version == 0:
        connection.executescript(f"BEGIN IMMEDIATE;{_SCHEMA}PRAGMA user_version={_VERSION};COMMIT;")
    elif version != _VERSION:
        raise PmuconfError(
            f"the journal {path} has format {version}, and this pmuconf knows {_VERSION}",
            cause="journal-version",
            hint="A newer pmuconf wrote it: use that one",
        )


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        text = str(error)
        if "full" in text or "disk I/O" in text:
            cause, hint = "journal-full", _ROOM.format(path.parent)
        elif "locked" in text:
            cause, hint = "journal-busy", "Another pmuconf is at it: try again"
        elif "readonly" in text or "unable to open" in text:
            cause, hint = "journal-permission", "Run it as the user who owns it, or name another in [journal] path"
        else:
            cause, hint = (
                "journal-damaged",
                f"Move {path} away to start a new one: earlier changes can't be rolled back then",
            )
        raise PmuconfError(f"the journal {path}: {text}", cause=cause, hint=hint) from None
    except OSError as error:
        full = error.errno == errno.ENOSPC
        raise PmuconfError(
            f"the journal {path}: {error.strerror or error}",
            cause="journal-full" if full else "journal-permission",
            hint=_ROOM.format(path.parent) if full else "Run it as root, or name another place in [journal] path",
        ) from None


def _entry(row: Sequence[Any]) -> Entry:
    number, at, who, kind, uri, uuid, name, old, new, rule, status, cause, undone = row
    return Entry(
        id=number,
        at=datetime.fromisoformat(at),
        who=who,
        kind=Kind(kind),
        uri=uri,
        uuid=uuid,
        name=name,
        old=PmuState(old),
        new=PmuState(new),
        rule=rule,
        status=Status(status),
        cause=cause,
        undone=bool(undone),
    )


def _now() -> str:
    return _text(datetime.now(timezone.utc))


def oldest_kept(days: int) -> datetime:
    """Since when finished changes are kept: so many days."""
    try:
        return datetime.now(timezone.utc) - timedelta(days=days)
    except OverflowError:  # before the year 1
        return datetime.min.replace(tzinfo=timezone.utc)


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
