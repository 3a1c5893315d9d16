"""The work of the host for one exit: instructions, branches and branch misses, by the CPU's own counters.

Only this thread's work in the host kernel counts (exclude_guest, exclude_user), and not what the guest executes:
perf_event_open(2). If calls and returns are expensive (retpolines, untrained returns, Safe RET), the branches that the
guard saves cost more cycles than their number says.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Final, NamedTuple, Protocol

from pmuconf.bench.loops import Loop
from pmuconf.bench.measure import Arm, Machine, Opener
from pmuconf.errors import PmuconfError

__all__ = ["Counter", "Counts", "Fingerprint", "fingerprint", "hardware"]


class Counts(NamedTuple):
    """The numbers of instructions, branches and mispredicted branches: in all, or per exit."""

    instructions: float
    branches: float
    branch_misses: float


class Counter(Protocol):
    """Open counters."""

    def read(self) -> Counts:
        """The counts since they were opened."""


@dataclass(frozen=True)
class Fingerprint:
    """Counts per exit by arm, without the empty loop; or the reason why there are none."""

    counts: Mapping[Arm, Counts]
    missing: str = ""


_PERF_EVENT_OPEN: Final = 298  # arch/x86/entry/syscalls/syscall_64.tbl
_EVENTS: Final = (1, 4, 5)  # PERF_COUNT_HW_INSTRUCTIONS, _BRANCH_INSTRUCTIONS, _BRANCH_MISSES
_FORMAT: Final = 1 | 2 | 8  # time enabled, time running, the whole group
_EXCLUDE: Final = 1 << 4 | 1 << 6 | 1 << 20  # user, hypervisor, guest
_CLOSE_ON_EXEC: Final = 8
_TURNS: Final = 256
_BATCHES: Final = 41


@dataclass(frozen=True)
class _Group:
    leader: int

    def read(self) -> Counts:
        data = os.read(self.leader, 8 * (3 + len(_EVENTS)))
        number, enabled, running, *values = struct.unpack(f"<{len(data) // 8}Q", data)
        if number != len(_EVENTS) or running != enabled:
            raise PmuconfError(
                "the hardware counters were shared with another user of them (the NMI watchdog is one)",
                cause="counters-shared",
            )
        return Counts(*values)


@contextlib.contextmanager
def hardware() -> Iterator[Counter]:
    """The CPU's counters for this thread's work in the kernel.

    :raises PmuconfError: this user may not have them (counters-permission), or there are none (counters-missing).
    """
    libc = ctypes.CDLL(None, use_errno=True)
    with contextlib.ExitStack() as stack:
        leader = -1
        for event in _EVENTS:
            # type, size, config, period, sample type, read format, flags; the rest of PERF_ATTR_SIZE_VER0
            attributes = struct.pack("<IIQQQQQ16x", 0, 64, event, 0, 0, _FORMAT, _EXCLUDE)
            buffer = ctypes.create_string_buffer(attributes, len(attributes))
            numbers = map(ctypes.c_long, (0, -1, leader, _CLOSE_ON_EXEC))  # this thread, any CPU
            descriptor = int(libc.syscall(ctypes.c_long(_PERF_EVENT_OPEN), buffer, *numbers))
            if descriptor < 0:
                raise _refused(ctypes.get_errno())
            stack.callback(os.close, descriptor)
            leader = descriptor if leader < 0 else leader
        yield _Group(leader)


def _refused(number: int) -> PmuconfError:
    if number in (errno.EACCES, errno.EPERM):
        return PmuconfError("the kernel does not let this user count its work", cause="counters-permission")
    if number in (errno.ENOENT, errno.EOPNOTSUPP, errno.ENODEV, errno.ENOSYS):
        return PmuconfError("this host gives no hardware counters", cause="counters-missing")
    return PmuconfError(f"perf_event_open: {os.strerror(number)}", cause="counters-missing")


def fingerprint(
    opened: Opener,
    arms: tuple[Arm, ...],
    counting: contextlib.AbstractContextManager[Counter],
    *,
    turns: int = _TURNS,
    batches: int = _BATCHES,
) -> Fingerprint:
    """The counts per exit of each arm. They take a time of their own: counters that run make exits more expensive.

    :param counting: hardware(), or a stand-in for it.
    :raises OSError: KVM refuses something.
    """
    try:
        with counting as counter:
            return Fingerprint({arm: _counts_of(opened, arm, counter, turns, batches) for arm in arms})
    except PmuconfError as error:
        return Fingerprint({}, f"{error.message} ({error.cause})")


def _counts_of(opened: Opener, arm: Arm, counter: Counter, turns: int, batches: int) -> Counts:
    """The counts per exit of one arm: the medians over batches of exits, each less a batch of the empty loop."""
    per_exit = []
    with opened(arm) as machine:
        machine.cycles(Loop.EXIT, turns)  # a batch that does not count
        for _ in range(batches):
            full, empty = (_counts_of_batch(machine, loop, counter, turns) for loop in (Loop.EXIT, Loop.EMPTY))
            per_exit.append(Counts(*((of_exit - of_loop) / turns for of_exit, of_loop in zip(full, empty))))
    return Counts(*map(median, zip(*per_exit)))


def _counts_of_batch(machine: Machine, loop: Loop, counter: Counter, turns: int) -> Counts:
    before = counter.read()
    machine.cycles(loop, turns)
    return Counts(*(later - earlier for earlier, later in zip(before, counter.read())))
