"""The service with libvirt's modular daemon, which systemd starts by its sockets."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.system.conftest import Built
from tests.system.machine import Machine
from tests.system.test_packages import DOMAIN
from tests.system.test_service import AT, ENFORCE

CACHE: Final = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
FILES: Final = Path(os.environ.get("PMUCONF_ROOTS", CACHE / "pmuconf-roots")) / "virtqemud-trixie"
URI: Final = "qemu:///system?mode=direct"
# The daemon was built without polkit. Then the documents have the service in libvirt's group.
IN_GROUP: Final = "[Service]\nSupplementaryGroups=libvirt\n"
LEGACY: Final = (".socket", "-ro.socket", "-admin.socket")
SOCKETS: Final = {"virtqemud.socket": "0660", "virtqemud-ro.socket": "0666"}


@pytest.fixture
def host(built: Built, layer_with_pmuconf: Path, tmp_path: Path) -> Iterator[Machine]:
    """A Debian 13 in which virtqemud takes the place of libvirtd."""
    if built.suite != "trixie":
        pytest.skip("virtqemud is built for Debian 13")
    if not FILES.exists():
        pytest.skip("needs virtqemud under systemd: make test-system-virtqemud sets it up")
    machine = Machine(tmp_path, [layer_with_pmuconf, built.layer, built.root])
    shutil.copytree(FILES, machine.root, dirs_exist_ok=True)
    machine.prepare(
        "sh", "-c", "systemctl mask libvirtd.service libvirtd.socket libvirtd-ro.socket libvirtd-admin.socket"
    )
    for socket, mode in SOCKETS.items():
        folder = machine.root / f"etc/systemd/system/{socket}.d"
        folder.mkdir(parents=True)
        (folder / "test.conf").write_text(f"[Socket]\nSocketGroup=libvirt\nSocketMode={mode}\n")
    machine.prepare("systemctl", "enable", *SOCKETS)
    with machine:
        yield machine


def test_the_service_enforces_keeps_it_running_and_follows_its_restart(host: Machine) -> None:
    assert host.run("systemctl is-active virtqemud.socket virtqemud.service", check=False) == "active\ninactive"
    host.run("mkdir -p /etc/systemd/system/pmuconf.service.d")
    host.write("/etc/systemd/system/pmuconf.service.d/group.conf", IN_GROUP)
    host.write("/etc/pmuconf/pmuconf.conf.d/test.conf", f"[libvirt]\nuri = {URI}\n[service]\n{ENFORCE}")
    host.run("systemctl daemon-reload; systemctl start pmuconf")
    host.until(f"curl -fsS {AT}/metrics | grep -q '^pmuconf_service_passes_total [1-9]'", 60)
    assert host.run("systemctl is-active virtqemud.service") == "active", "its socket has started it"
    assert host.run("pidof libvirtd", check=False) == ""

    host.write("/root/web1.xml", DOMAIN)
    host.run(f"virsh -c '{URI}' define /root/web1.xml")
    off = f"virsh -c '{URI}' dumpxml --inactive web1 | grep -q \"<pmu state='off'/>\""
    host.until(off, 60)

    process = host.run("systemctl show -P MainPID pmuconf")
    host.run("systemctl restart virtqemud.service")
    host.until(f"curl -fsS {AT}/metrics | grep -q '^pmuconf_service_connections_total [2-9]'", 60)
    host.run(f"virsh -c '{URI}' undefine web1; virsh -c '{URI}' define /root/web1.xml")
    host.until(off, 60)
    assert host.run("systemctl show -P MainPID pmuconf") == process
