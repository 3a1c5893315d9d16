"""Domain XML to test with: what Nova writes, and the smallest guest that starts.

Only text comes out of here, and the same arguments give the same text, so that a failing test can
be repeated and a benchmark defines the same domains each time. Names and metadata are escaped and
otherwise taken as they come: a tenant may put anything there, and tests try just that.
"""

from __future__ import annotations

import uuid as uuidlib
from collections.abc import Mapping
from xml.sax.saxutils import escape, quoteattr

__all__ = ["NOVA_NS", "domain_uuid", "nova_domain", "plain_domain"]

NOVA_NS = "http://openstack.org/xmlns/libvirt/nova/1.1"

_OLD_NOVA_NS = "http://openstack.org/xmlns/libvirt/nova/1.0"
_LAST_OLD = 22

# Since Nova 32.0.0 the metadata has the flavor's extra specs and the image's properties.
_FIRST_WITH_SPECS = 32

_NAMES = uuidlib.UUID("6f0e9b0a-3c55-5d8e-9f4c-5f6c1f0a7d11")

# 16 MiB is enough for the firmware to find nothing to boot and halt, and is quick to start.
_SMALL_KIB = 16 * 1024


def domain_uuid(name: str) -> str:
    """The UUID that a domain of this name gets when none is given."""
    return _id(name, "domain")


def plain_domain(
    name: str,
    *,
    pmu: str | None = None,
    arch: str = "x86_64",
    machine: str | None = None,
    virt_type: str = "qemu",
    features: bool = True,
    vnc_password: str | None = None,
    memory_kib: int = _SMALL_KIB,
    uuid: str | None = None,
) -> str:
    """Return the smallest domain that starts, in well under a second with software emulation.

    `pmu` is "on", "off" or None for no such element. With `features=False` there is no
    `<features>` element at all, so asking for a PMU state then is a contradiction: ValueError.
    Architectures other than x86_64 are meant to be defined, not started.
    """
    if pmu is not None and not features:
        raise ValueError("the pmu element lives in <features>: give features=True with it")
    x86 = arch in ("x86_64", "i686")
    lines = [
        f"<domain type={quoteattr(virt_type)}>",
        f"  <name>{escape(name)}</name>",
        f"  <uuid>{uuid or domain_uuid(name)}</uuid>",
        f"  <memory unit='KiB'>{memory_kib}</memory>",
        "  <vcpu>1</vcpu>",
        "  <os>",
        f"    <type{_attributes(arch=arch, machine=machine or _machine(arch))}>hvm</type>",
        "  </os>",
    ]
    if features:
        # On ARM, libvirt refuses ACPI without UEFI, whose firmware may not be installed.
        wanted = ["<acpi/>", "<apic/>"] if x86 else ["<gic version='2'/>"]
        lines += ["  <features>", *(f"    {feature}" for feature in wanted)]
        lines += [f"    {line}" for line in _pmu(pmu)]
        lines += ["  </features>"]
    lines += ["  <on_poweroff>destroy</on_poweroff>", "  <devices>"]
    if x86:
        lines += ["    <controller type='usb' model='none'/>"]
    if vnc_password is not None:
        # Listening on a UNIX socket: a test guest needs no port of the machine's.
        lines += [
            f"    <graphics type='vnc' passwd={quoteattr(vnc_password)}>",
            "      <listen type='socket'/>",
            "    </graphics>",
        ]
    lines += ["    <memballoon model='none'/>", "  </devices>", "</domain>"]
    return "\n".join(lines) + "\n"


