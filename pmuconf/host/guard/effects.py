"""What one x86-64 instruction does to the abstract machine. Control flow is followed elsewhere (x86.py)."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any, Final

import capstone
from capstone import x86_const as x86

from pmuconf.host.code.offsets import Offsets
from pmuconf.host.guard.state import (
    MURKY,
    Base,
    Fact,
    Flags,
    Loaded,
    Number,
    Pointer,
    Question,
    State,
    Truth,
    Value,
)

__all__ = ["CONDITIONS", "Effects", "register"]

_MASK: Final = (1 << 64) - 1

_WIDE: Final[dict[str, tuple[str, int]]] = {}
for _long, _names in {
    **{f"r{c}x": (f"e{c}x", f"{c}x", f"{c}l") for c in "abcd"},
    **{f"r{c}": (f"e{c}", c, f"{c}l") for c in ("si", "di", "bp", "sp")},
    **{f"r{n}": (f"r{n}d", f"r{n}w", f"r{n}b") for n in range(8, 16)},
}.items():
    _WIDE[_long] = _long, 8
    for _name, _size in zip(_names, (4, 2, 1)):
        _WIDE[_name] = _long, _size
_HIGH: Final = {f"{c}h": f"r{c}x" for c in "abcd"}

CONDITIONS: Final = ("e", "ne", "a", "ae", "b", "be", "g", "ge", "l", "le", "s", "ns", "o", "no", "p", "np")
_NOTHING: Final = frozenset({"nop", "endbr64", "lfence", "pause", "mfence", "sfence", "prefetcht0", "prefetchw"})
_ANYWHERE: Final = -(1 << 62)
_KEEPS_FLAGS: Final = frozenset({"not", "bswap", "xchg", "cdq", "cqo", "cdqe", "cwde", "cwd", "cbw"})
# What has its operand in memory first and only reads it.
_READS: Final = re.compile(r"bt|i?mul|i?div|ver[rw]|prefetch\w+|fi?ld\w*|invlpg|clflush\w*|ldmxcsr")
_SETS: Final = {f"set{c}": c for c in CONDITIONS}
_MOVES: Final = {f"cmov{c}": c for c in CONDITIONS}


def register(name: str) -> tuple[str, int] | None:
    """The 64-bit register that this one is the low part of, and its size in bytes; None for any other."""
    return _WIDE.get(name)


class Effects:
    """Applies instructions to states, knowing where the members are.

    ``loads`` and ``tests`` collect the instructions that read the VM's pointer and that look at the guard's byte.
    """

    def __init__(self, offsets: Offsets) -> None:
        self._offsets = offsets
        self.loads: set[int] = set()
        self.tests: set[int] = set()

    def apply(self, insn: capstone.CsInsn, state: State) -> bool:
        """Change the state as the instruction does; whether it writes to memory other than the stack's."""
        name = insn.mnemonic.split()[-1]
        if name in _NOTHING:
            return False
        operands = insn.operands
        handler = getattr(self, f"_do_{name}", None)
        if name.startswith("rep") or " " in insn.mnemonic:
            return self._other(insn, state)
        if name in ("mov", "movabs", "movzx", "movsx", "movsxd") and len(operands) == 2:
            return self._move(insn, state, name)
        if name in _SETS:
            return self._write(insn, operands[0], self._condition(state, _SETS[name]), state)
        if name in _MOVES:
            return self._conditional_move(insn, state, _MOVES[name])
        if handler is not None:
            result: bool = handler(insn, state)
            return result
        return self._other(insn, state)

    def address(self, insn: capstone.CsInsn, operand: Any, state: State) -> Value:
        """The address of a memory operand: a Pointer, a Number, or None."""
        memory = operand.mem
        if memory.segment in (x86.X86_REG_FS, x86.X86_REG_GS):
            return None
        total: Value = Number(memory.disp & _MASK)
        if memory.base:
            base = insn.reg_name(memory.base)
            if base == "rip":
                return Number((insn.address + insn.size + memory.disp) & _MASK)
            total = _add(state.registers.get(base), memory.disp)
        if memory.index:
            index = state.registers.get(insn.reg_name(memory.index))
            if not isinstance(index, Number):
                return None
            total = _add(total, index.value * memory.scale)
        return total

    def value(self, insn: capstone.CsInsn, operand: Any, state: State) -> Value:
        """What an operand holds."""
        if operand.type == x86.X86_OP_IMM:
            return Number(operand.imm & _MASK)
        if operand.type == x86.X86_OP_REG:
            return _part(insn.reg_name(operand.reg), state)
        return self._load(insn, operand, state) if operand.type == x86.X86_OP_MEM else None

    def _load(self, insn: capstone.CsInsn, operand: Any, state: State) -> Value:
        place, size, offsets = self.address(insn, operand, state), operand.size, self._offsets
        if isinstance(place, Number):
            return Loaded(place.value) if size == 8 else None
        if isinstance(place, Pointer):
            if place.base is Base.STACK:
                return state.load(place.offset, size)
            if place.base is Base.VCPU:
                if place.offset == offsets.kvm and size == 8:
                    self.loads.add(insn.address)
                    return Pointer(Base.KVM, 0)
                if place.offset == offsets.counting and size == 8:
                    return Truth(Fact(Question.COUNTING, False), Fact(Question.COUNTING, True))
                return None
            if offsets.enable_pmu is not None and place.offset <= offsets.enable_pmu < place.offset + size:
                self.tests.add(insn.address)
                if size > 1:
                    return MURKY
                zero, nonzero = Fact(Question.ENABLE, False), Fact(Question.ENABLE, True)
                return Truth(zero, nonzero, width=1, small=True, boolean=True)
            return None
        if operand.mem.segment in (x86.X86_REG_FS, x86.X86_REG_GS):
            return None
        # An unknown pointer: with the very offset of the byte behind it, it may be the VM's after all.
        disp = operand.mem.disp
        if offsets.enable_pmu is not None and (disp <= offsets.enable_pmu < disp + size) and disp:
            return MURKY
        base = state.registers.get(insn.reg_name(operand.mem.base)) if operand.mem.base else None
        inside_vm = isinstance(base, Pointer) and base.base is Base.KVM
        return MURKY if inside_vm or isinstance(base, Truth) else None

    def _write(self, insn: capstone.CsInsn, operand: Any, value: Value, state: State) -> bool:
        """Store a value of the operand's size; whether that is memory other than the stack's."""
        if operand.type == x86.X86_OP_REG:
            _set(insn.reg_name(operand.reg), value, state)
            return False
        place = self.address(insn, operand, state)
        if isinstance(place, Pointer) and place.base is Base.STACK:
            state.store(place.offset, value, operand.size)
            return False
        base = state.registers.get(insn.reg_name(operand.mem.base)) if operand.mem.base else None
        if isinstance(base, Pointer) and base.base is Base.STACK:  # an array on the stack, at an unknown index
            state.forget_stack(base.offset + operand.mem.disp)
            return False
        if not isinstance(place, Pointer):  # nobody knows where: also to a place on the stack, if one is known outside
            state.forget_stack(state.exposed)
        return True

    def _move(self, insn: capstone.CsInsn, state: State, name: str) -> bool:
        target, source = insn.operands
        value = self.value(insn, source, state)
        if isinstance(value, Truth):
            if value.width < source.size:
                value = MURKY
            elif name == "movzx" or source.size >= 4:
                value = replace(value, width=8 if source.size >= 4 or name == "movzx" else value.width)
            elif name != "mov":
                value = replace(value, width=8) if value.boolean else MURKY
        elif isinstance(value, Number):
            value = _extended(value, name, source.size, target.size)
        elif source.size < 8 or target.size < 8:
            value = None
        return self._write(insn, target, value, state)

    def _conditional_move(self, insn: capstone.CsInsn, state: State, condition: str) -> bool:
        target, source = insn.operands
        mine, theirs = self.value(insn, target, state), self.value(insn, source, state)
        met, unmet, murky = state.flags.on(condition) if state.flags else (None, None, False)
        telling = murky or met or unmet or isinstance(mine, Truth) or isinstance(theirs, Truth)
        return self._write(insn, target, mine if mine == theirs else MURKY if telling else None, state)

    def _condition(self, state: State, condition: str) -> Value:
        met, unmet, murky = state.flags.on(condition) if state.flags else (None, None, False)
        if murky:
            return MURKY
        if met is None and unmet is None:
            return None
        return Truth(unmet, met, width=1, small=True, boolean=True)

    def _do_lea(self, insn: capstone.CsInsn, state: State) -> bool:
        target, source = insn.operands
        value = self.address(insn, source, state)
        if value is None and any(
            isinstance(state.registers.get(insn.reg_name(r)), Truth) for r in (source.mem.base, source.mem.index) if r
        ):
            value = MURKY
        return self._write(insn, target, value if target.size == 8 else value if value == MURKY else None, state)

    def _do_push(self, insn: capstone.CsInsn, state: State) -> bool:
        value = self.value(insn, insn.operands[0], state)
        _shift(state, -8)
        depth = state.depth
        if depth is not None:
            state.store(depth, value, 8)
        return False

    def _do_pop(self, insn: capstone.CsInsn, state: State) -> bool:
        depth = state.depth
        value = state.load(depth, 8) if depth is not None else None
        _shift(state, 8)
        return self._write(insn, insn.operands[0], value, state)

    def _do_pushfq(self, insn: capstone.CsInsn, state: State) -> bool:
        _shift(state, -8)
        depth = state.depth
        if depth is not None:
            state.store(depth, None, 8)
        return False

    def _do_popfq(self, insn: capstone.CsInsn, state: State) -> bool:
        _shift(state, 8)
        state.flags = None
        return False

    def _do_leave(self, insn: capstone.CsInsn, state: State) -> bool:
        state.registers["rsp"] = state.registers.get("rbp")
        depth = state.depth
        state.registers["rbp"] = state.load(depth, 8) if depth is not None else None
        _shift(state, 8)
        return False

    def _do_add(self, insn: capstone.CsInsn, state: State) -> bool:
        return self._sum(insn, state, 1)

    def _do_sub(self, insn: capstone.CsInsn, state: State) -> bool:
        return self._sum(insn, state, -1)

    def _sum(self, insn: capstone.CsInsn, state: State, sign: int) -> bool:
        target, source = insn.operands
        mine, theirs = self.value(insn, target, state), self.value(insn, source, state)
        if target.type == x86.X86_OP_REG and target.size == 8 and isinstance(theirs, Number):
            if isinstance(mine, (Pointer, Number)):
                amount = theirs.value if theirs.value < 1 << 63 else theirs.value - (1 << 64)
                state.flags = None
                return self._write(insn, target, _add(mine, sign * amount), state)
        elif sign > 0 and target.size == 8 and isinstance(mine, Number) and isinstance(theirs, Pointer):
            state.flags = None
            return self._write(insn, target, _add(theirs, mine.value), state)
        return self._other(insn, state)

    def _do_xor(self, insn: capstone.CsInsn, state: State) -> bool:
        target, source = insn.operands
        if target.type == source.type == x86.X86_OP_REG and target.reg == source.reg:
            state.flags = None
            return self._write(insn, target, Number(0), state)
        mine, theirs = self.value(insn, target, state), self.value(insn, source, state)
        if isinstance(mine, Truth) and mine.boolean and mine.width >= target.size and theirs == Number(1):
            turned = replace(mine, zero=mine.nonzero, nonzero=mine.zero)
            state.flags = Flags(turned.zero, turned.nonzero, plain=True, at=insn.address)
            return self._write(insn, target, turned, state)
        return self._other(insn, state)

    def _do_and(self, insn: capstone.CsInsn, state: State) -> bool:
        result = self._both(insn, state)
        if not isinstance(result, Truth) or result == MURKY:
            return self._other(insn, state)
        state.flags = Flags(result.zero, result.nonzero, plain=True, at=insn.address)
        return self._write(insn, insn.operands[0], result, state)

    def _do_or(self, insn: capstone.CsInsn, state: State) -> bool:
        target, source = insn.operands
        mine, theirs = self.value(insn, target, state), self.value(insn, source, state)
        if target.type == source.type == x86.X86_OP_REG and target.reg == source.reg and isinstance(mine, Truth):
            return self._do_test(insn, state)
        truths = [v for v in (mine, theirs) if isinstance(v, Truth)]
        if truths and MURKY not in truths and all(v.width >= target.size for v in truths):
            zero = next((v.zero for v in truths if v.zero is not None), None)
            small = mine is not None and theirs is not None and all(v.small for v in truths) and len(truths) == 2
            state.flags = Flags(zero, None, plain=True, at=insn.address)
            return self._write(insn, target, Truth(zero, None, target.size, small=small), state)
        return self._other(insn, state)

    def _both(self, insn: capstone.CsInsn, state: State) -> Value:
        """The value of ``first & second``, where it tells something."""
        first, second = insn.operands
        mine, theirs = self.value(insn, first, state), self.value(insn, second, state)
        if first.type == second.type == x86.X86_OP_REG and first.reg == second.reg:
            return mine if not isinstance(mine, Truth) or mine.width >= first.size else MURKY
        truths = [v for v in (mine, theirs) if isinstance(v, Truth)]
        if not truths:
            return None
        if any(v == MURKY or v.width < first.size for v in truths):
            return MURKY
        mask = next((v.value for v in (mine, theirs) if isinstance(v, Number)), None)
        if mask is not None:
            (truth,) = truths
            whole = (1 << 8 * first.size) - 1
            if (truth.boolean and mask & 1) or (truth.small and mask & 0xFF == 0xFF) or mask & whole == whole:
                return truth
            return None if truth.boolean else MURKY
        facts = [v.nonzero for v in truths if v.nonzero is not None]
        fact = next((f for f in facts if f.question is Question.ENABLE), facts[0] if facts else None)
        return Truth(None, fact, first.size, small=any(v.small for v in truths))

    def _do_test(self, insn: capstone.CsInsn, state: State) -> bool:
        result = self._both(insn, state)
        if isinstance(result, Truth):
            if result.zero is None and result.nonzero is None:
                state.flags = Flags(murky=True, at=insn.address)
            else:
                self._note(insn, result)
                state.flags = Flags(result.zero, result.nonzero, plain=True, at=insn.address)
        else:
            state.flags = None
        return False

    def _do_cmp(self, insn: capstone.CsInsn, state: State) -> bool:
        first, second = insn.operands
        mine, theirs = self.value(insn, first, state), self.value(insn, second, state)
        state.flags = None
        if isinstance(mine, Truth) and isinstance(theirs, Number) and mine.width >= first.size and mine != MURKY:
            number = theirs.value & ((1 << 8 * first.size) - 1)
            if number == 0:
                state.flags = Flags(mine.zero, mine.nonzero, plain=True, at=insn.address)
            elif number == 1 and mine.boolean:
                state.flags = Flags(mine.nonzero, mine.zero, mine.zero, mine.nonzero, at=insn.address)
            else:
                state.flags = Flags(murky=True, at=insn.address)
            self._note(insn, mine)
        elif isinstance(theirs, Truth) and mine == Number(0) and theirs.width >= first.size and theirs != MURKY:
            state.flags = Flags(theirs.zero, theirs.nonzero, at=insn.address)
            self._note(insn, theirs)
        elif isinstance(mine, Truth) or isinstance(theirs, Truth):
            state.flags = Flags(murky=True, at=insn.address)
        return False

    def _note(self, insn: capstone.CsInsn, value: Truth) -> None:
        if any(fact is not None and fact.question is Question.ENABLE for fact in (value.zero, value.nonzero)):
            self.tests.add(insn.address)

    def _other(self, insn: capstone.CsInsn, state: State) -> bool:
        """Any instruction that nothing is known of but which registers it reads and writes."""
        read, written = insn.regs_access()
        outside = False
        telling = any(isinstance(_part(insn.reg_name(r), state), Truth) for r in read)
        for operand in insn.operands:
            if operand.type == x86.X86_OP_MEM:
                telling = telling or isinstance(self._load(insn, operand, state), Truth)
        names = {insn.reg_name(r) for r in (*read, *written)}
        if "rflags" in {insn.reg_name(r) for r in read} and state.flags is not None:
            flags = state.flags
            telling = telling or flags.murky or flags.zero is not None or flags.nonzero is not None
        value: Value = MURKY if telling else None
        for operand in insn.operands:
            if operand.type == x86.X86_OP_MEM and _writes(insn, operand):
                place = self.address(insn, operand, state)
                if insn.mnemonic.startswith("rep") and isinstance(place, Pointer) and place.base is Base.STACK:
                    state.forget_stack(place.offset)
                outside = self._write(insn, operand, value, state) or outside
        changed_too = ("rax",) if "cmpxchg" in insn.mnemonic else ()  # the decoder does not say so
        for name in {*(insn.reg_name(r) for r in written), *changed_too}:
            if register(name) is not None or name in _HIGH:
                _set(name, value, state)
        if insn.mnemonic not in _KEEPS_FLAGS and not insn.mnemonic.startswith("mov"):
            # The decoder need not know of every instruction that it changes the flags.
            changed = "rflags" in names or bool(insn.eflags)
            before = state.flags
            told = before is not None and (before.murky or before.zero is not None or before.nonzero is not None)
            state.flags = Flags(murky=True, at=insn.address) if telling or (told and not changed) else None
        return outside


