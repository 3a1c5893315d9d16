"""The files that pmuconf keeps on a host between two runs: JSON that only root or this user could have written."""

from __future__ import annotations

from typing import Final

from pmuconf.errors import PmuconfError
from pmuconf.files.inputs import read_descriptor
from pmuconf.files.replacing import trusted
from pmuconf.host.root import Root
from pmuconf.typed import JsonObject, TypedError, parse_object

__all__ = ["kept"]

_MAX: Final = 1 << 20


def kept(root: Root, name: str) -> JsonObject | None:
    """The JSON object in the file ``name`` of the host below ``root``.

    None if there is no such file, if it holds something else, or if another user than root and this one could have
    written it.
    """
    try:
        with root.open(name) as file:
            if not trusted(file.fileno()):
                return None
            return parse_object(read_descriptor(file.fileno(), _MAX, name))
    except (OSError, PmuconfError, TypedError):
        return None
