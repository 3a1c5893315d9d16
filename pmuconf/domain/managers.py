"""What the managers other than Nova write into a domain's metadata. Pure.

How each writes it was read in its source:

- KubeVirt: ``<kubevirt xmlns="http://kubevirt.io">`` has the VMI's UID and what a migration needs. The domain's name is
  NAMESPACE_NAME (pkg/hooks/testdata/domain.xml). Labels and instance type are in the VMI alone.
- oVirt: ``<ovirt-vm:vm>`` has the custom properties below ``<ovirt-vm:custom>``, each an element of its name
  (LibvirtVmXmlBuilder.writeVmCustomMetadata() of the engine). Of the cluster it has the compatibility version alone.
- CloudStack: since 4.22 an element of the namespace http://cloudstack.apache.org/instance. The agent gets the name of
  the service offering, and "unknown" where something is missing (VirtualMachineMetadataTO.java). Earlier versions show
  themselves by SMBIOS alone: "CloudStack KVM Hypervisor" (GuestDef in LibvirtVMDef.java).
- OpenNebula: ``<one:vm>`` has the names of owner and group (LibVirtDriverKVM.cc). The template is not there.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from lxml import etree

from pmuconf.domain.definition import UNKNOWN, Managed, Manager, Unknown

__all__ = ["managed_by"]

_KUBEVIRT: Final = "{http://kubevirt.io}"
_OVIRT: Final = "{http://ovirt.org/vm/1.0}"
_CLOUDSTACK: Final = "{http://cloudstack.apache.org/instance}"
_OPENNEBULA: Final = "{http://opennebula.org/xmlns/libvirt/1.0}"
_CLOUDSTACK_PRODUCT: Final = "CloudStack KVM Hypervisor"
_NOT_SAID: Final = "unknown"


def managed_by(name: str, metadata: etree._Element | None, sysinfo: etree._Element | None) -> Managed | None:
    """What a manager other than Nova says of the domain of this name; None if none of those that are known wrote it."""
    for element in () if metadata is None else metadata.iterchildren(etree.Element):
        tag = str(element.tag)
        if tag.startswith(_KUBEVIRT):
            return Managed(Manager.KUBEVIRT, UNKNOWN, _namespace(name), UNKNOWN)
        if tag == f"{_OVIRT}vm":
            return Managed(Manager.OVIRT, attributes=_custom_properties(element))
        if tag.startswith(_CLOUDSTACK):
            return Managed(Manager.CLOUDSTACK, _offering(element), _cloudstack_project(element), UNKNOWN)
        if tag == f"{_OPENNEBULA}vm":
            return Managed(Manager.OPENNEBULA, None, element.findtext(f"{_OPENNEBULA}gname") or UNKNOWN, UNKNOWN)
    if sysinfo is not None and _CLOUDSTACK_PRODUCT in (entry.text for entry in sysinfo.iterfind("system/entry")):
        return Managed(Manager.CLOUDSTACK, UNKNOWN, UNKNOWN, UNKNOWN)
    return None


def _namespace(name: str) -> str | Unknown:
    """The namespace in the name of one of KubeVirt's domains: the name of a namespace has no underscore."""
    namespace, underscore, _ = name.partition("_")
    return namespace if underscore else UNKNOWN


def _custom_properties(vm: etree._Element) -> dict[str, str] | Unknown:
    custom = vm.find(f"{_OVIRT}custom")
    if custom is None:
        return UNKNOWN
    return {_local(element): element.text or "" for element in _elements(custom)}


def _offering(instance: etree._Element) -> str | Unknown:
    """The name of the service offering, as the text of an element of that name, or of a ``name`` below it.

    Which of the spellings CloudStack uses was not seen, so each of them is taken: none can mean anything else.
    """
    for element in _elements(instance):
        if _local(element).replace("_", "").replace("-", "").lower() == "serviceoffering":
            below = [child for child in _elements(element) if _local(child) == "name"]
            text = ((below[0] if below else element).text or "").strip()
            return text if text and text != _NOT_SAID else UNKNOWN
    return UNKNOWN


def _cloudstack_project(instance: etree._Element) -> str | Unknown:
    """The UUID of the project that owns it. An account's own VM has none, which looks like one that is not known."""
    project = instance.find(f"{_CLOUDSTACK}owner/{_CLOUDSTACK}project")
    uuid = None if project is None else project.get("uuid")
    return uuid if uuid and uuid != _NOT_SAID else UNKNOWN


def _elements(parent: etree._Element) -> Iterator[etree._Element]:
    return parent.iterchildren(etree.Element)


def _local(element: etree._Element) -> str:
    return etree.QName(element).localname
