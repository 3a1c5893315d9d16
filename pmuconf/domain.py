"""What a libvirt domain XML says about the PMU, and the rewrite of that one element.

Pure: text in, text or facts out. The element is ``<features><pmu state='on|off'/></features>``
(https://libvirt.org/formatdomain.html#hypervisor-features). Checked against libvirt 9.0: an absent element is
libvirt's ``default``, ``<pmu/>`` without a state means on, and of several elements the last one counts.
"""

from __future__ import annotations

import codecs
import enum
import re
import sys
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from lxml import etree

from pmuconf.errors import PmuconfError

__all__ = [
    "MAX_XML_BYTES",
    "UNKNOWN",
    "X86",
    "Domain",
    "DomainXmlError",
    "Nova",
    "PmuState",
    "Unknown",
    "emulator",
    "read",
    "read_libvirt",
    "read_snapshot",
    "rewrite",
    "rewrite_bytes",
    "same_but_pmu",
]

MAX_XML_BYTES: Final = 4 * 1024 * 1024
X86: Final = frozenset({"x86_64", "i686"})

_NOVA = "{http://openstack.org/xmlns/libvirt/nova/1.1}"
# A missing <features> goes in front of the first of these: where libvirt itself would write it.
_AFTER_FEATURES = frozenset({"cpu", "clock", "on_poweroff", "on_reboot", "on_crash", "pm", "devices"})

_ENCODING_ERRORS = frozenset(
    {
        etree.ErrorTypes.ERR_UNKNOWN_ENCODING,
        etree.ErrorTypes.ERR_UNSUPPORTED_ENCODING,
        etree.ErrorTypes.ERR_INVALID_ENCODING,
        etree.ErrorTypes.I18N_CONV_FAILED,
    }
)
_NO_URI = frozenset({etree.ErrorTypes.WAR_NS_URI, etree.ErrorTypes.WAR_NS_URI_RELATIVE})
_MARKS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))


class _Parsers(threading.local):
    def __init__(self) -> None:
        self.made: dict[tuple[bool, bool], etree.XMLParser] = {}


_parsers = _Parsers()
_DECLARATION = re.compile(r"<\?xml\s.*?\?>\s*", re.DOTALL)
_PMU_LINE = re.compile(r"    <pmu state='(on|off)'/>")


class PmuState(enum.Enum):
    """The PMU state of a domain in libvirt's words; ``DEFAULT`` is an absent element."""

    ON = "on"
    OFF = "off"
    DEFAULT = "default"


class Unknown(enum.Enum):
    """A fact that its reader cannot know, as opposed to None: known to be absent."""

    UNKNOWN = "unknown"


UNKNOWN: Final = Unknown.UNKNOWN


class DomainXmlError(PmuconfError):
    """The text is no domain XML that can be trusted; names the source and, where there is one, the line."""

    def __init__(self, problem: str, *, cause: str, source: str, line: int | None = None) -> None:
        where = f"{source}:{line}" if line else source
        super().__init__(f"{where}: {problem}", cause=cause)


