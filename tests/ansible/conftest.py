"""Ansible's environments are set up by ``make test-ansible``; without, nothing here runs."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from tests.ansible.fleet import Fleet

BINS = [Path(path) for path in os.environ.get("PMUCONF_TEST_ANSIBLE", "").split(":") if path]

MakeFleet = Callable[[Sequence[str]], Fleet]


@pytest.fixture(scope="session", autouse=True)
def _there() -> None:
    if os.geteuid() != 0:
        pytest.skip("libvirt's embedded driver takes root")
    if not BINS:
        pytest.skip("PMUCONF_TEST_ANSIBLE names no ansible-core: make test-ansible sets that up")


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder with a short name."""
    folder = Path(tempfile.mkdtemp(prefix="pmua-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(params=BINS, ids=lambda path: path.parent.name)
def bin(request: pytest.FixtureRequest) -> Path:
    """Each ansible-core."""
    found: Path = request.param
    return found


@pytest.fixture
def make(short: Path, bin: Path) -> Iterator[MakeFleet]:
    """Makes a fleet of hosts so named."""
    made: list[Fleet] = []

    def make(names: Sequence[str]) -> Fleet:
        made.append(Fleet(short, names, bin=bin))
        return made[-1]

    yield make
    for fleet in made:
        fleet.close()
