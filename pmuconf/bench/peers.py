"""A CPUID exit measured as others measure it, so that their figures can be compared with ours.

One loop in one VM gives one mean. There is no interval, and nothing is subtracted: the loop around the exit, interrupts
and the layout of this VM's memory are all in the figure.

SEED    at_cpu_cpuid, with which the guard's saving was first stated: CPUID of leaf 0x29a, sub-leaf 0, for some seconds;
        exits a second. KVM has no such leaf, so it looks through all leaves, and answers with the highest basic one.
VMEXIT  the test "cpuid" of kvm-unit-tests (x86/vmexit.c): a function with a CPUID of whatever EAX holds, called twice
        as often each time until that takes 2^30 TSC cycles; cycles a call. EAX then holds the last answer's EAX.
"""

from __future__ import annotations

import contextlib
import enum
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final

from pmuconf.bench import conditions
from pmuconf.bench.conditions import Spoil
from pmuconf.bench.loops import timed
from pmuconf.bench.measure import Arm
from pmuconf.errors import PmuconfError
from pmuconf.host.kvm import read_kvm
from pmuconf.host.prove.microvm import CODE, can_disable_pmu, micro_vm, no_capability, refused
from pmuconf.host.root import Root

__all__ = ["Mean", "Means", "Method", "compare", "mean_of"]


class Method(enum.Enum):
    """Whose way of measuring it is."""

    SEED = "at_cpu_cpuid"
    VMEXIT = "vmexit"


@dataclass(frozen=True)
class Mean:
    """What one loop gave.

    :param seconds: by the host's clock, entering and leaving the VM included.
    :param cycles: of the TSC, read by the guest around the loop.
    """

    exits: int
    seconds: float
    cycles: int

    @property
    def per_second(self) -> float:
        """Exits a second."""
        return self.exits / self.seconds

    @property
    def per_exit(self) -> float:
        """TSC cycles an exit."""
        return self.cycles / self.exits


@dataclass(frozen=True)
class Means:
    """The mean of each VM, by its in-kernel PMU; empty if something is known to spoil them."""

    method: Method
    of: Mapping[Arm, Mean]
    spoils: tuple[Spoil, ...]

    @property
    def gain(self) -> float | None:
        """By which share more exits a second there are with the PMU off; None: one of the two was not measured."""
        if set(self.of) != set(Arm):
            return None
        return self.of[Arm.OFF].per_second / self.of[Arm.ON].per_second - 1


_SEED_BODY: Final = bytes.fromhex("b89a020000 31c9 0fa2")  # mov eax, 0x29a; xor ecx, ecx; cpuid
_FUNCTION: Final = bytes.fromhex("53 0fa2 5b c3")  # push rbx; cpuid; pop rbx; ret
_LEAF_0: Final = bytes.fromhex("31c0")  # xor eax, eax
_ENTRY: Final = CODE + 64
_CALL: Final = 5
_BATCH: Final = 0.05
"""The seconds of a batch of SEED."""
_FIRST: Final = 64
_GOAL: Final = 1 << 30


def _code(method: Method) -> bytes:
    """The code for CODE, with the loop at _ENTRY."""
    if method is Method.SEED:
        return bytes(_ENTRY - CODE) + timed(_SEED_BODY)
    place = b"\xcc" * _CALL
    back = CODE - (_ENTRY + timed(place, _LEAF_0).index(place) + _CALL)
    call = b"\xe8" + back.to_bytes(_CALL - 1, "little", signed=True)
    return _FUNCTION.ljust(_ENTRY - CODE, b"\xcc") + timed(call, _LEAF_0)


def mean_of(
    method: Method, run: Callable[[int], int], seconds: float, *, now: Callable[[], float] = time.monotonic
) -> Mean:
    """The mean that a method gives.

    :param run: makes so many exits, and gives the TSC cycles that they took.
    :param seconds: for SEED.
    """
    if method is Method.VMEXIT:
        exits = _FIRST
        while True:
            began = now()
            cycles = run(exits)
            if cycles >= _GOAL:
                return Mean(exits, now() - began, cycles)
            exits *= 2
    batch = _batch(run, now)
    exits, cycles, began = 0, 0, now()
    while now() - began < seconds:
        cycles += run(batch)
        exits += batch
    return Mean(exits, now() - began, cycles)


def _batch(run: Callable[[int], int], now: Callable[[], float]) -> int:
    """How many exits take _BATCH: so many that entering and leaving the VM does not count."""
    run(_FIRST)
    began = now()
    run(_FIRST)
    return max(_FIRST, round(_BATCH * _FIRST / max(now() - began, 1e-9)))


def compare(
    method: Method,
    seconds: float,
    cpu: int | None = None,
    counters: int | None = None,
    *,
    anyway: bool = False,
    root: Root = Root(),  # noqa: B008  # frozen
) -> Means:
    """Measure with the PMU on, then off; only off where KVM gives no VM a PMU. See on_host.take() for the errors.

    :param seconds: the time that SEED may take for all VMs together.
    :param counters: as in micro_vm().
    :param anyway: measure even if something is known to spoil it.
    """
    settings = read_kvm(root)
    spoils = conditions.beforehand(root)
    if not anyway and any(not spoil.arms_only for spoil in spoils):
        return Means(method, {}, spoils)
    try:
        can_disable = can_disable_pmu()
        if not can_disable and settings.enable_pmu is not False:
            raise no_capability()
        _, unpinned = conditions.pin(cpu)
        means: dict[Arm, Mean] = {}
        arms = (Arm.OFF,) if settings.enable_pmu is False else (Arm.ON, Arm.OFF)
        for arm in arms:
            with contextlib.ExitStack() as stack:
                machine = stack.enter_context(
                    micro_vm(
                        _code(method),
                        disable_pmu=arm is Arm.OFF and can_disable,
                        counters=counters,
                        local_apic=settings.mediated_pmu is not False,
                    )
                )
                means[arm] = mean_of(method, partial(machine.run, _ENTRY), seconds / len(arms))
    except OSError as error:
        raise refused(error, root) from None
    except ValueError as error:
        raise PmuconfError(str(error), cause="no-such-counters") from None
    return Means(method, means, (*spoils, *([] if unpinned is None else [unpinned])))
