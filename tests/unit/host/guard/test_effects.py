"""Each instruction on the abstract machine and on an emulated CPU: what the one says is so on the other.

An instruction is thrown with its operands, and a state of the check with one of the CPU's that it stands for.
PMUCONF_FUZZ=N throws N lines for each form of an instruction.
"""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Iterator

import capstone
import pytest

pytest.importorskip("unicorn")  # not in Debian: make test has it from PyPI

from pmuconf.host.guard.effects import _HANDLERS, Effects
from pmuconf.host.guard.state import Base, Fact, Flags, Number, Pointer, Question, State, Truth, Value
from tests.unit.host.guard.assembled import OFFSETS, TEXT, assemble_what_can_be
from tests.unit.host.guard.emulated import BASES, CARRY, OVERFLOW, SIGN, ZERO, Concrete, Cpu, differences, holds
from tests.unit.host.guard.instructions import TEMPLATES, concrete_of, instruction, state

EACH = int(os.environ.get("PMUCONF_FUZZ", "6"))
STATES = 4
SEED = 1


def keeps_what_is_assumed(before: Concrete, after: Concrete) -> bool:
    """Whether the vCPU's VM, enable_pmu and the bitmap are as they were."""
    place = BASES[Base.VCPU] + OFFSETS.kvm
    first, second = ((each.enabled, each.counting, each.get(place, 8)) for each in (before, after))
    return first == second


def test_what_is_said_of_an_instruction_is_so() -> None:
    dice = random.Random(SEED)
    image, lines = assemble_what_can_be(instruction(dice, form) for form in TEMPLATES for _ in range(EACH))
    cpu, effects = Cpu(image.code), Effects(OFFSETS)
    decoder = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    decoder.detail = True
    executed: set[str] = set()
    undecoded: set[str] = set()
    wrong: list[str] = []
    for at, line in zip(range(TEXT, TEXT + 16 * len(lines), 16), lines):
        insn = next(decoder.disasm(image.read(at, 15), at, 1), None)
        if insn is None:  # to the path check, that is code that can't be read
            undecoded.add(line.split()[0])
            continue
        for _ in range(STATES):
            said = state(dice)
            before = concrete_of(dice, said)
            if before is None:
                continue
            facts = {"enabled": before.enabled, "counting": before.counting}
            assert list(differences(said, before, facts)) == []
            effects.apply(insn, said)
            after = cpu.step(before, at)
            if after is None or said.depth is None or not keeps_what_is_assumed(before, after):
                continue  # it faults; the path ends; it does what KVM never does
            executed.add(insn.mnemonic.split()[-1])
            wrong += [f"{line}: {difference}" for difference in differences(said, after, facts)]
    assert wrong == []
    assert _HANDLERS.keys() - executed - undecoded == set()
    assert undecoded == set() or capstone.__version__.startswith("4."), "newer ones know them all"


