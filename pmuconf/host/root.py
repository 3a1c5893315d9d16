"""The one directory below which every probe of the host reads: / of a live host, or a record of one."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from pmuconf.errors import PmuconfError
from pmuconf.files.inputs import open_regular, read_descriptor

__all__ = ["MAX_FILE", "MAX_SMALL", "Root"]

MAX_FILE: Final = 1 << 30
"""The largest file of which parts are read, in bytes: a vmlinux with debug information stays below it."""
MAX_SMALL: Final = 8 << 20
"""The largest file that is read whole, in bytes, unless another limit is given: modules.dep has 1 MB, and so has
/proc/cpuinfo of 512 CPUs."""


@dataclass(frozen=True)
class Root:
    """A directory with the files of a host: / itself, or a record."""

    path: Path = Path("/")

    @property
    def live(self) -> bool:
        """Whether this is the running host and no record."""
        return self.path == Path("/")

    def at(self, name: str) -> Path:
        """The path of a file.

        :param name: its name on the host, such as /proc/version.
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
        """The names in a directory, sorted; none if it isn't there or can't be read."""
        try:
            return sorted(os.listdir(self.at(name)))
        except OSError:
            return []

    def link(self, name: str) -> str | None:
        """The target of a symbolic link; None if there is no such link or it can't be read."""
        folder, _, last = name.rpartition("/")
        try:
            return os.readlink(self.at(folder) / last)
        except OSError:
            return None

    def open(self, name: str) -> BinaryIO:
        """A regular file, open for reading.

        :raises OSError: as open() does; for a FIFO or a device too.
        """
        return os.fdopen(open_regular(self.at(name)), "rb", buffering=0)

    def read(self, name: str, most: int = MAX_SMALL) -> bytes:
        """The whole file.

        :raises OSError: it isn't there, can't be read, or is larger than ``most`` bytes.
        """
        with self.open(name) as file:
            return read_descriptor(file.fileno(), most, name)

    def text(self, name: str) -> str | None:
        """A small text file without its line end; None if it isn't there, can't be read, or is over MAX_SMALL."""
        try:
            return self.read(name).decode("utf-8", "replace").strip()
        except OSError:
            return None
