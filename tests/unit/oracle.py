"""What a domain XML says, read by the standard library's expat alone.

The oracle of the domain tests: it shares no line with pmuconf and no parser with it (that is lxml, on libxml2).
"""

from __future__ import annotations

import re
from typing import Union
from xml.parsers import expat

__all__ = ["Event", "declaration", "edited_alone", "events", "outside_pmu", "pmu_spans", "pmu_state", "pmu_states"]

# ("start", name, sorted attributes), ("end", name), ("text", ...), ("comment", ...) or ("pi", target, data)
Event = tuple[Union[str, tuple[tuple[str, str], ...]], ...]


def events(data: str | bytes) -> list[Event]:
    """Everything between declaration and end, in order; prefixes as written, neighbouring text as one."""
    found: list[Event] = []

    def start(name: str, attributes: dict[str, str]) -> None:
        found.append(("start", name, tuple(sorted(attributes.items()))))

    def text(more: str) -> None:
        if found and found[-1][0] == "text":
            more = str(found.pop()[1]) + more
        found.append(("text", more))

    parser = _parser(data)
    parser.StartElementHandler = start
    parser.EndElementHandler = lambda name: found.append(("end", name))
    parser.CharacterDataHandler = text
    parser.CommentHandler = lambda what: found.append(("comment", what))
    parser.ProcessingInstructionHandler = lambda target, what: found.append(("pi", target, what))
    _feed(parser, data)
    return found


def outside_pmu(data: str | bytes) -> list[Event]:
    """events() without features/pmu, and without what makes no difference there.

    That is white space among the children of domain and of features, and a features element that holds nothing.
    """
    kept: list[Event] = []
    scope, path = _Scope(), list[bool]()
    for event in events(data):
        if event[0] == "start":
            scope.start(str(event[1]), dict(event[2]))  # type: ignore[arg-type]
            path.append(scope.in_pmu)
        here, names = tuple(path), scope.names
        if event[0] == "end":
            scope.end()
            path.pop()
        if any(here):
            continue
        if event[0] == "text" and names in (["domain"], ["domain", "features"]):
            kept += [("text", sign) for sign in str(event[1]) if not sign.isspace()]
        elif event == ("end", "features") and kept[-1] == ("start", "features", ()):
            kept.pop()
        else:
            kept.append(event)
    return kept


class _Scope:
    """The open elements, each with the namespaces that are declared in it: expat by itself knows none."""

    def __init__(self) -> None:
        self._open: list[tuple[str, dict[str, str]]] = []

    def start(self, name: str, attributes: dict[str, str]) -> None:
        declared = {key[6:]: value for key, value in attributes.items() if key == "xmlns" or key.startswith("xmlns:")}
        self._open.append((name, {**(self._open[-1][1] if self._open else {}), **declared}))

    def end(self) -> None:
        self._open.pop()

    def local(self, name: str) -> str:
        """A name without a prefix that is declared; the others belong to it."""
        prefix, colon, rest = name.partition(":")
        return rest if colon and prefix in self._open[-1][1] else name

    @property
    def names(self) -> list[str]:
        """What is open, as it is written."""
        return [name for name, _ in self._open]

    @property
    def in_pmu(self) -> bool:
        """Whether the innermost is what libvirt takes for a PMU: domain and features in no namespace, pmu in any."""
        if [name for name, _ in self._open[:2]] != ["domain", "features"] or len(self._open) != 3:
            return False
        return not any(namespaces.get("") for _, namespaces in self._open[:2]) and self.local(self._open[2][0]) == "pmu"


def pmu_states(data: str | bytes) -> list[str | None]:
    """The state attribute of each features/pmu, None where it has none."""
    scope = _Scope()
    found: list[str | None] = []

    def start(name: str, attributes: dict[str, str]) -> None:
        scope.start(name, attributes)
        if scope.in_pmu:
            found.append(next((value for key, value in attributes.items() if scope.local(key) == "state"), None))

    parser = _parser(data)
    parser.StartElementHandler, parser.EndElementHandler = start, lambda _: scope.end()
    _feed(parser, data)
    return found


def pmu_state(data: str | bytes) -> str:
    """The state as libvirt 9.0 reads it: the last pmu counts, without a state it means on, absent is default."""
    states = pmu_states(data)
    return (states[-1] or "on") if states else "default"


