"""Files that somebody else may have made: opened without waiting, regular, and read to a limit."""

from __future__ import annotations

import errno
import os
import stat

__all__ = ["open_regular", "read_descriptor", "read_regular", "read_start"]

_PIECE = 1 << 20


def open_regular(
    path: str | os.PathLike[str],
    flags: int = os.O_RDONLY,
    mode: int = 0o600,
    *,
    follow: bool = True,
    dir_fd: int | None = None,
) -> int:
    """A descriptor of a regular file, close-on-exec. A FIFO without a writer is refused, never waited for.

    :param flags: as of os.open(), O_CREAT included; ``mode`` is that of a file that is made.
    :param follow: False: a symbolic link in the last part of the path is refused (ELOOP), as O_NOFOLLOW does it.
    :raises OSError: as os.open(); EINVAL, "not a regular file", for a FIFO, device or socket; EISDIR for a folder.
    """
    flags |= os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY | (0 if follow else os.O_NOFOLLOW)
    try:
        descriptor = os.open(path, flags, mode, dir_fd=dir_fd)
    except OSError as error:
        if error.errno == errno.ENXIO:  # a socket, a FIFO without a reader
            raise _not_regular(path) from None
        raise
    kind = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(kind):
        os.close(descriptor)
        raise _is_folder(path) if stat.S_ISDIR(kind) else _not_regular(path)
    return descriptor


def read_regular(path: str | os.PathLike[str], most: int, *, follow: bool = True, dir_fd: int | None = None) -> bytes:
    """The whole contents of a regular file of at most ``most`` bytes.

    :raises OSError: as open_regular(); EFBIG, "larger than N bytes", if there is more.
    """
    descriptor = open_regular(path, follow=follow, dir_fd=dir_fd)
    try:
        return read_descriptor(descriptor, most, os.fspath(path))
    finally:
        os.close(descriptor)


def read_start(path: str | os.PathLike[str], size: int) -> bytes:
    """The first bytes of a regular file, up to so many.

    :raises OSError: as open_regular().
    """
    with open(open_regular(path), "rb") as file:
        return file.read(size)


def read_descriptor(descriptor: int, most: int, name: str = "") -> bytes:
    """The same of an open file, from where it stands. Piece by piece: sysfs and procfs don't tell their sizes.

    :raises OSError: as os.read(); EFBIG if there is more.
    """
    pieces, size = [], 0
    while piece := os.read(descriptor, min(_PIECE, most + 1 - size)):
        size += len(piece)
        if size > most:
            raise OSError(errno.EFBIG, f"larger than {most} bytes", name)
        pieces.append(piece)
    return b"".join(pieces)


def _not_regular(path: str | os.PathLike[str]) -> OSError:
    return OSError(errno.EINVAL, "not a regular file", os.fspath(path))


def _is_folder(path: str | os.PathLike[str]) -> OSError:
    return OSError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
