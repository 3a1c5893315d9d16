"""Every operation on a server, with the plugin installed as an operator would on Debian: the PMU that it leaves."""

from __future__ import annotations

import json

import pytest

from tests.openstack import lab
from tests.openstack.cloud import Cloud
from tests.openstack.table import RESULTS

# What the flavor is, and the PMU state that docs/nova.md promises for it; the columns of the table.
SETTINGS = {
    "std.plain": "off",
    "std.on": "on",
    "std.off": "off",
    "perf.plain": "on",
    "tenant.plain": "default",
}
RESIZED = "std.large"


@pytest.fixture(scope="module")
def flavors(cloud: Cloud) -> None:
    cloud.configure("libvirt.LibvirtDriver")  # which a lab that was kept may not have
    for name in (*SETTINGS, RESIZED):
        text = {"std.on": "true", "std.off": "false"}.get(name)
        cloud.flavor(name, {"hw:pmu": text} if text else None)


@pytest.fixture(scope="module")
def plugin(cloud: Cloud, flavors: None) -> Cloud:
    cloud.install()
    cloud.configure("pmuconf.LibvirtDriver")
    return cloud


def test_stock_nova_leaves_it_to_the_hypervisor(cloud: Cloud, flavors: None) -> None:
    server = cloud.build("std.plain")
    cloud.wait([server], "ACTIVE")
    assert cloud.pmu(server) == "default"
    cloud.delete([server])


def test_operations_by_settings(plugin: Cloud) -> None:
    cloud = plugin
    rescue = cloud.make_image("rescue")
    servers = {name: cloud.build(name) for name in SETTINGS}
    table: dict[str, dict[str, str]] = {}

    def after(operation: str, status: str = "ACTIVE", expected: dict[str, str] | None = None) -> None:
        cloud.wait(list(servers.values()), status)
        table[operation] = {name: cloud.pmu(server) for name, server in servers.items()}
        print(operation, table[operation], flush=True)
        assert table[operation] == (expected or SETTINGS), operation

    def each(action: str, **values: object) -> None:
        for server in servers.values():
            cloud.act(server, action, **values)

    after("create")
    assert {name: cloud.process_has_pmu_off(server) for name, server in servers.items()} == {
        name: state == "off" for name, state in SETTINGS.items()
    }
    each("reboot", type="SOFT")
    after("soft reboot")
    each("reboot", type="HARD")
    after("hard reboot")
    each("os-stop")
    cloud.wait(list(servers.values()), "SHUTOFF")
    each("os-start")
    after("stop, start")
    each("suspend")
    cloud.wait(list(servers.values()), "SUSPENDED")
    each("resume")
    after("suspend, resume")
    each("rescue", rescue_image_ref=rescue)
    after("rescue", "RESCUE")
    each("unrescue")
    after("unrescue")
    each("rebuild", imageRef=cloud.image)
    after("rebuild")
    each("shelve")
    cloud.wait(list(servers.values()), "SHELVED_OFFLOADED")
    each("unshelve")
    after("shelve, unshelve")
    each("resize", flavorRef=RESIZED)
    after("resize", "VERIFY_RESIZE", dict.fromkeys(SETTINGS, "off"))
    each("revertResize")
    after("revert")
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(table, indent=1))
    cloud.delete(list(servers.values()))


def test_what_servers_from_before_get(cloud: Cloud, flavors: None) -> None:
    """Soft reboot, suspend and resume keep what they had; the next hard reboot gives them the policy's."""
    cloud.configure("libvirt.LibvirtDriver")
    server = cloud.build("std.plain")
    cloud.wait([server], "ACTIVE")
    cloud.configure("pmuconf.LibvirtDriver")
    assert cloud.pmu(server) == "default"
    for action, values in (("reboot", {"type": "SOFT"}),):
        cloud.act(server, action, **values)
        cloud.wait([server], "ACTIVE")
        assert cloud.pmu(server) == "default"
    cloud.act(server, "reboot", type="HARD")
    cloud.wait([server], "ACTIVE")
    assert cloud.pmu(server) == "off"
    cloud.delete([server])


def test_a_recorded_decision_holds_without_the_plugin_and_gives_way_to_a_resize(plugin: Cloud) -> None:
    cloud = plugin
    cloud.configure("pmuconf.LibvirtDriver", record_decision="flavor")
    server = cloud.build("std.plain")
    cloud.wait([server], "ACTIVE")
    cloud.configure("libvirt.LibvirtDriver")
    cloud.act(server, "reboot", type="HARD")
    cloud.wait([server], "ACTIVE")
    assert cloud.pmu(server) == "off"
    cloud.act(server, "resize", flavorRef="std.on")
    cloud.wait([server], "VERIFY_RESIZE")
    assert cloud.pmu(server) == "on"
    cloud.act(server, "confirmResize")
    cloud.wait([server], "ACTIVE")
    cloud.delete([server])


def test_the_check_says_what_is_missing_and_what_would_be_written(plugin: Cloud) -> None:
    command = ("-m", "pmuconf_nova.check", "--json")
    plugin.configure("libvirt.LibvirtDriver")
    with pytest.raises(Exception, match="exit status 2"):
        lab.call("/usr/bin/python3", *command)
    plugin.configure("pmuconf.LibvirtDriver")
    checks = json.loads(lab.call("/usr/bin/python3", "-W", "ignore", *command).splitlines()[-1])["checks"]
    assert [check["result"] for check in checks] == [0] * 5
    assert '<pmu state="off"/></features>' in checks[-1]["details"]


def test_uninstalled_nova_is_as_it_was(plugin: Cloud) -> None:
    cloud = plugin
    cloud.configure("libvirt.LibvirtDriver")
    cloud.uninstall()
    assert lab.call("find", lab.SITE, "-name", "*pmuconf*") == ""
    # Two empty folders, which Debian's pip does not take along.
    assert lab.call("find", lab.SITE, "-path", "*/nova*", "!", "-type", "d") == ""
    assert lab.call("dpkg", "--verify", "python3-nova") == ""
    with pytest.raises(Exception, match="exit status 1"):
        lab.call("/usr/bin/python3", "-c", "import nova.virt.pmuconf")
    server = cloud.build("std.plain")
    cloud.wait([server], "ACTIVE")
    assert cloud.pmu(server) == "default"
    cloud.delete([server])
