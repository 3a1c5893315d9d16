"""What one x86-64 instruction does to the abstract machine; paths.py follows control flow.

The table at the end has the instructions with a meaning of their own. Any other instruction counts by the registers and
the memory that it reads and writes: if it reads a telling value, all that it writes is murky.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final, Optional

import capstone
from capstone import x86_const as x86

from pmuconf.host.code.offsets import Offsets
from pmuconf.host.guard.operands import Operands
from pmuconf.host.guard.registers import added, is_frame, is_part, low, move_stack_pointer, part, set_part
from pmuconf.host.guard.state import MURKY, Base, Fact, Flags, Number, Pointer, Question, State, Truth, Value, either
from pmuconf.host.guard.telling import compared, decremented, extended, flags_of, masked, moved, negated

__all__ = ["CONDITIONS", "Effects"]

CONDITIONS: Final = ("e", "ne", "a", "ae", "b", "be", "g", "ge", "l", "le", "s", "ns", "o", "no", "p", "np")
_MOVES: Final = frozenset({"mov", "movabs", "movzx", "movsx", "movsxd"})
_NOTHING: Final = frozenset({"nop", "endbr64", "lfence", "pause", "mfence", "sfence", "prefetcht0", "prefetchw"})
_KEEPS_FLAGS: Final = frozenset({"not", "bswap", "xchg", "cdq", "cqo", "cdqe", "cwde", "cwd", "cbw"})
# What moves the stack pointer.
_OF_STACK: Final = frozenset({"push", "pop", "pushf", "popf", "pushfq", "popfq", "leave", "enter"})
_OPERAND_SIZE: Final = 0x66
"""The prefix that makes an operand one of 2 bytes."""
# What makes another address of an address, or none.
_EXACT: Final = frozenset({*_MOVES, "push", "pop", "leave", "add", "sub", "lea", "cmp", "test"})
# What the decoder does not say: registers that are written too.
_WRITES_TOO: Final = {"cmpxchg": ("rax",), "xlatb": ("rax",), "enter": ("rsp", "rbp")}
_BIT_STRINGS: Final = frozenset({"bts", "btr", "btc"})
# What has its operand in memory first and only reads it.
_READS: Final = re.compile(r"bt|i?mul|i?div|ver[rw]|prefetch\w+|fi?ld\w*|invlpg|clflush\w*|ldmxcsr")

Learned = tuple[Optional[Fact], Optional[Fact], bool]


class Effects:
    """Applies instructions to states. ``operands`` collects the instructions that look at enable_pmu."""

    def __init__(self, offsets: Offsets) -> None:
        self.operands = Operands(offsets)

    def apply(self, insn: capstone.CsInsn, state: State) -> bool:
        """Change the state as the instruction does; whether it writes to memory other than the stack's."""
        name = insn.mnemonic.split()[-1]
        if name in _NOTHING:
            return False
        if insn.prefix[2] == _OPERAND_SIZE and name in _OF_STACK:
            set_part("rsp", None, state)  # 2 bytes: no compiler does that, and so nobody has to follow it
            return False
        if name not in _EXACT:
            self.operands.expose(insn, state)
        handler = _HANDLERS.get(name)
        if handler is None or name.startswith("rep") or " " in insn.mnemonic:
            return self._other(insn, state)
        if name in _MOVES and len(insn.operands) != 2:
            return self._other(insn, state)
        return handler(self, insn, state)

    # ---- moves ----------------------------------------------------------------------------------------------------

    def _move(self, insn: capstone.CsInsn, state: State) -> bool:
        target, source = insn.operands
        value = self.operands.value(insn, source, state)
        if isinstance(value, Truth):
            value = moved(value, insn.mnemonic, source.size)
        elif isinstance(value, Number):
            value = extended(value, insn.mnemonic, source.size, target.size)
        elif source.size < 8 or target.size < 8:
            value = None
        return self.operands.write(insn, target, value, state)

    def _conditional_move(self, insn: capstone.CsInsn, state: State) -> bool:
        target = insn.operands[0]
        mine, theirs = self._both_values(insn, state)
        met, unmet, murky = _learned_of(state, insn.mnemonic[len("cmov") :])
        value = either(unmet, mine, met, theirs, target.size)
        return self.operands.write(insn, target, MURKY if murky and value is None else value, state)

    def _set(self, insn: capstone.CsInsn, state: State) -> bool:
        """SETcc: the operand becomes 1 or 0, and so tells what the flags tell."""
        met, unmet, murky = _learned_of(state, insn.mnemonic[len("set") :])
        value: Value = None
        if murky:
            value = MURKY
        elif met is not None or unmet is not None:
            value = Truth(unmet, met, width=1, small=True, boolean=True)
        return self.operands.write(insn, insn.operands[0], value, state)

    def _lea(self, insn: capstone.CsInsn, state: State) -> bool:
        target, source = insn.operands
        value = self.operands.address(insn, source, state)
        registers = [insn.reg_name(number) for number in (source.mem.base, source.mem.index) if number]
        if value is None and any(isinstance(state.registers.get(name), Truth) for name in registers):
            value = MURKY
        if not isinstance(value, Pointer) and any(is_frame(name, state) for name in registers):
            state.exposed = True
        return self.operands.write(insn, target, value if target.size == 8 or value == MURKY else None, state)

    # ---- the stack ------------------------------------------------------------------------------------------------

    def _push(self, insn: capstone.CsInsn, state: State) -> bool:
        return _pushed(self.operands.value(insn, insn.operands[0], state), state)

    def _pop(self, insn: capstone.CsInsn, state: State) -> bool:
        value = _top(state)
        move_stack_pointer(state, 8)
        return self.operands.write(insn, insn.operands[0], value, state)

    def _pushfq(self, _insn: capstone.CsInsn, state: State) -> bool:
        return _pushed(None, state)

    def _popfq(self, _insn: capstone.CsInsn, state: State) -> bool:
        move_stack_pointer(state, 8)
        state.flags = None
        return False

    def _leave(self, _insn: capstone.CsInsn, state: State) -> bool:
        set_part("rsp", state.registers.get("rbp"), state)
        set_part("rbp", _top(state), state)
        move_stack_pointer(state, 8)
        return False

    # ---- arithmetic -----------------------------------------------------------------------------------------------

    def _add(self, insn: capstone.CsInsn, state: State) -> bool:
        return self._sum(insn, state, 1)

    def _subtract(self, insn: capstone.CsInsn, state: State) -> bool:
        return self._sum(insn, state, -1)

    def _sum(self, insn: capstone.CsInsn, state: State, sign: int) -> bool:
        """A pointer or number, and a number more or less; the sum of a number and a pointer."""
        target = insn.operands[0]
        mine, theirs = self._both_values(insn, state)
        if isinstance(mine, Truth) and mine.boolean and mine.width >= target.size and theirs == Number(1) and sign < 0:
            state.flags = compared(mine, 1, target.size, insn.address)
            return self.operands.write(insn, target, decremented(mine, target.size), state)
        total: Value = None
        if target.size == 8 and target.type == x86.X86_OP_REG and isinstance(theirs, Number):
            amount = theirs.value if theirs.value < 1 << 63 else theirs.value - (1 << 64)
            total = added(mine, sign * amount)
        elif target.size == 8 and sign > 0 and isinstance(mine, Number) and isinstance(theirs, Pointer):
            total = added(theirs, mine.value)
        if total is None:
            return self._other(insn, state)
        state.flags = None
        return self.operands.write(insn, target, total, state)

    def _xor(self, insn: capstone.CsInsn, state: State) -> bool:
        """Only what makes zero of a register, and what turns a boolean value round, tells anything afterwards."""
        target = insn.operands[0]
        if _is_same_register(insn):
            state.flags = None
            return self.operands.write(insn, target, Number(0), state)
        mine, theirs = self._both_values(insn, state)
        if isinstance(mine, Truth) and mine.boolean and mine.width >= target.size and theirs == Number(1):
            turned = replace(mine, zero=mine.nonzero, nonzero=mine.zero)
            state.flags = flags_of(turned, target.size, insn.address)
            return self.operands.write(insn, target, turned, state)
        return self._other(insn, state)

    def _and(self, insn: capstone.CsInsn, state: State) -> bool:
        result = self._conjunction(insn, state)
        if not isinstance(result, Truth) or result == MURKY:
            return self._other(insn, state)
        state.flags = flags_of(result, insn.operands[0].size, insn.address)
        return self.operands.write(insn, insn.operands[0], result, state)

    def _or(self, insn: capstone.CsInsn, state: State) -> bool:
        """Zero, if both are zero: so a zero tells what a zero of either tells, and anything else tells nothing."""
        target = insn.operands[0]
        mine, theirs = self._both_values(insn, state)
        if _is_same_register(insn) and isinstance(mine, Truth) and mine.width >= target.size and mine != MURKY:
            self._test(insn, state)
            return self.operands.write(insn, target, mine, state)
        truths = [value for value in (mine, theirs) if isinstance(value, Truth)]
        if not truths or MURKY in truths or any(value.width < target.size for value in truths):
            return self._other(insn, state)
        zero = next((value.zero for value in truths if value.zero is not None), None)
        small = len(truths) == 2 and all(value.small for value in truths)
        result = Truth(zero, None, target.size, small=small)
        state.flags = flags_of(result, target.size, insn.address)
        return self.operands.write(insn, target, result, state)

    def _decrement(self, insn: capstone.CsInsn, state: State) -> bool:
        """DEC leaves CF as it was."""
        target = insn.operands[0]
        value = self.operands.value(insn, target, state)
        if not isinstance(value, Truth) or not value.boolean or value.width < target.size:
            return self._other(insn, state)
        state.flags = Flags(value.nonzero, value.zero, at=insn.address)
        return self.operands.write(insn, target, decremented(value, target.size), state)

    def _negate(self, insn: capstone.CsInsn, state: State) -> bool:
        """NEG sets CF, unless the operand is zero."""
        target = insn.operands[0]
        value = self.operands.value(insn, target, state)
        if not isinstance(value, Truth) or value == MURKY or value.width < target.size:
            return self._other(insn, state)
        state.flags = Flags(value.zero, value.nonzero, value.nonzero, value.zero, at=insn.address)
        return self.operands.write(insn, target, negated(value, target.size), state)

    def _subtract_with_borrow(self, insn: capstone.CsInsn, state: State) -> bool:
        """SBB of a register from itself makes -1 of CF, and 0 where CF is clear."""
        below, not_below, murky = _learned_of(state, "b")
        if not _is_same_register(insn) or murky or (below is None and not_below is None):
            return self._other(insn, state)
        target = insn.operands[0]
        state.flags = Flags(not_below, below, below, not_below, at=insn.address)
        return self.operands.write(insn, target, Truth(not_below, below, target.size), state)

    def _test_bit(self, insn: capstone.CsInsn, state: State) -> bool:
        """BT leaves ZF as it was. So only what follows upon flags that tell nothing is understood."""
        value, number = self._both_values(insn, state)
        known = isinstance(value, Truth) and value.boolean and number == Number(0) and not _is_telling(state.flags)
        if not known or not isinstance(value, Truth) or insn.operands[0].type != x86.X86_OP_REG:
            return self._other(insn, state)
        self._note(insn, value)
        state.flags = Flags(below=value.nonzero, not_below=value.zero, at=insn.address)
        return False

    def _conjunction(self, insn: capstone.CsInsn, state: State) -> Value:
        """The value of ``first & second``, where it tells something."""
        first = insn.operands[0]
        mine, theirs = self._both_values(insn, state)
        if _is_same_register(insn):
            return mine if not isinstance(mine, Truth) or mine.width >= first.size else MURKY
        truths = [value for value in (mine, theirs) if isinstance(value, Truth)]
        if not truths:
            return None
        mask = next((value for value in (mine, theirs) if isinstance(value, Number)), None)
        if mask is not None and truths[0] != MURKY:
            return masked(truths[0], mask.value, first.size)
        if any(value == MURKY or value.width < first.size for value in truths):
            return MURKY
        # Non-zero, only if both are: so that tells what a non-zero of either tells, the guard's byte before others.
        facts = [value.nonzero for value in truths if value.nonzero is not None]
        fact = next((fact for fact in facts if fact.question is Question.ENABLE), next(iter(facts), None))
        return Truth(None, fact, first.size, small=any(value.small for value in truths))

    # ---- comparisons ----------------------------------------------------------------------------------------------

    def _test(self, insn: capstone.CsInsn, state: State) -> bool:
        result = self._conjunction(insn, state)
        state.flags = None
        if isinstance(result, Truth):
            if result.zero is None and result.nonzero is None:
                state.flags = Flags(murky=True, at=insn.address)
            else:
                self._note(insn, result)
                state.flags = flags_of(result, insn.operands[0].size, insn.address)
        return False

    def _compare(self, insn: capstone.CsInsn, state: State) -> bool:
        """A telling value with 0, or a boolean one with 1, tells what it is. Any other comparison of one is murky."""
        size = insn.operands[0].size
        mine, theirs = self._both_values(insn, state)
        state.flags = None
        if isinstance(mine, Truth) and isinstance(theirs, Number) and mine.width >= size and mine != MURKY:
            state.flags = compared(mine, low(theirs, size).value, size, insn.address)
            self._note(insn, mine)
        elif isinstance(theirs, Truth) and mine == Number(0) and theirs.width >= size and theirs != MURKY:
            state.flags = Flags(theirs.zero, theirs.nonzero, at=insn.address)
            self._note(insn, theirs)
        elif isinstance(mine, Truth) or isinstance(theirs, Truth):
            state.flags = Flags(murky=True, at=insn.address)
        return False

    def _note(self, insn: capstone.CsInsn, value: Truth) -> None:
        if any(fact is not None and fact.question is Question.ENABLE for fact in (value.zero, value.nonzero)):
            self.operands.tests.add(insn.address)

    def _both_values(self, insn: capstone.CsInsn, state: State) -> tuple[Value, Value]:
        first, second = insn.operands
        return self.operands.value(insn, first, state), self.operands.value(insn, second, state)

    # ---- any other instruction ------------------------------------------------------------------------------------

    def _other(self, insn: capstone.CsInsn, state: State) -> bool:
        """Any instruction of which nothing is known but the registers that it reads and writes."""
        self.operands.expose(insn, state)
        numbers_read, numbers_written = insn.regs_access()
        read = {insn.reg_name(number) for number in numbers_read}
        written = {insn.reg_name(number) for number in numbers_written}
        telling = self._reads_telling(insn, read, state)
        value: Value = MURKY if telling else None
        outside = "maskmov" in insn.mnemonic  # to where rdi points, which is no operand
        if outside:
            state.forget_stack()
        for operand in insn.operands:
            if operand.type == x86.X86_OP_MEM and _writes(insn, operand):
                place = self.operands.address(insn, operand, state)
                far = insn.mnemonic.startswith("rep") or _is_bit_string(insn)
                if far and isinstance(place, Pointer) and place.base is Base.STACK:
                    state.forget_stack()
                outside = self.operands.write(insn, operand, value, state) or outside
        written.update(_WRITES_TOO.get(insn.mnemonic.split()[-1], ()))
        for name in filter(is_part, written):
            set_part(name, value, state)
        if insn.mnemonic not in _KEEPS_FLAGS and not insn.mnemonic.startswith("mov"):
            # The decoder need not know of every instruction that it changes the flags.
            changed = "rflags" in read | written or bool(insn.eflags)
            murky = telling or (not changed and _is_telling(state.flags))
            state.flags = Flags(murky=True, at=insn.address) if murky else None
        return outside

    def _reads_telling(self, insn: capstone.CsInsn, read: set[str], state: State) -> bool:
        """Whether a telling value is among what an instruction reads: registers, memory, flags."""
        if any(isinstance(part(name, state), Truth) for name in read):
            return True
        in_memory = (operand for operand in insn.operands if operand.type == x86.X86_OP_MEM)
        if any(isinstance(self.operands.load(insn, operand, state), Truth) for operand in in_memory):
            return True
        return "rflags" in read and _is_telling(state.flags)


