"""The rewrite of the PMU in a domain XML: an edit of a few bytes, and all others stay as they are.

Two readers have to agree. lxml says what the text means and which elements are to be edited; expat, which shares no
code with it, says where the same elements stand. The edited text is then read again, and has to mean what the edit of
lxml's own elements means. Otherwise nothing is handed out (cause ``xml-readers-disagree``).

Pure: text in, text out.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, TypeVar
from xml.parsers import expat

from lxml import etree

from pmuconf.domain.definition import (
    MAX_XML_BYTES,
    DomainXmlError,
    PmuState,
    libvirt_head,
    parse_domain,
    pmu_state,
    state_attribute,
)
from pmuconf.domain.xmltext import encoding

__all__ = ["rewrite", "rewrite_bytes", "rewrite_libvirt"]

# A missing <features> goes in front of the first of these: where libvirt itself would write it.
_AFTER_FEATURES: Final = frozenset(
    {
        *("cpu", "clock", "on_poweroff", "on_reboot", "on_crash", "on_lockfailure", "pm", "perf", "devices"),
        *("seclabel", "keywrap", "launchSecurity"),
    }
)

_Xml = TypeVar("_Xml", str, bytes)

_SPACE: Final = re.compile(rb"[ \t\r\n]*")
_END: Final = b"</domain>"
_VALUE = rb"""[ \t\r\n]*=[ \t\r\n]*("[^"]*"|'[^']*')"""
_ATTRIBUTE: Final = re.compile(rb"[ \t\r\n]+([^\s=/>]+)" + _VALUE)
_START_TAG: Final = re.compile(
    rb"<(?P<name>[^\s=/>]+)(?P<attributes>(?:[ \t\r\n]+[^\s=/>]+" + _VALUE + rb")*)[ \t\r\n]*(?P<empty>/?)>"
)
_END_TAG: Final = re.compile(rb"</[^\s>]+[ \t\r\n]*>")


def rewrite(xml: str, state: PmuState, *, source: str = "domain XML", max_bytes: int = MAX_XML_BYTES) -> str:
    """Return the XML with its PMU in the given state and every other character as it was.

    ``DEFAULT`` takes the element away. Idempotent: text that already says exactly this comes back as it is.

    :raises DomainXmlError: xml-readers-disagree, or as domain.read().
    """
    root = parse_domain(xml, source, max_bytes)
    edits = _edits(xml.encode("utf-8"), root, state, source)
    if not edits:
        return xml
    return _checked(b"".join(_spliced(xml.encode("utf-8"), edits)).decode("utf-8"), root, source)


