"""Measures an exit with the PMU on and off, in micro-VMs side by side.

Two VMs that are made alike still differ by a few cycles as long as they live, by where their memory happens to lie. So
each pair of VMs gives one value only, a measurement makes many pairs, and the intervals are about the pairs. Within a
pair, all loops run in batches, in a new random order each round, so that slow changes affect all of them alike. The
value of a pair is the median of its rounds.
"""

from __future__ import annotations

import contextlib
import enum
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from statistics import median
from typing import Final, Protocol

from pmuconf.bench.loops import DOORBELL, Exit, Loop, Program, program
from pmuconf.host.prove.microvm import MicroVm, micro_vm

__all__ = ["Arm", "Effort", "Machine", "Opener", "Pair", "measure", "opener"]


class Arm(enum.Enum):
    """A VM's side of the comparison, by its in-kernel PMU."""

    ON = "on"
    OFF = "off"


class Machine(Protocol):
    """A machine that runs loops."""

    def cycles(self, loop: Loop, turns: int) -> int:
        """The TSC cycles that so many turns took."""


Opener = Callable[[Arm], AbstractContextManager[Machine]]


@dataclass(frozen=True)
class Effort:
    """The extent of a measurement.

    :param arms: one or both.
    :param seconds: the time that the whole measurement may take, about.
    :param pairs: the number of pairs of VMs, which are made one after the other.
    :param rounds: the number of times that each loop runs in each VM of a pair; None: as many as there is time for.
    :param turns: the number of exits in a batch; None: as many as take BATCH.
    """

    arms: tuple[Arm, ...] = (Arm.ON, Arm.OFF)
    seconds: float = 40.0
    pairs: int = 60
    rounds: int | None = None
    turns: int | None = None


@dataclass(frozen=True)
class Pair:
    """The values of one pair of VMs: TSC cycles per exit without those of the empty loop, round by round.

    :param exit: of the kind that is measured, by arm.
    :param fault: of the control, which skips no instruction.
    :param clock: TSC cycles per turn of the empty loop, over many turns: the core's clock as the TSC sees it.
    """

    exit: Mapping[Arm, tuple[float, ...]]
    fault: Mapping[Arm, tuple[float, ...]]
    clock: tuple[float, ...]

    def value(self, arm: Arm) -> float:
        """The cost of the exit in this arm."""
        return median(self.exit[arm])

    def control(self, arm: Arm) -> float:
        """The cost of the control in this arm."""
        return median(self.fault[arm])

    def difference(self) -> float:
        """The difference of on against off, round by round."""
        return median(on - off for on, off in zip(self.exit[Arm.ON], self.exit[Arm.OFF]))

    def control_difference(self) -> float:
        """The difference of the control, round by round."""
        return median(on - off for on, off in zip(self.fault[Arm.ON], self.fault[Arm.OFF]))


BATCH: Final = 300e-6
"""The seconds that a batch takes: so short that most batches see no timer interrupt, of which there are 100 to 1000 a
second, and long compared to entering the VM and reading the TSC twice."""

_TRIAL: Final = 64
"""The turns that are run to find out how many a batch should have."""
_LEAST, _MOST = 16, 4096
_CLOCK_TURNS: Final = 20_000
_WARM: Final = 2
_SETTLE: Final = 8


@dataclass(frozen=True)
class _Looping:
    machine: MicroVm
    loops: Program

    def cycles(self, loop: Loop, turns: int) -> int:
        return self.machine.run(self.loops.entries[loop], turns)


def opener(kind: Exit, counters: int | None, *, can_disable: bool, mediated: bool) -> Opener:
    """A function that makes the real VMs.

    :param counters: as in micro_vm().
    :param can_disable: False if KVM itself has disabled the PMU of every VM.
    :param mediated: KVM may give guests the hardware's counters, which it does only with a local APIC in the kernel.
    """
    loops = program(kind)

    @contextlib.contextmanager
    def opened(arm: Arm) -> Iterator[Machine]:
        doorbell = DOORBELL if kind is Exit.PORT else None
        disable = arm is Arm.OFF and can_disable
        with micro_vm(
            loops.code, disable_pmu=disable, counters=counters, doorbell=doorbell, local_apic=mediated
        ) as machine:
            yield _Looping(machine, loops)

    return opened


def measure(
    opened: Opener,
    effort: Effort,
    *,
    chance: random.Random | None = None,
    now: Callable[[], float] = time.monotonic,
    progress: Callable[[], object] = lambda: None,
) -> tuple[Pair, ...]:
    """The pairs of a measurement. It is made in this thread, on this thread's CPU.

    :param progress: called after each pair.
    :raises OSError: KVM refuses something.
    """
    chance = chance or random.Random()
    until = now() + effort.seconds
    pairs: list[Pair] = []
    turns = effort.turns
    while len(pairs) < effort.pairs:
        share = (until - now()) / (effort.pairs - len(pairs))
        order = list(effort.arms)
        chance.shuffle(order)
        with contextlib.ExitStack() as stack:
            machines = {arm: stack.enter_context(opened(arm)) for arm in order}
            _warm(machines.values(), turns or _TRIAL)
            if turns is None:
                turns = _calibrated(machines[effort.arms[0]], now)
            pairs.append(_pair(machines, effort.rounds, turns, now() + share, chance, now))
        progress()
    return tuple(pairs)


def _warm(machines: Iterable[Machine], turns: int) -> None:
    """Run every loop a few times, so that memory and caches are as they are later."""
    for machine in machines:
        for loop in Loop:
            for _ in range(_WARM):
                machine.cycles(loop, turns)


def _calibrated(machine: Machine, now: Callable[[], float]) -> int:
    """The number of exits that take BATCH."""
    began = now()
    machine.cycles(Loop.EXIT, _TRIAL)
    each = max(now() - began, 1e-9) / _TRIAL
    return round(min(max(BATCH / each, _LEAST), _MOST))


def _pair(
    machines: Mapping[Arm, Machine],
    rounds: int | None,
    turns: int,
    until: float,
    chance: random.Random,
    now: Callable[[], float],
) -> Pair:
    """The values of one pair of VMs: so many rounds, or those until a moment, and one at least."""
    clocks = [_clock(machine) for machine in machines.values()]
    done = [_round(machines, turns, chance)]
    while now() < until if rounds is None else len(done) < rounds:
        done.append(_round(machines, turns, chance))
    clocks += [_clock(machine) for machine in machines.values()]
    exits = {arm: tuple((took[arm, Loop.EXIT] - took[arm, Loop.EMPTY]) / turns for took in done) for arm in machines}
    faults = {arm: tuple((took[arm, Loop.FAULT] - took[arm, Loop.EMPTY]) / turns for took in done) for arm in machines}
    return Pair(exits, faults, tuple(clocks))


def _round(machines: Mapping[Arm, Machine], turns: int, chance: random.Random) -> dict[tuple[Arm, Loop], int]:
    """The cycles of a batch of every loop in every VM, in a random order."""
    tasks = [(arm, loop) for arm in machines for loop in Loop]
    chance.shuffle(tasks)
    return {(arm, loop): _settled(machines[arm], loop, turns) for arm, loop in tasks}


def _settled(machine: Machine, loop: Loop, turns: int) -> int:
    """The cycles of a batch, after a few that don't count: a change of VMs flushes the branch predictors (IBPB)."""
    machine.cycles(loop, _SETTLE)
    return machine.cycles(loop, turns)


def _clock(machine: Machine) -> float:
    return machine.cycles(Loop.EMPTY, _CLOCK_TURNS) / _CLOCK_TURNS
