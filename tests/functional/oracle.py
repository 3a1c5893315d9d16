"""What the tests believe in place of pmuconf: the standard library's XML, and nothing of pmuconf's."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from functools import lru_cache

__all__ = ["differs_in_pmu_alone", "pmu", "rest"]


@lru_cache(maxsize=1000)
def pmu(xml: str) -> str:
    """The PMU state that a domain XML from libvirt says: on, off, or default where there is no such element."""
    found = ET.fromstring(xml).findall("features/pmu")
    assert len(found) <= 1, "libvirt itself writes one <pmu> at most"
    return found[0].attrib["state"] if found else "default"


@lru_cache(maxsize=1000)
def rest(xml: str) -> str:
    """Everything else that it says, in canonical form.

    Without white space between elements; with the controllers in one order, because libvirt gives those of a fresh
    domain another one at its first redefine; and without ``<features>`` where nothing but the PMU was in it.
    """
    root = ET.fromstring(xml)
    features = root.find("features")
    if features is not None:
        for found in features.findall("pmu"):
            features.remove(found)
        if len(features) == 0:
            root.remove(features)
    for element in root.iter():
        if len(element) and not (element.text or "").strip():
            element.text = None
        for child in element:
            if not (child.tail or "").strip():
                child.tail = None
    devices = root.find("devices")
    if devices is not None:
        devices[:] = sorted(devices, key=lambda one: (one.tag, one.attrib.get("type"), _index(one)))
    return ET.canonicalize(ET.tostring(root, encoding="unicode"))


def differs_in_pmu_alone(before: str, after: str) -> bool:
    """Whether the PMU is another, and all the rest the same."""
    return pmu(before) != pmu(after) and rest(before) == rest(after)


def _index(element: ET.Element) -> int:
    return int(element.attrib.get("index", "0")) if element.tag == "controller" else 0
