"""The operands of x86-64 instructions: where they are, what they hold, and what is left when they are written."""

from __future__ import annotations

from typing import Any

import capstone
from capstone import x86_const as x86

from pmuconf.host.code.offsets import Offsets
from pmuconf.host.guard.registers import MASK, added, is_frame, part, set_part
from pmuconf.host.guard.state import (
    MURKY,
    Base,
    Fact,
    Loaded,
    Number,
    Pointer,
    Question,
    State,
    Truth,
    Value,
    is_of_stack,
)

__all__ = ["Operands"]

_SEGMENTS = (x86.X86_REG_FS, x86.X86_REG_GS)


class Operands:
    """Reads and writes operands, by the places of the members.

    ``loads`` and ``tests`` collect the instructions that read the VM's address, and those that look at enable_pmu.
    """

    def __init__(self, offsets: Offsets) -> None:
        self._offsets = offsets
        self.loads: set[int] = set()
        self.tests: set[int] = set()

    def address(self, insn: capstone.CsInsn, operand: Any, state: State) -> Value:
        """The address of an operand in memory: a Pointer, a Number, or None."""
        memory = operand.mem
        if memory.segment in _SEGMENTS or insn.addr_size != 8:
            return None
        total: Value = Number(memory.disp & MASK)
        if memory.base:
            base = insn.reg_name(memory.base)
            if base == "rip":
                return Number((insn.address + insn.size + memory.disp) & MASK)
            total = added(state.registers.get(base), memory.disp)
        if memory.index:
            index = state.registers.get(insn.reg_name(memory.index))
            if not isinstance(index, Number):
                return None
            total = added(total, index.value * memory.scale)
        return total

    def value(self, insn: capstone.CsInsn, operand: Any, state: State) -> Value:
        """What an operand holds."""
        if operand.type == x86.X86_OP_IMM:
            return Number(operand.imm & MASK)
        if operand.type == x86.X86_OP_REG:
            return part(insn.reg_name(operand.reg), state)
        return self.load(insn, operand, state) if operand.type == x86.X86_OP_MEM else None

    def load(self, insn: capstone.CsInsn, operand: Any, state: State) -> Value:
        """What an operand in memory holds."""
        place = self.address(insn, operand, state)
        if isinstance(place, Number):
            return Loaded(place.value) if operand.size == 8 else None
        if not isinstance(place, Pointer):
            return self._load_anywhere(insn, operand, state)
        if place.base is Base.STACK:
            return state.load(place.offset, operand.size)
        if place.base is Base.VCPU:
            return self._load_of_vcpu(insn, place.offset, operand.size)
        return self._load_of_vm(insn, place.offset, operand.size) if place.base is Base.KVM else None

    def write(self, insn: capstone.CsInsn, operand: Any, value: Value, state: State) -> bool:
        """Store a value of the operand's size; whether that is memory other than the stack's."""
        if operand.type == x86.X86_OP_REG:
            set_part(insn.reg_name(operand.reg), value, state)
            return False
        place = self.address(insn, operand, state)
        if isinstance(place, Pointer) and place.base is Base.STACK:
            state.store(place.offset, value, operand.size)
            return False
        if is_of_stack(value):
            state.exposed = True
        if place is None and self.is_array_of_stack(insn, operand, state):
            state.forget_stack()
            return False
        if state.exposed and (not isinstance(place, Pointer) or place.base is Base.COUNTER):
            state.forget_stack()
        return True

    @staticmethod
    def is_array_of_stack(insn: capstone.CsInsn, operand: Any, state: State) -> bool:
        """Whether an operand is on the stack, at an unknown index: either register of it may be the stack's."""
        return any(
            is_of_stack(state.registers.get(insn.reg_name(number)))
            for number in (operand.mem.base, operand.mem.index)
            if number and operand.mem.segment not in _SEGMENTS
        )

    def expose(self, insn: capstone.CsInsn, state: State) -> None:
        """Take note of an instruction that makes something unknown of its operands: of an address of the stack too."""
        for operand in insn.operands:
            if operand.type == x86.X86_OP_REG:
                state.exposed = state.exposed or is_frame(insn.reg_name(operand.reg), state)
            elif operand.type == x86.X86_OP_MEM:
                place = self.address(insn, operand, state)
                if isinstance(place, Pointer):
                    on_stack = place.base is Base.STACK
                    state.exposed = state.exposed or (on_stack and state.has_address(place.offset, operand.size))
                elif self.is_array_of_stack(insn, operand, state):
                    state.exposed = state.exposed or state.has_address(None, 0)

    def is_pmus(self, place: Value) -> bool:
        """Whether a place is in the vCPU's PMU state."""
        pmu = self._offsets.pmu
        if pmu is None or not isinstance(place, Pointer) or place.base is not Base.VCPU:
            return False
        return pmu[0] <= place.offset <= pmu[1]

    @staticmethod
    def start(insn: capstone.CsInsn, operand: Any, state: State) -> Value:
        """Where that begins which an operand has a part of, at an unknown index."""
        for number in (operand.mem.base, operand.mem.index):
            value = state.registers.get(insn.reg_name(number)) if number else None
            if isinstance(value, Pointer):
                return added(value, operand.mem.disp)
        return None

    def _load_of_vcpu(self, insn: capstone.CsInsn, offset: int, size: int) -> Value:
        if offset == self._offsets.kvm and size == 8:
            self.loads.add(insn.address)
            return Pointer(Base.KVM, 0)
        if offset == self._offsets.counting and size == 8:
            return Truth(Fact(Question.COUNTING, nonzero=False), Fact(Question.COUNTING, nonzero=True))
        return Pointer(Base.COUNTER, 0) if size == 8 and self.is_pmus(Pointer(Base.VCPU, offset)) else None

    def _load_of_vm(self, insn: capstone.CsInsn, offset: int, size: int) -> Value:
        if not self._has_enable_pmu(offset, size):
            return None
        self.tests.add(insn.address)
        if size > 1:
            return MURKY
        zero, nonzero = Fact(Question.ENABLE, nonzero=False), Fact(Question.ENABLE, nonzero=True)
        return Truth(zero, nonzero, width=1, small=True, boolean=True)

    def _load_anywhere(self, insn: capstone.CsInsn, operand: Any, state: State) -> Value:
        """What stands behind an unknown pointer.

        With the very offset of enable_pmu behind it, the pointer may be the VM's after all. What is found by an unknown
        index from the VM, or by a telling value, may be enable_pmu too.
        """
        if operand.mem.segment in _SEGMENTS:
            return None
        if operand.mem.disp and self._has_enable_pmu(operand.mem.disp, operand.size):
            return MURKY
        if self.is_array_of_stack(insn, operand, state):
            state.exposed = state.exposed or state.has_address(None, 0)
            if any(isinstance(value, Truth) for value, _ in state.stack.values()):
                return MURKY
        if operand.size == 8 and self.is_pmus(self.start(insn, operand, state)):
            return Pointer(Base.COUNTER, 0)
        base = self._base(insn, operand, state)
        inside_vm = isinstance(base, Pointer) and base.base is Base.KVM
        return MURKY if inside_vm or isinstance(base, Truth) else None

    def _has_enable_pmu(self, offset: int, size: int) -> bool:
        """Whether enable_pmu is among so many bytes of struct kvm."""
        enable = self._offsets.enable_pmu
        return enable is not None and offset <= enable < offset + size

    @staticmethod
    def _base(insn: capstone.CsInsn, operand: Any, state: State) -> Value:
        """What the base register of an operand holds."""
        return state.registers.get(insn.reg_name(operand.mem.base)) if operand.mem.base else None
