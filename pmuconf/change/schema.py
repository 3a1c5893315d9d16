"""The journal's format in SQLite, and how an older one becomes this one."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Final

from pmuconf.errors import PmuconfError

__all__ = ["prepare"]

_VERSION: Final = 2
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
    preimage TEXT,
    machine TEXT NOT NULL DEFAULT '',
    host_uuid TEXT NOT NULL DEFAULT ''
);
CREATE INDEX change_uuid ON change (uuid, id);
CREATE INDEX change_status ON change (status);
"""
# Format 1, of pmuconf 0.1, knew hosts by their names alone; see Journal.claim().
_FROM_1: Final = """
ALTER TABLE change ADD COLUMN machine TEXT NOT NULL DEFAULT '';
ALTER TABLE change ADD COLUMN host_uuid TEXT NOT NULL DEFAULT '';
"""


def prepare(connection: sqlite3.Connection, path: Path) -> None:
    """Bring a journal that was just opened, or made, to this format, and set how it is written.

    :raises sqlite3.Error: it is damaged, or no journal.
    :raises PmuconfError: journal-version.
    """
    connection.execute("PRAGMA trusted_schema=OFF")
    if connection.execute("SELECT 1 FROM sqlite_master WHERE type IN ('view', 'trigger') LIMIT 1").fetchone():
        # They would run what they say, without end perhaps, whenever the journal is read or written.
        raise sqlite3.DatabaseError("it has views or triggers, which no journal has")
    connection.execute("PRAGMA journal_mode=WAL").fetchone()
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA secure_delete=ON").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version == 0:
        connection.executescript(f"BEGIN IMMEDIATE;{_SCHEMA}PRAGMA user_version={_VERSION};COMMIT;")
    elif version == 1:
        _migrate(connection)
    elif version != _VERSION:
        raise PmuconfError(
            f"the journal {path} has format {version}, and this pmuconf knows {_VERSION}",
            cause="journal-version",
            hint="A newer pmuconf wrote it: use that one",
        )


def _migrate(connection: sqlite3.Connection) -> None:
    """Bring format 1 to this one, whole or not at all; another process may have done it meanwhile."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version == 1:
            for statement in filter(str.strip, _FROM_1.split(";")):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version={_VERSION}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
