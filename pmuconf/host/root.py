"""The one directory below which every probe of the host reads: / of a live host, or a record of one."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from pmuconf.errors import PmuconfError

__all__ = ["MAX_FILE", "Root"]

MAX_FILE: Final = 1 << 30
"""The largest file that is read whole, in bytes: a vmlinux with debug information stays below it."""


@dataclass(frozen=True)
class Root:
    """A directory that has the shape of /. ``live`` if it is / itself."""

    path: Path = Path("/")

    @property
    def live(self) -> bool:
        """Whether this is the running host and no record."""
        return self.path == Path("/")

    def at(self, name: str) -> Path:
        """Where the file ``name`` (as it is called on the host: /proc/version) is.

        :raises PmuconfError: a symbolic link of a record leads out of it; cause record-escapes.
        """
        path = self.path / name.lstrip("/")
        if not self.live and not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(self.path)):
            raise PmuconfError(f"{path} leads out of the record", cause="record-escapes")
        return path

    def exists(self, name: str) -> bool:
        """Whether there is such a file or directory."""
        try:
            return self.at(name).exists()
        except PermissionError:
            return False

    def names(self, name: str) -> list[str]:
        """What is in the directory, sorted; nothing if it isn't there or can't be read."""
        try:
            return sorted(os.listdir(self.at(name)))
        except OSError:
            return []

    def link(self, name: str) -> str | None:
        """What a symbolic link says, which is not followed; None if there is none or it can't be read."""
        folder, _, last = name.rpartition("/")
        try:
            return os.readlink(self.at(folder) / last)
        except OSError:
            return None

    def open(self, name: str) -> BinaryIO:
        """Open a regular file.

        :raises OSError: as open() does; for a FIFO or a device too.
        """
        descriptor = os.open(self.at(name), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise OSError(0, "not a regular file", str(self.at(name)))
        return os.fdopen(descriptor, "rb", buffering=0)

    def read(self, name: str) -> bytes:
        """The whole file.

        :raises OSError: it isn't there, can't be read, or is larger than MAX_FILE.
        """
        with self.open(name) as file:
            pieces, size = [], 0
            while piece := file.read(1 << 20):  # not all at once: sysfs and procfs don't tell their sizes
                size += len(piece)
                if size > MAX_FILE:
                    raise OSError(0, "too large", name)
                pieces.append(piece)
        return b"".join(pieces)

    def text(self, name: str) -> str | None:
        """A small text file without its line end; None if it isn't there or can't be read."""
        try:
            return self.read(name).decode("utf-8", "replace").strip()
        except OSError:
            return None
