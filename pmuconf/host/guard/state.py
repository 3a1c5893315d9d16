"""The abstract machine of the path check: what is known of registers, stack and flags at one point of a path.

A value is known only as far as the question needs it: as a pointer into the vCPU, into its VM or into the stack, as a
number, or as a telling value. A telling value shows by being zero or not whether ``kvm->arch.enable_pmu`` (or the
bitmap of counters that count instructions) is zero. Every other value is unknown. A mixture of a telling value and
others is ``MURKY``: a branch on it may be a guard that is not understood, so nothing can be concluded behind it.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field, replace
from typing import Final, Optional, Union

__all__ = [
    "ARGUMENTS",
    "MURKY",
    "SCRATCH",
    "Base",
    "Fact",
    "Flags",
    "Loaded",
    "Number",
    "Pointer",
    "Question",
    "State",
    "Truth",
    "Value",
    "either",
    "is_of_stack",
]

ARGUMENTS: Final = ("rdi", "rsi", "rdx", "rcx", "r8", "r9")
SCRATCH: Final = ("rax", *ARGUMENTS, "r10", "r11")
"""The registers that a function may change, by the System V ABI."""


class Base(enum.Enum):
    """The thing that a pointer points into."""

    VCPU = "vcpu"
    KVM = "kvm"
    STACK = "stack"
    COUNTER = "counter"
    """A pointer that was read from the vCPU's PMU state: where it leads to is not known."""


class Question(enum.Enum):
    """The member that is zero or not: the guard's byte, or the bitmap of the early-out."""

    ENABLE = "kvm->arch.enable_pmu"
    COUNTING = "pmu->pmc_counting_instructions"


@dataclass(frozen=True)
class Fact:
    """The question was found non-zero, or zero."""

    question: Question
    nonzero: bool


@dataclass(frozen=True)
class Pointer:
    """A pointer, so many bytes behind the start of its base."""

    base: Base
    offset: int


@dataclass(frozen=True)
class Number:
    """A constant, of 64 bits without sign."""

    value: int


@dataclass(frozen=True)
class Loaded:
    """The 8 bytes that stand in memory at a constant address."""

    address: int


@dataclass(frozen=True)
class Truth:
    """A telling value.

    :param zero: the fact that holds if the value is zero; None: nothing follows from that.
    :param nonzero: the fact that holds if it is not.
    :param width: the number of bytes of it that count.
    :param small: the value fits into one byte.
    :param boolean: the value is 0 or 1.
    """

    zero: Fact | None
    nonzero: Fact | None
    width: int = 8
    small: bool = False
    boolean: bool = False


Value = Optional[Union[Pointer, Number, Loaded, Truth]]

MURKY: Final = Truth(None, None)


@dataclass(frozen=True)
class Flags:
    """The facts that the flags tell.

    :param zero: the fact that holds if ZF is set; ``nonzero``: if it is clear.
    :param below: the fact that holds if CF is set; ``not_below``: if it is clear.
    :param plain: CF is known to be clear.
    :param positive: SF and OF are known to be clear.
    :param murky: the flags depend on a telling value in some other way.
    :param at: the instruction that set them.
    """

    zero: Fact | None = None
    nonzero: Fact | None = None
    below: Fact | None = None
    not_below: Fact | None = None
    plain: bool = False
    positive: bool = False
    murky: bool = False
    at: int = 0

    @property
    def telling(self) -> bool:
        """Whether they tell a fact, or depend on a telling value."""
        return self.murky or any((self.zero, self.nonzero, self.below, self.not_below))

    def on(self, condition: str) -> tuple[Fact | None, Fact | None, bool]:
        """The facts that hold if a condition (``e``, ``a`` ...) is met and if not; and whether that is murky."""
        if self.murky:
            return None, None, True
        if condition in ("e", "ne"):
            met, unmet = self.zero, self.nonzero
        elif condition in ("b", "ae"):
            met, unmet = self.below, self.not_below
        elif (condition in ("be", "a") and self.plain) or (condition in ("le", "g") and self.positive):
            met, unmet = self.zero, self.nonzero
        else:
            return None, None, self.telling
        if condition in ("ne", "ae", "a", "g"):
            met, unmet = unmet, met
        if met is None and unmet is None and self.telling:
            return None, None, True  # only another flag is understood
        return met, unmet, False