OFF, ON = (Fact(Question.ENABLE, nonzero=nonzero) for nonzero in (False, True))
EMPTY, COUNTING = (Fact(Question.COUNTING, nonzero=nonzero) for nonzero in (False, True))
# What two operands may hold: the byte as a boolean, turned round, and as any byte; the bitmap; what is true of one side
# only; a number; and nothing that is known.
VALUES: tuple[Value, ...] = (
    Truth(OFF, ON, small=True, boolean=True),
    Truth(OFF, ON, width=1, small=True, boolean=True),
    Truth(ON, OFF, small=True, boolean=True),
    Truth(OFF, ON, small=True),
    Truth(OFF, ON, width=4),
    Truth(EMPTY, COUNTING),
    Truth(EMPTY, COUNTING, width=4),
    Truth(None, ON),
    Truth(OFF, None, small=True),
    *(Number(number) for number in (0, 1, 0xFF, 1 << 32)),
    None,
)
FLAGS = (
    None,
    Flags(OFF, ON, plain=True),
    Flags(ON, OFF, OFF, ON),
    Flags(EMPTY, COUNTING, plain=True, positive=True),
    Flags(None, ON),
    Flags(OFF, ON, ON, OFF),
)
# By the handler that has a meaning for it.
LINES = {
    "_move": ("mov rax, rbx", "mov eax, ebx", "mov al, bl", "movzx eax, bl", "movsx eax, bl", "movsxd rax, ebx"),
    "_conditional_move": ("cmove rax, rbx", "cmovne eax, ebx", "cmovb eax, ebx", "cmova rax, rbx", "cmovg eax, ebx"),
    "_set": ("sete al", "setne bl", "setb al", "setae al", "setbe al", "setg al", "setle al", "sets al"),
    "_lea": ("lea rax, [rbx]", "lea rax, [rax+rbx]", "lea eax, [rbx-1]"),
    "_push": ("push rax",),
    "_pop": ("pop rbx",),
    "_pushfq": ("pushfq",),
    "_popfq": ("popfq",),
    "_leave": ("leave",),
    "_add": ("add rax, rbx", "add eax, 1", "add al, bl"),
    "_subtract": ("sub rax, rbx", "sub eax, 1", "sub al, 1", "sub rax, 1"),
    "_xor": ("xor rax, rbx", "xor eax, 1", "xor al, 1", "xor eax, eax"),
    "_and": (
        "and rax, rbx",
        "and eax, ebx",
        "and eax, 1",
        "and al, bl",
        "and eax, 0xff",
        "and rax, rax",
        "and eax, 0x101",
    ),
    "_or": ("or rax, rbx", "or eax, ebx", "or al, bl", "or rax, rax", "or eax, 0"),
    "_decrement": ("dec rax", "dec eax", "dec al"),
    "_negate": ("neg rax", "neg eax", "neg al"),
    "_subtract_with_borrow": ("sbb eax, eax", "sbb rax, rax", "sbb rax, rbx", "sbb al, al"),
    "_test_bit": ("bt eax, 0", "bt rax, 0", "bt eax, 1", "bt rax, rbx"),
    "_test": ("test rax, rax", "test eax, ebx", "test al, al", "test eax, 1", "test eax, 0x100"),
    "_compare": ("cmp rax, 0", "cmp eax, 1", "cmp al, 0", "cmp al, 1", "cmp rbx, rax", "cmp eax, 2", "cmp eax, ebx"),
}


def test_each_handler_has_lines_of_its_own() -> None:
    assert LINES.keys() == {handler.__name__ for handler in _HANDLERS.values()}


@pytest.mark.parametrize("handler", LINES)
def test_what_a_handler_makes_of_each_value_is_so(handler: str) -> None:
    """Of all pairs of values: whatever is said afterwards is so, and each condition teaches what is so."""
    dice = random.Random(SEED)
    image, lines = assemble_what_can_be(LINES[handler])
    assert len(lines) == len(LINES[handler])
    cpu, effects = Cpu(image.code), Effects(OFFSETS)
    decoder = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    decoder.detail = True
    uses_flags = handler in ("_set", "_conditional_move", "_subtract_with_borrow", "_test_bit")
    wrong: list[str] = []
    executed = 0
    for at, line in zip(range(TEXT, TEXT + 16 * len(lines), 16), lines):
        insn = next(decoder.disasm(image.read(at, 15), at, 1))
        second = VALUES if "rbx" in line or "ebx" in line or "bl" in line else (None,)
        flags = FLAGS if uses_flags else FLAGS[:2]
        for mine, theirs, known in itertools.product(VALUES, second, flags):
            said = State({"rax": mine, "rbx": theirs, "rsp": Pointer(Base.STACK, -64), "rbp": Pointer(Base.STACK, -48)})
            said.flags = known
            before = concrete_of(dice, said)
            if before is None:
                continue
            facts = {"enabled": before.enabled, "counting": before.counting}
            effects.apply(insn, said)
            after = cpu.step(before, at)
            assert after is not None
            executed += 1
            wrong += [f"{line} of {mine}, {theirs}: {text}" for text in differences(said, after, facts)]
            wrong += [f"{line} of {mine}, {theirs}: {text}" for text in mistaught(said.flags, after.flags, facts)]
    assert executed > len(lines)
    assert wrong == []


def mistaught(flags: Flags | None, real: int, facts: dict[str, bool]) -> Iterator[str]:
    """The conditions that would teach a fact which is not so."""
    if flags is None:
        return
    carry, zero, sign, overflow = (bool(real & bit) for bit in (CARRY, ZERO, SIGN, OVERFLOW))
    met = {"e": zero, "b": carry, "be": carry or zero, "l": sign != overflow, "le": zero or sign != overflow, "s": sign}
    opposite = {"e": "ne", "b": "ae", "be": "a", "l": "ge", "le": "g", "s": "ns"}
    for condition, is_met in met.items():
        for name, taken in ((condition, is_met), (opposite[condition], not is_met)):
            if_met, if_not, _ = flags.on(name)
            if not holds(if_met if taken else if_not, **facts):
                yield f"{name} teaches {if_met if taken else if_not}"