def nova_domain(
    name: str,
    *,
    version: str = "26.2.2",
    flavor: str = "m1.small",
    extra_specs: Mapping[str, str] | None = None,
    image_properties: Mapping[str, object] | None = None,
    pmu: str | None = None,
    cpu_mode: str | None = "host-model",
    uuid: str | None = None,
    virt_type: str = "qemu",
    vnc_password: str | None = None,
    memory_kib: int = 2048 * 1024,
    vcpus: int = 1,
    disks: int = 3,
    nics: int = 2,
    display_name: str | None = None,
    project: str = "demo",
    instances: str = "/var/lib/nova/instances",
) -> str:
    """Return a domain as Nova's libvirt driver writes it for a q35 guest on Ceph.

    `name` is the domain's ("instance-0000002a"), `display_name` the one the tenant chose.
    `extra_specs` and `image_properties` show in the metadata from version 32 on, as they do in
    Nova; they do not set the PMU, `pmu` does: a test may want the two to disagree.

    libvirt accepts it without any storage or network of that name. With `disks=0, nics=0`, a small
    `memory_kib` and a directory `instances`/UUID that exists (for the console log), it starts too.
    With the defaults libvirt 9.0 gives back about 9.8 KB.
    """
    uuid = uuid or domain_uuid(name)
    metadata = _nova_metadata(
        name=display_name if display_name is not None else f"server-{name}",
        key=name,
        version=version,
        flavor=flavor,
        extra_specs=extra_specs or {},
        image_properties=image_properties or {},
        memory_mib=memory_kib // 1024,
        vcpus=vcpus,
        nics=nics,
        project=project,
    )
    lines = [
        f"<domain type={quoteattr(virt_type)}>",
        f"  <uuid>{uuid}</uuid>",
        f"  <name>{escape(name)}</name>",
        f"  <memory>{memory_kib}</memory>",
        f"  <vcpu>{vcpus}</vcpu>",
        "  <metadata>",
        *_indent(metadata, 4),
        "  </metadata>",
        "  <sysinfo type='smbios'>",
        "    <system>",
        "      <entry name='manufacturer'>OpenStack Foundation</entry>",
        "      <entry name='product'>OpenStack Nova</entry>",
        f"      <entry name='version'>{escape(version)}</entry>",
        f"      <entry name='serial'>{uuid}</entry>",
        f"      <entry name='uuid'>{uuid}</entry>",
        "      <entry name='family'>Virtual Machine</entry>",
        "    </system>",
        "  </sysinfo>",
        "  <os>",
        "    <type machine='q35'>hvm</type>",
        "    <boot dev='hd'/>",
        "    <smbios mode='sysinfo'/>",
        "  </os>",
        "  <features>",
        "    <acpi/>",
        "    <apic/>",
        "    <vmcoreinfo/>",
        *_indent(_pmu(pmu), 4),
        "  </features>",
        "  <clock offset='utc'>",
        "    <timer name='pit' tickpolicy='delay'/>",
        "    <timer name='rtc' tickpolicy='catchup'/>",
        "    <timer name='hpet' present='no'/>",
        "  </clock>",
        *_indent(_nova_cpu(cpu_mode, vcpus), 2),
        "  <devices>",
    ]
    for index in range(disks):
        lines += _indent(_rbd_disk(name, uuid, index), 4)
    if disks:
        lines += _indent(_config_drive(f"{instances}/{uuid}/disk.config"), 4)
    for index in range(nics):
        lines += _indent(_nic(name, index), 4)
    log = quoteattr(f"{instances}/{uuid}/console.log")
    passwd = {} if vnc_password is None else {"passwd": vnc_password}
    lines += [
        "    <serial type='pty'>",
        f"      <log file={log} append='off'/>",
        "    </serial>",
        "    <input type='tablet' bus='usb'/>",
        f"    <graphics{_attributes(type='vnc', autoport='yes', listen='127.0.0.1', **passwd)}/>",
        "    <video>",
        "      <model type='virtio'/>",
        "    </video>",
        "    <rng model='virtio'>",
        "      <backend model='random'>/dev/urandom</backend>",
        "    </rng>",
        "    <controller type='usb' index='0'/>",
        "    <controller type='pci' model='pcie-root'/>",
        *["    <controller type='pci' model='pcie-root-port'/>"] * 10,
        "    <memballoon model='virtio'>",
        "      <stats period='10'/>",
        "    </memballoon>",
        "  </devices>",
        "</domain>",
    ]
    return "\n".join(lines) + "\n"


def _nova_metadata(
    *,
    name: str,
    key: str,
    version: str,
    flavor: str,
    extra_specs: Mapping[str, str],
    image_properties: Mapping[str, object],
    memory_mib: int,
    vcpus: int,
    nics: int,
    project: str,
) -> list[str]:
    """Return nova:instance; `key` seeds the UUIDs in it."""
    major = int(version.split(".", 1)[0])
    with_specs = major >= _FIRST_WITH_SPECS
    image = _id("cirros", "image")
    flavor_id = {"id": _id(flavor, "flavor")} if with_specs else {}
    lines = [
        f"<nova:instance xmlns:nova='{NOVA_NS if major > _LAST_OLD else _OLD_NOVA_NS}'>",
        f"  <nova:package version={quoteattr(version)}/>",
        f"  <nova:name>{escape(name)}</nova:name>",
        "  <nova:creationTime>2024-05-14 09:21:37</nova:creationTime>",
        f"  <nova:flavor{_attributes(name=flavor, **flavor_id)}>",
        f"    <nova:memory>{memory_mib}</nova:memory>",
        "    <nova:disk>20</nova:disk>",
        "    <nova:swap>0</nova:swap>",
        "    <nova:ephemeral>0</nova:ephemeral>",
        f"    <nova:vcpus>{vcpus}</nova:vcpus>",
    ]
    if with_specs:
        # Present even when empty; that is how a reader tells "none" from "not said".
        lines += _indent(_named_values("extraSpecs", "extraSpec", extra_specs), 4)
    lines += ["  </nova:flavor>"]
    if with_specs:
        lines += [
            f"  <nova:image uuid='{image}'>",
            "    <nova:containerFormat>bare</nova:containerFormat>",
            "    <nova:diskFormat>raw</nova:diskFormat>",
            "    <nova:minDisk>20</nova:minDisk>",
            "    <nova:minRam>0</nova:minRam>",
            *_indent(_named_values("properties", "property", image_properties), 4),
            "  </nova:image>",
        ]
    lines += [
        "  <nova:owner>",
        f"    <nova:user uuid='{uuidlib.UUID(_id('admin', 'user')).hex}'>admin</nova:user>",
        f"    <nova:project uuid='{uuidlib.UUID(_id(project, 'project')).hex}'>{escape(project)}</nova:project>",
        "  </nova:owner>",
        f"  <nova:root type='image' uuid='{image}'/>",
        "  <nova:ports>",
    ]
    for index in range(nics):
        octets = uuidlib.UUID(_id(key, f"address-{index}")).bytes
        lines += [
            f"    <nova:port uuid='{_id(key, f'port-{index}')}'>",
            f"      <nova:ip type='fixed' address='10.{octets[0]}.{octets[1]}.{octets[2]}' ipVersion='4'/>",
            "    </nova:port>",
        ]
    return [*lines, "  </nova:ports>", "</nova:instance>"]