def _learned_of(state: State, condition: str) -> Learned:
    """What holds if a condition is met and if not, and whether that is murky."""
    return state.flags.on(condition) if state.flags is not None else (None, None, False)


def _is_telling(flags: Flags | None) -> bool:
    return flags is not None and flags.telling


def _is_same_register(insn: capstone.CsInsn) -> bool:
    first, second = insn.operands
    return bool(first.type == second.type == x86.X86_OP_REG and first.reg == second.reg)


def _is_bit_string(insn: capstone.CsInsn) -> bool:
    """Whether an operand in memory is bits that begin there: the one that a register says may lie far away."""
    return insn.mnemonic.split()[-1] in _BIT_STRINGS and insn.operands[1].type == x86.X86_OP_REG


def _pushed(value: Value, state: State) -> bool:
    move_stack_pointer(state, -8)
    depth = state.depth
    if depth is not None:
        state.store(depth, value, 8)
    return False


def _top(state: State) -> Value:
    """What stands on the top of the stack."""
    depth = state.depth
    return state.load(depth, 8) if depth is not None else None


def _writes(insn: capstone.CsInsn, operand: Any) -> bool:
    """Whether it may write to this operand in memory. The decoder does not say so of rotations, CMPXCHG, MOVNTI ..."""
    if operand.access & capstone.CS_AC_WRITE:
        return True
    return operand == insn.operands[0] and not _READS.fullmatch(insn.mnemonic.split()[-1])


_HANDLERS: Final[Mapping[str, Callable[[Effects, capstone.CsInsn, State], bool]]] = {
    **dict.fromkeys(_MOVES, Effects._move),
    **dict.fromkeys((f"cmov{condition}" for condition in CONDITIONS), Effects._conditional_move),
    **dict.fromkeys((f"set{condition}" for condition in CONDITIONS), Effects._set),
    "lea": Effects._lea,
    "push": Effects._push,
    "pop": Effects._pop,
    "pushfq": Effects._pushfq,
    "popfq": Effects._popfq,
    "leave": Effects._leave,
    "add": Effects._add,
    "sub": Effects._subtract,
    "xor": Effects._xor,
    "and": Effects._and,
    "dec": Effects._decrement,
    "neg": Effects._negate,
    "sbb": Effects._subtract_with_borrow,
    "bt": Effects._test_bit,
    "or": Effects._or,
    "test": Effects._test,
    "cmp": Effects._compare,
}
