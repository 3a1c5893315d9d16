"""KVM's own list of its VMs, read in kernel memory while it changes.

Nothing is locked, so nothing that was read once is believed. A VM is told by its ``mm`` and the id of the thread that
made it; whatever is said of it was read between two readings that found the same VM in that place, each while it was
linked into the list. KVM also keeps that id as text behind everything else of a VM (``stats_id``, since Linux kernel
commit fcfe1baeddbf ("KVM: stats: Support binary stats retrieval for a VM") in v5.14): offsets that are not those of
the running kernel do not get past that.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final, Protocol, TypeVar

from pmuconf.errors import PmuconfError
from pmuconf.host.code.btf import Btf
from pmuconf.host.names import (
    COUNTER,
    COUNTING_MAPS,
    EVENTSEL,
    FIXED_CONTROL,
    FIXED_COUNTERS,
    GENERAL_COUNTERS,
    MEMORY,
    MM_MEMBERS,
    NODE,
    NODE_MEMBERS,
    NODE_SLOTS,
    OLD_VCPUS,
    PERF_EVENT,
    PMU_OF_VCPU,
    PMU_VERSION,
    TASK,
    TASK_MEMBERS,
    VM,
    VM_MEMBERS,
    VM_OF_VCPU,
)

__all__ = ["KvmList", "KvmVm", "Layout", "Memory", "Owner"]

MAX_VMS: Final = 100_000
_MAX_VCPUS: Final = 1 << 16
_MAX_INTERNAL: Final = 4096
_MAX_NODES: Final = 2 * _MAX_VCPUS // 64
_MAX_PID: Final = 1 << 22  # PID_MAX_LIMIT
_MAX_USERS: Final = 1 << 20
_TRIES: Final = 5
_PASSES: Final = 20
_LINKS: Final = struct.Struct("<QQ")
_GAP: Final = 2048
_TICK: Final = 10_000_000
"""Nanoseconds of a clock tick as /proc/PID/stat counts them: USER_HZ is 100 on x86."""
_EVENTSEL_ENABLE: Final = 1 << 22
_FIXED_ENABLE: Final = 0x3333333333333333
"""Of each counter's four bits in IA32_FIXED_CTR_CTRL those that make it count: in the kernel, in user space."""

Value = TypeVar("Value")


class Memory(Protocol):
    """Kernel memory by its addresses."""

    def read(self, address: int, size: int) -> bytes:
        """Up to so many bytes; none where there is nothing to be had."""
        ...


class _Fields:
    """Some members of one structure, and how to read them with few reads."""

    def __init__(self, types: Btf, structure: str, wanted: Mapping[str, tuple[str, int]]) -> None:
        size = types.size(structure)
        if size is None:
            raise PmuconfError(f"BTF has no struct {structure}", cause="no-offsets")
        self._places: dict[str, tuple[int, int]] = {}
        for name, (path, width) in wanted.items():
            member = types.find(structure, path)
            if member is None:
                continue
            if member.size != width or member.offset + width > size:
                raise PmuconfError(f"{path} of struct {structure} is not of {width} bytes", cause="no-offsets")
            self._places[name] = (member.offset, width)
        spans: list[tuple[int, int]] = []
        for offset, width in sorted(self._places.values()):
            if spans and offset - spans[-1][1] <= _GAP:
                spans[-1] = (spans[-1][0], max(spans[-1][1], offset + width))
            else:
                spans.append((offset, offset + width))
        # For each span, what is in it: name, and from where to where.
        places = self._places.items()
        self._spans = [
            (start, end - start, [(n, o - start, o - start + w) for n, (o, w) in places if start <= o < end])
            for start, end in spans
        ]

    def __contains__(self, name: str) -> bool:
        return name in self._places

    def offset(self, name: str) -> int:
        """Where a member begins."""
        return self._places[name][0]

    def demand(self, *names: str) -> _Fields:
        """Itself.

        :raises PmuconfError: one of these members is not there; cause no-offsets.
        """
        for name in names:
            if name not in self._places:
                raise PmuconfError(f"BTF does not tell where {name} is", cause="no-offsets")
        return self

    def read(self, memory: Memory, address: int) -> dict[str, int] | None:
        """The members as numbers; None if they can't be read."""
        found = {}
        for start, size, places in self._spans:
            data = memory.read(address + start, size)
            if len(data) != size:
                return None
            for name, begin, end in places:
                found[name] = int.from_bytes(data[begin:end], "little")
        return found


