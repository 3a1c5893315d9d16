"""The layout of the structures that hold VMs, on a running kernel, by the kernel's own types (BTF)."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol, TypeVar

from pmuconf.errors import PmuconfError
from pmuconf.host.code.btf import Btf
from pmuconf.host.code.offsets import Member
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

__all__ = ["POINTER", "Fields", "Layout", "Memory", "PmuLayout", "PointerArray", "is_kernel_pointer", "pointers"]

POINTER: Final = 8
"""The size of a pointer, in bytes."""
_GAP: Final = 2048
"""Two members that lie closer than this are read at once, in bytes."""
_EVENTSEL_ENABLE: Final = 1 << 22
_FIXED_ENABLE: Final = 0x3333333333333333
"""The bits of IA32_FIXED_CTR_CTRL that make a counter count, in the kernel or in user space: two of each four."""
_VERSION_SIZES: Final = (1, 4)

Value = TypeVar("Value")


class Memory(Protocol):
    """Kernel memory by its addresses."""

    def read(self, address: int, size: int) -> bytes:
        """Up to ``size`` bytes; none where nothing can be read."""
        ...


def pointers(data: bytes) -> list[int]:
    """The pointers in an array, without those that are null."""
    return [pointer for (pointer,) in struct.iter_unpack("<Q", data) if pointer]


def is_kernel_pointer(address: int) -> bool:
    """Whether a pointer can lead into the kernel, with four or five levels of page tables."""
    return address >= 0xFF00000000000000 and address % POINTER == 0 and address < 0xFFFFFFFFFFFFF000


class Place(NamedTuple):
    """The place of a member in its structure, in bytes."""

    offset: int
    size: int

    @property
    def end(self) -> int:
        """The first byte behind it."""
        return self.offset + self.size


class Fields:
    """Some members of one structure, which are read with few reads.

    :param wanted: by our name of a member: its path in the structure, and its size in bytes.
    :raises PmuconfError: the kernel has no such structure, or a member has another size; cause no-offsets. A member
        that the structure does not have is left out: see demand().
    """

    def __init__(self, types: Btf, structure: str, wanted: Mapping[str, tuple[str, int]]) -> None:
        structure_size = types.size(structure)
        if structure_size is None:
            raise PmuconfError(f"BTF has no struct {structure}", cause="no-offsets")
        self._places: dict[str, Place] = {}
        for name, (path, size) in wanted.items():
            member = types.find(structure, path)
            if member is None:
                continue
            if member.size != size or member.offset + size > structure_size:
                raise PmuconfError(f"{path} of struct {structure} is not of {size} bytes", cause="no-offsets")
            self._places[name] = Place(member.offset, size)
        self._spans = [(span, _members(self._places, names, span)) for span, names in _spans(self._places).items()]

    def __contains__(self, name: str) -> bool:
        return name in self._places

    def offset(self, name: str) -> int:
        """The offset of a member."""
        return self._places[name].offset

    def demand(self, *names: str) -> Fields:
        """These fields, if all of these members are there.

        :raises PmuconfError: one of them is missing; cause no-offsets.
        """
        for name in names:
            if name not in self._places:
                raise PmuconfError(f"BTF does not tell where {name} is", cause="no-offsets")
        return self

    def read(self, memory: Memory, address: int) -> dict[str, int] | None:
        """The members of the structure at this address, as numbers; None if they can't be read."""
        values = {}
        for span, members in self._spans:
            data = memory.read(address + span.offset, span.size)
            if len(data) != span.size:
                return None
            for name, within in members:
                values[name] = int.from_bytes(data[within], "little")
        return values


def _spans(places: Mapping[str, Place]) -> dict[Place, list[str]]:
    """The parts of a structure that are read at once, each with the names of the members in it."""
    spans: dict[Place, list[str]] = {}
    last, names = None, list[str]()
    for name, place in sorted(places.items(), key=lambda item: item[1]):
        if last is not None and place.offset - last.end <= _GAP:
            del spans[last]
            last = Place(last.offset, max(last.end, place.end) - last.offset)
        else:
            last, names = place, []
        names.append(name)
        spans[last] = names
    return spans


def _members(places: Mapping[str, Place], names: list[str], span: Place) -> list[tuple[str, slice]]:
    """The members in a span, each with its part of what is read."""
    return [(name, slice(places[name].offset - span.offset, places[name].end - span.offset)) for name in names]


@dataclass(frozen=True)
class PointerArray:
    """An array of pointers in a structure.

    :param offset: of the array, in bytes.
    :param length: the number of pointers.
    """

    offset: int
    length: int


