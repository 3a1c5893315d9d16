"""root at work in a folder of another user's: with that user's rights, so that no link of theirs gains anything.

Whatever is checked of a name may be otherwise a moment later, and SQLite opens its files by name, some of them late. So
nothing is checked: the kernel refuses root what it would refuse the folder's owner. By setfsuid(2), which counts for
one thread and takes the capabilities away that pass over permissions; who we are to libvirt stays.
"""

from __future__ import annotations

import errno
import os
import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from pmuconf.files.place import FileOwner

__all__ = ["acting_as"]

# glibc's setgroups() is about all threads, the system call about the one that makes it.
_SETGROUPS: Final = {"x86_64": 116, "aarch64": 159}
_PR_GET_SECUREBITS: Final = 27
_NO_SETUID_FIXUP: Final = 4  # capabilities(7): then they would stay


@contextmanager
def acting_as(owner: FileOwner | None) -> Iterator[None]:
    """Within it, this thread has the rights on files that this user and group have, and no other groups.

    None changes nothing, nor does a caller who is not root: the kernel holds them to their own rights already.

    :raises PermissionError: the kernel does not let us.
    """
    if owner is None or os.geteuid() != 0:
        yield
        return
    libc = _libc()
    group, groups = os.getegid(), os.getgroups()
    try:
        _become(libc, owner.uid, owner.gid, [])
        yield
    finally:
        _become(libc, 0, group, groups)


def _become(libc: Any, uid: int, gid: int, groups: Sequence[int]) -> None:
    _set_groups(libc, groups)
    for name, number in (("setfsgid", gid), ("setfsuid", uid)):
        call = getattr(libc, name)
        call(number)
        if call(-1) != number:  # -1 is nobody: the answer is who we are
            raise PermissionError(errno.EPERM, f"{name}({number}) is not allowed")


def _set_groups(libc: Any, groups: Sequence[int]) -> None:
    import ctypes

    if sorted(groups) == sorted(os.getgroups()):
        return
    number = _SETGROUPS.get(platform.machine())
    if number is None:
        raise PermissionError(errno.EPERM, f"groups can't be given up on {platform.machine()}")
    array = (ctypes.c_uint * len(groups))(*groups)
    if libc.syscall(ctypes.c_long(number), ctypes.c_size_t(len(groups)), array) != 0:
        code = ctypes.get_errno()
        raise PermissionError(code, f"setgroups: {os.strerror(code)}")


def _libc() -> Any:
    import ctypes  # late: only root in a folder of another's needs it

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_GET_SECUREBITS, 0, 0, 0, 0) & _NO_SETUID_FIXUP:
        raise PermissionError(errno.EPERM, "the securebits of this process keep root's rights")
    return libc
