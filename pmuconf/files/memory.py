"""A limit of memory for what reads files: the kernel refuses more, and Python raises MemoryError."""

from __future__ import annotations

import re
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["limited"]


@contextmanager
def limited(more: int) -> Iterator[None]:
    """Within, this process gets no more than so many bytes beyond what it has now. Without /proc there is no limit.

    RLIMIT_DATA and not RLIMIT_AS: files that are mapped and address space that is only reserved cost nothing.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    now = re.search(r"^VmData:\s*(\d+) kB$", _status(), re.MULTILINE)
    if now is None:
        yield
        return
    limit = (int(now[1]) << 10) + more
    resource.setrlimit(resource.RLIMIT_DATA, (limit if soft == resource.RLIM_INFINITY else min(soft, limit), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def _status() -> str:
    try:
        return Path("/proc/self/status").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
