"""Where the elements of a domain's XML stand, and the edits of its text. Pure.

expat finds the places. It shares no code with lxml, which says what the text means: where the two disagree, nothing is
edited.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final
from xml.parsers import expat

from pmuconf.domain.definition import PmuState
from pmuconf.domain.xmltext import DomainXmlError

__all__ = ["Edit", "ElementPlace", "Places", "disagreement"]

_SPACE: Final = re.compile(rb"[ \t\r\n]*")
_VALUE = rb"""[ \t\r\n]*=[ \t\r\n]*("[^"]*"|'[^']*')"""
_ATTRIBUTE: Final = re.compile(rb"[ \t\r\n]+([^\s=/>]+)" + _VALUE)
_START_TAG: Final = re.compile(
    rb"<(?P<name>[^\s=/>]+)(?P<attributes>(?:[ \t\r\n]+[^\s=/>]+" + _VALUE + rb")*)[ \t\r\n]*(?P<empty>/?)>"
)
_END_TAG: Final = re.compile(rb"</[^\s>]+[ \t\r\n]*>")


@dataclass(frozen=True)
class Edit:
    """One edit: the bytes of UTF-8 from start to end become the new ones."""

    start: int
    end: int
    new: bytes


class ElementPlace:
    """Where the start tag and the end tag of an element begin; for an empty element, where its only tag ends."""

    __slots__ = ("children", "end", "start")

    def __init__(self, start: int) -> None:
        self.start = self.end = start
        self.children: list[ElementPlace] = []


class Places:
    """UTF-8 text of a domain with the places of its elements, down to the grandchildren of the root."""

    def __init__(self, data: bytes, source: str) -> None:
        self._data = data
        self._source = source
        self.root = self._placed()
        first = _ATTRIBUTE.search(self._tag(self.root, b"domain")["attributes"])
        self.quote = first[2][:1] if first else b"'"

    def without(self, place: ElementPlace, *, spaced: bool) -> Edit:
        """The edit that takes an element away; its line too, if only white space is around it."""
        tag = self._tag(place, b"pmu")
        line = self._line_before(place.start) if spaced else b""
        return Edit(place.start - len(line), self._end(place, tag), b"")

    def with_state(self, place: ElementPlace, state: PmuState, written: int | None) -> Edit:
        """The edit that gives a PMU this state.

        :param written: the number of the attribute that says the state now; None: it has none.
        """
        tag = self._tag(place, b"pmu")
        if written is not None:
            every = _ATTRIBUTE.finditer(self._data, tag.start("attributes"), tag.end("attributes"))
            attributes = [attribute for attribute in every if attribute[1].partition(b":")[0] != b"xmlns"]
            if written >= len(attributes) or attributes[written][1].rpartition(b":")[2] != b"state":
                raise self._disagreement("no state where there should be one")
            return Edit(attributes[written].start(2) + 1, attributes[written].end(2) - 1, state.value.encode())
        at = tag.end("attributes")
        return Edit(at, at, b" state=" + self.quote + state.value.encode() + self.quote)

    def first_in(self, place: ElementPlace, new: bytes, *, spaced: bool) -> Edit:
        """The edit that puts text in front of everything in these features, on a line of its own if they have lines."""
        tag = self._tag(place, b"features")
        if tag["empty"]:
            return self._filled(tag, new)
        at = tag.end()
        if not spaced:
            return Edit(at, at, new)
        space = self._space_after(at)
        line = _last_line(space)
        if at + len(space) == place.end and line[:1] in (b"\r", b"\n"):  # only the end tag is on this line
            before = self._line_before(place.start)
            line = before + before.lstrip(b"\r\n")
        return Edit(at, at, line + new)

    def in_front(self, place: ElementPlace, new: bytes, *, spaced: bool) -> Edit:
        """The edit that puts text in front of an element, on a line of its own if the element has one."""
        line = self._line_before(place.start) if spaced else b""
        at = place.start - len(line)
        return Edit(at, at, line + new)

    def last_in(self, new: bytes, *, spaced: bool) -> Edit:
        """The edit that puts text behind everything in the domain, on a line of its own if the last element has one."""
        tag = self._tag(self.root, b"domain")
        if tag["empty"]:
            return self._filled(tag, new)
        at = self.root.end
        if not spaced:
            return Edit(at, at, new)
        at -= len(self._space_before(at))
        line = self._line_before(self.root.children[-1].start) if self.root.children else b""
        return Edit(at, at, line + new)

    def _filled(self, tag: re.Match[bytes], new: bytes) -> Edit:
        """The edit that puts text into an empty element: its only tag becomes two, with the text between them."""
        return Edit(tag.start("empty"), tag.end(), b">" + new + b"</" + tag["name"] + b">")

    def _placed(self) -> ElementPlace:
        reader = expat.ParserCreate("utf-8")
        path = [ElementPlace(0)]
        depth = 0

        def start(_name: str, _attributes: object) -> None:
            nonlocal depth
            if depth < 3:
                place = ElementPlace(reader.CurrentByteIndex)
                path[-1].children.append(place)
                path.append(place)
            depth += 1

        def end(_name: str) -> None:
            nonlocal depth
            depth -= 1
            if depth < 3:
                path.pop().end = reader.CurrentByteIndex

        reader.StartElementHandler, reader.EndElementHandler = start, end
        is_final = True  # no more text follows
        try:
            reader.Parse(self._data, is_final)
        except expat.ExpatError as error:
            raise self._disagreement(f"expat says: {expat.ErrorString(error.code)}", error.lineno) from None
        return path[0].children[0]

    def _tag(self, place: ElementPlace, name: bytes) -> re.Match[bytes]:
        tag = _START_TAG.match(self._data, place.start)
        if tag is None or tag["name"].rpartition(b":")[2] != name:
            raise self._disagreement(f"no <{name.decode()}> where there should be one")
        return tag

    def _end(self, place: ElementPlace, tag: re.Match[bytes]) -> int:
        if tag["empty"]:
            return tag.end()
        end = _END_TAG.match(self._data, place.end)
        if end is None:
            raise self._disagreement("no end of an element where it should be")
        return end.end()

    def _space_after(self, at: int) -> bytes:
        space = _SPACE.match(self._data, at)
        return space[0] if space else b""

    def _space_before(self, at: int) -> bytes:
        start = at
        while start and self._data[start - 1] in b" \t\r\n":
            start -= 1
        return self._data[start:at]

    def _line_before(self, at: int) -> bytes:
        return _last_line(self._space_before(at))

    def _disagreement(self, problem: str, line: int | None = None) -> DomainXmlError:
        return disagreement(problem, self._source, line)


def _last_line(space: bytes) -> bytes:
    """White space from its last line end on; all of it, if it has none."""
    at = max(space.rfind(b"\n"), space.rfind(b"\r"))
    if at > 0 and space[at - 1 : at + 1] == b"\r\n":
        at -= 1
    return space[max(at, 0) :]


def disagreement(problem: str, source: str, line: int | None = None) -> DomainXmlError:
    """The error of a text that two readers take for different things."""
    return DomainXmlError(
        f"two XML readers disagree about it, so it was not rewritten: {problem}",
        cause="xml-readers-disagree",
        source=source,
        line=line,
        hint="Set the PMU state by hand (virsh edit), and please report what is special about this XML",
    )
