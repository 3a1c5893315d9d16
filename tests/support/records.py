"""The recorded hosts of tests/records: real kernels that the lab has booted, each in a small archive."""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import Final

__all__ = ["RECORDS", "unpack"]

RECORDS: Final = Path(__file__).parents[1] / "records"


def unpack(name: str, folder: Path) -> Path:
    """Unpack the record of that name into ``folder``/NAME: a directory for 'pmuconf host --root'."""
    target = folder / name
    with tarfile.open(RECORDS / f"{name}.tar.xz") as archive:
        if hasattr(tarfile, "fully_trusted_filter"):
            # The links of a recorded /proc lead to places of the recorded host.
            archive.extractall(target, filter="fully_trusted")
        else:
            archive.extractall(target)
    return target