def rewrite_libvirt(xml: str, state: PmuState, *, source: str = "domain XML", max_bytes: int = MAX_XML_BYTES) -> str:
    """As rewrite(), for text that libvirt itself wrote: what it has from the devices on need not be read."""
    found = libvirt_head(xml, source, max_bytes)
    if found is None:
        return rewrite(xml, state, source=source, max_bytes=max_bytes)
    head, root = found
    edits = _edits(head.encode("utf-8"), root, state, source)
    if not edits:
        return xml
    edited = _checked(b"".join(_spliced(head.encode("utf-8"), edits)).decode("utf-8"), root, source)
    return edited[: -len(_END)] + xml[len(head) - len(_END) :]


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
        raise DomainXmlError(
            f"can't be read as {codec}: {error}", cause="xml-encoding", source=source, hint=_convert(codec)
        ) from None
    edits = _edits(data, root, state, source)
    if not edits:
        return xml
    parts = list(_spliced(data, edits))
    if codec != "utf-8":
        # What stays is taken from the file itself, never encoded anew.
        sizes = [len(part.decode("utf-8").encode(codec)) for part in parts]
        gone = [len(data[edit.start : edit.end].decode("utf-8").encode(codec)) for edit in edits]
        if sum(sizes[::2]) + sum(gone) != len(body):
            raise DomainXmlError(
                f"can't be edited as {codec}: it has other ways to write its characters than Python's",
                cause="xml-encoding",
                source=source,
                hint=_convert(codec),
            )
        at = 0
        for number, size in enumerate(sizes):
            if number % 2:
                parts[number] = parts[number].decode("utf-8").encode(codec)
                at += gone[number // 2]
            else:
                parts[number] = body[at : at + size]
                at += size
    return _checked(mark + b"".join(parts), root, source)


def _convert(codec: str) -> str:
    return f"Convert it to UTF-8 first, its declaration too: iconv -f {codec} -t UTF-8"


@dataclass(frozen=True)
class _Edit:
    """What stands from start to end, in bytes of UTF-8, becomes the new text."""

    start: int
    end: int
    new: bytes


class _Place:
    """Where an element's start tag and end tag begin; of an empty element's, the second is the end of its only one."""

    __slots__ = ("children", "end", "start")

    def __init__(self, start: int) -> None:
        self.start = self.end = start
        self.children: list[_Place] = []


def _spliced(data: bytes, edits: list[_Edit]) -> Iterator[bytes]:
    """What stays and what is new, in turn."""
    at = 0
    for edit in edits:
        yield data[at : edit.start]
        yield edit.new
        at = edit.end
    yield data[at:]


def _edits(data: bytes, root: etree._Element, state: PmuState, source: str) -> list[_Edit]:
    """The edits of UTF-8 text that bring it to this state, in order; the same is done to the elements."""
    found = [
        (at, number, element)
        for at, features in enumerate(root.iterchildren(etree.Element))
        if features.tag == "features"
        for number, element in enumerate(features.iterchildren(etree.Element))
        if str(element.tag).rpartition("}")[2] == "pmu"
    ]
    for _, _, element in found:
        pmu_state(element, source)
    if state is PmuState.DEFAULT:
        if not found:
            return []
        drops = found
    else:
        if len(found) == 1 and state_attribute(found[0][2]) and pmu_state(found[0][2], source) is state:
            return []
        drops = found[:-1]
    text = _Text(data, source)
    edits = [
        text.without(text.root.children[at].children[number], spaced=_drop(element)) for at, number, element in drops
    ]
    if state is not PmuState.DEFAULT:
        if found:
            at, number, element = found[-1]
            name = state_attribute(element)
            written = None if name is None else element.keys().index(name)
            edits.append(text.with_state(text.root.children[at].children[number], state, written))
            element.set(name or "state", state.value)
        else:
            edits.append(_added(text, root, state))
    return edits


def _added(text: _Text, root: etree._Element, state: PmuState) -> _Edit:
    """A PMU where there is none: first of the first features, else with features of its own."""
    pmu = b"<pmu state=%(q)s%(state)s%(q)s/>" % {b"q": text.quote, b"state": state.value.encode()}
    children = list(root.iterchildren(etree.Element))
    at = next((number for number, child in enumerate(children) if child.tag == "features"), None)
    if at is not None:
        features = children[at]
        place = text.root.children[at]
        spaced = _blank(features.text)
        new = etree.SubElement(features, "pmu", state=state.value)
        features.insert(0, new)
        new.tail, features.text = features.text, None
        return text.first_in(place, pmu, spaced=spaced)
    features = etree.SubElement(root, "features")
    etree.SubElement(features, "pmu", state=state.value)
    whole = b"<features>" + pmu + b"</features>"
    at = next((number for number, child in enumerate(children) if child.tag in _AFTER_FEATURES), None)
    if at is None:
        previous = features.getprevious()
        return text.last_in(whole, spaced=_blank(root.text if previous is None else previous.tail))
    spaced = _blank(_before(children[at]))
    root.insert(root.index(children[at]), features)
    return text.in_front(text.root.children[at], whole, spaced=spaced)


class _Text:
    """UTF-8 text of a domain with the places of its elements, down to the grandchildren of the root."""

    def __init__(self, data: bytes, source: str) -> None:
        self._data = data
        self._source = source
        self.root = self._placed()
        first = _ATTRIBUTE.search(self._tag(self.root, b"domain")["attributes"])
        self.quote = first[2][:1] if first else b"'"

    def without(self, place: _Place, *, spaced: bool) -> _Edit:
        """Take an element away, and if white space alone is around it, its line."""
        tag = self._tag(place, b"pmu")
        line = self._line_before(place.start) if spaced else b""
        return _Edit(place.start - len(line), self._end(place, tag), b"")

    def with_state(self, place: _Place, state: PmuState, written: int | None) -> _Edit:
        """Give a PMU this state, by the attribute of this number that says it now; None if none does."""
        tag = self._tag(place, b"pmu")
        if written is not None:
            found = _ATTRIBUTE.finditer(self._data, tag.start("attributes"), tag.end("attributes"))
            attributes = [one for one in found if one[1].partition(b":")[0] != b"xmlns"]
            if written >= len(attributes) or attributes[written][1].rpartition(b":")[2] != b"state":
                raise self._disagreement("no state where there should be one")
            return _Edit(attributes[written].start(2) + 1, attributes[written].end(2) - 1, state.value.encode())
        at = tag.end("attributes")
        return _Edit(at, at, b" state=" + self.quote + state.value.encode() + self.quote)

    def first_in(self, place: _Place, new: bytes, *, spaced: bool) -> _Edit:
        """Put text in front of all that these features hold, on a line of its own if they have lines."""
        tag = self._tag(place, b"features")
        if tag["empty"]:
            return self._filled(tag, new)
        at = tag.end()
        if not spaced:
            return _Edit(at, at, new)
        space = self._space_after(at)
        line = _last_line(space)
        if at + len(space) == place.end and line[:1] in (b"\r", b"\n"):  # so far this is the line of the end tag alone
            before = self._line_before(place.start)
            line = before + before.lstrip(b"\r\n")
        return _Edit(at, at, line + new)

    def in_front(self, place: _Place, new: bytes, *, spaced: bool) -> _Edit:
        """Put text in front of an element, on a line of its own if that has one."""
        line = self._line_before(place.start) if spaced else b""
        at = place.start - len(line)
        return _Edit(at, at, line + new)

    def last_in(self, new: bytes, *, spaced: bool) -> _Edit:
        """Put text behind all that the domain holds, on a line of its own if the last element has one."""
        tag = self._tag(self.root, b"domain")
        if tag["empty"]:
            return self._filled(tag, new)
        at = self.root.end
        if not spaced:
            return _Edit(at, at, new)
        at -= len(self._space_before(at))
        line = self._line_before(self.root.children[-1].start) if self.root.children else b""
        return _Edit(at, at, line + new)

    def _filled(self, tag: re.Match[bytes], new: bytes) -> _Edit:
        """Put text between the two tags that an empty element's only one becomes."""
        return _Edit(tag.start("empty"), tag.end(), b">" + new + b"</" + tag["name"] + b">")

    def _placed(self) -> _Place:
        reader = expat.ParserCreate("utf-8")
        path = [_Place(0)]
        depth = 0

        def start(_name: str, _attributes: object) -> None:
            nonlocal depth
            if depth < 3:
                place = _Place(reader.CurrentByteIndex)
                path[-1].children.append(place)
                path.append(place)
            depth += 1

        def end(_name: str) -> None:
            nonlocal depth
            depth -= 1
            if depth < 3:
                path.pop().end = reader.CurrentByteIndex

        reader.StartElementHandler, reader.EndElementHandler = start, end
        try:
            reader.Parse(self._data, True)
        except expat.ExpatError as error:
            raise self._disagreement(f"expat says: {expat.ErrorString(error.code)}", error.lineno) from None
        return path[0].children[0]

    def _tag(self, place: _Place, name: bytes) -> re.Match[bytes]:
        tag = _START_TAG.match(self._data, place.start)
        if tag is None or tag["name"].rpartition(b":")[2] != name:
            raise self._disagreement(f"no <{name.decode()}> where there should be one")
        return tag

    def _end(self, place: _Place, tag: re.Match[bytes]) -> int:
        if tag["empty"]:
            return tag.end()
        end = _END_TAG.match(self._data, place.end)
        if end is None:
            raise self._disagreement("no end of an element where it should be")
        return end.end()

    def _space_after(self, at: int) -> bytes:
        found = _SPACE.match(self._data, at)
        return found[0] if found else b""

    def _space_before(self, at: int) -> bytes:
        start = at
        while start and self._data[start - 1] in b" \t\r\n":
            start -= 1
        return self._data[start:at]

    def _line_before(self, at: int) -> bytes:
        return _last_line(self._space_before(at))

    def _disagreement(self, problem: str, line: int | None = None) -> DomainXmlError:
        return _disagreement(problem, self._source, line)


def _last_line(space: bytes) -> bytes:
    """White space from its last line end on; all of it, if it has none."""
    at = max(space.rfind(b"\n"), space.rfind(b"\r"))
    if at > 0 and space[at - 1 : at + 1] == b"\r\n":
        at -= 1
    return space[max(at, 0) :]


def _disagreement(problem: str, source: str, line: int | None = None) -> DomainXmlError:
    return DomainXmlError(
        f"two XML readers disagree about it, so it was not rewritten: {problem}",
        cause="xml-readers-disagree",
        source=source,
        line=line,
        hint="Set the PMU state by hand (virsh edit), and please report what is special about this XML",
    )


def _checked(edited: _Xml, root: etree._Element, source: str) -> _Xml:
    """The edited text, if it means what the edited elements mean."""
    try:
        again = parse_domain(edited, source, sys.maxsize)
    except DomainXmlError as error:
        raise _disagreement(f"the edited text is refused ({error.cause})", source) from None
    if _meaning(again) != _meaning(root):
        raise _disagreement("the edited text means something else", source)
    return edited


def _meaning(root: etree._Element) -> str:
    """All that the text says but for the white space among the children of the domain and of features. Spoils them."""
    for parent in (root, *root.iterchildren("features")):
        parent.text = _said(parent.text)
        for child in parent:
            child.tail = _said(child.tail)
    text: str = etree.tostring(root.getroottree(), encoding="unicode")
    return text


def _said(text: str | None) -> str | None:
    return ("".join(text.split()) or None) if text else None


def _drop(element: etree._Element) -> bool:
    """Take an element away, and leave the text behind it; whether there was white space alone around it."""
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
    """The text between an element and the one in front of it, or its parent's start."""
    previous, parent = element.getprevious(), element.getparent()
    if previous is not None:
        return previous.tail
    return None if parent is None else parent.text


def _blank(text: str | None) -> bool:
    return not text or not text.strip()
