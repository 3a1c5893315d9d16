"""KVM's own list of its VMs, read in kernel memory while it changes.

Nothing is locked, so nothing that was read once is believed:

1. The list is walked until two passes agree (_nodes).
2. Each VM is read twice, and the list is walked again. A VM is taken if both readings agree and it is still in the
   list (vms). Otherwise it is unstable, and all of that is tried again.
3. A reading counts only if it has the shape of a VM (_is_odd) and its node is linked into the list after it was read
   (_is_linked).

A VM is identified by its ``mm`` and the id of the thread that made it. KVM also keeps that id as text behind everything
else of a VM (``stats_id``, since Linux kernel commit fcfe1baeddbf ("KVM: stats: Support binary stats retrieval for a
VM") in v5.14). Offsets that are not those of the running kernel do not get past that.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from pmuconf.errors import PmuconfError
from pmuconf.host.vms.layout import POINTER, Layout, Memory, PmuLayout, is_kernel_pointer
from pmuconf.host.vms.vcpus import MAX_VCPUS, addresses_of_vcpus

__all__ = ["KvmList", "KvmVm", "Owner"]

MAX_VMS: Final = 100_000
_MAX_PID: Final = 1 << 22  # PID_MAX_LIMIT
_MAX_USERS: Final = 1 << 20
_TRIES: Final = 5
_PASSES: Final = 20
_LINKS: Final = struct.Struct("<QQ")
_NAME_SIZE: Final = 48
_TICK: Final = 10_000_000
"""Nanoseconds of a clock tick as /proc/PID/stat counts them: USER_HZ is 100 on x86."""


@dataclass(frozen=True)
class Owner:
    """The process whose memory a VM uses: its id in the initial namespace, and its start in clock ticks after boot."""

    pid: int
    started: int


@dataclass(frozen=True)
class KvmVm:
    """One VM of the list.

    :param address: of its struct kvm.
    :param enable_pmu: None: unknown, and ``cause`` says why.
    :param thread: the id of the thread that made it, in the initial namespace. The thread may be gone, and its id
        another's.
    :param owner: None: the process is gone, or this kernel does not say.
    :param cause: unstable, kernel-memory-odd, no-enable-pmu, no-vcpu-yet; empty if all is known.
    """

    address: int
    mm: int = 0
    thread: int = 0
    enable_pmu: bool | None = None
    vcpus: int | None = None
    owner: Owner | None = None
    cause: str = ""


class KvmList:
    """The list whose head is at this address of the memory."""

    def __init__(self, memory: Memory, head: int, layout: Layout) -> None:
        self._memory, self._head, self.layout = memory, head, layout

    def vms(self) -> tuple[KvmVm, ...]:
        """All VMs, each as it was at one moment. A VM that changed at every try has the cause unstable.

        :raises PmuconfError: no two passes through the list agreed, or it is no list; cause unstable or
            kernel-memory-odd.
        """
        vms: tuple[KvmVm, ...] = ()
        for _ in range(_TRIES):
            nodes = self._nodes()
            first = {node: self._vm(node) for node in nodes}
            second = {node: self._vm(node) for node in nodes}
            vms = tuple(self._steady(node, first.get(node), second.get(node)) for node in self._nodes())
            if all(vm.cause != "unstable" for vm in vms):
                break
        return vms

    def in_use(self, vm: KvmVm) -> bool | None:
        """Whether one of the VM's vCPUs has counters programmed now.

        True as soon as one is seen; False only if every vCPU was read; None if one can't be read.
        """
        pmu = self.layout.pmu
        return None if pmu is None else self._any_vcpu(vm, pmu, pmu.in_use)

    def shown(self, vm: KvmVm) -> bool | None:
        """Whether one of the VM's vCPUs has a PMU with a version; None if that can't be read. As in_use()."""
        pmu = self.layout.pmu
        return None if pmu is None else self._any_vcpu(vm, pmu, pmu.has_version)

    def _steady(self, node: int, first: KvmVm | None, second: KvmVm | None) -> KvmVm:
        """The VM of which two readings agree; an unstable one if they don't, or if it came between them."""
        if first is not None and first == second:
            return first
        return KvmVm(self._address(node), cause="unstable")

    def _address(self, node: int) -> int:
        """The struct kvm that this node of the list belongs to."""
        return node - self.layout.vm.offset("next")

    def _nodes(self) -> tuple[int, ...]:
        """The list's nodes, in two passes that agree: KVM's shrinker moves VMs to the end while we walk."""
        last: tuple[int, ...] | str = ""
        for _ in range(_PASSES):
            now = self._pass()
            if now == last and isinstance(now, tuple):
                return now
            last = now
        if isinstance(last, str):
            raise PmuconfError("what should be KVM's list of VMs is none", cause=last)
        raise PmuconfError("KVM's list of VMs changes too fast to be read", cause="unstable")

    def _pass(self) -> tuple[int, ...] | str:
        """Every node in order, each linked back to the node before it; or the cause why this is no such list."""
        first = self._links(self._head)
        if first is None:
            return "kernel-memory-odd"
        nodes: dict[int, None] = {}
        before, node = self._head, first[0]
        while node != self._head:
            if not is_kernel_pointer(node):
                return "kernel-memory-odd" if before == self._head else "unstable"
            links = self._links(node)
            if links is None or links[1] != before or node in nodes:
                return "unstable"
            if len(nodes) >= MAX_VMS:
                return "kernel-memory-odd"
            nodes[node] = None
            before, node = node, links[0]
        return tuple(nodes) if self._links(self._head) == (first[0], before) else "unstable"

    def _links(self, node: int) -> tuple[int, int] | None:
        """The next node and the node before; None if they can't be read."""
        data = self._memory.read(node, _LINKS.size)
        return _LINKS.unpack(data) if len(data) == _LINKS.size else None

    def _is_linked(self, node: int) -> bool:
        """Whether the next node of the list links back to this one."""
        links = self._links(node)
        behind = self._links(links[0]) if links is not None and is_kernel_pointer(links[0]) else None
        return behind is not None and behind[1] == node

    def _vm(self, node: int) -> KvmVm:
        """One VM, read once."""
        address = self._address(node)
        members = self.layout.vm.read(self._memory, address)
        if members is None:
            return KvmVm(address, cause="kernel-memory-odd")
        if not members["thread"] or not members["users"]:  # being made (the list comes first), or being taken apart
            return KvmVm(address, cause="unstable")
        if _is_odd(members):
            return KvmVm(address, cause="kernel-memory-odd")
        owner = self._owner(members["mm"])
        vm = KvmVm(address, members["mm"], members["thread"], vcpus=members["online"], owner=owner)
        # Memory that a VM has left may look like it until it is used again, and its mm be another process's by then.
        return _with_flag(vm, members) if self._is_linked(node) else KvmVm(address, cause="unstable")

    def _owner(self, mm: int) -> Owner | None:
        """The process that has this mm. ``owner`` is there with CONFIG_MEMCG; it moves on when a process ends."""
        if self.layout.mm is None:
            return None
        of_mm = self.layout.mm.read(self._memory, mm)
        task = self._task(of_mm["owner"]) if of_mm is not None else None
        leader = self._task(task["leader"]) if task is not None else None
        if task is None or leader is None or task["mm"] != mm or leader["pid"] != task["pid"]:
            return None
        return Owner(leader["pid"], leader["started"] // _TICK)

    def _task(self, address: int) -> dict[str, int] | None:
        return self.layout.task.read(self._memory, address) if is_kernel_pointer(address) else None

    def _any_vcpu(self, vm: KvmVm, pmu: PmuLayout, has: Callable[[bytes], bool | None]) -> bool | None:
        """Whether something holds for the PMU of any vCPU; None if that is not known of all of them."""
        if vm.vcpus is None:
            return None
        addresses = addresses_of_vcpus(self._memory, self.layout, vm.address, vm.vcpus)
        complete = addresses is not None and len(addresses) == vm.vcpus
        for address in addresses or ():
            data = self._memory.read(address + pmu.offset, pmu.size)
            answer = has(data) if len(data) == pmu.size and self._belongs(address, pmu, vm) else None
            if answer:
                return True
            complete = complete and answer is not None
        return False if complete else None

    def _belongs(self, vcpu: int, pmu: PmuLayout, vm: KvmVm) -> bool:
        """Whether the vCPU points to its VM: if not, the pointer is wrong, or the memory has become something else."""
        return self._memory.read(vcpu + pmu.vm, POINTER) == vm.address.to_bytes(POINTER, "little")


def _with_flag(vm: KvmVm, members: Mapping[str, int]) -> KvmVm:
    """The VM with its enable_pmu, or with the cause why that is unknown."""
    flag = members.get("enable_pmu")
    if flag is None:
        return replace(vm, cause="no-enable-pmu")
    if flag not in (0, 1):
        return replace(vm, cause="kernel-memory-odd")
    if not members["created"]:  # until its first vCPU, a VM's PMU may still be disabled
        return replace(vm, cause="no-vcpu-yet")
    return replace(vm, enable_pmu=bool(flag))


def _is_odd(members: Mapping[str, int]) -> bool:
    """Whether this is no VM: one of the rules is broken that every VM's structure keeps."""
    thread, created, online = members["thread"], members["created"], members["online"]
    wrong_name = False
    if "stats_id" in members:
        name = members["stats_id"].to_bytes(_NAME_SIZE, "little").partition(b"\0")[0]
        wrong_name = name != b"kvm-%d" % thread
    return (
        not is_kernel_pointer(members["mm"])
        or thread > _MAX_PID
        or members["users"] > _MAX_USERS
        or not online <= created <= MAX_VCPUS
        or wrong_name
    )