@dataclass(frozen=True)
class Nova:
    """What Nova wrote into a domain's metadata (namespace nova/1.1).

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
    pmu: PmuState
    cpu_mode: str | None
    nova: Nova | None
    running: bool = False
    """Whether this is the definition of a running guest: only that carries an id."""

    @property
    def x86(self) -> bool:
        """Whether QEMU or KVM runs an x86 guest here: the only domains that the policy speaks of."""
        return self.virt_type in ("kvm", "qemu") and self.arch in X86

    @property
    def effective_pmu(self) -> PmuState | None:
        """What the guest gets: the state, or for ``default`` what QEMU makes of the CPU model.

        QEMU's ``pmu`` property defaults to true for host-passthrough and maximum, and to false for every named
        model, host-model and no ``<cpu>`` at all (target/i386/cpu.c). None outside x86, where no such rule holds.
        """
        if self.pmu is not PmuState.DEFAULT:
            return self.pmu
        if not self.x86:
            return None
        return PmuState.ON if self.cpu_mode in ("host-passthrough", "maximum") else PmuState.OFF


def read(xml: str | bytes, *, source: str = "domain XML", max_bytes: int = MAX_XML_BYTES) -> Domain:
    """Return the facts of a domain XML.

    :raises DomainXmlError: not a domain, not well-formed, has a DOCTYPE, or is larger than max_bytes.
    """
    return _facts(_parse(xml, source, max_bytes), source)


def read_libvirt(xml: str, *, source: str = "domain XML", max_bytes: int = MAX_XML_BYTES) -> Domain:
    """As read(), for text that libvirt itself wrote: three quarters of it need not be parsed.

    libvirt writes all that read() looks at before ``<devices>``, which it puts on a line of its own. The text up to
    the first such line, closed with ``</domain>``, is well-formed only if that line really opens the domain's
    devices: inside metadata, a comment or CDATA something else would still be open. If it is not, all is parsed.
    """
    head = _head(xml, source, max_bytes)
    return read(xml, source=source, max_bytes=max_bytes) if head is None else _facts(head, source)


def read_snapshot(xml: str, *, source: str = "snapshot XML", max_bytes: int = MAX_XML_BYTES) -> Domain | None:
    """Return the domain whose definition a revert to this snapshot would bring back, None if it holds none.

    ``<inactiveDomain>`` (libvirt 5.x and later, snapshots of running domains) is what a revert makes the next
    boot; without it, it is ``<domain>`` (https://libvirt.org/formatsnapshot.html).
    """
    root = _root(xml, source, max_bytes)
    if root.tag != "domainsnapshot":
        raise DomainXmlError(
            f"the root element is {_shown(root.tag)}, not <domainsnapshot>", cause="not-a-snapshot", source=source
        )
    found = root.find("inactiveDomain")
    if found is None:
        found = root.find("domain")
    return None if found is None else _facts(found, source)


def emulator(xml: str, *, source: str = "domain XML", max_bytes: int = MAX_XML_BYTES) -> str | None:
    """The binary that a domain is started with; None if its definition leaves that to libvirt."""
    return _parse(xml, source, max_bytes).findtext("devices/emulator") or None


def rewrite(xml: str, state: PmuState, *, source: str = "domain XML", max_bytes: int = MAX_XML_BYTES) -> str:
    """Return the XML with its PMU in the given state and nothing else changed.

    ``DEFAULT`` takes the element away. Idempotent: text that already says exactly this comes back as it is.

    :raises DomainXmlError: as read().
    """
    root = _parse(xml, source, max_bytes)
    return _written(root, xml) if _set_pmu(root, state, source) else xml


def rewrite_bytes(xml: bytes, state: PmuState, *, source: str, max_bytes: int = MAX_XML_BYTES) -> bytes:
    """As rewrite(), for a file in its own encoding, which is kept, with its declaration and byte order mark."""
    root = _parse(xml, source, max_bytes)
    if not _set_pmu(root, state, source):
        return xml
    mark, codec = _encoding(xml, root)
    try:
        text = xml[len(mark) :].decode(codec)
    except (UnicodeDecodeError, LookupError) as error:
        raise DomainXmlError(f"can't be read as {codec}: {error}", cause="xml-encoding", source=source) from None
    # A sign that the encoding does not have stood in the file as a reference, and becomes one again.
    return mark + _written(root, text).encode(codec, "xmlcharrefreplace")


def same_but_pmu(one: str, other: str) -> bool:
    """Whether two domain XMLs mean the same outside ``features/pmu``.

    Compared as canonical XML, without the white space between elements. libvirt may put the controllers of a
    fresh domain into another order on the first redefine (seen with q35 on 9.0) and lists a domain's devices kind
    by kind; so within ``<devices>`` only the order of devices of one kind counts, and of controllers none.
    """
    return _same_lines(one, other) or _meaning(one) == _meaning(other)


def _root(xml: str | bytes, source: str, max_bytes: int) -> etree._Element:
    try:
        data = xml.encode("utf-8") if isinstance(xml, str) else xml
    except UnicodeEncodeError as error:
        raise DomainXmlError(f"text that is no Unicode: {error.reason}", cause="xml-encoding", source=source) from None
    if len(data) > max_bytes:
        raise DomainXmlError(
            f"{len(data)} bytes, more than the {max_bytes} that are read", cause="xml-too-large", source=source
        )

    # Text that libvirt handed out is UTF-8 whatever its declaration says; a file declares its own encoding.
    # Nothing outside the document is ever fetched: lxml's own defaults once resolved external entities.
    text = isinstance(xml, str)
    strict = _parser(text=text, recover=False)
    try:
        try:
            root = etree.fromstring(data, strict)
        except etree.XMLSyntaxError:
            # libvirt takes metadata in a namespace whose name is no URI without a word, and so must we.
            if not strict.error_log or any(entry.type not in _NO_URI for entry in strict.error_log):
                raise
            root = etree.fromstring(data, _parser(text=text, recover=True))
    except etree.XMLSyntaxError as error:
        # libxml2 2.9 knows no code of its own for bytes that are no UTF-8.
        encoding = error.code in _ENCODING_ERRORS or "not proper UTF-8" in str(error.msg)
        cause = "xml-encoding" if encoding else "xml-syntax"
        problem = " ".join(str(error.msg).split())
        raise DomainXmlError(f"not well-formed: {problem}", cause=cause, source=source, line=error.lineno) from None
    except (ValueError, LookupError) as error:
        raise DomainXmlError(f"not readable as XML: {error}", cause="xml-encoding", source=source) from None
    if root.getroottree().docinfo.internalDTD is not None:
        raise DomainXmlError("has a DOCTYPE, which no libvirt XML has", cause="xml-doctype", source=source, line=1)
    return root


def _parser(*, text: bool, recover: bool) -> etree.XMLParser:
    """A parser of this thread's; to make one takes a quarter of the time of a domain."""
    made = _parsers.made
    if (text, recover) not in made:
        made[text, recover] = etree.XMLParser(
            encoding="utf-8" if text else None,
            resolve_entities=False,
            no_network=True,
            load_dtd=False,
            huge_tree=False,
            strip_cdata=False,
            recover=recover,
        )
    return made[text, recover]


def _parse(xml: str | bytes, source: str, max_bytes: int) -> etree._Element:
    root = _root(xml, source, max_bytes)
    if root.tag != "domain":
        raise DomainXmlError(
            f"the root element is {_shown(root.tag)}, not <domain>",
            cause="not-a-domain",
            source=source,
            line=root.sourceline,
        )
    return root


def _head(xml: str, source: str, max_bytes: int) -> etree._Element | None:
    at = xml.find("\n  <devices>\n")
    if at < 0 or len(xml) > max_bytes or not xml.endswith("</domain>\n"):
        return None
    try:
        return _parse(xml[: at + 1] + "</domain>", source, max_bytes)
    except DomainXmlError:
        return None  # whatever is wrong, the whole text says it better


def _facts(root: etree._Element, source: str) -> Domain:
    name: str | None = None
    uuid: str | None = None
    arch = ""
    cpu_mode: str | None = None
    nova: Nova | None = None
    pmu = PmuState.DEFAULT
    for child in root.iterchildren("name", "uuid", "metadata", "os", "features", "cpu"):
        tag = child.tag
        if tag == "name":
            name = child.text
        elif tag == "uuid":
            uuid = child.text
        elif tag == "metadata":
            nova = _nova(child)
        elif tag == "os":
            kind = child.find("type")
            arch = kind.get("arch", "") if kind is not None else ""
        elif tag == "features":
            for element in child.iterchildren("pmu"):
                pmu = _state(element, source)
        elif tag == "cpu":
            cpu_mode = child.get("mode", "custom")
    if not name:
        raise DomainXmlError("the domain has no <name>", cause="no-name", source=source, line=root.sourceline)
    return Domain(name, uuid, root.get("type", ""), arch, pmu, cpu_mode, nova, running=root.get("id") is not None)


def _state(element: etree._Element, source: str) -> PmuState:
    value = element.get("state", "on")
    if value not in ("on", "off"):
        raise DomainXmlError(
            f"<pmu state={value!r}> is neither on nor off",
            cause="bad-pmu-state",
            source=source,
            line=element.sourceline,
        )
    return PmuState(value)


def _nova(metadata: etree._Element) -> Nova | None:
    instance = next(metadata.iterchildren(f"{_NOVA}instance"), None)
    if instance is None:
        return None
    # By the first of each, in one pass: an audit spends a third of its time here.
    parts: dict[str, etree._Element] = {}
    for child in instance.iterchildren(f"{_NOVA}flavor", f"{_NOVA}image", f"{_NOVA}owner"):
        parts.setdefault(str(child.tag)[len(_NOVA) :], child)
    flavor = parts.get("flavor")
    specs = None if flavor is None else next(flavor.iterchildren(f"{_NOVA}extraSpecs"), None)
    properties = next(parts["image"].iterchildren(f"{_NOVA}properties"), None) if "image" in parts else None
    project = next(parts["owner"].iterchildren(f"{_NOVA}project"), None) if "owner" in parts else None
    return Nova(
        flavor=None if flavor is None else flavor.get("name"),
        flavor_id=UNKNOWN if flavor is None or specs is None else flavor.get("id"),
        project_id=None if project is None else project.get("uuid"),
        extra_specs=UNKNOWN if specs is None else _named(specs.iterchildren(f"{_NOVA}extraSpec")),
        image_properties=UNKNOWN if properties is None else _named(properties.iterchildren(f"{_NOVA}property")),
    )


def _named(elements: Iterable[etree._Element]) -> dict[str, str]:
    return {element.get("name", ""): element.text or "" for element in elements}


def _set_pmu(root: etree._Element, state: PmuState, source: str) -> bool:
    """Put the element tree into the state; False if it was already exactly so."""
    found = [element for features in root.iterchildren("features") for element in features.iterchildren("pmu")]
    for element in found:
        _state(element, source)
    if state is PmuState.DEFAULT:
        for element in found:
            _drop(element)
        return bool(found)
    if len(found) == 1 and found[0].get("state") == state.value:
        return False
    if found:
        *others, last = found
        for element in others:
            _drop(element)
        last.set("state", state.value)
        return True
    features = next(root.iterchildren("features"), None)
    if features is None:
        at = next((i for i, child in enumerate(root) if child.tag in _AFTER_FEATURES), len(root))
        features = _insert(root, at, "features")
    _insert(features, 0, "pmu").set("state", state.value)
    return True


def _insert(parent: etree._Element, at: int, tag: str) -> etree._Element:
    # The new element takes a copy of the white space in front of it as its tail, so that taking it away again
    # gives the old text back, and both lines keep their indentation.
    before = parent[at - 1].tail if at else parent.text
    element = etree.SubElement(parent, tag)  # then moved: an element made alone would bring a document of its own
    element.tail = before if before is not None and not before.strip() else None
    parent.insert(at, element)
    return element


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


def _written(root: etree._Element, xml: str) -> str:
    """The tree as text, between the declaration and the last line ends of the text that it was read from."""
    xml = xml.replace("\r\n", "\n")  # as the parser has done with the rest
    declaration = _DECLARATION.match(xml)
    text: str = etree.tostring(root.getroottree(), encoding="unicode")
    return (declaration.group() if declaration else "") + text.strip() + xml[len(xml.rstrip()) :]


def _encoding(xml: bytes, root: etree._Element) -> tuple[bytes, str]:
    """The byte order mark (or none) and the codec of a file that libxml2 could read."""
    for mark, codec in _MARKS:
        if xml.startswith(mark):
            return mark, codec
    if xml.startswith(b"<\0"):
        return b"", "utf-16-le"
    if xml.startswith(b"\0<"):
        return b"", "utf-16-be"
    return b"", root.getroottree().docinfo.encoding or "utf-8"


def _same_lines(one: str, other: str) -> bool:
    """Whether two texts of libvirt's differ in the one line of the PMU alone: sure if true, nothing said if false."""
    left = _without_pmu_line(one)
    return left is not None and left == _without_pmu_line(other)


def _without_pmu_line(xml: str) -> list[str] | None:
    """The lines but for that of the PMU; None where it does not stand as libvirt writes it."""
    root = _head(xml, "domain XML", sys.maxsize)
    if root is None:
        return None
    lines = xml.split("\n")
    found = root.findall("features/pmu")
    if not found:
        return lines
    at = (found[0].sourceline or 0) - 1
    if len(found) > 1 or not 0 < at < len(lines) - 1 or not _PMU_LINE.fullmatch(lines[at]):
        return None
    alone = lines[at - 1] == "  <features>" and lines[at + 1] == "  </features>"
    del lines[at - alone : at + 1 + alone]
    return lines


def _meaning(xml: str) -> object:
    root = _parse(xml, "domain XML", sys.maxsize)
    for pmu in root.findall("features/pmu"):
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
