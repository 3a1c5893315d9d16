"""The lab, brought up once for all tests, and this process in its network."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.openstack import lab
from tests.openstack.cloud import Cloud

_NEW_NETWORK = 0x40000000
_ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """pmuconf and the plugin, built from copies of the tree."""
    folder = tmp_path_factory.mktemp("wheels")
    made = folder / "wheels"
    for name, parts in {
        "pmuconf": ("pmuconf", "setup.cfg", "pyproject.toml", "README.md"),
        "hooks": ("nova_hooks",),
    }.items():
        (folder / name).mkdir()
        for part in parts:
            subprocess.run(["cp", "-r", _ROOT / part, folder / name], check=True)
    for source in (folder / "pmuconf", folder / "hooks/nova_hooks"):
        subprocess.run(
            [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", made, source],
            check=True,
            stdin=subprocess.DEVNULL,
        )
    return [str(path) for path in sorted(made.glob("*.whl"))]


@pytest.fixture(scope="session")
def cloud(wheels: list[str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    """The cloud, with Nova as Debian has it."""
    lab.up()
    pid = (lab.LAB / "pid").read_text()
    network = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)
    # Of the whole process: nothing here talks to any other network from now on.
    if ctypes.CDLL(None, use_errno=True).setns(network, _NEW_NETWORK) != 0:
        raise OSError(ctypes.get_errno(), "setns")
    os.close(network)
    yield Cloud(tmp_path_factory.mktemp("cloud"), wheels)
    if "PMUCONF_KEEP_LAB" not in os.environ:
        lab.down()
