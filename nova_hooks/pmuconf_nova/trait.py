"""The trait of a host that delivers the fast path, by the facts that root wrote: 'pmuconf host facts --output FILE'.

The library alone reads that file and judges it. A file that is wrong or void means no: a missing trait costs a choice
of hosts, a false one a slow server.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from pmuconf.errors import PmuconfError
from pmuconf.fastpath import verdict as fastpath
from pmuconf.host import factsfile
from pmuconf.host.root import Root

__all__ = ["FACTS", "TRAIT", "delivers"]

TRAIT: Final = "CUSTOM_PMU_FASTPATH"
# On a file system that a reboot empties, because the facts hold for one boot.
FACTS: Final = Path("/run/pmuconf/host-facts.json")


def delivers(path: Path = FACTS, root: Path = Path("/")) -> bool:
    """Whether a VM whose PMU is off has the fast path here: the kernel skips the work, and QEMU disables the PMU.

    False if the file is not root's, or if its facts are void; see pmuconf.host.factsfile.load(). An exception that is
    no PmuconfError is a defect of pmuconf, and the caller must take it for no.
    """
    try:
        return fastpath.delivers(factsfile.load(path, Root(root), own=False))
    except PmuconfError:
        return False
