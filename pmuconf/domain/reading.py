"""Definitions read from libvirt's XML: of a domain, or of the one that a snapshot would bring back.

Pure: text in, data out. The element is ``<features><pmu state='on|off'/></features>``
(https://libvirt.org/formatdomain.html#hypervisor-features). Checked against libvirt 9.0: an absent element is
libvirt's ``default``, ``<pmu/>`` without a state means on, and of several elements the last one counts. The namespace
of ``pmu`` and of ``state`` makes no difference.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Final

from lxml import etree

from pmuconf.domain.cpu import bears
from pmuconf.domain.definition import UNKNOWN, Domain, Nova, PmuState
from pmuconf.domain.managers import managed_by
from pmuconf.domain.xmltext import MAX_XML_BYTES, DomainXmlError, root_of

__all__ = [
    "definition_of",
    "libvirt_head",
    "parse_domain",
    "parse_libvirt",
    "pmu_state",
    "read",
    "read_libvirt",
    "read_snapshot",
    "state_attribute",
]

# Up to version 22 (Victoria) Nova writes the second, later the first. A domain keeps the one that it was started with.
_NOVAS: Final = ("{http://openstack.org/xmlns/libvirt/nova/1.1}", "{http://openstack.org/xmlns/libvirt/nova/1.0}")
_DEVICES: Final = "\n  <devices>\n"
_EMULATOR = re.compile(rf"{_DEVICES}    <emulator>([^<&]*)</emulator>\n")
_QEMU: Final = "http://libvirt.org/schemas/domain/qemu/1.0"
_OPTIONS: Final = "options for QEMU"
_READ: Final = (
    *("name", "uuid", "metadata", "sysinfo", "os", "features", "cpu", "devices", "launchSecurity"),
    f"{{{_QEMU}}}*",
)


def read(xml: str | bytes, *, source: str = "domain XML", max_bytes: int = MAX_XML_BYTES) -> Domain:
    """The definition that a domain XML holds.

    :raises DomainXmlError: no-name, bad-pmu-state, or as parse_domain().
    """
    return _definition(parse_domain(xml, source, max_bytes), source)


def read_libvirt(xml: str, *, source: str = "domain XML", max_bytes: int = MAX_XML_BYTES) -> Domain:
    """As read(), for text that libvirt itself wrote: three quarters of it need not be parsed.

    libvirt writes what read() looks at before ``<devices>``, which it puts on a line of its own. The text up to the
    first such line, closed with ``</domain>``, is well-formed only if that line really opens the domain's devices:
    inside metadata, a comment or CDATA something else would still be open. All of the text is parsed if it is not
    well-formed, if the emulator is not on the next line, or if a ``<launchSecurity>`` or options for QEMU may follow.
    """
    return definition_of(xml, parse_libvirt(xml, source, max_bytes), source)


def parse_libvirt(xml: str, source: str, max_bytes: int) -> tuple[str, etree._Element]:
    """The part of a libvirt text that read_libvirt() needs, closed with ``</domain>``, or all of it; and its element.

    :raises DomainXmlError: as parse_domain().
    """
    emulator_line = _EMULATOR.search(xml)
    head = None
    if emulator_line is not None and emulator_line.start() == xml.find(_DEVICES):
        plain = "<launchSecurity" not in xml and _QEMU not in xml
        head = libvirt_head(xml, source, max_bytes) if plain else None
    return head or (xml, parse_domain(xml, source, max_bytes))


def definition_of(xml: str, parsed: tuple[str, etree._Element], source: str) -> Domain:
    """The definition in a text that libvirt wrote.

    :param parsed: what parse_libvirt() returned for this text.
    :raises DomainXmlError: no-name, bad-pmu-state.
    """
    part, root = parsed
    definition = _definition(root, source)
    emulator_line = None if part == xml else _EMULATOR.search(xml)  # of a part, the emulator is outside
    return definition if emulator_line is None else replace(definition, emulator=emulator_line[1] or None)


def read_snapshot(xml: str, *, source: str = "snapshot XML", max_bytes: int = MAX_XML_BYTES) -> Domain | None:
    """The definition that a revert to this snapshot would bring back; None if it holds none.

    A revert makes ``<inactiveDomain>`` the next boot (libvirt 5.x and later, snapshots of running domains). Without
    that element, it makes ``<domain>`` the next boot (https://libvirt.org/formatsnapshot.html).

    :raises DomainXmlError: not-a-snapshot, or as read().
    """
    root = root_of(xml, source, max_bytes)
    if root.tag != "domainsnapshot":
        raise DomainXmlError(
            f"the root element is {_shown(root.tag)}, not <domainsnapshot>", cause="not-a-snapshot", source=source
        )
    element = root.find("inactiveDomain")
    if element is None:
        element = root.find("domain")
    return None if element is None else _definition(element, source)


def parse_domain(xml: str | bytes, source: str, max_bytes: int) -> etree._Element:
    """The element of a domain.

    :raises DomainXmlError: not-a-domain, or as xmltext.root_of().
    """
    root = root_of(xml, source, max_bytes)
    if root.tag != "domain":
        raise DomainXmlError(
            f"the root element is {_shown(root.tag)}, not <domain>",
            cause="not-a-domain",
            source=source,
            line=root.sourceline,
        )
    return root


def libvirt_head(xml: str, source: str, max_bytes: int) -> tuple[str, etree._Element] | None:
    """The text before the devices, closed with ``</domain>``, and its element, of a text that libvirt wrote.

    None if the text is not laid out as libvirt does it: then all of it has to be read. See read_libvirt().
    """
    at = xml.find(_DEVICES)
    if at < 0 or len(xml) > max_bytes or not xml.endswith("</domain>\n") or xml.find("<features", at) > 0:
        return None
    head = xml[: at + 1] + "</domain>"
    try:
        return head, parse_domain(head, source, max_bytes)
    except DomainXmlError:
        return None  # the error of the whole text says more


def _definition(root: etree._Element, source: str) -> Domain:
    """The definition that an element ``<domain>`` holds. Of an element that is there twice, the last one counts."""
    children: dict[str, list[etree._Element]] = {}
    for child in root.iterchildren(*_READ):  # one pass: an audit spends most of its time here
        tag = str(child.tag)
        children.setdefault(_OPTIONS if tag.startswith("{") else tag, []).append(child)

    def last(tag: str) -> etree._Element | None:
        return children[tag][-1] if tag in children else None

    name, uuid, metadata, cpu, security = map(last, ("name", "uuid", "metadata", "cpu", "launchSecurity"))
    nova = None if metadata is None else _nova(metadata)
    pmu = _pmu(children.get("features", ()), source)
    if name is None or not name.text:
        raise DomainXmlError("the domain has no <name>", cause="no-name", source=source, line=root.sourceline)
    arch, machine = _type(children.get("os", ()))
    cpu_mode = None if cpu is None else cpu.get("mode", "custom")
    arguments = tuple(argument for element in children.get(_OPTIONS, ()) for argument in _arguments(element))
    emulators = (devices.findtext("emulator") for devices in children.get("devices", ()))
    return Domain(
        name=name.text,
        uuid=None if uuid is None else uuid.text,
        virt_type=root.get("type", ""),
        arch=arch,
        pmu=pmu,
        cpu_mode=cpu_mode,
        nova=nova,
        managed=managed_by(name.text, metadata, last("sysinfo")) if nova is None else None,
        running=root.get("id") is not None,
        tdx=security is not None and security.get("type") == "tdx",
        machine=machine,
        cpu_model=cpu.findtext("model") if cpu is not None and cpu_mode == "custom" else None,
        emulator=next(filter(None, emulators), None),
        arguments=arguments if bears(["qemu", *arguments]) else (),
    )


def _type(elements: Iterable[etree._Element]) -> tuple[str, str]:
    """Architecture and machine type, as the elements ``<os>`` have them."""
    types = [kind for kind in (element.find("type") for element in elements) if kind is not None]
    return (types[-1].get("arch", ""), types[-1].get("machine", "")) if types else ("", "")


def _pmu(elements: Iterable[etree._Element], source: str) -> PmuState:
    """The state that the elements ``<features>`` give; each of theirs has to be one."""
    states = [pmu_state(pmu, source) for features in elements for pmu in features.iterchildren("{*}pmu")]
    return states[-1] if states else PmuState.DEFAULT


def _arguments(element: etree._Element) -> Iterator[str]:
    """The options that an element of libvirt's namespace for QEMU stands for."""
    if element.tag == f"{{{_QEMU}}}commandline":
        for given in element.iterchildren(f"{{{_QEMU}}}arg"):
            yield given.get("value", "")
    elif element.tag == f"{{{_QEMU}}}override":  # of a device's properties; a vCPU is one where it can be unplugged
        for given in element.iter(f"{{{_QEMU}}}property"):
            yield from ("-set", f"device.{given.get('name', '')}={given.get('value', '')}")


def pmu_state(element: etree._Element, source: str) -> PmuState:
    """The state that a ``<pmu>`` says.

    :raises DomainXmlError: bad-pmu-state.
    """
    written = state_attribute(element)
    value = "on" if written is None else element.get(written)
    if value not in ("on", "off"):
        raise DomainXmlError(
            f"<pmu state={value!r}> is neither on nor off",
            cause="bad-pmu-state",
            source=source,
            line=element.sourceline,
        )
    return PmuState(value)


def state_attribute(element: etree._Element) -> str | None:
    """The name of the attribute that libvirt takes for the state of a ``<pmu>``, None if it has none."""
    return next((str(name) for name, _ in element.items() if str(name).rpartition("}")[2] == "state"), None)


def _nova(metadata: etree._Element) -> Nova | None:
    for nova in _NOVAS:
        instance = next(metadata.iterchildren(f"{nova}instance"), None)
        if instance is not None:
            return _instance(instance, nova)
    return None


def _instance(instance: etree._Element, nova: str) -> Nova:
    # The first element of each kind, in one pass: an audit spends a third of its time here.
    parts: dict[str, etree._Element] = {}
    for child in instance.iterchildren(f"{nova}flavor", f"{nova}image", f"{nova}owner"):
        parts.setdefault(str(child.tag)[len(nova) :], child)
    flavor = parts.get("flavor")
    specs = None if flavor is None else next(flavor.iterchildren(f"{nova}extraSpecs"), None)
    properties = next(parts["image"].iterchildren(f"{nova}properties"), None) if "image" in parts else None
    project = next(parts["owner"].iterchildren(f"{nova}project"), None) if "owner" in parts else None
    return Nova(
        flavor=None if flavor is None else flavor.get("name"),
        flavor_id=UNKNOWN if flavor is None or specs is None else flavor.get("id"),
        project_id=None if project is None else project.get("uuid"),
        extra_specs=UNKNOWN if specs is None else _named(specs.iterchildren(f"{nova}extraSpec")),
        image_properties=UNKNOWN if properties is None else _named(properties.iterchildren(f"{nova}property")),
    )


def _named(elements: Iterable[etree._Element]) -> dict[str, str]:
    return {element.get("name", ""): element.text or "" for element in elements}


def _shown(tag: object) -> str:
    return f"<{tag}>" if isinstance(tag, str) else "no element"
