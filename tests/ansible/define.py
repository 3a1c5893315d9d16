"""Defines, undefines and shows domains of one embedded driver, which serves one process at a time.

``python -m tests.ansible.define ROOT CACHE COMMAND``, with domain XML, one domain a document, on standard input.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import libvirt

from pmuconf.hypervisor.hypervisor import Hypervisor
from tests.support import embedded

__all__ = ["main"]


def main(root: str, cache: str, command: str) -> None:
    """Do the one thing, and tell the inactive XML of all domains."""
    os.environ["LIBVIRT_LOG_OUTPUTS"] = f"3:file:{root}/libvirt.log"  # the driver's own chatter
    uri = embedded.prepare(Path(root), cache=Path(cache))
    texts = json.loads(sys.stdin.read() or "[]")
    flags = libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_SECURE
    with Hypervisor.open(uri, read_only=False):  # starts libvirt's event loop, which the driver needs
        connection = libvirt.open(uri)
        for text in texts:
            if command == "define":
                connection.defineXML(text)
            elif command == "start":
                connection.lookupByName(text).create()
            else:
                connection.lookupByName(text).undefine()
        shown = {domain.name(): domain.XMLDesc(flags) for domain in connection.listAllDomains()}
        connection.close()
    json.dump(shown, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
