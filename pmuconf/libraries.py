"""The libraries that only some commands need: what is said where one is not installed, and how it is installed here."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pmuconf.errors import PmuconfError

__all__ = ["missing", "needed"]


@dataclass(frozen=True)
class Library:
    """A library by the name of its project on PyPI, and of its package in Debian (Fedora's differ in few letters)."""

    project: str
    package: str


_LIBRARIES: Final[Mapping[str, Library]] = {
    "capstone": Library("capstone", "python3-capstone"),
    "cliff": Library("cliff", "python3-cliff"),
    "elftools": Library("pyelftools", "python3-pyelftools"),
    "jinja2": Library("Jinja2", "python3-jinja2"),
    "libvirt": Library("libvirt-python", "python3-libvirt"),
    "openstack": Library("openstacksdk", "python3-openstacksdk"),
    "prometheus_client": Library("prometheus-client", "python3-prometheus-client"),
    "tqdm": Library("tqdm", "python3-tqdm"),
    "zstandard": Library("zstandard", "python3-zstandard"),
}
"""By the name under which Python imports them."""


def missing(error: ImportError, cause: str = "module-missing", *, besides: str = "") -> PmuconfError:
    """The error for a library that can't be imported.

    :param besides: what can be done without the library.
    """
    module = (error.name or "").partition(".")[0]
    library = _LIBRARIES.get(module)
    if library is None or not isinstance(error, ModuleNotFoundError):
        return PmuconfError(f"a Python module can't be loaded: {error}", cause=cause, hint=besides)
    hint = f"Install it: {_command(library)}"
    return PmuconfError(
        f"the Python module {module} is not installed", cause=cause, hint=f"{hint}. {besides}" if besides else hint
    )


@contextmanager
def needed(cause: str = "module-missing", *, besides: str = "") -> Iterator[None]:
    """A block that imports a library.

    :raises PmuconfError: the library is not installed, or can't be loaded.
    """
    try:
        yield
    except ImportError as error:
        raise missing(error, cause, besides=besides) from None


def _command(library: Library) -> str:
    """The command that installs a library for this Python: that of a virtual environment, or of the host."""
    if sys.prefix != sys.base_prefix:
        return f"{sys.prefix}/bin/pip install {library.project}"
    manager = "dnf" if Path("/etc/redhat-release").exists() else "apt"
    return f"{manager} install {library.package}"
