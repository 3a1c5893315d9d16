"""What is said if a daemon can't be reached fits the way that leads to it."""

from __future__ import annotations

from pathlib import Path

import pytest

from pmuconf.errors import PmuconfError
from pmuconf.hypervisor.errors import Transport, transport_of
from pmuconf.hypervisor.hypervisor import Hypervisor


@pytest.mark.parametrize(
    ("uri", "transport"),
    [
        ("qemu:///system", Transport.LOCAL),
        ("qemu:///session", Transport.LOCAL),
        ("qemu+unix:///system", Transport.LOCAL),
        ("qemu+unix:///system?socket=/run/x", Transport.SOCKET),
        ("qemu:///system?socket=/run/x", Transport.SOCKET),
        ("qemu+ssh://root@host/system", Transport.SSH),
        ("qemu+libssh2://host/system", Transport.SSH),
        ("qemu+tls://host/system", Transport.TLS),
        ("qemu://host/system", Transport.TLS),
        ("qemu+tcp://host:16509/system", Transport.TCP),
    ],
)
def test_the_way_that_libvirt_takes(uri: str, transport: Transport) -> None:
    assert transport_of(uri) is transport


@pytest.mark.parametrize(
    ("uri", "words", "wrong"),
    [
        ("qemu+tcp://127.0.0.1:1/system", "listen on that host and port", "systemctl"),
        ("qemu+ssh://127.0.0.1:1/system?no_tty=1", "Does 'ssh' to that host work", "systemctl"),
        ("qemu+tls://127.0.0.1:1/system?pkipath=/nonexistent", "virt-pki-validate", "systemctl"),
        ("qemu+unix:///system?socket={}/none", "Is that the socket of", "systemctl"),
    ],
)
def test_the_hint_is_about_that_way(tmp_path: Path, uri: str, words: str, wrong: str) -> None:
    with pytest.raises(PmuconfError) as caught, Hypervisor.open(uri.format(tmp_path), read_only=True, parallel=1):
        pass
    assert caught.value.cause == "libvirt-unreachable"
    assert words in caught.value.hint
    assert wrong not in caught.value.hint
