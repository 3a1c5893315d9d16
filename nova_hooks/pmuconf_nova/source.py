"""The policy as the file says it now: read when it changes, so that nova-compute need not be restarted."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress

from pmuconf import conf
from pmuconf.conf import Settings
from pmuconf.errors import PmuconfError

__all__ = ["Source"]

_Stamp = tuple[tuple[str, int, int, int], ...]


class Source:
    """pmuconf's configuration, kept until a file of it changes; so is the reason why it can't be read.

    :param path: asked each time for the file's path; None or empty means the default files.
    """

    def __init__(self, path: Callable[[], str | None]) -> None:
        self._path = path
        self._key: tuple[str | None, _Stamp] | None = None
        self._found: Settings | PmuconfError | None = None

    def settings(self) -> Settings:
        """The configuration.

        :raises PmuconfError: as pmuconf.conf.load().
        """
        path = self._path() or None
        key = path, _stamp(path)
        if key != self._key or self._found is None:
            try:
                self._found = conf.load([path] if path else [])
            except PmuconfError as error:
                self._found = error
            self._key = key
        if isinstance(self._found, PmuconfError):
            # Without the traceback of the time before, which would grow with each raise.
            raise self._found.with_traceback(None)
        return self._found


def _stamp(path: str | None) -> _Stamp:
    """What changes when one of the files does: size, inode and times, as stat(2) has them."""
    paths = [path] if path else [str(conf.DEFAULT_FILE), str(conf.DEFAULT_DIR)]
    if not path:
        with suppress(OSError):
            paths += sorted(entry.path for entry in os.scandir(conf.DEFAULT_DIR))
    stamp = []
    for one in paths:
        with suppress(OSError):
            status = os.stat(one)
            # With the time of its change: chmod and chown decide whether it can be read at all.
            stamp.append((one, status.st_ino, status.st_size, max(status.st_mtime_ns, status.st_ctime_ns)))
    return tuple(stamp)
