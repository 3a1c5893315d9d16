"""What the operating system refused, as a sentence: where a call has no error of its own."""

from __future__ import annotations

import errno
import os
from typing import Final

from pmuconf.errors import PmuconfError

__all__ = ["refusal"]

_OUTPUT: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EBADF, errno.EFBIG})


def refusal(error: OSError) -> PmuconfError:
    """The error that a person is shown for an OSError, whose own text begins with a bare number."""
    reason = error.strerror or str(error)
    hint = "Run it as root" if error.errno in (errno.EACCES, errno.EPERM) and os.geteuid() else ""
    if error.filename is not None:
        return PmuconfError(f"{os.fsdecode(error.filename)}: {reason}", cause="system-error", hint=hint)
    if error.errno in _OUTPUT:
        return PmuconfError(f"the output can't be written: {reason}", cause="output-unwritable")
    return PmuconfError(f"the operating system refuses something: {reason}", cause="system-error", hint=hint)
