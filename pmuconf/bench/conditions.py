"""What spoils a measurement on this host: known beforehand, or seen while it was made.

What is only possible (the clock of a core may change, its neighbour may get work) is noted; that it happened spoils.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

from pmuconf.host.kvm import read_kvm
from pmuconf.host.root import Root

__all__ = ["Load", "Spoil", "beforehand", "loads", "moved_clock", "neighbours", "notes", "pin", "worked"]


@dataclass(frozen=True)
class Spoil:
    """Why no conclusion is drawn.

    :param cause: a stable code: nested, no-constant-tsc, clock-moved, enable-pmu-n ...
    :param arms_only: it spoils PMU on against off on this kernel, and not the cost with the PMU off by itself.
    """

    cause: str
    message: str
    arms_only: bool = False


@dataclass(frozen=True)
class Load:
    """What a CPU has done since boot, in clock ticks (proc(5), /proc/stat)."""

    busy: int
    idle: int
    stolen: int


_CLOCK_MOVED: Final = 0.02
_NEIGHBOUR_BUSY: Final = 0.05
_STOLEN: Final = 0.002
_CPUS: Final = "/sys/devices/system/cpu"


def beforehand(root: Root) -> tuple[Spoil, ...]:
    """What spoils any measurement here, whatever happens during it."""
    found = []
    flags = _flags(root)
    kvm = read_kvm(root)
    if "hypervisor" in flags:
        found.append(
            Spoil("nested", "this host is itself a virtual machine: what an exit costs here is its hypervisor's doing")
        )
    if kvm.vendor_module is None:
        found.append(Spoil("no-hardware-kvm", "KVM runs here without kvm_amd and kvm_intel, so its exits are others"))
    missing = [flag for flag in ("constant_tsc", "nonstop_tsc") if flag not in flags]
    if missing:
        found.append(Spoil("no-constant-tsc", f"the TSC is no clock on this CPU: it has no {' and no '.join(missing)}"))
    source = root.text("/sys/devices/system/clocksource/clocksource0/current_clocksource")
    if source != "tsc":
        found.append(
            Spoil(
                "tsc-not-trusted", f"the kernel does not take its time from the TSC but from {source or 'nobody knows'}"
            )
        )
    if kvm.enable_pmu is False:
        found.append(
            Spoil("enable-pmu-n", "kvm.enable_pmu is N: no VM can have a PMU here to compare with", arms_only=True)
        )
    return tuple(found)


def notes(root: Root, cpu: int) -> tuple[str, ...]:
    """What might have spoilt the measurement on this CPU and is watched."""
    found = []
    governor = root.text(f"{_CPUS}/cpu{cpu}/cpufreq/scaling_governor")
    if governor is not None:
        boost = root.text(f"{_CPUS}/cpufreq/boost")
        boosted = {"1": ", with boost", "0": ", without boost"}.get(boost or "", "")
        found.append(f"CPU {cpu} may change its clock (governor {governor}{boosted})")
    others = neighbours(root, cpu)
    if others:
        found.append(f"CPU {cpu} shares its core with CPU {', '.join(map(str, others))}")
    return tuple(found)


def pin(cpu: int | None) -> tuple[int, Spoil | None]:
    """Stay on one CPU: on which, and what it spoils if that is refused. Without a choice it is the last allowed."""
    allowed = os.sched_getaffinity(0)
    chosen = max(allowed) if cpu is None else cpu
    try:
        os.sched_setaffinity(0, {chosen})
    except OSError as error:
        message = f"the measurement can't stay on CPU {chosen}: {error.strerror}"
        return chosen, Spoil("not-pinned", message)
    return chosen, None


def neighbours(root: Root, cpu: int) -> tuple[int, ...]:
    """The other CPUs of the same core."""
    listed = root.text(f"{_CPUS}/cpu{cpu}/topology/thread_siblings_list") or ""
    found: set[int] = set()
    for piece in filter(None, listed.split(",")):
        first, _, last = piece.partition("-")
        if first.isdecimal() and (last or first).isdecimal():
            found.update(range(int(first), int(last or first) + 1))
    return tuple(sorted(found - {cpu}))


def loads(root: Root) -> dict[int, Load]:
    """What every CPU has done so far."""
    found = {}
    for line in (root.text("/proc/stat") or "").splitlines():
        name, *words = line.split()
        if name.startswith("cpu") and name[3:].isdecimal() and len(words) >= 8:
            user, nice, system, idle, waiting, hard, soft, stolen = map(int, words[:8])
            found[int(name[3:])] = Load(user + nice + system + hard + soft, idle + waiting, stolen)
    return found


def worked(before: dict[int, Load], after: dict[int, Load], cpu: int, others: Sequence[int]) -> tuple[Spoil, ...]:
    """What other work was in the way between the two moments."""
    found = []

    def share(which: int, what: str) -> float:
        one, other = before.get(which), after.get(which)
        if one is None or other is None:
            return 0.0
        total = sum(getattr(other, name) - getattr(one, name) for name in ("busy", "idle", "stolen"))
        return (getattr(other, what) - getattr(one, what)) / total if total > 0 else 0.0

    for other in others:
        busy = share(other, "busy")
        if busy > _NEIGHBOUR_BUSY:
            found.append(
                Spoil(
                    "smt-neighbour", f"CPU {other}, of the same core as CPU {cpu}, was busy for {busy:.0%} of the time"
                )
            )
    stolen = share(cpu, "stolen")
    if stolen > _STOLEN:
        found.append(Spoil("stolen", f"a hypervisor took CPU {cpu} away for {stolen:.1%} of the time"))
    return tuple(found)


def moved_clock(clocks: Sequence[float]) -> Spoil | None:
    """Whether the core's clock changed: the empty loop takes a fixed number of core cycles, while the TSC ticks on."""
    ordered = sorted(clocks)
    edge = len(ordered) // 20
    spread = (ordered[-1 - edge] - ordered[edge]) / median(ordered) if median(ordered) > 0 else 0.0
    if spread <= _CLOCK_MOVED:
        return None
    return Spoil(
        "clock-moved", f"the core's clock changed by {spread:.0%} during the run: set a fixed frequency (cpupower)"
    )


def _flags(root: Root) -> frozenset[str]:
    text = root.text("/proc/cpuinfo") or ""
    return frozenset(text.partition("\nflags")[2].partition("\n")[0].replace(":", " ").split())
