"""Which manager wrote a domain, and what it says there, in the form that its own source writes."""

from __future__ import annotations

import pytest

from pmuconf.domain.definition import UNKNOWN, Managed, Manager
from pmuconf.domain.reading import read
from pmuconf.policy import Subject
from tests.support.domains import nova_domain, plain_domain

ONE = "http://opennebula.org/xmlns/libvirt/1.0"
OVIRT = "http://ovirt.org/vm/1.0"
CLOUD = "http://cloudstack.apache.org/instance"
SMBIOS = (
    "<sysinfo type='smbios'><system><entry name='manufacturer'>Apache Software Foundation</entry>"
    "<entry name='product'>CloudStack KVM Hypervisor</entry></system></sysinfo>"
)


def domain(metadata: str, name: str = "web", more: str = "") -> str:
    inside = f"<metadata>{metadata}</metadata>" if metadata else ""
    return f"<domain type='kvm'><name>{name}</name><os><type arch='x86_64'>hvm</type></os>{inside}{more}</domain>"


def cloud(inside: str) -> str:
    return f'<cloudstack:metadata xmlns:cloudstack="{CLOUD}">{inside}</cloudstack:metadata>'


@pytest.mark.parametrize(
    ("xml", "managed"),
    [
        (
            domain('<kubevirt xmlns="http://kubevirt.io"><uid>u</uid></kubevirt>', "shop_web_1"),
            Managed(Manager.KUBEVIRT, UNKNOWN, "shop", UNKNOWN),
        ),
        (
            domain('<k:kubevirt xmlns:k="http://kubevirt.io"/>', "renamed"),
            Managed(Manager.KUBEVIRT, UNKNOWN, UNKNOWN, UNKNOWN),
        ),
        (
            domain(
                '<ovirt-tune:qos xmlns:ovirt-tune="http://ovirt.org/vm/tune/1.0"/>'
                f'<ovirt-vm:vm xmlns:ovirt-vm="{OVIRT}"><ovirt-vm:clusterVersion>4.7</ovirt-vm:clusterVersion>'
                "<ovirt-vm:custom><ovirt-vm:team>lab</ovirt-vm:team><ovirt-vm:perf/></ovirt-vm:custom>"
                "<ovirt-vm:device><ovirt-vm:custom><ovirt-vm:nic>x</ovirt-vm:nic></ovirt-vm:custom></ovirt-vm:device>"
                "</ovirt-vm:vm>"
            ),
            Managed(Manager.OVIRT, attributes={"team": "lab", "perf": ""}),
        ),
        (
            domain(f'<ovirt-vm:vm xmlns:ovirt-vm="{OVIRT}"><ovirt-vm:custom/></ovirt-vm:vm>'),
            Managed(Manager.OVIRT, attributes={}),
        ),
        (domain(f'<ovirt-vm:vm xmlns:ovirt-vm="{OVIRT}"/>'), Managed(Manager.OVIRT, attributes=UNKNOWN)),
        (
            domain(
                cloud(
                    '<cloudstack:zone uuid="z">zone1</cloudstack:zone>'
                    "<cloudstack:serviceOffering>perf.large</cloudstack:serviceOffering>"
                    '<cloudstack:owner><cloudstack:project uuid="p-1">lab</cloudstack:project></cloudstack:owner>'
                )
            ),
            Managed(Manager.CLOUDSTACK, "perf.large", "p-1", UNKNOWN),
        ),
        (
            domain(
                cloud(
                    "<cloudstack:service_offering><cloudstack:name>perf.large</cloudstack:name></cloudstack:service_offering>"
                )
            ),
            Managed(Manager.CLOUDSTACK, "perf.large", UNKNOWN, UNKNOWN),
        ),
        (
            domain(
                cloud(
                    "<cloudstack:serviceOffering>unknown</cloudstack:serviceOffering><cloudstack:owner>"
                    '<cloudstack:project uuid="unknown">unknown</cloudstack:project></cloudstack:owner>'
                )
            ),
            Managed(Manager.CLOUDSTACK, UNKNOWN, UNKNOWN, UNKNOWN),
        ),
        (domain(cloud('<cloudstack:zone uuid="z"/>')), Managed(Manager.CLOUDSTACK, UNKNOWN, UNKNOWN, UNKNOWN)),
        (domain("", more=SMBIOS), Managed(Manager.CLOUDSTACK, UNKNOWN, UNKNOWN, UNKNOWN)),
        (
            domain(f'<one:vm xmlns:one="{ONE}"><one:gname><![CDATA[users]]></one:gname></one:vm>', "one-7"),
            Managed(Manager.OPENNEBULA, None, "users", UNKNOWN),
        ),
        (domain(f'<one:vm xmlns:one="{ONE}"/>'), Managed(Manager.OPENNEBULA, None, UNKNOWN, UNKNOWN)),
    ],
)
def test_each_manager_is_known_by_what_it_writes(xml: str, managed: Managed) -> None:
    definition = read(xml)
    assert definition.managed == managed
    assert definition.manager is managed.manager
    assert definition.flavor == (None if managed.flavor is UNKNOWN else managed.flavor)
    assert definition.project == (None if managed.project is UNKNOWN else managed.project)


@pytest.mark.parametrize(
    "metadata",
    [
        "",
        "<kubevirt/>",
        f'<x:vms xmlns:x="{OVIRT}"/>',
        f'<x:host xmlns:x="{ONE}"/>',
        '<kubevirt xmlns="http://kubevirt.io.example.org"/>',
        "<!-- a remark --><?one two?>",
        '<other><kubevirt xmlns="http://kubevirt.io"/></other>',
    ],
)
def test_anything_else_is_a_plain_libvirt_domain(metadata: str) -> None:
    definition = read(domain(metadata, more="<sysinfo type='smbios'><bios/></sysinfo>"))
    assert (definition.managed, definition.manager) == (None, Manager.LIBVIRT)
    assert Subject.of_domain(definition).hidden == ""


def test_nova_stays_nova_whatever_stands_beside_it() -> None:
    definition = read(
        nova_domain("instance-1").replace("</metadata>", '<kubevirt xmlns="http://kubevirt.io"/></metadata>')
    )
    assert (definition.manager, definition.managed, definition.flavor) == (Manager.NOVA, None, "m1.small")
    assert definition.project == definition.nova.project_id  # type: ignore[union-attr]
    assert read(plain_domain("web")).manager is Manager.LIBVIRT


def test_every_manager_has_a_name_of_its_own() -> None:
    assert len({manager.title for manager in Manager}) == len(Manager)
