"""Packages, built once for each Debian, and machines of that Debian. make test-system runs both side by side."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.system.machine import TOOLS, Machine, root, why_none

SUITES = ("bookworm", "trixie")


@dataclass(frozen=True)
class Built:
    """A Debian with the packages for it: folders on this machine.

    :param older: the package of a version before, with another conffile.
    :param layer: has the packages below /srv, and in apt's cache all that they depend on.
    """

    suite: str
    root: Path
    newer: str
    older: str
    layer: Path


@pytest.fixture(scope="session")
def bootable(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Skip where no machine can be booted, and say why."""
    if why := why_none(tmp_path_factory.mktemp("bootable")):
        pytest.skip(why)


@pytest.fixture(scope="session", params=SUITES)
def built(request: pytest.FixtureRequest, bootable: None, tmp_path_factory: pytest.TempPathFactory) -> Built:
    suite: str = request.param
    return build(suite, "host", tmp_path_factory.mktemp(suite))


def build(suite: str, kind: str, folder: Path, packages: Path | None = None) -> Built:
    """Build the packages for a Debian, or take those of this folder, and put them above a root of this kind."""
    machine = Machine(folder / "layer", [root(kind, suite)])
    newer, older = machine.root / "srv/newer", machine.root / "srv/older"
    if packages is None:
        subprocess.run([TOOLS / "deb", suite, newer], check=True)
    else:
        shutil.copytree(packages, newer)
    _older(newer, older, folder / "older")
    # What is lost if the machine loses its power is of no matter here: dpkg need not wait for the disk.
    (machine.root / "etc/dpkg/dpkg.cfg.d/unsafe-io").write_text("force-unsafe-io\n")
    machine.prepare(
        "sh",
        "-euc",
        "apt-get -qq update && apt-get -qq install -y --download-only /srv/newer/pmuconf_*.deb",
    )
    machine.close()
    return Built(suite, root(kind, suite), "/srv/newer", "/srv/older", machine.upper)


def _older(newer: Path, older: Path, work: Path) -> None:
    """The same package as of a version before, with another conffile."""
    (package,) = newer.glob("pmuconf_*.deb")
    subprocess.run(["dpkg-deb", "--raw-extract", package, work], check=True)
    control = work / "DEBIAN/control"
    lines = control.read_text().splitlines()
    control.write_text("".join("Version: 0.0.9\n" if line.startswith("Version:") else f"{line}\n" for line in lines))
    with (work / "etc/pmuconf/pmuconf.conf").open("a") as conffile:
        conffile.write("# Of version 0.0.9.\n")
    older.mkdir()
    subprocess.run(["dpkg-deb", "--root-owner-group", "--build", work, older / "pmuconf_0.0.9_all.deb"], check=True)
    shutil.rmtree(work)


@pytest.fixture(scope="session")
def layer_with_pmuconf(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A layer that has the package installed."""
    machine = Machine(tmp_path_factory.mktemp(f"{built.suite}-installed") / "layer", [built.layer, built.root])
    machine.prepare("sh", "-euc", f"apt-get -qq install -y --no-install-recommends {built.newer}/pmuconf_*.deb")
    machine.close()
    return machine.upper


@pytest.fixture(scope="session")
def layer_with_nova(built: Built, layer_with_pmuconf: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Layers that have pmuconf and Debian's Nova, without the plugin; the upper one first."""
    below = [layer_with_pmuconf, built.layer, built.root]
    machine = Machine(tmp_path_factory.mktemp(f"{built.suite}-nova") / "layer", below)
    machine.prepare("sh", "-euc", "apt-get -qq install -y --no-install-recommends python3-nova")
    machine.close()
    return [machine.upper, *below]


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