@dataclass
class State:
    """All that is known at one point. A register or a place of the stack that is not listed is unknown.

    :param enabled: whether enable_pmu was found non-zero; None: it was not tested.
    :param counting: the same of the bitmap of counters that count instructions.
    :param murky: there may have been a test that is not understood.
    :param exposed: an address of the stack may be where it is not known: what writes to an unknown address, and each
        function that is called, may write to the stack.
    """

    registers: dict[str, Value] = field(default_factory=dict)
    stack: dict[int, tuple[Value, int]] = field(default_factory=dict)
    flags: Flags | None = None
    enabled: bool | None = None
    counting: bool | None = None
    murky: bool = False
    exposed: bool = False

    def copy(self) -> State:
        """A copy that can be changed without changing this state."""
        return replace(self, registers=dict(self.registers), stack=dict(self.stack))

    @property
    def depth(self) -> int | None:
        """The place that the stack pointer points to; None if that is not known."""
        pointer = self.registers.get("rsp")
        return pointer.offset if isinstance(pointer, Pointer) and pointer.base is Base.STACK else None

    def learn(self, fact: Fact | None) -> None:
        """Take note of a fact; the latest about a question counts."""
        if fact is None:
            return
        if fact.question is Question.ENABLE:
            self.enabled = fact.nonzero
        else:
            self.counting = fact.nonzero

    def join(self, other: State) -> State:
        """The state that has what both have in common."""
        stack: dict[int, tuple[Value, int]] = {}
        exposed = self.exposed or other.exposed
        for slot in self.stack.keys() | other.stack.keys():
            mine, theirs = self.stack.get(slot, (None, 8)), other.stack.get(slot, (None, 8))
            met = _meet(mine[0], theirs[0])
            if mine[1] != theirs[1] and isinstance(met, Truth) and not met.small:
                met = MURKY
            exposed = exposed or _is_lost(met, mine[0], theirs[0])
            if met is not None:
                stack[slot] = met, min(mine[1], theirs[1])
        registers: dict[str, Value] = {}
        for name in self.registers.keys() | other.registers.keys():
            first, second = self.registers.get(name), other.registers.get(name)
            value = _meet(first, second)
            exposed = exposed or _is_lost(value, first, second)
            if value is not None:
                registers[name] = value
        flags = self.flags
        if flags != other.flags:
            telling = any(f is not None and f.telling for f in (flags, other.flags))
            flags = Flags(murky=True) if telling else None
        return State(registers, stack, flags, self.enabled, self.counting, self.murky, exposed)

    def store(self, offset: int, value: Value, size: int) -> None:
        """Write to the stack. Nothing stays below its pointer: interrupts write there."""
        depth = self.depth
        for slot, (_, length) in list(self.stack.items()):
            if slot < offset + size and offset < slot + length:
                del self.stack[slot]
        if value is not None and (depth is None or offset >= depth):
            self.stack[offset] = value, size

    def load(self, offset: int, size: int) -> Value:
        """Read from the stack."""
        value, length = self.stack.get(offset, (None, 0))
        if length == size:
            return value
        telling = any(
            isinstance(v, Truth) and slot < offset + size and offset < slot + n for slot, (v, n) in self.stack.items()
        )
        if isinstance(value, Truth) and value.small and size < length:
            return replace(value, width=min(value.width, size))
        return MURKY if telling else None

    def forget_stack(self) -> None:
        """Forget the stack: something may have written anywhere there."""
        for slot, (value, size) in list(self.stack.items()):
            if isinstance(value, Truth):
                self.stack[slot] = MURKY, size
            else:
                del self.stack[slot]
            self.exposed = self.exposed or is_of_stack(value)

    def has_address(self, offset: int | None, size: int) -> bool:
        """Whether some of these bytes of the stack are of an address of it; None: any of its bytes."""
        return any(
            is_of_stack(value) and (offset is None or (slot < offset + size and offset < slot + length))
            for slot, (value, length) in self.stack.items()
        )

    def trim(self) -> None:
        """Forget what lies below the stack pointer."""
        depth = self.depth
        if depth is not None:
            for slot in [slot for slot in self.stack if slot < depth]:
                del self.stack[slot]


def is_of_stack(value: Value) -> bool:
    """Whether a value is known to be an address of the stack."""
    return isinstance(value, Pointer) and value.base is Base.STACK


def _is_lost(met: Value, *values: Value) -> bool:
    """Whether an address of the stack was among values, and is not known where they have met."""
    return not is_of_stack(met) and any(map(is_of_stack, values))


def _meet(mine: Value, theirs: Value) -> Value:
    return either(None, mine, None, theirs, 8)


def either(fact: Fact | None, mine: Value, other: Fact | None, theirs: Value, size: int) -> Value:
    """What is known of a value that is ``mine`` where a fact holds, or ``theirs`` where another one does.

    A zero tells what both tell by being zero. One that can't be zero has no say in that. A non-zero does likewise.

    :param size: how many bytes of either count.
    """
    if mine is not None and mine == theirs:
        return mine
    if not isinstance(mine, Truth) and not isinstance(theirs, Truth) and fact is None and other is None:
        return None
    width = min([size, *(value.width for value in (mine, theirs) if isinstance(value, Truth))])
    arms = [(fact, _within(mine, width)), (other, _within(theirs, width))]
    zero, nonzero = (
        _common([_facts_if(value, known, nonzero=nonzero) for known, value in arms]) for nonzero in (False, True)
    )
    if zero is None and nonzero is None:
        return MURKY
    small, boolean = (all(_is_up_to(most, value) for value in (mine, theirs)) for most in (0xFF, 1))
    return Truth(zero, nonzero, width, small=small, boolean=boolean)


def _within(value: Value, width: int) -> Value:
    """A value of which so many bytes count: what tells only as a whole tells nothing then."""
    if isinstance(value, Number):
        return Number(value.value & ((1 << 8 * width) - 1))
    return MURKY if isinstance(value, Truth) and value.width > width and not value.small else value


def _facts_if(value: Value, known: Fact | None, *, nonzero: bool) -> set[Fact] | None:
    """What holds if a value is zero or not, beside what is known; None: it can't be."""
    if isinstance(value, Number) and bool(value.value) != nonzero:
        return None
    implied = (value.nonzero if nonzero else value.zero) if isinstance(value, Truth) else None
    facts = {fact for fact in (implied, known) if fact is not None}
    return None if {Fact(Question.ENABLE, nonzero=False), Fact(Question.ENABLE, nonzero=True)} <= facts else facts


def _common(each: list[set[Fact] | None]) -> Fact | None:
    """A fact that holds in each case that can be; that of enable_pmu before another one."""
    possible = [facts for facts in each if facts is not None]
    common = set.intersection(*possible) if possible else set()
    return min(common, key=lambda fact: fact.question is not Question.ENABLE, default=None)


def _is_up_to(most: int, value: Value) -> bool:
    """Whether a value is known to be no more than 1, or than fits into one byte."""
    if isinstance(value, Number):
        return value.value <= most
    return isinstance(value, Truth) and (value.boolean or (value.small and most > 1))
