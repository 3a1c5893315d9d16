"""The path check against an emulated CPU: python -m tests.fuzz_path [--functions N] [--seed S] [--seconds T].

Functions are thrown by dice, judged, and run with enable_pmu 0 and anything else in memory and registers. If the check
says guarded, early-out or no-call, no run may do the PMU's work; with no-call, none may reach what counts.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import re
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import unicorn
from unicorn import x86_const as x86

from pmuconf.host.code.image import Symbols
from pmuconf.host.guard.paths import walk
from pmuconf.host.guard.state import SCRATCH, Base
from pmuconf.host.guard.verdict import judge
from pmuconf.host.names import FUNCTION
from pmuconf.hostfacts import Verdict
from tests.unit.host.guard.assembled import CALLEE, OFFSETS, TEXT, Assembled, assemble_functions
from tests.unit.host.guard.emulated import BASES, GENERAL, HEAP, STACK, Concrete, Cpu
from tests.unit.host.guard.functions import HELPER, STUB_SIZE, STUBS, function, stubs

__all__ = ["Tally", "fuzz"]

BATCH = 300
RUNS = 6
STEPS = 3000
_END = TEXT - 0x1000
_SPARING = (Verdict.GUARDED, Verdict.EARLY_OUT, Verdict.NO_CALL)
_VCPU, _VM = BASES[Base.VCPU], BASES[Base.KVM]
_PLACE_OF_VM, _PLACE_OF_BITMAP = _VCPU + OFFSETS.kvm, _VCPU + (OFFSETS.counting or 0)
_UNFOLLOWED = ("__x86_indirect_thunk_rax", "__x86_return_thunk", "__fentry__")  # they change no register
_SCRATCH = [getattr(x86, f"UC_X86_REG_{name.upper()}") for name in SCRATCH]


class Tally(NamedTuple):
    """What came of it: how many functions have a verdict, and whether any run of them did the work.

    :param wrong: the sources of those that the check is wrong about.
    """

    functions: int
    verdicts: Counter[tuple[str, str]]
    wrong: list[str]


class _Emulation:
    """Runs the functions of one batch, and sees what they do."""

    def __init__(self, image: Assembled, dice: random.Random) -> None:
        self._cpu, self._dice = Cpu(image.code), dice
        self._names = {at: name for at, name in image.symbols if at < TEXT + STUB_SIZE * len(STUBS)}
        self._callee = range(0)
        self._reached = self._worked = False
        engine = self._cpu.engine
        engine.mem_map(_END, 0x1000)
        behind = TEXT + STUB_SIZE * len(STUBS)
        engine.hook_add(unicorn.UC_HOOK_CODE, self._on_stub, begin=TEXT, end=behind - 1)
        engine.hook_add(unicorn.UC_HOOK_CODE, self._on_code, begin=behind, end=TEXT + len(image.code))
        for start in (_VCPU, _VM & -0x1000, HEAP):
            engine.hook_add(unicorn.UC_HOOK_MEM_WRITE, self._on_write, begin=start, end=start + 0xFFF)

    def run(self, start: int, callee: range, *, counting: int) -> tuple[bool, bool] | None:
        """Whether one run reached what counts, and whether it worked; None: it did what KVM never does."""
        dice = self._dice
        here = Concrete.new(dice, enabled=False, counting=counting)
        here.registers.update((name, dice.choice((0, 1, dice.getrandbits(64)))) for name in GENERAL)
        here.registers.update(rdi=_VCPU, rsp=STACK)
        for offset in range(0x18, 0x80, 8):
            here.put(_VCPU + offset, dice.choice((0, 1, 5, dice.getrandbits(64))), 8)
        for beside in (0x202, 0x204):
            here.put(_VM + beside, 1, 1)
        here.put(STACK, _END, 8)
        self._callee, self._reached, self._worked = callee, False, False
        self._cpu.set(here)
        with contextlib.suppress(unicorn.UcError):  # what it had done until then counts
            self._cpu.engine.emu_start(start, _END, count=STEPS)
        after = self._cpu.get()
        kept = (after.enabled, after.get(_PLACE_OF_VM, 8), after.get(_PLACE_OF_BITMAP, 8), after.get(STACK, 8))
        return (self._reached, self._worked) if kept == (False, _VM, counting, _END) else None

    def _on_stub(self, engine: Any, address: int, _size: int, _data: object) -> None:
        name = self._names.get(address)
        self._worked = self._worked or name == "__SCT__kvm_x86_pmu_isr"
        if name is not None and name not in _UNFOLLOWED:
            values = [self._dice.choice((0, 0, 1, self._dice.getrandbits(64))) for _ in _SCRATCH]
            engine.reg_write_batch(list(zip(_SCRATCH, values)))

    def _on_code(self, _engine: Any, address: int, _size: int, _data: object) -> None:
        self._reached = self._reached or address == self._callee.start

    def _on_write(self, engine: Any, _access: int, _address: int, _size: int, _value: int, _data: object) -> None:
        self._worked = self._worked or engine.reg_read(x86.UC_X86_REG_RIP) in self._callee


def fuzz(functions: int, seed: int, *, seconds: float = float("inf")) -> Tally:
    """Throw so many functions, or as many as there is time for."""
    until = time.monotonic() + seconds
    tally = Tally(0, Counter(), [])
    for number in range(-(-functions // BATCH)):
        if time.monotonic() > until:
            break
        dice = random.Random(f"{seed}/{number}")
        sources = [function(dice, index) for index in range(min(BATCH, functions - number * BATCH))]
        done = 0
        for verdict, worked, wrong, index in _judged(*assemble_functions(stubs(), sources), dice):
            tally.verdicts[verdict.value, worked] += 1
            tally.wrong.extend([f"{verdict.value}:\n{sources[index]}"] if wrong else [])
            done += 1
        tally = tally._replace(functions=tally.functions + done)
    return tally


def _judged(
    image: Assembled, names: Mapping[int, dict[str, int]], dice: random.Random
) -> Iterator[tuple[Verdict, str, bool, int]]:
    """Of each function the verdict, what its runs did, whether the verdict is wrong, and its number."""
    emulation = _Emulation(image, dice)
    common = [(at, name) for at, name in image.symbols if not re.search(r"\.\d+$", name)]
    for index, places in names.items():
        end = min((other[FUNCTION] for other in names.values() if other[FUNCTION] > places[HELPER]), default=0)
        own = [(at, name) for name, at in places.items()] + ([(end, "next")] if end else [])
        one = Assembled(image.code, Symbols([*common, *own]))
        verdict, _ = judge(walk(one, places[FUNCTION], OFFSETS), OFFSETS)
        runs = RUNS if verdict in _SPARING or dice.random() < 0.2 else 0
        told = "not run" if not runs else "spares"
        wrong = False
        for _ in range(runs):
            counting = 0 if verdict is Verdict.EARLY_OUT else dice.choice((0, 1, 1 << 40))
            came = emulation.run(places[FUNCTION], range(places[CALLEE], places[HELPER]), counting=counting)
            if came is not None:
                told = "works" if came[1] else told
                wrong = wrong or (verdict in _SPARING and came[1]) or (verdict is Verdict.NO_CALL and came[0])
        yield verdict, told, wrong, index


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--functions", type=int, default=1_000_000, help="How many functions in all.")
    parser.add_argument("--seed", type=int, default=1, help="Of the dice: the same seed, the same functions.")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="Stop behind so many.")
    args = parser.parse_args()
    began = time.monotonic()
    tally = fuzz(args.functions, args.seed, seconds=args.seconds)
    took = time.monotonic() - began
    print(
        f"{tally.functions} functions in {took:.0f} s, {tally.functions / took:.0f} a second; {len(tally.wrong)} wrong"
    )
    for (verdict, told), number in sorted(tally.verdicts.items()):
        print(f"{number:8} {verdict}, {told}")
    for source in tally.wrong:
        print(source)
    return 1 if tally.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
