"""What the host executes for one exit: instructions, branches and branch misses, by the CPU's own counters.

Counted is this thread's work in the host kernel alone (exclude_guest, exclude_user), so that what the guest executes
does not come in: perf_event_open(2). Where calls and returns are dear (retpolines, untrained returns, Safe RET), the
branches that the guard spares cost more cycles than their number says.
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
from pmuconf.bench.measure import Arm, Opener
from pmuconf.errors import PmuconfError

__all__ = ["Counter", "Counts", "Fingerprint", "fingerprint", "hardware"]


class Counts(NamedTuple):
    """Instructions, branches and mispredicted branches: in all, or per exit."""

    instructions: float
    branches: float
    branch_misses: float


class Counter(Protocol):
    """What has counted so far."""

    def read(self) -> Counts:
        """The counts since it was opened."""


@dataclass(frozen=True)
class Fingerprint:
    """Counts per exit by arm, net of the empty loop; or why there are none."""

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
        return PmuconfError("the kernel lets this user count nothing in it", cause="counters-permission")
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
    """Count for each arm; a time of its own, because counters that run make exits dearer.

    :param counting: hardware(), or what stands in for it.
    :raises OSError: KVM refuses something.
    """
    found = {}
    try:
        with counting as counter:
            for arm in arms:
                with opened(arm) as machine:
                    machine.cycles(Loop.EXIT, turns)
                    taken: dict[Loop, list[Counts]] = {Loop.EXIT: [], Loop.EMPTY: []}
                    for _ in range(batches):
                        for loop, values in taken.items():
                            before = counter.read()
                            machine.cycles(loop, turns)
                            values.append(Counts(*(b - a for a, b in zip(before, counter.read()))))
                per_turn = (
                    median((full - idle) / turns for full, idle in zip(fulls, idles))
                    for fulls, idles in zip(zip(*taken[Loop.EXIT]), zip(*taken[Loop.EMPTY]))
                )
                found[arm] = Counts(*per_turn)
    except PmuconfError as error:
        return Fingerprint({}, f"{error.message} ({error.cause})")
    return Fingerprint(found)