def _writes(insn: capstone.CsInsn, operand: Any) -> bool:
    """Whether it may write to this operand in memory. The decoder does not say so of rotations, CMPXCHG, MOVNTI ..."""
    if operand.access & capstone.CS_AC_WRITE:
        return True
    return operand == insn.operands[0] and not _READS.fullmatch(insn.mnemonic.split()[-1])


def _add(value: Value, amount: int) -> Value:
    if isinstance(value, Pointer):
        return Pointer(value.base, _signed(value.offset + amount))
    return Number((value.value + amount) & _MASK) if isinstance(value, Number) else None


def _signed(number: int) -> int:
    number &= _MASK
    return number - (1 << 64) if number >> 63 else number


def _extended(value: Number, name: str, source: int, target: int) -> Number:
    number = value.value & ((1 << 8 * source) - 1)
    if name in ("movsx", "movsxd") and number >> (8 * source - 1):
        number |= _MASK ^ ((1 << 8 * source) - 1)
    return Number(number & ((1 << 8 * target) - 1))


def _shift(state: State, amount: int) -> None:
    state.registers["rsp"] = _add(state.registers.get("rsp"), amount)


def _part(name: str, state: State) -> Value:
    """What a register or a part of one holds."""
    if name in _HIGH:
        return MURKY if isinstance(state.registers.get(_HIGH[name]), Truth) else None
    known = register(name)
    if known is None:
        return None
    whole, size = known
    value = state.registers.get(whole)
    if size == 8 or value is None:
        return value
    if isinstance(value, Number):
        return Number(value.value & ((1 << 8 * size) - 1))
    if isinstance(value, Truth):
        return value if value.small or size >= value.width else MURKY
    return None


