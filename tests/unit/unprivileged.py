"""What somebody without root's rights meets; the tests themselves often run as root, whom nothing stops."""

from __future__ import annotations

import os
import pickle
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["as_nobody", "open_folder"]

_NOBODY = 65534


@contextmanager
def open_folder() -> Iterator[Path]:
    """A folder that anybody may enter and write to, unlike pytest's own; gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="pmuconf-test-"))
    try:
        folder.chmod(0o777)
        yield folder
    finally:
        shutil.rmtree(folder)


def as_nobody(do: Callable[[], object]) -> object:
    """What a call returns, or the exception that it raises, in a process without root's rights."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        result: object = None
        try:
            os.close(reading)
            if os.geteuid() == 0:
                os.setgroups([])
                os.setgid(_NOBODY)
                os.setuid(_NOBODY)
            try:
                result = do()
            except BaseException as error:
                result = error
            with os.fdopen(writing, "wb") as pipe:
                pipe.write(pickle.dumps(_plain(result)))
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        data = pipe.read()
    os.waitpid(child, 0)
    return _restored(pickle.loads(data))


# A PmuconfError has arguments that pickle does not know of.
def _plain(result: object) -> object:
    from pmuconf.errors import PmuconfError

    if isinstance(result, PmuconfError):
        return ("refused", result.message, result.cause, result.hint)
    return ("returned", result)


def _restored(sent: object) -> object:
    from pmuconf.errors import PmuconfError

    assert isinstance(sent, tuple)
    if sent[0] == "refused":
        return PmuconfError(sent[1], cause=sent[2], hint=sent[3])
    return sent[1]
