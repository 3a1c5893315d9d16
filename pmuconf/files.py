"""Files that are replaced whole."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from pmuconf.errors import PmuconfError

__all__ = ["replace_file"]


def replace_file(path: Path, text: str) -> None:
    """Put the text in the file's place at once, for all to read: a reader sees the old one or the new one.

    :raises PmuconfError: it can't be written; cause output-unwritable. What was there before is there still.
    """
    temporary = ""
    try:
        with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            temporary = file.name
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError as error:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
        raise PmuconfError(f"{path}: {error.strerror}", cause="output-unwritable") from None