def declaration(data: bytes) -> tuple[str, str | None, int] | None:
    """Version, encoding and standalone (-1: not said) of the XML declaration, None without one."""
    found: list[tuple[str, str | None, int]] = []
    parser = _parser(data)
    parser.XmlDeclHandler = lambda version, encoding, standalone: found.append((version, encoding, standalone))
    _feed(parser, data)
    return found[0] if found else None


def pmu_spans(text: str) -> list[tuple[int, int]]:
    """Where each features/pmu begins and ends, in bytes of UTF-8."""
    data, found = text.encode(), list[tuple[int, int]]()
    scope = _Scope()
    begun, inside = 0, 0

    def start(name: str, attributes: dict[str, str]) -> None:
        nonlocal begun, inside
        scope.start(name, attributes)
        inside += 1
        if scope.in_pmu:
            begun, inside = parser.CurrentByteIndex, 0

    def end(_: str) -> None:
        if scope.in_pmu:
            at = parser.CurrentByteIndex
            empty = not inside and data[at - 2 : at] == b"/>"
            found.append((begun, at if empty else data.index(b">", at) + 1))
        scope.end()

    def other(*_: object) -> None:
        nonlocal inside
        inside += 1

    parser = _parser(text)
    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler = parser.CommentHandler = parser.ProcessingInstructionHandler = other
    _feed(parser, text)
    return found


_SPACE = "[ \\t\\r\\n]*"
_PMU = r"""<pmu state=(['"])%s\1/>"""
_ADDED = (f"{_SPACE}{_PMU}", f"{_SPACE}<features>{_PMU}</features>")


def edited_alone(before: str, after: str, state: str) -> bool:
    """Whether nothing but features/pmu was edited on the way to this state, character by character.

    A PMU that goes may take the white space in front of it along, one that comes may bring some; one that stays keeps
    its place and all that it holds.
    """
    data, spans = before.encode(), pmu_spans(before)
    if not spans:
        return before == after if state == "default" else _added_alone(before, after, state)
    pattern, at = "", 0
    for number, (start, end) in enumerate(spans):
        pattern += _may_lose_space(data[at:start].decode())
        if number == len(spans) - 1 and state != "default":
            pattern += _with_state(data[start:end].decode(), state)
        at = end
    return re.fullmatch(pattern + re.escape(data[at:].decode()), after) is not None


def _may_lose_space(text: str) -> str:
    bare = text.rstrip(" \t\r\n")
    space = text[len(bare) :]
    return re.escape(bare) + "(?:" + "|".join(re.escape(space[:end]) for end in range(len(space), -1, -1)) + ")"


def _with_state(pmu: str, state: str) -> str:
    """A pattern for the same element in this state."""
    tag = re.match(r"""<(?:\w+:)?pmu((?:\s+[^\s=]+\s*=\s*(?:"[^"]*"|'[^']*'))*)\s*/?>""", pmu)
    assert tag is not None
    written = re.search(r"""[\s:]state\s*=\s*["'](on|off)["']""", tag[1])
    if written is not None:
        start, end = (tag.start(1) + at for at in written.span(1))
        return re.escape(pmu[:start] + state + pmu[end:])
    return re.escape(pmu[: tag.end(1)]) + rf"""(?: state='{state}'| state="{state}")""" + re.escape(pmu[tag.end(1) :])


def _added_alone(before: str, after: str, state: str) -> bool:
    size = len(after) - len(before)
    for pattern in (text % state for text in _ADDED):
        for found in re.finditer(pattern, after):
            # The white space that came along is some of that in front of the element.
            for start in range(found.start(), found.end()):
                if found.end() - start == size and after[:start] + after[found.end() :] == before:
                    return True
        # An empty element was opened for it.
        for name in ("features", "domain"):
            for found in re.finditer(f">{pattern}</{name}>", after):
                if after[: found.start()] + "/>" + after[found.end() :] == before:
                    return True
    return False


def _parser(data: str | bytes) -> expat.XMLParserType:
    return expat.ParserCreate("utf-8" if isinstance(data, str) else None)


def _feed(parser: expat.XMLParserType, data: str | bytes) -> None:
    parser.Parse(data.encode() if isinstance(data, str) else data, True)
