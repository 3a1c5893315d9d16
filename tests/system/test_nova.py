"""The package of the plugin beside Debian's own Nova: found, kept over an upgrade of Nova, and missed when it goes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.system.conftest import Built
from tests.system.machine import Machine

NOVA_CONF: Final = "/etc/nova/nova-compute.conf"
IMPORTED: Final = "import nova.virt.pmuconf as plugin; print(plugin.LibvirtDriver.__module__, plugin.__file__)"


@pytest.fixture
def host(built: Built, layer_with_nova: list[Path], tmp_path: Path) -> Iterator[Machine]:
    """A host with Nova and the plugin, which is not booted."""
    machine = Machine(tmp_path, layer_with_nova)
    machine.prepare("sh", "-euc", f"apt-get -qq install -y --no-install-recommends {built.newer}/*.deb")
    yield machine
    machine.close()


def test_the_plugin_lives_with_debian_s_nova(host: Machine) -> None:
    place = "/usr/lib/python3/dist-packages/nova/virt/pmuconf/__init__.py"
    assert host.prepare("python3", "-W", "ignore", "-c", IMPORTED) == f"pmuconf_nova.driver {place}\n"

    host.prepare("apt-get", "-qq", "install", "-y", "--reinstall", "python3-nova")  # as an upgrade unpacks it again
    assert host.prepare("python3", "-W", "ignore", "-c", IMPORTED) == f"pmuconf_nova.driver {place}\n"

    host.prepare("sh", "-c", f"mkdir -p /etc/nova && echo '[DEFAULT]' >{NOVA_CONF}")
    host.prepare("sh", "-c", f"echo 'compute_driver = pmuconf.LibvirtDriver' >>{NOVA_CONF}")
    warned = host.prepare("sh", "-c", "apt-get -qq remove -y pmuconf-nova 2>&1")
    assert f"WARNING: Nova's configuration names the driver that is being removed:\n    {NOVA_CONF}\n" in warned

    host.prepare("sh", "-c", "apt-get -qq install -y /srv/newer/pmuconf-nova_*.deb")
    host.prepare("sed", "-i", "s/pmuconf.LibvirtDriver/libvirt.LibvirtDriver/", NOVA_CONF)
    assert "WARNING: Nova" not in host.prepare("sh", "-c", "apt-get -qq remove -y pmuconf-nova 2>&1")
