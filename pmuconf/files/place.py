"""Where a path leads, walked folder by folder, so that no link of somebody else's takes us elsewhere.

A folder is a stranger's if others than root and we can write to it. They may put a symbolic link, a hard link or a FIFO
in the place of any file there, also between a check and its use. So their links are not followed, and all work is
relative to folders that are held open. root needs that most, because it may write everywhere.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pmuconf.files.inputs import open_regular

__all__ = ["FileOwner", "FilePlace", "open_placed", "place"]

_MAX_LINKS: Final = 40  # as many as the kernel follows
_PATH_MAX: Final = 4096  # in one call the kernel takes no more, and folder by folder it would
_DESCRIPTORS: Final = re.compile(r"/proc/[1-9][0-9]*(/task/[1-9][0-9]*)?/fd")


@dataclass(frozen=True)
class FileOwner:
    """A user and a group, by number."""

    uid: int
    gid: int


@dataclass(frozen=True)
class FilePlace:
    """Where a path leads: the name ``name`` in the folder ``folder``, a descriptor that is open while it is used.

    :param status: what is there, None if nothing is; never that of a symbolic link, but for one in /proc/PID/fd.
    :param path: the same place as a path without links, for a message.
    :param stranger: the owner of the first folder on the way that is neither root's nor ours, None if there is none.
    :param shared: a folder on the way, without a stranger before it, in which others can replace what we go through.
    """

    folder: int
    name: str
    status: os.stat_result | None
    path: Path
    stranger: FileOwner | None
    shared: Path | None

    @property
    def trusted(self) -> bool:
        """Whether only root and we could have put there what is there."""
        return self.stranger is None and self.shared is None

    @property
    def descriptor(self) -> int | None:
        """The number of a file that this process has open, if that is the place (/dev/stdout, /dev/fd/3)."""
        mine = self.name.isdecimal() and _DESCRIPTORS.fullmatch(str(self.path.parent))
        return int(self.name) if mine and self.path.parts[2] == str(os.getpid()) else None


@contextmanager
def place(path: Path) -> Iterator[FilePlace]:
    """Where the path leads, symbolic links followed, also that of its last part; nothing need be there.

    :raises OSError: as open() does; ELOOP for a link that a stranger may have made.
    """
    with ExitStack() as stack:
        yield _Walk(path, stack).place()


def open_placed(path: Path) -> int:
    """A descriptor to read a regular file; in a stranger's folder neither links nor files with other names count.

    :raises OSError: as place() and open_regular(); EMLINK, "has other names too", for a stranger's hard link.
    """
    with place(path) as at:
        descriptor = open_regular(at.name or ".", follow=False, dir_fd=at.folder)
        if not at.trusted and os.fstat(descriptor).st_nlink != 1:
            os.close(descriptor)
            raise OSError(errno.EMLINK, "has other names too, in a folder that others can write to", os.fspath(path))
        return descriptor


@dataclass(frozen=True)
class _Step:
    name: str
    descriptor: int
    status: os.stat_result


class _Walk:
    """One walk from / along a path. Steps are folders that are held open, so ``..`` is the one that we came by."""

    def __init__(self, path: Path, stack: ExitStack) -> None:
        self._path = path
        self._stack = stack
        text = os.fspath(path)
        whole = text if text.startswith("/") else os.path.join(os.getcwd(), text)
        if len(os.fsencode(whole)) >= _PATH_MAX:
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), text)
        self._left = deque(whole.split("/"))
        self._links = 0
        root = self._opened("/", None)
        # Where users are mapped, root's files may be those of a user that has no number here; the owner of / is root.
        self._ours = {0, os.geteuid(), root.status.st_uid}
        self._steps = [root]

    def place(self) -> FilePlace:
        while self._left:
            name = self._left.popleft()
            if name == "..":
                self._steps = self._steps[:-1] or self._steps
            elif name not in ("", "."):
                last = not any(part not in ("", ".") for part in self._left)
                end = self._step(name, last=last)
                if end is not None:
                    return end
        top = self._steps.pop() if len(self._steps) > 1 else None  # a folder
        return self._found(top.name if top else "", (top or self._steps[0]).status)

    def _step(self, name: str, *, last: bool) -> FilePlace | None:
        """Go into this folder, or along this link; the place, if it is the end of the way."""
        try:
            step = self._opened(name, self._steps[-1].descriptor)
        except FileNotFoundError:
            if not last:
                raise
            return self._found(name, None)
        if stat.S_ISLNK(step.status.st_mode):
            if last and _DESCRIPTORS.fullmatch(self._text()):
                return self._found(name, step.status)  # no text: a way to an open file
            self._follow(step)
            return None
        if stat.S_ISDIR(step.status.st_mode):
            self._steps.append(step)
            return None
        if not last:
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), os.fspath(self._path))
        return self._found(name, step.status)

    def _follow(self, link: _Step) -> None:
        """Go on at what a link says."""
        self._links += 1
        if self._links > _MAX_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), os.fspath(self._path))
        if self._planted(self._steps[-1].status, link.status):
            where = f"{self._text().rstrip('/')}/{link.name}"
            raise OSError(
                errno.ELOOP, f"{where} is a symbolic link in a folder that others can write to", os.fspath(self._path)
            )
        target = os.readlink("", dir_fd=link.descriptor)
        if target.startswith("/"):
            del self._steps[1:]
        self._left.extendleft(reversed(target.split("/")))

    def _opened(self, name: str, folder: int | None) -> _Step:
        descriptor = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
        self._stack.callback(os.close, descriptor)
        return _Step(name, descriptor, os.fstat(descriptor))

    def _found(self, name: str, status: os.stat_result | None) -> FilePlace:
        stranger, shared = self._strangers(status)
        path = Path(self._text()) / name
        return FilePlace(self._steps[-1].descriptor, name, status, path, stranger, shared)

    def _strangers(self, status: os.stat_result | None) -> tuple[FileOwner | None, Path | None]:
        """The stranger and the shared folder of a FilePlace that has this status."""
        children = [step.status for step in self._steps[1:]]
        for at, (step, child) in enumerate(zip(self._steps, [*children, status])):
            if step.status.st_uid not in self._ours:
                return FileOwner(step.status.st_uid, step.status.st_gid), None
            # What is not there yet, anybody could put there: the end of the way counts as theirs.
            if self._shared(step.status) and (child is None or child is status or self._planted(step.status, child)):
                return None, Path(self._text(at + 1))
        return None, None

    def _planted(self, folder: os.stat_result, child: os.stat_result) -> bool:
        """Whether others than root and we could have put that into the folder, or could do it now in its place."""
        if folder.st_uid not in self._ours:
            return True
        # In a sticky folder, such as /tmp, only its owner replaces what is there (unlink(2)).
        return self._shared(folder) and not (folder.st_mode & stat.S_ISVTX and child.st_uid in self._ours)

    def _shared(self, folder: os.stat_result) -> bool:
        """Whether others than its owner write to the folder; the group that is ours, or root's, is no other."""
        group = folder.st_mode & stat.S_IWGRP and folder.st_gid not in (0, os.getegid())
        return bool(folder.st_mode & stat.S_IWOTH or group)

    def _text(self, most: int | None = None) -> str:
        return "/" + "/".join(step.name for step in self._steps[1:most])
