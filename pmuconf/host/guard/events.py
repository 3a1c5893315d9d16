"""What a walk along the paths of a function came to: events, and the instructions that they stand on."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import NamedTuple

__all__ = ["Event", "Kind", "Obstacle", "Walk"]


class Kind(enum.Enum):
    """What a path came to."""

    CALL = "call"
    """The callee is called (or jumped to) with enable_pmu found non-zero: it is not entered."""
    ENTRY = "entry"
    """The callee is entered: its own paths decide."""
    WORK = "work"
    """Something is done for the PMU: the callee calls something or writes to memory; or its code is inlined."""
    READ = "read"
    """The function itself reads the vCPU's PMU state."""
    LOOK = "look"
    """It reads the bitmap of counters that count instructions: that is a test, and no work."""
    HELPER = "helper"
    """Another function of the PMU's is entered: its own paths decide too."""
    UNRESOLVED = "unresolved"
    """The path can't be followed; the event has an obstacle."""


class Obstacle(enum.Enum):
    """Why a path can't be followed. The value is a cause code."""

    HOOKED = "hooked"
    UNRESOLVED_CALL = "unresolved-call"
    UNKNOWN_CALLEE = "unknown-callee"
    CALLEE_UNREADABLE = "callee-unreadable"
    OTHER_VCPU = "other-vcpu"
    INDIRECT_CALL = "indirect-call"
    INDIRECT_JUMP = "indirect-jump"
    UNREADABLE_CODE = "unreadable-code"
    STACK_LOST = "stack-lost"
    FALLS_THROUGH = "falls-through"
    TOO_COMPLEX = "too-complex"


class Event(NamedTuple):
    """What one path came to, where, and what it had learned by then.

    :param enabled: whether enable_pmu was found non-zero; None: it was not tested.
    :param counting: the same of the bitmap of counters that count instructions.
    :param murky: there may have been a test that is not understood.
    """

    kind: Kind
    at: int
    enabled: bool | None
    counting: bool | None
    murky: bool
    obstacle: Obstacle | None = None


@dataclass
class Walk:
    """All that a walk came to. Numbers are addresses of instructions, if nothing else is said."""

    events: set[Event] = field(default_factory=set)
    tests: set[int] = field(default_factory=set)
    """They look at enable_pmu."""
    branches: set[int] = field(default_factory=set)
    """They go one way or the other by enable_pmu, or by the bitmap."""
    loads: set[int] = field(default_factory=set)
    """They read the VM's address."""
    entered: set[int] = field(default_factory=set)
    """Where the callees begin that the function itself called before it had learned anything: they decide alone."""
    spared: set[int] = field(default_factory=set)
    """Where the callees begin that are called with enable_pmu found non-zero: they are not entered for that."""
    inlined: bool = False
    """The function itself looks at the PMU's state, or changes it: it has code of the callee."""
    called: set[str] = field(default_factory=set)
    """The names of the functions that are called or jumped to, followed or not."""
    hooks: set[str] = field(default_factory=set)
    instructions: dict[int, str] = field(default_factory=dict)

    def of(self, kind: Kind) -> list[Event]:
        """The events of a kind, in order of their addresses."""
        return sorted((event for event in self.events if event.kind is kind), key=_place)


def _place(event: Event) -> tuple[int, str, bool]:
    return event.at, event.obstacle.value if event.obstacle is not None else "", event.murky
