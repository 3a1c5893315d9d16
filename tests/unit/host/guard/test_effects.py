"""Each instruction on the abstract machine and on an emulated CPU: what the one says is so on the other.

An instruction is thrown with its operands, and a state of the check with one of the CPU's that it stands for.
PMUCONF_FUZZ=N throws N lines for each form of an instruction.
"""

from __future__ import annotations

import os
import random

import capstone
import pytest

pytest.importorskip("unicorn")  # not in Debian: make test has it from PyPI

from pmuconf.host.guard.effects import _HANDLERS, Effects
from pmuconf.host.guard.state import Base
from tests.unit.host.guard.assembled import OFFSETS, TEXT, assemble_what_can_be
from tests.unit.host.guard.emulated import BASES, Concrete, Cpu, differences
from tests.unit.host.guard.instructions import TEMPLATES, concrete_of, instruction, state

LINES = int(os.environ.get("PMUCONF_FUZZ", "6"))
STATES = 4
SEED = 1


def keeps_what_is_assumed(before: Concrete, after: Concrete) -> bool:
    """Whether the vCPU's VM, enable_pmu and the bitmap are as they were."""
    place = BASES[Base.VCPU] + OFFSETS.kvm
    first, second = ((each.enabled, each.counting, each.get(place, 8)) for each in (before, after))
    return first == second


def test_what_is_said_of_an_instruction_is_so() -> None:
    dice = random.Random(SEED)
    image, lines = assemble_what_can_be(instruction(dice, form) for form in TEMPLATES for _ in range(LINES))
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
