"""The referee of the path check: an emulated CPU (unicorn), and whether a state of the check has what the CPU has.

A state is right if it contains the CPU's: each register, each place of the stack and each flag that it says something
about is so. A telling value is so if the fact holds that it tells by being zero or not.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import unicorn
from unicorn import x86_const as x86

from pmuconf.host.guard.state import MURKY, Base, Fact, Flags, Loaded, Number, Pointer, Question, State, Truth, Value
from tests.unit.host.guard.assembled import OFFSETS, TEXT

__all__ = [
    "BASES",
    "CARRY",
    "GENERAL",
    "HEAP",
    "MASK",
    "OVERFLOW",
    "SIGN",
    "STACK",
    "ZERO",
    "Concrete",
    "Cpu",
    "differences",
    "holds",
]

MASK = (1 << 64) - 1
GENERAL = (
    *("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp"),
    *("r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"),
)
_IDS = [getattr(x86, f"UC_X86_REG_{name.upper()}") for name in GENERAL]
_ALL = [*_IDS, x86.UC_X86_REG_EFLAGS]
CARRY, ZERO, SIGN, OVERFLOW = 1, 1 << 6, 1 << 7, 1 << 11
_REPEAT = (0xF2, 0xF3)
# Addresses whose low halves are zero or small: a part of a pointer that is taken for the whole shows.
HEAP = 0x5_0000_0000
STACK = 0x4_0000_2000
"""Where the stack pointer is at the entry."""
BASES = {Base.VCPU: 0x7_0000_0000, Base.KVM: 0x2_0000_0100, Base.STACK: STACK}
_STACK_START = 0x4_0000_1000
_REGIONS = {0x7_0000_0000: 0x1000, 0x2_0000_0000: 0x1000, _STACK_START: 0x2000, HEAP: 0x1000}


@dataclass
class Concrete:
    """What a CPU and its memory hold. ``memory`` is what each of the regions has, by its start."""

    registers: dict[str, int]
    flags: int = 2
    memory: dict[int, bytearray] = field(default_factory=dict)

    @classmethod
    def new(cls, dice: random.Random, *, enabled: bool, counting: int) -> Concrete:
        """Memory that has a vCPU and its VM, and anything else in between."""
        here = cls(dict.fromkeys(GENERAL, 0), memory={at: bytearray(dice.randbytes(n)) for at, n in _REGIONS.items()})
        here.put(BASES[Base.VCPU] + OFFSETS.kvm, BASES[Base.KVM], 8)
        assert OFFSETS.enable_pmu is not None
        assert OFFSETS.counting is not None
        here.put(BASES[Base.KVM] + OFFSETS.enable_pmu, int(enabled), 1)
        here.put(BASES[Base.VCPU] + OFFSETS.counting, counting, 8)
        return here

    def put(self, address: int, value: int, size: int) -> None:
        start = next(at for at, length in _REGIONS.items() if at <= address <= at + length - size)
        self.memory[start][address - start : address - start + size] = (value & MASK).to_bytes(8, "little")[:size]

    def get(self, address: int, size: int) -> int | None:
        for start, length in _REGIONS.items():
            if start <= address <= start + length - size:
                return int.from_bytes(self.memory[start][address - start : address - start + size], "little")
        return None

    @property
    def enabled(self) -> bool:
        return bool(self.get(BASES[Base.KVM] + (OFFSETS.enable_pmu or 0), 1))

    @property
    def counting(self) -> bool:
        return bool(self.get(BASES[Base.VCPU] + (OFFSETS.counting or 0), 8))


class Cpu:
    """An emulated CPU that has this code. Memory is as it was left, until it is set again."""

    def __init__(self, code: bytes) -> None:
        self.engine = unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_64)
        self.engine.ctl_set_cpu_model(x86.UC_CPU_X86_EPYC_ROME)
        self.engine.mem_map(TEXT, (len(code) + 0x2000) & -0x1000)
        self.engine.mem_write(TEXT, code)
        self.engine.mem_protect(TEXT, (len(code) + 0x2000) & -0x1000, unicorn.UC_PROT_READ | unicorn.UC_PROT_EXEC)
        for start, length in _REGIONS.items():
            self.engine.mem_map(start, length)
        # SSE, as a kernel has it between kernel_fpu_begin() and the end.
        self.engine.reg_write(x86.UC_X86_REG_CR4, self.engine.reg_read(x86.UC_X86_REG_CR4) | 0x600)

    def set(self, concrete: Concrete) -> None:
        for start, data in concrete.memory.items():
            self.engine.mem_write(start, bytes(data))
        values = [concrete.registers[name] for name in GENERAL]
        self.engine.reg_write_batch(list(zip(_ALL, [*values, concrete.flags])))

    def registers(self) -> tuple[dict[str, int], int]:
        """The general registers, and the flags."""
        values = self.engine.reg_read_batch(_ALL)
        return dict(zip(GENERAL, values)), values[-1]

    def get(self) -> Concrete:
        registers, flags = self.registers()
        memory = {start: bytearray(self.engine.mem_read(start, length)) for start, length in _REGIONS.items()}
        return Concrete(registers, flags, memory)

    def step(self, concrete: Concrete, address: int) -> Concrete | None:
        """What the CPU and its memory hold behind one instruction; None: it can't be executed."""
        self.set(concrete)
        try:
            self.engine.emu_start(address, 0, count=1)
        except unicorn.UcError:
            return None
        # A fault may also leave the CPU where it was, and so does a repeated instruction after its first time.
        stayed = self.engine.reg_read(x86.UC_X86_REG_RIP) == address
        return None if stayed and self.engine.mem_read(address, 1)[0] not in _REPEAT else self.get()


