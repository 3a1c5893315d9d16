"""What a libvirt domain XML says about the PMU.

Pure: text in, facts out. The element is ``<features><pmu state='on|off'/></features>``
(https://libvirt.org/formatdomain.html#hypervisor-features). Checked against libvirt 9.0: an absent element is
libvirt's ``default``, ``<pmu/>`` without a state means on, and of several elements the last one counts. The namespace
of ``pmu`` and of ``state`` makes no difference.
"""

from __future__ import annotations

import enum
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import Final

from lxml import etree

from pmuconf.domain.cpu import bears, has_pmu, is_qemu
from pmuconf.domain.xmltext import MAX_XML_BYTES, DomainXmlError, root_of

__all__ = [
    "MAX_XML_BYTES",
    "UNKNOWN",
    "X86",
    "Domain",
    "DomainXmlError",
    "Nova",
    "PmuState",
    "Unknown",
    "libvirt_head",
    "parse_domain",
    "pmu_state",
    "read",
    "read_libvirt",
    "read_snapshot",
    "same_but_pmu",
    "state_attribute",
]

X86: Final = frozenset({"x86_64", "i686"})

# Nova writes the second up to 22 (Victoria), the first since. A domain keeps what it was started with.
_NOVAS = ("{http://openstack.org/xmlns/libvirt/nova/1.1}", "{http://openstack.org/xmlns/libvirt/nova/1.0}")
_PMU_LINE = re.compile(r"    <pmu state='(on|off)'/>")
_DEVICES: Final = "\n  <devices>\n"
_EMULATOR = re.compile(rf"{_DEVICES}    <emulator>([^<&]*)</emulator>\n")
_QEMU: Final = "http://libvirt.org/schemas/domain/qemu/1.0"
_READ: Final = ("name", "uuid", "metadata", "os", "features", "cpu", "devices", "launchSecurity", f"{{{_QEMU}}}*")


class PmuState(enum.Enum):
    """The PMU state of a domain in libvirt's words; ``DEFAULT`` is an absent element."""

    ON = "on"
    OFF = "off"
    DEFAULT = "default"


class Unknown(enum.Enum):
    """A fact that its reader cannot know, as opposed to None: known to be absent."""

    UNKNOWN = "unknown"


UNKNOWN: Final = Unknown.UNKNOWN


@dataclass(frozen=True)
class Nova:
    """What Nova wrote into a domain's metadata (namespace nova/1.1, or nova/1.0 of Nova 22 and earlier).

    Up to 31.x the flavor has a name and sizes only; from 32.0.0 it carries its id, extra specs and the image's
    properties (the elements are there even if empty). What the version does not write is ``UNKNOWN``.
    """

    flavor: str | None
    flavor_id: str | Unknown | None
    project_id: str | None
    extra_specs: Mapping[str, str] | Unknown
    image_properties: Mapping[str, str] | Unknown


@dataclass(frozen=True)
class Domain:
    """The facts of one domain XML that a decision about the PMU rests on."""

    name: str
    uuid: str | None
    virt_type: str
    arch: str
    """Empty if the text leaves it to libvirt, which fills it in when it takes the domain."""
    pmu: PmuState
    cpu_mode: str | None
    nova: Nova | None
    running: bool = False
    """Whether this is the definition of a running guest: only that carries an id."""
    tdx: bool = False
    """Whether it is a TDX guest, by ``<launchSecurity>``."""
    machine: str = ""
    cpu_model: str | None = None
    emulator: str | None = None
    arguments: tuple[str, ...] = field(default=(), repr=False)
    """What ``<qemu:commandline>`` gives QEMU behind libvirt's own options, if it may decide about the PMU."""

    @property
    def x86(self) -> bool:
        """Whether QEMU or KVM runs an x86 guest here: the only domains that the policy speaks of."""
        return self.virt_type in ("kvm", "qemu") and self.arch in X86

    @cached_property
    def effective_pmu(self) -> PmuState | None:
        """What the guest gets: the state, or for ``default`` what QEMU makes of the CPU model; None: unknown.

        QEMU's ``pmu`` property defaults to true for host-passthrough and maximum, and to false for every named
        model, host-model and no ``<cpu>`` at all; with a machine type before 1.6 it defaults to true for all. Options
        in ``<qemu:commandline>`` come last and win (pmuconf.domain.cpu). Unknown: what an emulator that is no QEMU
        makes of them; what ``default`` is outside x86, and for maximum without KVM, of which QEMUs differ.
        """
        return self._gets(self.pmu)

    @cached_property
    def obeyed(self) -> bool | None:
        """Whether the guest gets what ``<pmu>`` says, on or off.

        False if ``<qemu:commandline>`` decides, whatever ``<pmu>`` says; None if that is not known.
        """
        got = [self._gets(state) for state in (PmuState.ON, PmuState.OFF)]
        return None if None in got else got == [PmuState.ON, PmuState.OFF]

    def awaits(self, next_boot: Domain | None, wanted: PmuState) -> bool:
        """Whether a guest that runs by this definition lacks the state, and gets it when it is started by the next.

        Not where options for QEMU decide: then it has that PMU already, or does not get it for sure.
        """
        if self.pmu is wanted or (self.arguments and self.effective_pmu is wanted):
            return False
        return next_boot is None or next_boot.with_pmu(wanted).effective_pmu is wanted

    def with_pmu(self, state: PmuState) -> Domain:
        """The facts once its ``<pmu>`` says that."""
        return replace(self, pmu=state)

    def _gets(self, state: PmuState) -> PmuState | None:
        """What the guest gets if ``<pmu>`` says that."""
        if not self.x86:
            return state if state is not PmuState.DEFAULT and not self.arguments else None
        if self.emulator is not None and not is_qemu(self.emulator):
            return None
        return _made(state, self.virt_type, self.machine, self.cpu_mode, self.cpu_model, self.arguments)


