"""Whether and where two definitions of a domain differ outside ``features/pmu``: places, never values. Pure."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from typing import Final

from lxml import etree

from pmuconf.domain.reading import libvirt_head, parse_domain

__all__ = ["differences", "in_metadata", "of_libvirt", "same_but_pmu", "without_pmu_line"]

# libvirt itself gives these another value at the first redefine of a fresh domain (seen on 9.0): the port of a virtio
# console beside a serial one, and the size of a shmem device that has none.
_OF_LIBVIRT: Final = frozenset({"devices/console/target@port", "devices/shmem/size"})

_TEXTS: Final = ("title", "description", "metadata")
_MOST: Final = 8
_PMU_LINE: Final = re.compile(r"    <pmu state='(on|off)'/>")


def same_but_pmu(before: str, after: str) -> bool:
    """Whether two domain XMLs mean the same outside ``features/pmu``.

    They are compared as canonical XML, without the white space between elements. Within ``<devices>`` only the order
    of devices of one kind counts, because libvirt lists them kind by kind. The order of controllers does not count:
    libvirt may change it on the first redefine of a fresh domain (seen with q35 on 9.0).
    """
    return _same_lines(before, after) or _meaning(before) == _meaning(after)


def differences(before: str, after: str) -> tuple[str, ...]:
    """The places in which two domain XMLs differ outside ``features/pmu``, such as ``memory`` or ``devices/disk``.

    None if they mean the same (see same_but_pmu()), and eight at most. The metadata is a tenant's text, so the places
    have no name from there.
    """
    if same_but_pmu(before, after):
        return ()
    left, right = (parse_domain(xml, "domain XML", sys.maxsize) for xml in (before, after))
    for root in (left, right):
        for features in root.findall("features"):
            for pmu in features.findall("pmu"):
                features.remove(pmu)
            if not len(features) and not features.attrib:
                root.remove(features)
    places: dict[str, None] = {}
    _compare(left, right, "", places)
    return tuple(places)[:_MOST] or ("order",)


def of_libvirt(places: Iterable[str]) -> bool:
    """Whether libvirt is known to change all these places by itself when a domain is defined again."""
    return _OF_LIBVIRT.issuperset(places)


def in_metadata(places: Iterable[str]) -> bool:
    """Whether all places are in title, description or metadata: libvirt reports each change there."""
    return all(place in _TEXTS for place in places)


def _compare(left: etree._Element, right: etree._Element, path: str, places: dict[str, None]) -> None:
    """Note where these two elements of the same name differ; children are compared kind by kind, in order."""
    if path in _TEXTS:
        if etree.tostring(left, with_tail=False) != etree.tostring(right, with_tail=False):
            places[path] = None
        return
    for name in dict.fromkeys([*left.keys(), *right.keys()]):
        if left.get(name) != right.get(name):
            places[f"{path}@{_bare(name)}"] = None
    if (left.text or "").strip() != (right.text or "").strip():
        places[path or "text"] = None
    for tag in dict.fromkeys(_kind(child) for child in (*left, *right)):
        lefts, rights = ([child for child in parent if _kind(child) == tag] for parent in (left, right))
        inner = f"{path}/{_bare(tag)}".lstrip("/")
        if len(lefts) != len(rights):
            places[inner] = None
            continue
        if inner == "devices/controller":
            lefts, rights = sorted(lefts, key=_place), sorted(rights, key=_place)
        for pair in zip(lefts, rights):
            _compare(*pair, inner, places)


def _place(controller: etree._Element) -> tuple[str, int, str]:
    index = controller.get("index") or "0"
    return controller.get("type") or "", int(index) if index.isdecimal() else 0, controller.get("model") or ""


def _kind(child: etree._Element) -> str:
    """The name of an element; what a comment or a processing instruction is, for those have none."""
    if isinstance(child.tag, str):
        return child.tag
    return "comment" if isinstance(child, etree._Comment) else "processing-instruction"


def _bare(name: str) -> str:
    return name.rpartition("}")[2]


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


def _same_lines(before: str, after: str) -> bool:
    """Whether two texts of libvirt's differ only in the line of the PMU. If false, they may still mean the same."""
    lines = _without_pmu_line(before)
    return lines is not None and lines == _without_pmu_line(after)


def _without_pmu_line(xml: str) -> list[str] | None:
    head = libvirt_head(xml, "domain XML", sys.maxsize)
    return None if head is None else without_pmu_line(xml, head[1])


def without_pmu_line(xml: str, head: etree._Element) -> list[str] | None:
    """The lines without the one of the PMU; None if the PMU is not written as libvirt does it.

    :param head: the element of libvirt_head().
    """
    lines = xml.split("\n")
    pmus = head.findall("features/{*}pmu")
    if not pmus:
        return lines
    at = (pmus[0].sourceline or 0) - 1
    if len(pmus) > 1 or not 0 < at < len(lines) - 1 or not _PMU_LINE.fullmatch(lines[at]):
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
        devices.text = _text(devices.text, spaced=True)
    kinds["controller"] = sorted(kinds.get("controller", ()), key=repr)
    return _outline(root), kinds


def _outline(element: etree._Element) -> tuple[object, ...]:
    """An element as nested tuples: what canonical XML says of it, without the white space between elements.

    lxml's own canonical XML refuses namespaces that are no absolute URI, which libvirt takes.
    """
    spaced = len(element) > 0
    parts: list[object] = [element.tag, sorted(element.items()), _text(element.text, spaced=spaced)]
    for child in element:
        parts += [_outline(child), _text(child.tail, spaced=spaced)]
    return tuple(parts)


def _text(text: str | None, *, spaced: bool) -> str:
    """The text, without what is white space alone if that stands between elements."""
    return "" if text is None or (spaced and not text.strip()) else text
