"""The folder of the journal: its files opened safely whoever owns it, and the lock of all writers beside them."""

from __future__ import annotations

import errno
import fcntl
import os
import pwd
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pmuconf.errors import PmuconfError
from pmuconf.files.acting import acting_as
from pmuconf.files.inputs import open_regular
from pmuconf.files.place import FileOwner, FilePlace, place

__all__ = ["Store", "may_exist", "writer_lock"]

_ROOM: Final = "Make room on the file system of {}"
_LOCK: Final = "writer.lock"
_BESIDE: Final = ("-wal", "-shm", "-journal")


@dataclass(frozen=True)
class Store:
    """Where a journal is.

    :param path: the file, without symbolic links.
    :param owner: whose rights root takes on there, because the folder is theirs; None where it is root's or ours.
    """

    path: Path
    owner: FileOwner | None

    @classmethod
    def find(cls, path: Path, *, create: bool) -> Store:
        """The store at this path; with ``create``, its folder and an empty file are made where they are missing.

        :raises PmuconfError: journal-missing, journal-untrusted, or as work().
        """
        with _translated(path):
            if create:
                _make_folder(path.parent)
            try:
                with place(path) as at:
                    store = cls(at.path, _owner(path, at))
                    with acting_as(store.owner):
                        _look(path, at, store.owner)
                        if at.status is None and create:
                            os.close(open_regular(at.name, os.O_CREAT | os.O_RDWR, follow=False, dir_fd=at.folder))
                        elif at.status is None:
                            raise FileNotFoundError
                        elif store.owner is None and not os.access(at.path, os.R_OK | os.W_OK, effective_ids=True):
                            raise PermissionError(errno.EACCES, f"{path} belongs to another user")
            except (FileNotFoundError, NotADirectoryError) as error:
                if create:
                    raise
                raise PmuconfError(f"there is no journal at {path}", cause="journal-missing") from error
        return store

    @contextmanager
    def work(self) -> Iterator[None]:
        """The context of all work with the journal's files: errors of SQLite and the system leave it as ours.

        :raises PmuconfError: journal-permission, journal-damaged, journal-full, journal-busy.
        """
        with _translated(self.path), acting_as(self.owner):
            yield


def may_exist(journal: Path) -> bool:
    """Whether there is a journal, or may be one: in a folder that this user can't look into. Opening it says why."""
    try:
        return journal.exists()
    except OSError:
        return True


@contextmanager
def writer_lock(journal: Path) -> Iterator[None]:
    """Hold the one lock for all writers of this host; it ends with the process that holds it.

    :raises PmuconfError: locked, or as Store.find().
    """
    path = journal.with_name(_LOCK)
    with _translated(path):
        _make_folder(path.parent)
        with place(path) as at:
            owner = _owner(path, at)
            with acting_as(owner):
                _check(path, at.name, at.status, owner)
                handle = open_regular(at.name, os.O_CREAT | os.O_RDWR, follow=False, dir_fd=at.folder)
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


def _make_folder(folder: Path) -> None:
    """Make the folder and those on the way to it, each with the rights of whose folder it is in.

    :raises OSError: as open() and mkdir(); ENAMETOOLONG before any folder is made.
    """
    try:
        os.lstat(folder)
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise
    for path in reversed([folder, *folder.parents]):
        with place(path) as at:
            if at.status is None:
                with acting_as(at.stranger), suppress(FileExistsError):
                    os.mkdir(at.name, 0o700, dir_fd=at.folder)


def _owner(path: Path, at: FilePlace) -> FileOwner | None:
    """Whose rights are taken on there.

    :raises PmuconfError: journal-untrusted: there is nobody whose rights would do.
    """
    if at.shared is not None:
        raise PmuconfError(
            f"the journal {path}: others can write to the folder {at.shared}",
            cause="journal-untrusted",
            hint=f"Take that right from them (chmod go-w {at.shared}), or name another place in [journal] path",
        )
    if at.stranger is not None and os.geteuid() != 0:
        raise PmuconfError(
            f"the journal {path} is in a folder of user {_name(at.stranger.uid)}",
            cause="journal-untrusted",
            hint="Run it as that user or as root, or name another place in [journal] path",
        )
    return at.stranger


def _look(path: Path, at: FilePlace, owner: FileOwner | None) -> None:
    """Refuse files that are wrong, with the reason. It only helps the reader: safety does not depend on it."""
    _check(path, at.name, at.status, owner)
    for end in _BESIDE:
        with suppress(FileNotFoundError):
            status = os.stat(at.name + end, dir_fd=at.folder, follow_symlinks=False)
            _check(path.with_name(path.name + end), at.name + end, status, owner)


def _check(path: Path, name: str, status: os.stat_result | None, owner: FileOwner | None) -> None:
    if status is None:
        return
    what = ""
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if stat.S_ISLNK(status.st_mode):
        what = "is a symbolic link"
    elif not stat.S_ISREG(status.st_mode):
        what = "is no regular file"
    elif owner is not None and status.st_nlink > 1:
        what = "has other names too"
    if what:
        raise PmuconfError(
            f"{path} {what}: it could lead anywhere",
            cause="journal-untrusted",
            hint=f"Find out who made it, and remove {name}",
        )
    if owner is not None and status.st_uid != owner.uid:
        raise PmuconfError(
            f"{path} belongs to user {_name(status.st_uid)}, and its folder to user {_name(owner.uid)}",
            cause="journal-permission",
            hint=f"Give it to the folder's owner: chown {_name(owner.uid)} {path}",
        )


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, UnicodeDecodeError) as error:  # the latter for SQLite's own sentence about a damaged name
        text = str(error)  # Python has SQLite's own codes since 3.11 only
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
        cause, hint = "journal-permission", "Run it as root, or name another place in [journal] path"
        if error.errno == errno.ENOSPC:
            cause, hint = "journal-full", _ROOM.format(path.parent)
        elif error.errno in (errno.ELOOP, errno.EINVAL):
            cause = "journal-untrusted"
        raise PmuconfError(f"the journal {path}: {error.strerror or error}", cause=cause, hint=hint) from None