@lru_cache(maxsize=256)
def _made(
    state: PmuState, kind: str, machine: str, mode: str | None, model: str | None, arguments: tuple[str, ...]
) -> PmuState | None:
    """What a QEMU makes of the options that libvirt gives it for such a domain."""
    words = ["qemu", *(("-machine", machine) if machine else ()), "-accel", "kvm" if kind == "kvm" else "tcg"]
    cpu = {"host-passthrough": "host", "maximum": "max", "host-model": "Host-Model"}.get(mode or "", model or "qemu64")
    if mode is not None or state is not PmuState.DEFAULT:
        words += ["-cpu", cpu if state is PmuState.DEFAULT else f"{cpu},pmu={state.value}"]
    found = has_pmu([*words, *arguments])
    return None if found is None else PmuState.ON if found else PmuState.OFF


def read(xml: str | bytes, *, source: str = "domain XML", max_bytes: int = MAX_XML_BYTES) -> Domain:
    """Return the facts of a domain XML.

    :raises DomainXmlError: not a domain, not well-formed, has a DOCTYPE, or is larger than max_bytes.
    """
    return _facts(parse_domain(xml, source, max_bytes), source)


def read_libvirt(xml: str, *, source: str = "domain XML", max_bytes: int = MAX_XML_BYTES) -> Domain:
    """As read(), for text that libvirt itself wrote: three quarters of it need not be parsed.

    libvirt writes all that read() looks at before ``<devices>``, which it puts on a line of its own. The text up to
    the first such line, closed with ``</domain>``, is well-formed only if that line really opens the domain's
    devices: inside metadata, a comment or CDATA something else would still be open. If it is not, all is parsed. So it
    is if the emulator is not on the line behind, or where a ``<launchSecurity>`` or options for QEMU may come last.
    """
    emulator_line = _EMULATOR.search(xml)
    head = None
    if emulator_line is not None and emulator_line.start() == xml.find(_DEVICES):
        plain = "<launchSecurity" not in xml and _QEMU not in xml
        head = libvirt_head(xml, source, max_bytes) if plain else None
    if head is None or emulator_line is None:
        return read(xml, source=source, max_bytes=max_bytes)
    return replace(_facts(head[1], source), emulator=emulator_line[1] or None)


def read_snapshot(xml: str, *, source: str = "snapshot XML", max_bytes: int = MAX_XML_BYTES) -> Domain | None:
    """Return the domain whose definition a revert to this snapshot would bring back, None if it holds none.

    ``<inactiveDomain>`` (libvirt 5.x and later, snapshots of running domains) is what a revert makes the next
    boot; without it, it is ``<domain>`` (https://libvirt.org/formatsnapshot.html).
    """
    root = root_of(xml, source, max_bytes)
    if root.tag != "domainsnapshot":
        raise DomainXmlError(
            f"the root element is {_shown(root.tag)}, not <domainsnapshot>", cause="not-a-snapshot", source=source
        )
    found = root.find("inactiveDomain")
    if found is None:
        found = root.find("domain")
    return None if found is None else _facts(found, source)


def same_but_pmu(one: str, other: str) -> bool:
    """Whether two domain XMLs mean the same outside ``features/pmu``.

    Compared as canonical XML, without the white space between elements. libvirt may put the controllers of a
    fresh domain into another order on the first redefine (seen with q35 on 9.0) and lists a domain's devices kind
    by kind; so within ``<devices>`` only the order of devices of one kind counts, and of controllers none.
    """
    return _same_lines(one, other) or _meaning(one) == _meaning(other)


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
    """What stands before the devices in text of libvirt's, closed with ``</domain>``, and its element.

    None where the text is not laid out as libvirt does it: then all of it has to be read. See read_libvirt().
    """
    at = xml.find(_DEVICES)
    if at < 0 or len(xml) > max_bytes or not xml.endswith("</domain>\n") or xml.find("<features", at) > 0:
        return None
    head = xml[: at + 1] + "</domain>"
    try:
        return head, parse_domain(head, source, max_bytes)
    except DomainXmlError:
        return None  # whatever is wrong, the whole text says it better