def _set(name: str, value: Value, state: State) -> None:
    """Write to a register: 32 bits clear the upper half, 8 and 16 bits leave the rest as it was."""
    if name in _HIGH:
        name, value = _HIGH[name], MURKY if isinstance(state.registers.get(_HIGH[name]), Truth) else None
        state.registers[name] = value
        return
    known = register(name)
    if known is None:
        return
    whole, size = known
    before = state.registers.get(whole)
    if size == 4:
        value = Number(value.value & 0xFFFFFFFF) if isinstance(value, Number) else value
        value = None if isinstance(value, (Pointer, Loaded)) else value
        if isinstance(value, Truth) and value.width >= 4:
            value = replace(value, width=8)
    elif size < 4:
        if isinstance(value, Truth) and value != MURKY:
            value = replace(value, width=8 if before == Number(0) and value.small else min(size, value.width))
        elif isinstance(value, (Number, Pointer, Loaded)):
            value = None
        if value is None and isinstance(before, Truth) and size < 4 and not _covered(before, size):
            value = MURKY
    if isinstance(value, Pointer) and value.base is Base.STACK and whole != "rsp":
        # Behind a frame pointer lies nothing of this function's; any other address may be gone from in both ways.
        place = value.offset if whole == "rbp" and value == state.registers.get("rsp") else _ANYWHERE
        state.exposed = place if state.exposed is None else min(state.exposed, place)
    if value is None:
        state.registers.pop(whole, None)
    else:
        state.registers[whole] = value


def _covered(before: Truth, size: int) -> bool:
    """Whether writing so many low bytes leaves nothing telling behind."""
    return before != MURKY and (before.small or before.width <= size)
