"""The rewrite of the PMU in a domain XML: an edit of a few bytes, and all others stay as they are.

Two readers have to agree. lxml says what the text means and which elements are to be edited. expat, which shares no
code with lxml, says where the same elements stand. The edited text is then read again, and has to mean the same as
lxml's own elements after the same edit. Otherwise the rewrite is refused (cause ``xml-readers-disagree``).

Pure: text in, text out.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, TypeVar

from lxml import etree

from pmuconf.domain.definition import PmuState
from pmuconf.domain.places import Edit, ElementPlace, Places, disagreement
from pmuconf.domain.reading import libvirt_head, parse_domain, pmu_state, state_attribute
from pmuconf.domain.xmltext import MAX_XML_BYTES, DomainXmlError, encoding

__all__ = ["rewrite", "rewrite_bytes", "rewrite_libvirt", "rewrite_parsed"]

# A missing <features> goes in front of the first of these: where libvirt itself would write it.
_AFTER_FEATURES: Final = frozenset(
    {
        *("cpu", "clock", "on_poweroff", "on_reboot", "on_crash", "on_lockfailure", "pm", "perf", "devices"),
        *("seclabel", "keywrap", "launchSecurity"),
    }
)

_Xml = TypeVar("_Xml", str, bytes)

_END: Final = "</domain>"


def rewrite(xml: str, state: PmuState, *, source: str = "domain XML", max_bytes: int = MAX_XML_BYTES) -> str:
    """The XML with its PMU in the given state, and every other character as it was.

    ``DEFAULT`` takes the element away. Idempotent: text that already says exactly this comes back as it is.

    :raises DomainXmlError: xml-readers-disagree, or as read().
    """
    root = parse_domain(xml, source, max_bytes)
    data = xml.encode("utf-8")
    edits = _edits(data, root, state, source)
    return _checked(b"".join(_spliced(data, edits)).decode("utf-8"), root, source) if edits else xml


def rewrite_libvirt(xml: str, state: PmuState, *, source: str = "domain XML", max_bytes: int = MAX_XML_BYTES) -> str:
    """As rewrite(), for text that libvirt itself wrote: the part from the devices on is not read."""
    head_and_root = libvirt_head(xml, source, max_bytes)
    if head_and_root is None:
        return rewrite(xml, state, source=source, max_bytes=max_bytes)
    return rewrite_parsed(xml, head_and_root, state, source)


def rewrite_parsed(xml: str, parsed: tuple[str, etree._Element], state: PmuState, source: str) -> str:
    """As rewrite_libvirt(), for a text of which all or its head is parsed already; the element is edited too.

    :param parsed: what parse_libvirt() or libvirt_head() returned for this text.
    """
    part, root = parsed
    data = part.encode("utf-8")
    edits = _edits(data, root, state, source)
    if not edits:
        return xml
    edited = _checked(b"".join(_spliced(data, edits)).decode("utf-8"), root, source)
    return edited if part == xml else edited[: -len(_END)] + xml[len(part) - len(_END) :]


def rewrite_bytes(xml: bytes, state: PmuState, *, source: str, max_bytes: int = MAX_XML_BYTES) -> bytes:
    """As rewrite(), for a file in its own encoding: every byte outside the edit stays as it was.

    :raises DomainXmlError: xml-encoding, or as rewrite().
    """
    root = parse_domain(xml, source, max_bytes)
    mark, codec = encoding(xml, root)
    body = xml[len(mark) :]
    try:
        data = body.decode(codec).encode("utf-8")
    except (UnicodeError, LookupError) as error:
        raise _unconvertible(codec, f"can't be read as {codec}: {error}", source) from None
    edits = _edits(data, root, state, source)
    if not edits:
        return xml
    parts = list(_spliced(data, edits))
    if codec != "utf-8":
        parts = _encoded(parts, [data[edit.start : edit.end] for edit in edits], body, codec, source)
    return _checked(mark + b"".join(parts), root, source)


def _encoded(parts: list[bytes], replaced: list[bytes], body: bytes, codec: str, source: str) -> list[bytes]:
    """The parts of an edited text in the encoding of its file.

    The parts that stay are taken from the file itself, and never encoded again: a codec may know several ways to write
    a character. So their sizes have to add up to that of the file.

    :param parts: UTF-8, in turn a part that stays and a new one.
    :param replaced: the parts of the old text in place of the new ones.
    :param body: the file without its byte order mark.
    """

    def size(part: bytes) -> int:
        return len(part.decode("utf-8").encode(codec))

    kept, old = [size(part) for part in parts[::2]], [size(part) for part in replaced]
    if sum(kept) + sum(old) != len(body):
        problem = f"can't be edited as {codec}: it has other ways to write its characters than Python's"
        raise _unconvertible(codec, problem, source)
    encoded, at = [], 0
    for number, part in enumerate(parts):
        if number % 2:
            encoded.append(part.decode("utf-8").encode(codec))
            at += old[number // 2]
        else:
            encoded.append(body[at : at + kept[number // 2]])
            at += kept[number // 2]
    return encoded


def _unconvertible(codec: str, problem: str, source: str) -> DomainXmlError:
    hint = f"Convert it to UTF-8 first, its declaration too: iconv -f {codec} -t UTF-8"
    return DomainXmlError(problem, cause="xml-encoding", source=source, hint=hint)


def _spliced(data: bytes, edits: list[Edit]) -> Iterator[bytes]:
    """The edited text in parts: in turn one that stays and a new one."""
    at = 0
    for edit in edits:
        yield data[at : edit.start]
        yield edit.new
        at = edit.end
    yield data[at:]


@dataclass(frozen=True)
class _Pmu:
    """A PMU element, and its place: the number of its features among the root's children, and its own among theirs."""

    element: etree._Element
    features: int
    number: int

    def place(self, places: Places) -> ElementPlace:
        """Where it stands in the text."""
        return places.root.children[self.features].children[self.number]


