"""The registers of the abstract machine: 64 bits each, read and written as a whole or by their low parts.

What is written to a part keeps the rest as the processor does: 32 bits clear the upper half, 8 and 16 bits leave it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from pmuconf.host.guard.state import MURKY, Loaded, Number, Pointer, State, Truth, Value, is_of_stack

__all__ = ["MASK", "added", "is_frame", "is_part", "low", "move_stack_pointer", "part", "set_part"]

MASK: Final = (1 << 64) - 1

_LOW: Final[dict[str, tuple[str, int]]] = {}
for _long, _names in {
    **{f"r{c}x": (f"e{c}x", f"{c}x", f"{c}l") for c in "abcd"},
    **{f"r{c}": (f"e{c}", c, f"{c}l") for c in ("si", "di", "bp", "sp")},
    **{f"r{n}": (f"r{n}d", f"r{n}w", f"r{n}b") for n in range(8, 16)},
}.items():
    _LOW[_long] = _long, 8
    for _name, _size in zip(_names, (4, 2, 1)):
        _LOW[_name] = _long, _size
_HIGH: Final = {f"{c}h": f"r{c}x" for c in "abcd"}
_FRAME: Final = ("rsp", "rbp")
"""No function finds anything in these, and what is made of them is noted."""


def is_part(name: str) -> bool:
    """Whether the name is that of a general register or of a part of one."""
    return name in _LOW or name in _HIGH


def part(name: str, state: State) -> Value:
    """What a register or a part of one holds; None also for registers of other kinds."""
    if name in _HIGH:
        return MURKY if isinstance(state.registers.get(_HIGH[name]), Truth) else None
    if name not in _LOW:
        return None
    whole, size = _LOW[name]
    value = state.registers.get(whole)
    if size == 8 or value is None:
        return value
    if isinstance(value, Number):
        return low(value, size)
    if isinstance(value, Truth):
        return value if value.small or size >= value.width else MURKY
    return None


def set_part(name: str, value: Value, state: State) -> None:
    """Write to a register or to a part of one; registers of other kinds are not kept."""
    if name in _HIGH:
        before = state.registers.get(_HIGH[name])
        state.registers[_HIGH[name]] = MURKY if isinstance(before, Truth) else None
        return
    if name not in _LOW:
        return
    whole, size = _LOW[name]
    if size == 4:
        value = _extended(value)
    elif size < 4:
        value = _merged(value, state.registers.get(whole), size)
    if is_of_stack(value) and whole not in _FRAME:
        state.exposed = True
    if value is None:
        state.registers.pop(whole, None)
    else:
        state.registers[whole] = value
    if whole == "rsp":
        state.trim()


def move_stack_pointer(state: State, amount: int) -> None:
    """Move rsp by so many bytes."""
    set_part("rsp", added(state.registers.get("rsp"), amount), state)


def is_frame(name: str, state: State) -> bool:
    """Whether a register is the stack pointer or a frame's, or a part of one, and has an address of the stack."""
    whole = _LOW.get(name, ("", 0))[0]
    return whole in _FRAME and is_of_stack(state.registers.get(whole))


def added(value: Value, amount: int) -> Value:
    """A pointer or a number, and so much more; None for anything else."""
    if isinstance(value, Pointer):
        return Pointer(value.base, _signed(value.offset + amount))
    return Number((value.value + amount) & MASK) if isinstance(value, Number) else None


def low(number: Number, size: int) -> Number:
    """The low ``size`` bytes of a number."""
    return Number(number.value & ((1 << 8 * size) - 1))


def _extended(value: Value) -> Value:
    """What a register holds whose low 4 bytes were written: the others are zero."""
    if isinstance(value, Number):
        return low(value, 4)
    if isinstance(value, (Pointer, Loaded)):
        return None
    # What is larger than a byte is likely to be tested as what it was written as.
    return replace(value, width=8) if value is not None and value.width >= 4 and value.small else value


def _merged(value: Value, before: Value, size: int) -> Value:
    """What a register holds whose low 1 or 2 bytes were written: the others are as they were."""
    if isinstance(value, Truth):
        if value == MURKY:
            return value
        return replace(value, width=8 if before == Number(0) and value.small else min(size, value.width))
    # A number or pointer is no longer known. What is left of a telling value above it may still tell something.
    return MURKY if isinstance(before, Truth) and not _is_covered(before, size) else None


def _is_covered(before: Truth, size: int) -> bool:
    """Whether writing so many low bytes leaves nothing telling behind."""
    return before != MURKY and (before.small or before.width <= size)


def _signed(number: int) -> int:
    number &= MASK
    return number - (1 << 64) if number >> 63 else number
