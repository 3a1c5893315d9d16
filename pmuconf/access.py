"""The access of a front end to a host: its libvirt connection, and the survey of its kernel and QEMU."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from pmuconf.conf import Settings
from pmuconf.libraries import needed

if TYPE_CHECKING:
    from pmuconf.hostfacts import HostFacts
    from pmuconf.hypervisor.hypervisor import Hypervisor

__all__ = ["connect", "host_modules", "surveyor"]


def connect(settings: Settings, uri: str | None = None, *, read_only: bool) -> AbstractContextManager[Hypervisor]:
    """A connection to this URI, or to the one that the configuration names.

    :raises PmuconfError: libvirt-missing, or as Hypervisor.open().
    """
    with needed("libvirt-missing", besides="Or use --xml, which needs no libvirt"):
        from pmuconf.hypervisor.hypervisor import Hypervisor
    return Hypervisor.open(uri or settings.uri, read_only=read_only, parallel=settings.parallel)


def surveyor(file: Path | None = None, *, experiment: bool = False) -> Callable[[], HostFacts]:
    """A function that gives the facts of this host, by its probes or from a file that 'pmuconf host facts' wrote.

    :param experiment: make the experiment of [host] prove, where the probes look.

    The function raises PmuconfError: host-missing, or as factsfile.load().
    """

    def survey() -> HostFacts:
        from pmuconf.host import factsfile, root

        here = root.Root()
        if file is not None:
            return factsfile.load(file, here)
        with host_modules():
            from pmuconf.host import survey as probes
        return probes.survey(here, experiment=experiment)

    return survey


def host_modules() -> AbstractContextManager[None]:
    """A block that imports the probes of the host.

    :raises PmuconfError: a library that they need is not installed; cause host-missing.
    """
    return needed("host-missing")