def holds(fact: Fact | None, *, enabled: bool, counting: bool) -> bool:
    """Whether a fact is so; no fact is."""
    if fact is None:
        return True
    return fact.nonzero == (enabled if fact.question is Question.ENABLE else counting)


def differences(state: State, concrete: Concrete, facts: Mapping[str, bool]) -> Iterator[str]:
    """What a state says, and what is otherwise.

    :param facts: ``enabled`` and ``counting``, as they are.
    """
    for name, value in state.registers.items():
        if not _is_so(value, concrete.registers[name], 8, facts):
            yield f"{name} is {concrete.registers[name]:#x}, not {value}"
    for offset, (value, size) in state.stack.items():
        content = concrete.get(STACK + offset, size)
        if content is not None and not _is_so(value, content, size, facts):
            yield f"{size} bytes at {offset:+#x} are {content:#x}, not {value}"
    if state.flags is not None and not state.flags.murky:
        yield from _different_flags(state.flags, concrete.flags, facts)
    for said, question in ((state.enabled, "enabled"), (state.counting, "counting")):
        if said is not None and said != facts[question]:
            yield f"{question} is {facts[question]}, not {said}"


def _different_flags(flags: Flags, real: int, facts: Mapping[str, bool]) -> Iterator[str]:
    if flags.plain and real & CARRY:
        yield "CF is set"
    if flags.positive and real & (SIGN | OVERFLOW):
        yield "SF or OF is set"
    if not holds(flags.zero if real & ZERO else flags.nonzero, **facts):
        yield f"ZF is {bool(real & ZERO)}, and {facts}, not {flags}"
    if not holds(flags.below if real & CARRY else flags.not_below, **facts):
        yield f"CF is {bool(real & CARRY)}, and {facts}, not {flags}"


def _is_so(value: Value, real: int, size: int, facts: Mapping[str, bool]) -> bool:
    if isinstance(value, Truth):
        if value == MURKY:
            return True
        width = min(value.width, size)
        real &= (1 << 8 * width) - 1
        if (value.small and real > 0xFF) or (value.boolean and real > 1):
            return False
        return holds(value.nonzero if real else value.zero, **facts)
    if isinstance(value, Pointer):
        return value.base is Base.COUNTER or real == (BASES[value.base] + value.offset) & MASK
    if isinstance(value, Number):
        return real == value.value & ((1 << 8 * size) - 1)
    return value is None or isinstance(value, Loaded)
