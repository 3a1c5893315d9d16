"""The conditions that spoil a measurement on this host: known beforehand, or seen while it was made.

What may happen (the clock of a core may change, its neighbour may get work) is only noted. If it happens, it spoils the
measurement.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

from pmuconf.host.kvm import read_kvm
from pmuconf.host.root import Root

__all__ = ["Load", "Spoil", "beforehand", "loads", "moved_clock", "neighbours", "notes", "pin", "worked"]


@dataclass(frozen=True)
class Spoil:
    """A reason why no conclusion is drawn.

    :param cause: a stable code: nested, no-constant-tsc, clock-moved, enable-pmu-n ...
    :param arms_only: it spoils PMU on against off on this kernel, but not the cost with the PMU off by itself.
    """

    cause: str
    message: str
    arms_only: bool = False


@dataclass(frozen=True)
class Load:
    """The work of a CPU since boot, in clock ticks (proc(5), /proc/stat)."""

    busy: int
    idle: int
    stolen: int

    def since(self, before: Load) -> Load:
        """The work after an earlier moment."""
        return Load(self.busy - before.busy, self.idle - before.idle, self.stolen - before.stolen)

    @property
    def total(self) -> int:
        """All ticks."""
        return self.busy + self.idle + self.stolen


_CLOCK_MOVED: Final = 0.02
_NEIGHBOUR_BUSY: Final = 0.05
_STOLEN: Final = 0.002
_CPUS: Final = "/sys/devices/system/cpu"
_NEEDED_FLAGS: Final = ("constant_tsc", "nonstop_tsc")
_STAT_FIELDS: Final = 8


def beforehand(root: Root) -> tuple[Spoil, ...]:
    """The spoils that any measurement has here, whatever happens during it."""
    return tuple(_beforehand(root))


def _beforehand(root: Root) -> Iterator[Spoil]:
    flags = _flags(root)
    kvm = read_kvm(root)
    if "hypervisor" in flags:
        yield Spoil("nested", "this host is itself a virtual machine: its hypervisor decides what an exit costs here")
    if kvm.vendor_module is None:
        yield Spoil("no-hardware-kvm", "KVM runs here without kvm_amd and kvm_intel, so its exits are others")
    missing = [flag for flag in _NEEDED_FLAGS if flag not in flags]
    if missing:
        yield Spoil("no-constant-tsc", f"the TSC is no clock on this CPU: it has no {' and no '.join(missing)}")
    source = root.text("/sys/devices/system/clocksource/clocksource0/current_clocksource")
    if source != "tsc":
        clock = source or "an unknown clock"
        yield Spoil("tsc-not-trusted", f"the kernel does not take its time from the TSC but from {clock}")
    if kvm.enable_pmu is False:
        yield Spoil("enable-pmu-n", "kvm.enable_pmu is N: no VM can have a PMU here to compare with", arms_only=True)


def notes(root: Root, cpu: int) -> tuple[str, ...]:
    """The things that might spoil a measurement on this CPU, and are watched."""
    sentences = []
    governor = root.text(f"{_CPUS}/cpu{cpu}/cpufreq/scaling_governor")
    if governor is not None:
        boost = root.text(f"{_CPUS}/cpufreq/boost")
        boosted = {"1": ", with boost", "0": ", without boost"}.get(boost or "", "")
        sentences.append(f"CPU {cpu} may change its clock (governor {governor}{boosted})")
    others = neighbours(root, cpu)
    if others:
        sentences.append(f"CPU {cpu} shares its core with CPU {', '.join(map(str, others))}")
    return tuple(sentences)


def pin(cpu: int | None) -> tuple[int, Spoil | None]:
    """Stay on one CPU: its number, and a spoil if that is refused.

    :param cpu: None: the last CPU that this process may run on.
    """
    chosen = max(os.sched_getaffinity(0)) if cpu is None else cpu
    try:
        os.sched_setaffinity(0, {chosen})
    except OSError as error:
        return chosen, Spoil("not-pinned", f"the measurement can't stay on CPU {chosen}: {error.strerror}")
    return chosen, None


def neighbours(root: Root, cpu: int) -> tuple[int, ...]:
    """The other CPUs of the same core."""
    listed = root.text(f"{_CPUS}/cpu{cpu}/topology/thread_siblings_list") or ""
    siblings: set[int] = set()
    for piece in filter(None, listed.split(",")):
        first, _, last = piece.partition("-")
        if first.isdecimal() and (last or first).isdecimal():
            siblings.update(range(int(first), int(last or first) + 1))
    return tuple(sorted(siblings - {cpu}))


def loads(root: Root) -> dict[int, Load]:
    """The work of every CPU so far."""
    by_cpu = {}
    for line in (root.text("/proc/stat") or "").splitlines():
        name, *words = line.split()
        number = name[3:]
        if name.startswith("cpu") and number.isdecimal() and len(words) >= _STAT_FIELDS:
            user, nice, system, idle, waiting, hard, soft, stolen = map(int, words[:_STAT_FIELDS])
            by_cpu[int(number)] = Load(user + nice + system + hard + soft, idle + waiting, stolen)
    return by_cpu


def worked(before: Mapping[int, Load], after: Mapping[int, Load], cpu: int, others: Sequence[int]) -> tuple[Spoil, ...]:
    """The spoils by other work between two moments.

    :param cpu: the CPU that the measurement was made on.
    :param others: the other CPUs of its core.
    """
    spent = {number: after[number].since(before[number]) for number in before.keys() & after.keys()}
    spoils = []
    for other in others:
        busy = _share(spent[other].busy, spent[other]) if other in spent else 0.0
        if busy > _NEIGHBOUR_BUSY:
            message = f"CPU {other}, of the same core as CPU {cpu}, was busy for {busy:.0%} of the time"
            spoils.append(Spoil("smt-neighbour", message))
    stolen = _share(spent[cpu].stolen, spent[cpu]) if cpu in spent else 0.0
    if stolen > _STOLEN:
        spoils.append(Spoil("stolen", f"a hypervisor took CPU {cpu} away for {stolen:.1%} of the time"))
    return tuple(spoils)


def _share(part: int, load: Load) -> float:
    return part / load.total if load.total > 0 else 0.0


def moved_clock(clocks: Sequence[float]) -> Spoil | None:
    """A spoil if the core's clock changed: the empty loop takes a fixed number of core cycles, while the TSC ticks on.

    :param clocks: TSC cycles per turn of the empty loop, at different times.
    """
    ordered = sorted(clocks)
    edge = len(ordered) // 20
    middle = median(ordered)
    spread = (ordered[-1 - edge] - ordered[edge]) / middle if middle > 0 else 0.0
    if spread <= _CLOCK_MOVED:
        return None
    message = f"the core's clock changed by {spread:.0%} during the measurement: set a fixed frequency (cpupower)"
    return Spoil("clock-moved", message)


def _flags(root: Root) -> frozenset[str]:
    text = root.text("/proc/cpuinfo") or ""
    return frozenset(text.partition("\nflags")[2].partition("\n")[0].replace(":", " ").split())
