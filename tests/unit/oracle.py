"""What a domain XML says, read by the standard library's expat alone.

The oracle of the domain tests: it shares no line with pmuconf and no parser with it (that is lxml, on libxml2).
"""

from __future__ import annotations

from typing import Union
from xml.etree import ElementTree
from xml.parsers import expat

__all__ = ["Event", "declaration", "events", "outside_pmu", "pmu_state", "pmu_states"]

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
    parser = ElementTree.XMLParser(encoding="utf-8" if isinstance(data, str) else None)
    parser.feed(data)
    return [pmu.get("state") for pmu in parser.close().iterfind("./features/pmu")]


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


def _parser(data: str | bytes) -> expat.XMLParserType:
    return expat.ParserCreate("utf-8" if isinstance(data, str) else None)


def _feed(parser: expat.XMLParserType, data: str | bytes) -> None:
    parser.Parse(data.encode() if isinstance(data, str) else data, True)
