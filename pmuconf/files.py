"""Files that are replaced whole, all at once or not at all; and whose word is taken."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from pmuconf.errors import PmuconfError

__all__ = ["replace_file", "replacing", "trusted"]


def replace_file(path: Path, text: str) -> None:
    """Put the text, as UTF-8, in the file's place at once: a reader sees the old one or the new one.

    :raises PmuconfError: output-unwritable; nothing is left behind then.
    """
    with replacing(path) as file:
        file.write(text)


@contextmanager
def replacing(path: Path) -> Iterator[TextIO]:
    """As replace_file(), for text that comes piece by piece; an exception in between leaves the old file.

    The mode becomes 0644: what reads reports (a browser, node_exporter) does not run as root.

    :raises PmuconfError: output-unwritable; nothing is left behind then.
    """
    temporary = ""
    try:
        with tempfile.NamedTemporaryFile(
            "w", dir=path.parent, prefix=f".{path.name}.", delete=False, encoding="utf-8", newline=""
        ) as file:
            temporary = file.name
            yield file  # type: ignore[misc]
            file.flush()
            # By the descriptor: in a folder of another's, its name may lead elsewhere by now.
            os.fchmod(file.fileno(), 0o644)
            os.fsync(file.fileno())
        os.replace(temporary, path)
        temporary = ""
    except OSError as error:
        raise PmuconfError(f"{path}: {error.strerror}", cause="output-unwritable") from None
    finally:
        if temporary:
            Path(temporary).unlink(missing_ok=True)


def trusted(descriptor: int) -> bool:
    """Whether an open file could only have been written by root or us.

    Asked of the descriptor that is read, not of a name: in a folder of another's that may be another file by then.
    """
    status = os.fstat(descriptor)
    return status.st_uid in (0, os.geteuid()) and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