def _pmus(root: etree._Element, source: str) -> list[_Pmu]:
    """All PMU elements, in their order; each of them has a state that is one."""
    pmus = [
        _Pmu(element, at, number)
        for at, features in enumerate(root.iterchildren(etree.Element))
        if features.tag == "features"
        for number, element in enumerate(features.iterchildren(etree.Element))
        if str(element.tag).rpartition("}")[2] == "pmu"
    ]
    for pmu in pmus:
        pmu_state(pmu.element, source)
    return pmus


def _edits(data: bytes, root: etree._Element, state: PmuState, source: str) -> list[Edit]:
    """The edits of UTF-8 text that bring it to this state, in their order. The same is done to the elements.

    The last PMU counts, for libvirt too: it gets the state, and those before it go.
    """
    pmus = _pmus(root, source)
    wanted = [] if state is PmuState.DEFAULT else [state]
    if [_written(pmu, source) for pmu in pmus] == wanted:
        return []
    places = Places(data, source)
    kept = pmus[-1:] if wanted else []
    edits = [places.without(pmu.place(places), spaced=_drop(pmu.element)) for pmu in pmus[: len(pmus) - len(kept)]]
    for pmu in kept:
        name = state_attribute(pmu.element)
        number = None if name is None else pmu.element.keys().index(name)
        edits.append(places.with_state(pmu.place(places), state, number))
        pmu.element.set(name or "state", state.value)
    if wanted and not pmus:
        edits.append(_added(places, root, state))
    return edits


def _written(pmu: _Pmu, source: str) -> PmuState | None:
    """The state that an attribute says; None if there is no such attribute, which means on."""
    return pmu_state(pmu.element, source) if state_attribute(pmu.element) else None


def _added(places: Places, root: etree._Element, state: PmuState) -> Edit:
    """The edit that adds a PMU: as the first of the first features, or with features of its own."""
    pmu = b"<pmu state=%(q)s%(state)s%(q)s/>" % {b"q": places.quote, b"state": state.value.encode()}
    children = list(root.iterchildren(etree.Element))
    for features, place in zip(children, places.root.children):
        if features.tag == "features":
            spaced = _blank(features.text)
            element = etree.SubElement(features, "pmu", state=state.value)
            features.insert(0, element)
            element.tail, features.text = features.text, None
            return places.first_in(place, pmu, spaced=spaced)
    features = etree.SubElement(root, "features")
    etree.SubElement(features, "pmu", state=state.value)
    text = b"<features>" + pmu + b"</features>"
    for child, place in zip(children, places.root.children):
        if child.tag in _AFTER_FEATURES:
            spaced = _blank(_before(child))
            root.insert(root.index(child), features)
            return places.in_front(place, text, spaced=spaced)
    previous = features.getprevious()
    return places.last_in(text, spaced=_blank(root.text if previous is None else previous.tail))


def _checked(edited: _Xml, root: etree._Element, source: str) -> _Xml:
    """The edited text, if it means what the edited elements mean."""
    try:
        again = parse_domain(edited, source, sys.maxsize)
    except DomainXmlError as error:
        raise disagreement(f"the edited text is refused ({error.cause})", source) from None
    if _meaning(again) != _meaning(root):
        raise disagreement("the edited text means something else", source)
    return edited


def _meaning(root: etree._Element) -> str:
    """What the text says, without the white space among the children of the domain and of features.

    The elements are changed, so they are of no further use.
    """
    for parent in (root, *root.iterchildren("features")):
        parent.text = _unspaced(parent.text)
        for child in parent:
            child.tail = _unspaced(child.tail)
    text: str = etree.tostring(root.getroottree(), encoding="unicode")
    return text


def _unspaced(text: str | None) -> str | None:
    return ("".join(text.split()) or None) if text else None


def _drop(element: etree._Element) -> bool:
    """Take an element away, and leave the text behind it. True if there was only white space around it."""
    parent, previous = element.getparent(), element.getprevious()
    if parent is None:
        raise ValueError("the root is no PMU")
    before = _before(element)
    spaced = _blank(before) and _blank(element.tail)
    text = (before or "") + (element.tail or "")
    element.tail = None
    if previous is None:
        parent.text = text
    else:
        previous.tail = text
    parent.remove(element)
    return spaced


def _before(element: etree._Element) -> str | None:
    """The text between an element and the one before it, or the start of its parent."""
    previous, parent = element.getprevious(), element.getparent()
    if previous is not None:
        return previous.tail
    return None if parent is None else parent.text


def _blank(text: str | None) -> bool:
    return not text or not text.strip()
