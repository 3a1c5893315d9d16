"""Files that are replaced whole: all at once, or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from pmuconf.errors import PmuconfError

__all__ = ["replace_file"]


def replace_file(path: Path, text: str) -> None:
    """Put the text, as UTF-8, in the file's place at once: a reader sees the old one or the new one.

    Its mode becomes 0644: what reads reports (a browser, node_exporter) does not run as root.

    :raises PmuconfError: output-unwritable; nothing is left behind then.
    """
    temporary = ""
    try:
        with tempfile.NamedTemporaryFile(
            "w", dir=path.parent, prefix=f".{path.name}.", delete=False, encoding="utf-8", newline=""
        ) as file:
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
