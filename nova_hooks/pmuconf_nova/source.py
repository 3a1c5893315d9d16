"""The policy in its files, read again when they change, so that nova-compute need not be restarted."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress

from pmuconf import conf
from pmuconf.conf import Settings
from pmuconf.errors import PmuconfError

__all__ = ["PolicySource"]

_Stamp = tuple[tuple[str, int, int, int], ...]


class PolicySource:
    """The configuration of pmuconf, kept until one of its files changes. The error of an unreadable one is kept too.

    :param path: gives the file's path, each time that the configuration is used; None or empty: the default files.
    """

    def __init__(self, path: Callable[[], str | None]) -> None:
        self._path = path
        self._key: tuple[str | None, _Stamp] | None = None
        self._loaded: Settings | PmuconfError | None = None

    def settings(self) -> Settings:
        """The configuration.

        :raises PmuconfError: as pmuconf.conf.load().
        """
        path = self._path() or None
        key = path, _stamp(path)
        if key != self._key or self._loaded is None:
            try:
                self._loaded = conf.load([path] if path else [])
            except PmuconfError as error:
                self._loaded = error
            self._key = key
        if isinstance(self._loaded, PmuconfError):
            # Without the earlier traceback, which would grow each time that the error is raised.
            raise self._loaded.with_traceback(None)
        return self._loaded


def _stamp(path: str | None) -> _Stamp:
    """A value that changes with any of the files: their inodes, sizes and times, as in stat(2)."""
    paths = [path] if path else [str(conf.DEFAULT_FILE), str(conf.DEFAULT_DIR)]
    if not path:
        with suppress(OSError):
            paths += sorted(entry.path for entry in os.scandir(conf.DEFAULT_DIR))
    stamp = []
    for name in paths:
        with suppress(OSError):
            status = os.stat(name)
            # The ctime too: chmod and chown decide whether the file can be read at all.
            stamp.append((name, status.st_ino, status.st_size, max(status.st_mtime_ns, status.st_ctime_ns)))
    return tuple(stamp)