class Layout:
    """Where all that is asked for is, on the kernel that these types are of.

    :raises PmuconfError: something that can't be done without is not among the types; cause no-offsets, btf-broken ...
    """

    def __init__(self, types: Btf) -> None:
        self.vm = _Fields(types, VM, VM_MEMBERS).demand("next", "mm", "thread", "created", "online", "users")
        if self.vm.offset("prev") != self.vm.offset("next") + 8:
            raise PmuconfError("struct list_head is not what it was", cause="no-offsets")
        self.mm = _optional(lambda: _Fields(types, MEMORY, MM_MEMBERS).demand("owner"))
        self.task = _Fields(types, TASK, TASK_MEMBERS).demand("mm", "pid", "leader", "started")
        old = types.find(*OLD_VCPUS)
        self.vcpus = (old.offset, old.size // 8) if old is not None and old.size and old.size >= 8 else None
        self.node = _optional(lambda: _Fields(types, NODE, NODE_MEMBERS).demand("shift"))
        slots = types.find(*NODE_SLOTS)
        self.slots = (slots.offset, slots.size // 8) if slots is not None and slots.size else None
        self.pmu = _optional(lambda: _PmuLayout(types))


class _PmuLayout:
    """Where a vCPU keeps what its guest has programmed."""

    def __init__(self, types: Btf) -> None:
        kvm, pmu = types.find(*VM_OF_VCPU), types.find(*PMU_OF_VCPU)
        each = types.size(COUNTER)
        eventsel, event = types.find(*EVENTSEL), types.find(*PERF_EVENT)
        general, fixed = types.find(*GENERAL_COUNTERS), types.find(*FIXED_COUNTERS)
        control = types.find(*FIXED_CONTROL)
        if not (kvm and pmu and pmu.size and each and eventsel and event and general and fixed and control):
            raise PmuconfError("BTF does not tell where a vCPU's counters are", cause="no-offsets")
        if not (general.size and fixed.size is not None and eventsel.size == event.size == control.size == 8):
            raise PmuconfError("a vCPU's counters are not what they were", cause="no-offsets")
        self.kvm, self.at, self.size = kvm.offset, pmu.offset, pmu.size
        places = [
            [group.offset + inner.offset + each * i for i in range((group.size or 0) // each)]
            for group, inner in ((general, eventsel), (general, event), (fixed, event))
        ]
        counting = [types.find(*one) for one in COUNTING_MAPS]
        maps = [at for m in counting if m for at in range(m.offset, m.offset + (m.size or 0), 8)]
        every = [control.offset, *places[0], *places[1], *places[2], *maps]
        if max(every) + 8 > self.size or any(at % 8 for at in every):
            raise PmuconfError("a vCPU's counters lie outside of its PMU", cause="no-offsets")
        self._words = struct.Struct(f"<{self.size // 8}Q")
        self._control = control.offset // 8
        self._enabled = [at // 8 for at in places[0]]
        self._set = [at // 8 for at in (*places[1], *places[2], *maps)]
        version = types.find(*PMU_VERSION)
        inside = version is not None and version.size in (1, 4) and version.offset + version.size <= self.size
        self._version = version if inside else None

    def shown(self, data: bytes) -> bool | None:
        """Whether this struct kvm_pmu has a version other than 0; None: this kernel does not say.

        Intel's has what CPUID shows to the guest, AMD's has one whenever KVM holds a PMU (amd_pmu_refresh).
        """
        if self._version is None or self._version.size is None:
            return None
        return any(data[self._version.offset :][: self._version.size])

    def in_use(self, data: bytes) -> bool:
        """Whether anything is programmed in this struct kvm_pmu.

        A counter is, if the guest has set its enable bit, or KVM holds a host event for it: that is let go when the
        guest has left the counter alone for a whole time slice (kvm_pmu_cleanup). ``pmc_in_use`` is not asked: a guest
        that has looked at its counters once, as Linux does at boot, stays in it.
        """
        words = self._words.unpack_from(data)
        return (
            any(words[at] for at in self._set)
            or any(words[at] & _EVENTSEL_ENABLE for at in self._enabled)
            or bool(words[self._control] & _FIXED_ENABLE)
        )


def _optional(make: Callable[[], Value]) -> Value | None:
    try:
        return make()
    except PmuconfError:
        return None


@dataclass(frozen=True)
class Owner:
    """The process whose memory a VM uses: its id in the initial namespace, and its start in clock ticks after boot."""

    pid: int
    started: int


@dataclass(frozen=True)
class KvmVm:
    """One VM of the list.

    :param address: of its struct kvm.
    :param enable_pmu: None: not known, ``cause`` says why.
    :param thread: that made it, in the initial namespace; it may be gone, and its id another's.
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
    """The list whose head is at an address of the memory."""

    def __init__(self, memory: Memory, head: int, layout: Layout) -> None:
        self._memory, self._head, self.layout = memory, head, layout

    def vms(self) -> tuple[KvmVm, ...]:
        """All VMs, each as it was at one moment; what would not hold still has the cause unstable.

        :raises PmuconfError: no two passes through the list agreed, or it is no list; cause unstable or
            kernel-memory-odd.
        """
        found: dict[int, KvmVm] = {}
        for _ in range(_TRIES):
            nodes = self._nodes()
            first = [self._vm(node) for node in nodes]
            second = [self._vm(node) for node in nodes]
            after = self._nodes()
            left = frozenset(after)
            kept = {
                node: one if one == other else KvmVm(node - self.layout.vm.offset("next"), cause="unstable")
                for node, one, other in zip(nodes, first, second)
                if node in left
            }
            new = {node: KvmVm(node - self.layout.vm.offset("next"), cause="unstable") for node in after}
            found = {**new, **kept}
            if all(vm.cause != "unstable" for vm in found.values()):
                break
        return tuple(found.values())

    def in_use(self, vm: KvmVm) -> bool | None:
        """Whether one of its vCPUs has counters programmed now; None if that can't be read.

        True as soon as one is seen; False only if every vCPU of the VM was read.
        """
        pmu = self.layout.pmu
        return None if pmu is None else self._any(vm, pmu, pmu.in_use)

    def shown(self, vm: KvmVm) -> bool | None:
        """Whether one of its vCPUs has a PMU with a version; None if that can't be read. As in_use()."""
        pmu = self.layout.pmu
        return None if pmu is None else self._any(vm, pmu, pmu.shown)

    def _any(self, vm: KvmVm, pmu: _PmuLayout, holds: Callable[[bytes], bool | None]) -> bool | None:
        """Whether something holds of the PMU of any of its vCPUs."""
        if vm.vcpus is None:
            return None
        vcpus = self._vcpus(vm)
        complete = vcpus is not None and len(vcpus) == vm.vcpus
        for vcpu in vcpus or ():
            data = self._memory.read(vcpu + pmu.at, pmu.size)
            # A vCPU points to its VM: a wrong pointer, or memory that has become something else, ends here.
            if len(data) != pmu.size or self._memory.read(vcpu + pmu.kvm, 8) != vm.address.to_bytes(8, "little"):
                complete = False
                continue
            said = holds(data)
            if said:
                return True
            complete = complete and said is not None
        return False if complete else None

    def _nodes(self) -> tuple[int, ...]:
        """The list's nodes, in two passes that agree: KVM's shrinker moves VMs to the end while one walks."""
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
        """Every node in order, each linking back to the one before; a cause if they don't."""
        first = self._links(self._head)
        if first is None:
            return "kernel-memory-odd"
        nodes: dict[int, None] = {}
        before, node = self._head, first[0]
        while node != self._head:
            if not _plausible(node):
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
        data = self._memory.read(node, _LINKS.size)
        return _LINKS.unpack(data) if len(data) == _LINKS.size else None

    def _vm(self, node: int) -> KvmVm:
        """One VM, read once."""
        address = node - self.layout.vm.offset("next")
        read = self.layout.vm.read(self._memory, address)
        if read is None:
            return KvmVm(address, cause="kernel-memory-odd")
        if not read["thread"] or not read["users"]:  # being made (the list comes first), or being taken apart
            return KvmVm(address, cause="unstable")
        if _odd(read):
            return KvmVm(address, cause="kernel-memory-odd")
        vm = KvmVm(address, read["mm"], read["thread"], vcpus=read["online"], owner=self._owner(read["mm"]))
        # Memory that a VM has left may look like it until it is used again, and its mm be another process's by then.
        links = self._links(node)
        behind = self._links(links[0]) if links is not None and _plausible(links[0]) else None
        if behind is None or behind[1] != node:
            return KvmVm(address, cause="unstable")
        flag = read.get("enable_pmu")
        if flag is None:
            return replace(vm, cause="no-enable-pmu")
        if flag > 1:
            return replace(vm, cause="kernel-memory-odd")
        if not read["created"]:  # until its first vCPU, a VM's PMU may still be disabled
            return replace(vm, cause="no-vcpu-yet")
        return replace(vm, enable_pmu=bool(flag))

    def _owner(self, mm: int) -> Owner | None:
        """The process that has this mm. ``owner`` is there with CONFIG_MEMCG; it moves on when a process ends."""
        if self.layout.mm is None:
            return None
        of_mm = self.layout.mm.read(self._memory, mm)
        task = self._task(of_mm["owner"] if of_mm else 0)
        leader = self._task(task["leader"]) if task else None
        if task is None or leader is None or task["mm"] != mm or leader["pid"] != task["pid"]:
            return None
        return Owner(leader["pid"], leader["started"] // _TICK)

    def _task(self, address: int) -> dict[str, int] | None:
        return self.layout.task.read(self._memory, address) if _plausible(address) else None

    def _vcpus(self, vm: KvmVm) -> list[int] | None:
        """The addresses of its vCPUs; None if they can't be followed."""
        if "vcpu_array" in self.layout.vm:
            head = self._word(vm.address + self.layout.vm.offset("vcpu_array"))
            return None if head is None else self._entries(head)
        if self.layout.vcpus is None or vm.vcpus is None:
            return None
        offset, room = self.layout.vcpus
        size = 8 * min(room, vm.vcpus)
        data = self._memory.read(vm.address + offset, size)
        return _pointers(data) if len(data) == size else None

    def _entries(self, head: int) -> list[int] | None:
        """The pointers in an xarray (include/linux/xarray.h): its head is one, or leads to a tree of nodes."""
        found: list[int] = []
        waiting, nodes = [(head, 64)], 0
        while waiting:
            entry, above = waiting.pop()
            if entry & 3 == 0:
                found += [entry] if _plausible(entry) else []
            elif entry & 3 == 2 and entry > _MAX_INTERNAL:  # below that: reserved for a vCPU that is being made
                inner = self._node(entry - 2, above)
                nodes += 1
                if inner is None or nodes > _MAX_NODES:
                    return None
                waiting += inner
        return found

    def _node(self, address: int, above: int) -> list[tuple[int, int]] | None:
        """The entries of a node, each with the node's own shift: it gets less on the way down."""
        if self.layout.node is None or self.layout.slots is None or not _plausible(address):
            return None
        read = self.layout.node.read(self._memory, address)
        offset, room = self.layout.slots
        data = self._memory.read(address + offset, 8 * room)
        if read is None or read["shift"] >= above or len(data) != 8 * room:
            return None
        return [(entry, read["shift"]) for entry in _pointers(data)]

    def _word(self, address: int) -> int | None:
        data = self._memory.read(address, 8)
        return int.from_bytes(data, "little") if len(data) == 8 else None


def _pointers(data: bytes) -> list[int]:
    return [value for (value,) in struct.iter_unpack("<Q", data) if value]


def _plausible(address: int) -> bool:
    """Whether a pointer can be one into the kernel, with four or five levels of page tables."""
    return address >= 0xFF00000000000000 and address % 8 == 0 and address < 0xFFFFFFFFFFFFF000


def _odd(read: Mapping[str, int]) -> bool:
    """Whether this is no VM: the sum of what every VM's structure keeps to."""
    thread, created, online = read["thread"], read["created"], read["online"]
    name = read.get("stats_id")
    said = None if name is None else name.to_bytes(48, "little").partition(b"\0")[0]
    return (
        not _plausible(read["mm"])
        or thread > _MAX_PID
        or read["users"] > _MAX_USERS
        or not online <= created <= _MAX_VCPUS
        or said not in (None, b"kvm-%d" % thread)
    )
