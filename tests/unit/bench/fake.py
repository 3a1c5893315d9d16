"""Micro-VMs that only pretend to run: what their loops cost is written down here, and chance is the test's own."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from dataclasses import dataclass, field

from pmuconf.bench.loops import Exit, Loop
from pmuconf.bench.measure import Arm, Machine, Pair
from pmuconf.bench.measurement import Measurement
from pmuconf.host.measured import HostKey
from pmuconf.hostfacts import Verdict

KEY = HostKey("k" * 40, "m" * 40, "AMD EPYC 7302 16-Core Processor", "0x8301055", (("retbleed", "Mitigation"),))


@dataclass
class Host:
    """A host on which exits cost so many cycles; what happens meanwhile is added by ``disturbed``."""

    exit: dict[Arm, float]
    fault: dict[Arm, float] = field(default_factory=lambda: {Arm.ON: 3000.0, Arm.OFF: 3000.0})
    empty: float = 4.0
    noise: float = 0.0
    drift: float = 0.0
    """Cycles per exit by which everything gets dearer with each batch."""
    layout: float = 0.0
    """How much dearer or cheaper one VM is than another that was made the same way (standard deviation)."""
    spikes: float = 0.0
    """How often something takes a batch a hundred thousand cycles more."""
    chance: random.Random = field(default_factory=lambda: random.Random(1))
    batches: list[tuple[Arm, Loop, int]] = field(default_factory=list)
    opened: list[Arm] = field(default_factory=list)
    open: int = 0

    @contextlib.contextmanager
    def opener(self, arm: Arm) -> Iterator[Machine]:
        self.opened.append(arm)
        self.open += 1
        assert self.open <= 2
        yield _Fake(self, arm, self.chance.gauss(0, self.layout))
        self.open -= 1


@dataclass
class _Fake:
    host: Host
    arm: Arm
    luck: float

    def cycles(self, loop: Loop, turns: int) -> int:
        host = self.host
        each = host.empty
        if loop is not Loop.EMPTY:
            each += (host.exit if loop is Loop.EXIT else host.fault)[self.arm] + self.luck
            each += host.drift * len(host.batches) + host.chance.gauss(0, host.noise)
        host.batches.append((self.arm, loop, turns))
        spike = 100_000 if host.chance.random() < host.spikes else 0
        return round(each * turns) + 50 + spike


def measurement_of(
    on: float | None,
    off: float,
    *,
    pairs: int = 24,
    control: float = 3000.0,
    control_on: float | None = None,
    guard: Verdict = Verdict.GUARDED,
    spread: float = 1.0,
    host: HostKey = KEY,
) -> Measurement:
    """A run in which exits cost so much, give or take ``spread``."""
    chance = random.Random(42)

    def rounds(about: float) -> tuple[float, ...]:
        return tuple(about + chance.gauss(0, spread) for _ in range(5))

    def pair() -> Pair:
        exits = {Arm.OFF: rounds(off)} if on is None else {Arm.ON: rounds(on), Arm.OFF: rounds(off)}
        faults = {arm: rounds(control_on if arm is Arm.ON and control_on else control) for arm in exits}
        return Pair(exits, faults, (1.0, 1.0))

    return Measurement(
        exit=Exit.CPUID,
        counters=6,
        release="6.1.0-test",
        host=host,
        guard=guard,
        at="2026-05-22T12:00:00+00:00",
        pairs=tuple(pair() for _ in range(pairs)),
    )