def _named_values(outer: str, inner: str, values: Mapping[str, object]) -> list[str]:
    if not values:
        return [f"<nova:{outer}/>"]
    return [
        f"<nova:{outer}>",
        *(
            f"  <nova:{inner} name={quoteattr(key)}>{escape(str(value))}</nova:{inner}>"
            for key, value in values.items()
        ),
        f"</nova:{outer}>",
    ]


def _nova_cpu(mode: str | None, vcpus: int) -> list[str]:
    topology = f"  <topology sockets='{vcpus}' cores='1' threads='1'/>"
    if mode is None:
        return ["<cpu>", topology, "</cpu>"]
    model = ["  <model>Nehalem</model>"] if mode == "custom" else []
    # A match is of a named model; Nova leaves it out for host-passthrough.
    match = {} if mode == "host-passthrough" else {"match": "exact"}
    return [f"<cpu{_attributes(mode=mode, **match)}>", *model, topology, "</cpu>"]


def _rbd_disk(key: str, uuid: str, index: int) -> list[str]:
    """The root disk first, then volumes, which have a serial number to be found by."""
    volume = _id(key, f"volume-{index}")
    image = f"vms/{uuid}_disk" if index == 0 else f"volumes/volume-{volume}"
    return [
        "<disk type='network' device='disk'>",
        "  <driver name='qemu' type='raw' cache='writeback' discard='unmap'/>",
        "  <auth username='nova'>",
        f"    <secret type='ceph' uuid='{_id('ceph', 'secret')}'/>",
        "  </auth>",
        f"  <source protocol='rbd' name='{image}'>",
        "    <host name='192.0.2.11' port='6789'/>",
        "    <host name='192.0.2.12' port='6789'/>",
        "    <host name='192.0.2.13' port='6789'/>",
        "  </source>",
        f"  <target dev='vd{chr(ord('a') + index)}' bus='virtio'/>",
        *([f"  <serial>{volume}</serial>"] if index else []),
        "</disk>",
    ]


def _config_drive(path: str) -> list[str]:
    return [
        "<disk type='file' device='cdrom'>",
        "  <driver name='qemu' type='raw' cache='none'/>",
        f"  <source file={quoteattr(path)}/>",
        "  <target dev='sda' bus='sata'/>",
        "</disk>",
    ]


def _nic(key: str, index: int) -> list[str]:
    port = uuidlib.UUID(_id(key, f"port-{index}"))
    mac = ":".join(f"{octet:02x}" for octet in port.bytes[:3])
    return [
        "<interface type='ethernet'>",
        f"  <mac address='fa:16:3e:{mac}'/>",
        "  <model type='virtio'/>",
        "  <driver name='vhost' rx_queue_size='512'/>",
        "  <mtu size='1450'/>",
        f"  <target dev='tap{str(port)[:11]}'/>",
        "</interface>",
    ]


def _pmu(state: str | None) -> list[str]:
    return [] if state is None else [f"<pmu state={quoteattr(state)}/>"]


def _machine(arch: str) -> str | None:
    # Where libvirt's default is a machine of the last century, name a current one.
    return {"aarch64": "virt"}.get(arch)


def _attributes(**values: str | None) -> str:
    return "".join(f" {key}={quoteattr(text)}" for key, text in values.items() if text is not None)


def _indent(lines: list[str], columns: int) -> list[str]:
    return [" " * columns + line for line in lines]


def _id(key: str, purpose: str) -> str:
    return str(uuidlib.uuid5(_NAMES, f"{purpose}/{key}"))
