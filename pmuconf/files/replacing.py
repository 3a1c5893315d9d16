"""Files that are replaced all at once or not at all, and files that can be trusted."""

from __future__ import annotations

import errno
import io
import os
import select
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, TextIO
from uuid import uuid4

from pmuconf.errors import PmuconfError
from pmuconf.files.place import FilePlace, place

__all__ = ["replace_file", "replacing", "trusted"]

_READER_SECONDS: Final = 10.0
_TO_ALL: Final = 0o644


def replace_file(path: Path, text: str, *, ours: bool = False) -> None:
    """Put the text, as UTF-8, in the file's place at once: a reader sees the old one or the new one. See replacing().

    :raises PmuconfError: output-unwritable; nothing is left behind then.
    """
    with replacing(path, ours=ours) as file:
        file.write(text)


@contextmanager
def replacing(path: Path, *, ours: bool = False) -> Iterator[TextIO]:
    """As replace_file(), for text that comes piece by piece; an exception in between leaves the old file.

    A symbolic link is followed, and the file that it names is replaced. A file that is not regular, such as /dev/null,
    /dev/stdout or a FIFO, is written to. Neither happens in a folder that others than root and we can write to.

    A new file has mode 0644: what reads reports (a browser, node_exporter) does not run as root. A file that is
    replaced keeps its mode, without the right of others to write it. It keeps its owner and group as far as we may.

    :param ours: the file is to be believed by those who believe root or us: it is ours, with mode 0644, in any case.
    :raises PmuconfError: output-unwritable; nothing is left behind then.
    """
    try:
        with place(path) as at:
            before = at.status
            if before is None or stat.S_ISREG(before.st_mode):
                with _anew(at, None if ours or not at.trusted else before) as file:
                    yield file
            else:
                with _written_to(at) as file:
                    yield file
    except OSError as error:
        raise PmuconfError(f"{path}: {error.strerror or error}", cause="output-unwritable") from None


@contextmanager
def _anew(at: FilePlace, before: os.stat_result | None) -> Iterator[TextIO]:
    """A new file in the place of what is there; ``before``: whose mode and owner it takes over."""
    temporary = f".{at.name[:200]}.{uuid4().hex[:8]}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(temporary, flags, 0o600, dir_fd=at.folder)
    try:
        with open(descriptor, "w", encoding="utf-8", newline="") as file:
            yield file
            file.flush()
            # By the descriptor: in a folder of another's, its name may lead elsewhere by now.
            if before is not None:
                _give(descriptor, before)
            os.fchmod(descriptor, _TO_ALL if before is None else stat.S_IMODE(before.st_mode) & 0o755)
            os.fsync(descriptor)
        os.replace(temporary, at.name, src_dir_fd=at.folder, dst_dir_fd=at.folder)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary, dir_fd=at.folder)
        raise


def _give(descriptor: int, before: os.stat_result) -> None:
    """Let the file belong to whom the old one belonged, as far as we may."""
    now = os.fstat(descriptor)
    for user, group in ((-1, before.st_gid), (before.st_uid, -1)):
        if (user, group) not in ((-1, now.st_gid), (now.st_uid, -1)):
            with suppress(PermissionError):
                os.fchown(descriptor, user, group)


@contextmanager
def _written_to(at: FilePlace) -> Iterator[TextIO]:
    """The device or FIFO that is there, opened for writing; or a file that we have open, /dev/stdout."""
    if at.status is not None and stat.S_ISDIR(at.status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if at.descriptor is not None:
        with open(os.dup(at.descriptor), "w", encoding="utf-8", newline="") as file:
            yield file
        return
    if not at.trusted:
        raise OSError(errno.EPERM, "is no regular file, and in a folder that others can write to")
    flags = os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    try:
        descriptor = os.open(at.name, flags, dir_fd=at.folder)
    except OSError as error:
        if error.errno == errno.ENXIO:
            raise OSError(errno.ENXIO, "nobody reads from it") from None
        raise
    raw = _Patient(descriptor)
    with raw, io.TextIOWrapper(io.BufferedWriter(raw), encoding="utf-8", newline="") as file:
        yield file


class _Patient(io.RawIOBase):
    """Writes to what may have a slow reader, and gives up on one that stands still."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        view = memoryview(data)  # type: ignore[arg-type]  # bytes-like, as io.RawIOBase.write() has it
        while True:
            try:
                return os.write(self._descriptor, view)
            except BlockingIOError:
                waiting = select.poll()
                waiting.register(self._descriptor, select.POLLOUT)
                if not waiting.poll(_READER_SECONDS * 1000):
                    seconds = f"{_READER_SECONDS:.0f} seconds"
                    raise OSError(errno.ETIMEDOUT, f"its reader took nothing for {seconds}") from None

    def close(self) -> None:
        if not self.closed:
            os.close(self._descriptor)
        super().close()


def trusted(descriptor: int) -> bool:
    """Whether an open file could only have been written by root or us.

    Asked of the descriptor that is read, not of a name: in a folder of another's that may be another file by then.
    """
    status = os.fstat(descriptor)
    return status.st_uid in (0, os.geteuid()) and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
