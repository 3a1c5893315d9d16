"""Whether this host delivers the fast path, by the facts that root has written: 'pmuconf host facts --output FILE'.

The library reads that file and judges: a second reader came to other answers. Whatever is wrong with the file, or makes
it void, means no: a trait that is missing costs a choice of hosts, a false one a slow server.
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
# On a file system that ends with the boot, as the facts do.
FACTS: Final = Path("/run/pmuconf/host-facts.json")


def delivers(path: Path = FACTS, root: Path = Path("/")) -> bool:
    """Whether a VM whose PMU is off has the fast path here: the kernel spares it, and QEMU disables the PMU in KVM.

    False if the file is not root's, or its facts are void (pmuconf.host.factsfile.load()). An error that is no
    PmuconfError is one of ours: the caller has to take it for no.
    """
    try:
        return fastpath.delivers(factsfile.load(path, Root(root), own=False))
    except PmuconfError:
        return False
