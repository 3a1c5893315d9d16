"""Where two definitions of one domain differ outside ``features/pmu``: places, never values. Pure."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Final

from lxml import etree

from pmuconf.domain.definition import parse_domain, same_but_pmu

__all__ = ["differences", "in_metadata", "of_libvirt"]

# What libvirt itself gives another value at the first redefine of a fresh domain (seen on 9.0): the port of a virtio
# console beside a serial one, the size of a shmem device that was given none.
_OF_LIBVIRT: Final = frozenset({"devices/console/target@port", "devices/shmem/size"})

_TEXTS: Final = ("title", "description", "metadata")
_MOST: Final = 8


def differences(one: str, other: str) -> tuple[str, ...]:
    """The places in which two domain XMLs differ outside ``features/pmu``, such as ``memory`` or ``devices/disk``.

    Empty where they mean the same (see same_but_pmu()), never more than eight. Text within the metadata is a tenant's:
    no name from there is given.
    """
    if same_but_pmu(one, other):
        return ()
    left, right = (parse_domain(xml, "domain XML", sys.maxsize) for xml in (one, other))
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
    """Whether libvirt is known to change all of this by itself when a domain is defined again."""
    return _OF_LIBVIRT.issuperset(places)


def in_metadata(places: Iterable[str]) -> bool:
    """Whether all of it is in title, description or metadata: libvirt tells of each change there."""
    return all(place in _TEXTS for place in places)


def _compare(one: etree._Element, other: etree._Element, path: str, places: dict[str, None]) -> None:
    """Note where these two elements of the same name differ; children are compared kind by kind, in order."""
    if path in _TEXTS:
        if etree.tostring(one, with_tail=False) != etree.tostring(other, with_tail=False):
            places[path] = None
        return
    for name in dict.fromkeys([*one.keys(), *other.keys()]):
        if one.get(name) != other.get(name):
            places[f"{path}@{_bare(name)}"] = None
    if (one.text or "").strip() != (other.text or "").strip():
        places[path or "text"] = None
    for tag in dict.fromkeys(str(child.tag) for child in (*one, *other)):
        left, right = ([child for child in parent if str(child.tag) == tag] for parent in (one, other))
        inner = f"{path}/{_bare(tag)}".lstrip("/")
        if len(left) != len(right):
            places[inner] = None
            continue
        if inner == "devices/controller":
            left, right = (sorted(found, key=_place) for found in (left, right))
        for pair in zip(left, right):
            _compare(*pair, inner, places)


def _place(controller: etree._Element) -> tuple[str, int, str]:
    index = controller.get("index") or "0"
    return controller.get("type") or "", int(index) if index.isdecimal() else 0, controller.get("model") or ""


def _bare(name: str) -> str:
    return name.rpartition("}")[2]
