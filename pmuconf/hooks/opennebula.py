"""OpenNebula's driver action ``deploy``: a filter in front of it.

From OpenNebula's source: one_vmm_exec.rb runs remotes/vmm/kvm/deploy on the host with the deployment file's name, and
the domain on standard input. deploy stores it, and ``virsh create`` starts it, so the domain is transient. Before that,
the driver writes the VM as OpenNebula knows it beside the deployment file, as vm.xml. A migration and a restore have
actions of their own and don't come here. OpenNebula has no hook at this place; what comes nearest is its RAW attribute.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from lxml import etree

from pmuconf.domain.definition import UNKNOWN, Domain, Managed, Manager
from pmuconf.domain.xmltext import DomainXmlError, root_of
from pmuconf.errors import PmuconfError
from pmuconf.files.inputs import read_regular
from pmuconf.hooks.call import Call, Facts

__all__ = ["call"]

_MOST: Final = 4 << 20
_SECTIONS: Final = ("USER_TEMPLATE", "TEMPLATE")
"""The parts of a template: what users add, and what OpenNebula itself knows, which counts where both have a name."""


def call(domain: bytes, vm: Path | None, put: Callable[[bytes], None]) -> Call:
    """The call with this standard input.

    :param vm: the file vm.xml; None: its facts are unknown.
    """

    def facts(definition: Domain) -> Facts:
        known = definition.managed
        group = known.project if known is not None and known.manager is Manager.OPENNEBULA else UNKNOWN
        return Facts(Managed(Manager.OPENNEBULA, None, group, UNKNOWN if vm is None else _attributes(vm)))

    return Call(domain, "standard input", facts, put)


def _attributes(vm: Path) -> dict[str, str]:
    """The attributes of a VM's template that have a single value, such as MY_LABEL or TEMPLATE_ID.

    :raises PmuconfError: hook-facts.
    """
    try:
        root = root_of(read_regular(vm, _MOST), str(vm))
    except OSError as error:
        raise PmuconfError(f"{vm}: {error.strerror}", cause="hook-facts") from None
    except DomainXmlError as error:
        raise PmuconfError(error.message, cause="hook-facts") from None
    if root.tag != "VM":
        raise PmuconfError(f"{vm}: is no <VM> of OpenNebula", cause="hook-facts")
    return dict(pair for section in _SECTIONS for pair in _single(root.find(section)))


def _single(section: etree._Element | None) -> Iterator[tuple[str, str]]:
    for element in () if section is None else section.iterchildren(etree.Element):
        if not len(element):
            yield str(element.tag), element.text or ""