def _facts(root: etree._Element, source: str) -> Domain:
    name: str | None = None
    uuid: str | None = None
    arch = machine = ""
    cpu_mode: str | None = None
    cpu_model: str | None = None
    emulator: str | None = None
    arguments: list[str] = []
    nova: Nova | None = None
    pmu = PmuState.DEFAULT
    tdx = False
    for child in root.iterchildren(*_READ):
        tag = child.tag
        if tag == "name":
            name = child.text
        elif tag == "uuid":
            uuid = child.text
        elif tag == "metadata":
            nova = _nova(child)
        elif tag == "os":
            kind = child.find("type")
            if kind is not None:
                arch, machine = kind.get("arch", ""), kind.get("machine", "")
        elif tag == "features":
            for element in child.iterchildren("{*}pmu"):
                pmu = pmu_state(element, source)
        elif tag == "cpu":
            cpu_mode = child.get("mode", "custom")
            cpu_model = child.findtext("model") if cpu_mode == "custom" else None
        elif tag == "launchSecurity":
            tdx = child.get("type") == "tdx"
        elif tag == "devices":
            emulator = emulator or child.findtext("emulator")
        else:
            arguments += _arguments(child)
    if not name:
        raise DomainXmlError("the domain has no <name>", cause="no-name", source=source, line=root.sourceline)
    return Domain(
        name,
        uuid,
        root.get("type", ""),
        arch,
        pmu,
        cpu_mode,
        nova,
        running=root.get("id") is not None,
        tdx=tdx,
        machine=machine,
        cpu_model=cpu_model,
        emulator=emulator or None,
        arguments=tuple(arguments) if bears(["qemu", *arguments]) else (),
    )


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
    # By the first of each, in one pass: an audit spends a third of its time here.
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


def _drop(element: etree._Element) -> None:
    """Take an element and the white space behind it away; text behind it stays."""
    parent = element.getparent()
    assert parent is not None  # it was found below a root
    if element.tail is not None and element.tail.strip():
        previous = element.getprevious()
        if previous is None:
            parent.text = (parent.text or "") + element.tail
        else:
            previous.tail = (previous.tail or "") + element.tail
    parent.remove(element)


def _same_lines(one: str, other: str) -> bool:
    """Whether two texts of libvirt's differ in the one line of the PMU alone: sure if true, nothing said if false."""
    left = _without_pmu_line(one)
    return left is not None and left == _without_pmu_line(other)


def _without_pmu_line(xml: str) -> list[str] | None:
    """The lines but for that of the PMU; None where it does not stand as libvirt writes it."""
    head = libvirt_head(xml, "domain XML", sys.maxsize)
    if head is None:
        return None
    lines = xml.split("\n")
    found = head[1].findall("features/{*}pmu")
    if not found:
        return lines
    at = (found[0].sourceline or 0) - 1
    if len(found) > 1 or not 0 < at < len(lines) - 1 or not _PMU_LINE.fullmatch(lines[at]):
        return None
    alone = lines[at - 1] == "  <features>" and lines[at + 1] == "  </features>"
    del lines[at - alone : at + 1 + alone]
    return lines


def _meaning(xml: str) -> object:
    root = parse_domain(xml, "domain XML", sys.maxsize)
    for pmu in root.findall("features/{*}pmu"):
        _drop(pmu)
    for features in root.findall("features"):
        if not len(features) and not features.attrib and not (features.text or "").strip():
            _drop(features)
    kinds: dict[str, list[object]] = {}
    for devices in root.findall("devices"):
        for device in devices:
            kinds.setdefault(str(device.tag), []).append(_outline(device))
        devices[:] = []
        devices.text = _said(devices.text, True)
    kinds["controller"] = sorted(kinds.get("controller", ()), key=repr)
    return _outline(root), kinds


def _outline(element: etree._Element) -> tuple[object, ...]:
    """An element as nested tuples: what canonical XML says of it, without the white space between elements.

    lxml's own canonical XML refuses namespaces that are no absolute URI, which libvirt takes.
    """
    spaced = len(element) > 0
    parts: list[object] = [element.tag, sorted(element.items()), _said(element.text, spaced)]
    for child in element:
        parts += [_outline(child), _said(child.tail, spaced)]
    return tuple(parts)


def _said(text: str | None, spaced: bool) -> str:
    return "" if text is None or (spaced and not text.strip()) else text


def _shown(tag: object) -> str:
    return f"<{tag}>" if isinstance(tag, str) else "no element"
