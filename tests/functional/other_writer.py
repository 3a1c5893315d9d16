"""Another tool that edits domains as fast as it can, without any lock: read, change the description, define.

Each edit appends its number to the domain's description, so whoever overwrites it takes the number away for good:
a later edit only adds to what it finds. Run as ``python other_writer.py URI EDITS SEED NAME...``; prints a line of
JSON for each edit once it is made: number, domain, the PMU state that it wrote (which is the one that it found), and
the time (CLOCK_MONOTONIC, which all processes share) before and after its define.
"""

from __future__ import annotations

import json
import random
import re
import sys
import time

import libvirt

__all__ = ["numbers"]


def numbers(xml: str) -> list[int]:
    """The edits that a domain carries."""
    found = re.search(r"<description>([\d ]*)</description>", xml)
    return [int(word) for word in found.group(1).split()] if found else []


def _edited(xml: str, number: int) -> str:
    if "</description>" in xml:
        return xml.replace("</description>", f" {number}</description>", 1)
    return xml.replace("</uuid>\n", f"</uuid>\n  <description>{number}</description>\n", 1)


def _pmu(xml: str) -> str:
    found = re.search(r"<pmu state='(\w+)'/>", xml)
    return found.group(1) if found else "default"


def _main(uri: str, edits: str, seed: str, *names: str) -> None:
    chance = random.Random(seed)
    connection = libvirt.open(uri)
    domains = [connection.lookupByName(name) for name in names]
    for number in range(int(edits)):
        domain = chance.choice(domains)
        xml = domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_SECURE)
        new = _edited(xml, number)
        begin = time.monotonic()
        connection.defineXML(new)
        print(json.dumps([number, domain.name(), _pmu(new), begin, time.monotonic()]), flush=True)


if __name__ == "__main__":
    _main(*sys.argv[1:])
