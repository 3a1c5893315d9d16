"""What all functions on the way of a walk share: their code, what the walk came to, and how many steps are left."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import capstone

from pmuconf.host.code.image import Image
from pmuconf.host.code.offsets import Offsets
from pmuconf.host.guard.effects import Effects
from pmuconf.host.guard.events import Walk
from pmuconf.host.names import PADDING_PREFIX

__all__ = ["LONGEST", "PADDING", "Options", "Walker"]

_STEPS: Final = 10_000  # the largest of Debian's kernels takes 700
LONGEST: Final = 15
"""The bytes that an instruction has at most."""
PADDING: Final = 64
"""How much room there is before a function at most, in bytes."""


class Options(NamedTuple):
    """How a walk goes: see walk()."""

    copy: bool
    callee_works: bool
    watched: frozenset[str]


class Walker:
    """One walk.

    :param switches: the jumps that are taken both ways, and where each leads to.
    """

    def __init__(self, image: Image, offsets: Offsets, options: Options, switches: Mapping[int, int]) -> None:
        self.image, self.offsets, self.options, self.switches = image, offsets, options, switches
        self.effects = Effects(offsets)
        self.path = Walk()
        self._steps = 0
        self._decoder = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
        self._decoder.detail = True
        self._decoded: dict[int, Any] = {}

    def decode(self, address: int) -> Any:
        """The instruction there, None if there is none that can be read."""
        if address not in self._decoded:
            code = self.image.read(address, LONGEST)
            insn = next(self._decoder.disasm(code, address, 1), None) if code else None
            self._decoded[address] = insn
            if insn is not None:
                self.path.instructions[address] = f"{insn.mnemonic} {insn.op_str}".strip()
        return self._decoded[address]

    def step(self) -> bool:
        """Count a step; whether there are any left."""
        self._steps += 1
        return self._steps <= _STEPS

    def names(self, address: int) -> tuple[str, ...]:
        """The functions that begin there; with the thunks of call depth tracking, a little before their start."""
        symbols = self.image.symbols
        names = symbols.names(address)
        if not names:
            start = symbols.start(address)
            before = symbols.names(start) if start is not None and address - start < PADDING else ()
            names = tuple(name for name in before if name.startswith(PADDING_PREFIX))
        return tuple(name.removeprefix(PADDING_PREFIX) for name in names)