class Layout:
    """The places of all that is read, on the kernel that these types are of.

    :raises PmuconfError: the types lack something that is always needed; cause no-offsets, btf-broken ...
    """

    def __init__(self, types: Btf) -> None:
        self.vm = Fields(types, VM, VM_MEMBERS).demand("next", "mm", "thread", "created", "online", "users")
        if self.vm.offset("prev") != self.vm.offset("next") + POINTER:
            raise PmuconfError("struct list_head is not what it was", cause="no-offsets")
        self.mm = _optional(lambda: Fields(types, MEMORY, MM_MEMBERS).demand("owner"))
        self.task = Fields(types, TASK, TASK_MEMBERS).demand("mm", "pid", "leader", "started")
        self.vcpus = _pointer_array(types.find(*OLD_VCPUS))
        self.node = _optional(lambda: Fields(types, NODE, NODE_MEMBERS).demand("shift"))
        self.slots = _pointer_array(types.find(*NODE_SLOTS))
        self.pmu = _optional(lambda: PmuLayout(types))


def _optional(make: Callable[[], Value]) -> Value | None:
    try:
        return make()
    except PmuconfError:
        return None


def _pointer_array(member: Member | None) -> PointerArray | None:
    """The array that a member is; None if there is no such member, or no pointer in it."""
    if member is None or not member.size or member.size < POINTER:
        return None
    return PointerArray(member.offset, member.size // POINTER)


class PmuLayout:
    """The place where a vCPU keeps its PMU, and what in there says that the guest has programmed a counter.

    :ivar vm: the offset of the pointer to the VM in struct kvm_vcpu.
    :ivar offset: of struct kvm_pmu in struct kvm_vcpu.
    :ivar size: of struct kvm_pmu, in bytes.
    :raises PmuconfError: the types do not tell these places, or not as they were; cause no-offsets.
    """

    def __init__(self, types: Btf) -> None:
        self.vm = _member(types, VM_OF_VCPU).offset
        pmu = _member(types, PMU_OF_VCPU)
        self.offset, self.size = pmu.offset, _size_of(pmu)
        general, fixed = _counters(types, GENERAL_COUNTERS), _counters(types, FIXED_COUNTERS)
        if not general:
            raise _not_as_it_was()
        selector, event = _word(types, EVENTSEL), _word(types, PERF_EVENT)
        self._control = _word(types, FIXED_CONTROL)
        self._selectors = [counter + selector for counter in general]
        self._events = [counter + event for counter in (*general, *fixed)] + _maps(types)
        words = (self._control, *self._selectors, *self._events)
        if max(words) + 8 > self.size or any(word % 8 for word in words):
            raise PmuconfError("a vCPU's counters lie outside of its PMU", cause="no-offsets")
        self._version = _version(types, self.size)

    def has_version(self, pmu: bytes) -> bool | None:
        """Whether this struct kvm_pmu has a version other than 0; None: this kernel does not say.

        Intel's has what CPUID shows to the guest. AMD's has one whenever KVM holds a PMU (amd_pmu_refresh).
        """
        if self._version is None:
            return None
        return any(pmu[self._version.offset : self._version.end])

    def in_use(self, pmu: bytes) -> bool:
        """Whether a counter is programmed in this struct kvm_pmu.

        A counter is, if the guest has set its enable bit, or if KVM holds a host event for it. KVM releases the event
        when the guest has left the counter alone for a whole time slice (kvm_pmu_cleanup). ``pmc_in_use`` is not read:
        a guest that has looked at its counters once, as Linux does at boot, stays in it.
        """
        words = struct.unpack_from(f"<{self.size // 8}Q", pmu)
        return (
            any(words[event // 8] for event in self._events)
            or any(words[selector // 8] & _EVENTSEL_ENABLE for selector in self._selectors)
            or bool(words[self._control // 8] & _FIXED_ENABLE)
        )


def _member(types: Btf, path: tuple[str, str]) -> Member:
    member = types.find(*path)
    if member is None:
        raise PmuconfError("BTF does not tell where a vCPU's counters are", cause="no-offsets")
    return member


def _size_of(member: Member) -> int:
    if not member.size:
        raise _not_as_it_was()
    return member.size


def _word(types: Btf, path: tuple[str, str]) -> int:
    """The offset of a member of eight bytes."""
    member = _member(types, path)
    if member.size != 8:
        raise _not_as_it_was()
    return member.offset


def _counters(types: Btf, path: tuple[str, str]) -> list[int]:
    """The offsets of the counters in an array of struct kvm_pmc, which may be empty."""
    array, counter_size = _member(types, path), types.size(COUNTER)
    if not counter_size or array.size is None:
        raise _not_as_it_was()
    return [array.offset + counter_size * number for number in range(array.size // counter_size)]


def _maps(types: Btf) -> list[int]:
    """The offsets of all words of the maps that say which counters count, where the kernel has such maps."""
    members = [types.find(*path) for path in COUNTING_MAPS]
    maps = [member for member in members if member is not None]
    return [word for word_map in maps for word in range(word_map.offset, word_map.offset + (word_map.size or 0), 8)]


def _version(types: Btf, pmu_size: int) -> Place | None:
    """The place of the version in struct kvm_pmu; None if there is none of a known size."""
    version = types.find(*PMU_VERSION)
    if version is None or version.size not in _VERSION_SIZES or version.offset + version.size > pmu_size:
        return None
    return Place(version.offset, version.size)


def _not_as_it_was() -> PmuconfError:
    return PmuconfError("a vCPU's counters are not what they were", cause="no-offsets")
