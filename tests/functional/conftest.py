"""Every test here has a libvirt daemon to itself; QEMU is asked only once a session what it can do."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from pmuconf.hypervisor import events
from tests.functional.host import Host
from tests.support.daemon import Daemon, available_daemons


@pytest.fixture(scope="session", autouse=True)
def _privileged() -> None:
    if os.geteuid() != 0:
        pytest.skip("a libvirt daemon in a mount namespace of its own takes root")


@pytest.fixture(scope="session", autouse=True)
def _events(_privileged: None) -> None:
    """A process has one event loop of libvirt's, started before the first connection: pmuconf's."""
    events.start()


@pytest.fixture(scope="session", autouse=True)
def _end_in_order(request: pytest.FixtureRequest) -> Iterator[None]:
    """Asked to end (SIGTERM), end behind the test that runs: its daemon and guests would outlive us otherwise."""

    def end(*_: object) -> None:
        request.session.shouldstop = "terminated"

    before = signal.signal(signal.SIGTERM, end)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture(scope="session")
def capabilities(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What QEMU can do, as libvirt found out: shared by all daemons of the session."""
    return tmp_path_factory.mktemp("capabilities")


@pytest.fixture(params=available_daemons())
def daemon(request: pytest.FixtureRequest, capabilities: Path) -> Iterator[Daemon]:
    """A daemon of each kind that is installed."""
    with Daemon(request.param, cache=capabilities) as started:
        yield started


@pytest.fixture
def host(daemon: Daemon, tmp_path: Path) -> Iterator[Host]:
    """A host with no domains."""
    made = Host(daemon, tmp_path)
    yield made
    made.close()
