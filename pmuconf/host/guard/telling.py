"""What is left of a telling value, or of a number, when an instruction changes it; and the flags that tell of it."""

from __future__ import annotations

from dataclasses import replace

from pmuconf.host.guard.registers import MASK, low
from pmuconf.host.guard.state import MURKY, Flags, Number, Truth, Value

__all__ = ["compared", "decremented", "extended", "flags_of", "masked", "moved", "negated"]


def flags_of(value: Truth, size: int, at: int) -> Flags:
    """The flags of an instruction that has a telling value of so many bytes for its result, and clears CF and OF."""
    positive = value.boolean or (value.small and size > 1)
    return Flags(value.zero, value.nonzero, plain=True, positive=positive, at=at)


def negated(value: Truth, size: int) -> Truth:
    """A telling value with the other sign: it is zero as before."""
    return Truth(value.zero, value.nonzero, size)


def decremented(value: Truth, size: int) -> Truth:
    """A boolean value less 1: it is zero where it was not."""
    return Truth(value.nonzero, value.zero, size)


def moved(value: Truth, name: str, size: int) -> Truth:
    """A telling value behind a move of so many bytes: as much of it counts as was moved, or was made by extending."""
    if name in ("mov", "movabs"):
        return value
    if value.width < size:
        return MURKY
    if name == "movzx":
        return replace(value, width=8 if value.small else 4)
    if size >= 4:
        return replace(value, width=8)
    return replace(value, width=8) if value.boolean else MURKY


def extended(value: Number, name: str, source: int, target: int) -> Number:
    """A number behind a move from ``source`` bytes to ``target`` bytes."""
    number = low(value, source).value
    if name in ("movsx", "movsxd") and number >> (8 * source - 1):
        number |= MASK ^ ((1 << 8 * source) - 1)
    return low(Number(number), target)


def masked(truth: Truth, mask: int, size: int) -> Value:
    """A telling value of which only the bits of a mask are left."""
    if truth.width < size:  # the bits beyond are not known
        rest = masked(truth, mask, truth.width) if mask >> 8 * truth.width == 0 else MURKY
        return replace(rest, width=size) if isinstance(rest, Truth) and rest != MURKY else rest
    whole = (1 << 8 * size) - 1
    if (truth.boolean and mask & 1) or (truth.small and mask & 0xFF == 0xFF) or mask & whole == whole:
        return truth
    return None if truth.boolean else MURKY


def compared(value: Truth, number: int, size: int, at: int) -> Flags:
    """The flags of a telling value's comparison with a number."""
    if number == 0:
        return flags_of(value, size, at)
    if number == 1 and value.boolean:
        return Flags(value.nonzero, value.zero, value.zero, value.nonzero, at=at)
    return Flags(murky=True, at=at)
