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
    path: list[str] = []
    for event in events(data):
        if event[0] == "start":
            path.append(str(event[1]))
        here = tuple(path)
        if event[0] == "end":
            path.pop()
        if here[:3] == ("domain", "features", "pmu"):
            continue
        if event[0] == "text" and here in (("domain",), ("domain", "features")):
            kept += [("text", sign) for sign in str(event[1]) if not sign.isspace()]
        elif event == ("end", "features") and kept[-1] == ("start", "features", ()):
            kept.pop()
        else:
            kept.append(event)
    return kept


def pmu_states(data: str | bytes) -> list[str | None]:
    """The state attribute of each features/pmu, None where it has none."""
    path: list[tuple[str, str]] = []  # each with its default namespace
    found: list[str | None] = []

    def start(name: str, attributes: dict[str, str]) -> None:
        path.append((name, attributes.get("xmlns", path[-1][1] if path else "")))
        if path == [("domain", ""), ("features", ""), ("pmu", "")]:
            found.append(attributes.get("state"))

    parser = _parser(data)
    parser.StartElementHandler, parser.EndElementHandler = start, lambda _: path.pop()
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
    path: list[str] = []
    begun, inside = 0, 0

    def start(name: str, _: object) -> None:
        nonlocal begun, inside
        path.append(name)
        inside += 1
        if path == ["domain", "features", "pmu"]:
            begun, inside = parser.CurrentByteIndex, 0

    def end(_: str) -> None:
        if path == ["domain", "features", "pmu"]:
            at = parser.CurrentByteIndex
            empty = not inside and data[at - 2 : at] == b"/>"
            found.append((begun, at if empty else data.index(b">", at) + 1))
        path.pop()

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
    tag = re.match(r"""<pmu((?:\s+[^\s=]+\s*=\s*(?:"[^"]*"|'[^']*'))*)\s*/?>""", pmu)
    assert tag is not None
    written = re.search(r"""\sstate\s*=\s*["'](on|off)["']""", tag[1])
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
