"""The vCPUs of a VM in kernel memory: an array of pointers until Linux 5.16, an xarray since 5.17."""

from __future__ import annotations

from typing import Final

from pmuconf.host.vms.layout import POINTER, Layout, Memory, is_kernel_pointer, pointers

__all__ = ["MAX_VCPUS", "addresses_of_vcpus"]

MAX_VCPUS: Final = 1 << 16
"""More vCPUs than any VM has."""

# Of an xarray (include/linux/xarray.h): the two low bits of an entry say whether it is a pointer or internal. Internal
# entries up to a limit stand for something else than a node: a vCPU that is being made reserves its place by one.
_TAG: Final = 3
_POINTER_TAG: Final = 0
_INTERNAL_TAG: Final = 2
_MAX_RESERVED: Final = 4096
_NODE_SLOTS: Final = 64
_MAX_NODES: Final = 2 * MAX_VCPUS // _NODE_SLOTS
_MORE_THAN_ANY_SHIFT: Final = 64


def addresses_of_vcpus(memory: Memory, layout: Layout, vm: int, online: int) -> list[int] | None:
    """The addresses of a VM's vCPUs; None if they can't be read.

    :param vm: the address of its struct kvm.
    :param online: the number of its vCPUs.
    """
    if "vcpu_array" in layout.vm:
        head = memory.read(vm + layout.vm.offset("vcpu_array"), POINTER)
        return _in_xarray(memory, layout, int.from_bytes(head, "little")) if len(head) == POINTER else None
    if layout.vcpus is None:
        return None
    size = POINTER * min(layout.vcpus.length, online)
    data = memory.read(vm + layout.vcpus.offset, size)
    return pointers(data) if len(data) == size else None


def _in_xarray(memory: Memory, layout: Layout, head: int) -> list[int] | None:
    """The pointers in an xarray: its head is a pointer, or leads to a tree of nodes.

    Memory that changes could lead in a circle. So the shift of a node must be less than that of the node above, and
    the number of nodes has a limit.
    """
    addresses: list[int] = []
    waiting = [(head, _MORE_THAN_ANY_SHIFT)]
    nodes = 0
    while waiting:
        entry, shift_above = waiting.pop()
        if entry & _TAG == _POINTER_TAG:
            if is_kernel_pointer(entry):
                addresses.append(entry)
        elif entry & _TAG == _INTERNAL_TAG and entry > _MAX_RESERVED:
            nodes += 1
            slots = _slots_of_node(memory, layout, entry - _INTERNAL_TAG, shift_above)
            if slots is None or nodes > _MAX_NODES:
                return None
            waiting += slots
    return addresses


def _slots_of_node(memory: Memory, layout: Layout, node: int, shift_above: int) -> list[tuple[int, int]] | None:
    """The entries of a node, each with the node's own shift; None if this is no node, or can't be read."""
    if layout.node is None or layout.slots is None or not is_kernel_pointer(node):
        return None
    members = layout.node.read(memory, node)
    size = POINTER * layout.slots.length
    data = memory.read(node + layout.slots.offset, size)
    if members is None or members["shift"] >= shift_above or len(data) != size:
        return None
    return [(entry, members["shift"]) for entry in pointers(data)]
