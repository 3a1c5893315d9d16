"""The hosts: two of Debian 12 and one of Debian 13, with SSH, libvirt and QEMU, and without pmuconf."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from tests.hosts.lan import Lan
from tests.system.machine import TOOLS, Machine, root, why_none

_NAMED: Final = os.environ.get("PMUCONF_TEST_ANSIBLE", "").split(":")
BINS: Final = {Path(path).parent.name: Path(path) for path in _NAMED if path}
"""The programs of each ansible-core."""
SUITES: Final[Mapping[str, str]] = {"h1": "bookworm", "h2": "bookworm", "h3": "trixie"}
"""The Debian of each host."""


@dataclass(frozen=True)
class Debian:
    """What hosts of one Debian stand on.

    :param package: pmuconf for it, on this machine.
    :param layers: with SSH, and in apt's cache all that the package depends on; the upper one first.
    """

    package: Path
    layers: Sequence[Path]


@pytest.fixture(scope="session")
def debian_of(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Debian]:
    if why := why_none(tmp_path_factory.mktemp("bootable")):
        pytest.skip(why)
    if not BINS:
        pytest.skip("PMUCONF_TEST_ANSIBLE names no ansible-core: make test-hosts sets that up")
    return {suite: _debian(suite, tmp_path_factory.mktemp(suite)) for suite in sorted(set(SUITES.values()))}


def _debian(suite: str, folder: Path) -> Debian:
    machine = Machine(folder / "layer", [root("host", suite)])
    subprocess.run([TOOLS / "deb", suite, folder / "packages"], check=True, stdout=subprocess.DEVNULL)
    (package,) = (folder / "packages").glob("pmuconf_*.deb")
    (machine.root / "srv/pmuconf.deb").write_bytes(package.read_bytes())
    # What is lost if the machine loses its power is of no matter here: dpkg need not wait for the disk.
    (machine.root / "etc/dpkg/dpkg.cfg.d/unsafe-io").write_text("force-unsafe-io\n")
    machine.prepare(
        "sh",
        "-euc",
        # Ansible needs the first three; of the last, only what it depends on is fetched.
        "apt-get -qq update; apt-get -qq install -y --no-install-recommends openssh-server python3 python3-apt; "
        "apt-get -qq install -y --no-install-recommends --download-only /srv/pmuconf.deb; rm /srv/pmuconf.deb",
    )
    machine.close()
    return Debian(package, [machine.upper, root("host", suite)])


@pytest.fixture(scope="session")
def lan(debian_of: Mapping[str, Debian], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lan]:
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a run that is ended leaves nothing either
    made = Lan(tmp_path_factory.mktemp("lan"))
    try:
        for host, suite in SUITES.items():
            made.join(host, debian_of[suite].layers)
        yield made
    finally:
        made.close()
