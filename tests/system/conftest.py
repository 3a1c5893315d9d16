"""Packages, built once for each Debian, and machines of that Debian."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.system.machine import TOOLS, Machine, root


@dataclass(frozen=True)
class Built:
    """A Debian with the packages for it: folders on this machine.

    :param older: the same packages of a version before, with another conffile.
    :param layer: has the packages below /srv, and in apt's cache all that they depend on.
    """

    suite: str
    root: Path
    newer: str
    older: str
    layer: Path


@pytest.fixture(scope="session", params=["bookworm", "trixie"])
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Built:
    suite: str = request.param
    folder = tmp_path_factory.mktemp(suite)
    machine = Machine(folder / "layer", [root("host", suite)])
    for name, version in (("newer", []), ("older", ["0.0.9"])):
        subprocess.run([TOOLS / "deb", suite, machine.root / "srv" / name, *version], check=True)
    machine.prepare(
        "sh",
        "-euc",
        "apt-get -qq update && apt-get -qq install -y --download-only /srv/newer/pmuconf_*.deb",
    )
    machine.close()
    return Built(suite, root("host", suite), "/srv/newer", "/srv/older", machine.upper)


@pytest.fixture(scope="session")
def layer_with_pmuconf(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A layer that has the package installed."""
    machine = Machine(tmp_path_factory.mktemp(f"{built.suite}-installed") / "layer", [built.layer, built.root])
    machine.prepare("sh", "-euc", f"apt-get -qq install -y {built.newer}/pmuconf_*.deb")
    machine.close()
    return machine.upper


@pytest.fixture
def installed(built: Built, layer_with_pmuconf: Path, tmp_path: Path) -> Iterator[Machine]:
    """A booted machine with libvirt and pmuconf."""
    with Machine(tmp_path, [layer_with_pmuconf, built.layer, built.root]) as booted:
        yield booted


@pytest.fixture
def machine(built: Built, tmp_path: Path) -> Iterator[Machine]:
    """A booted machine, with libvirt and without pmuconf."""
    with Machine(tmp_path, [built.layer, built.root]) as booted:
        yield booted
