"""The guest's code: two loops that make one exit a turn, and one that makes none. Each times itself by the guest's TSC.

The kinds of exit end in one function, ``kvm_skip_emulated_instruction``, or in a copy of it that the compiler inlined:

CPUID  kvm_emulate_cpuid(): the case for which figures of other hosts are known.
MSR    RDMSR of IA32_APICBASE, which KVM intercepts on every CPU: kvm_emulate_rdmsr().
PORT   OUT to a port that an eventfd listens to: kvm_fast_pio(), which does not leave the kernel.

FAULT is the control: a WRMSR of a value that IA32_APICBASE can't hold exits as well, but KVM answers it with a fault
and skips no instruction. So neither the PMU's call nor its guard is on its way.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from pmuconf.host.prove.microvm import CODE, END

__all__ = ["DOORBELL", "Exit", "Loop", "Program", "program", "timed"]

DOORBELL: Final = 0x40
"""The port of Exit.PORT."""


class Exit(enum.Enum):
    """A kind of exit that can be measured."""

    CPUID = "cpuid"
    MSR = "msr"
    PORT = "port"

    @property
    def title(self) -> str:
        """The name for a person."""
        return {Exit.CPUID: "CPUID", Exit.MSR: "MSR read", Exit.PORT: "port write"}[self]


class Loop(enum.Enum):
    """The content of a loop."""

    EXIT = "exit"
    FAULT = "fault"
    EMPTY = "empty"


@dataclass(frozen=True)
class Program:
    """The loops as code for CODE, and their entries. A loop takes its turns in RSI and leaves its TSC cycles in RAX."""

    code: bytes
    entries: Mapping[Loop, int]


_NOW: Final = "0faee8 0f31 0faee8 48c1e220 4809d0"  # lfence; rdtsc; lfence; shl rdx, 32; or rax, rdx
_PREPARE: Final = "b91b000000"  # mov ecx, 0x1b: IA32_APICBASE
_APICBASE_ONES: Final = "b8ffffffff baffffffff"  # mov eax, -1; mov edx, -1: sets reserved bits
_BODIES: Final = {
    Exit.CPUID: "31c0 31c9 0fa2",  # xor eax, eax; xor ecx, ecx; cpuid
    Exit.MSR: f"{_PREPARE} 0f32",  # rdmsr
    Exit.PORT: f"e6{DOORBELL:02x}",  # out DOORBELL, al
}
_INSTRUCTION: Final = 2
"""The bytes of cpuid, rdmsr and out. The empty loop has a long nop in their place."""
_NOP: Final = "6690"
_ALIGNED: Final = 64


def program(kind: Exit) -> Program:
    """The loops for this kind of exit."""
    exiting = bytes.fromhex(_BODIES[kind])
    bodies = {
        Loop.EXIT: exiting,
        Loop.FAULT: bytes.fromhex(f"{_PREPARE} {_APICBASE_ONES} 0f30"),
        Loop.EMPTY: exiting[:-_INSTRUCTION] + bytes.fromhex(_NOP),
    }
    code, entries = b"", {}
    for loop, body in bodies.items():
        code = code.ljust(-(-len(code) // _ALIGNED) * _ALIGNED, b"\xcc")
        entries[loop] = CODE + len(code)
        code += timed(body)
    return Program(code, entries)


def timed(body: bytes, before: bytes = b"") -> bytes:
    """The code that runs a body as many times as RSI says, leaves in RAX the TSC cycles that it took, and ends.

    :param before: what runs once, when the time has begun.
    :raises ValueError: the body is longer than a short jump reaches back.
    """
    # ...; mov r8, rax; again: body; dec esi; jnz again; ...; sub rax, r8; out END, al
    turn = body + bytes.fromhex("ffce")
    back = bytes([0x75, 0x100 - len(turn) - 2])
    now = bytes.fromhex(_NOW)
    return now + bytes.fromhex("4989c0") + before + turn + back + now + bytes.fromhex(f"4c29c0 e6{END:02x}")
