"""The path check against an emulated CPU: python -m tests.fuzz_path [--functions N] [--seed S] [--seconds T].

Functions are thrown by dice, judged, and run with enable_pmu 0 and 1, and with anything else in memory and registers.

- guarded: no run with enable_pmu 0 may do the PMU's work.
- early-out: no run may do it while the bitmap of counters is empty.
- no-call: no run may do it, or call a function of the PMU, or read its state.

What the runs did also tells how many functions are guarded by what they do, and how many of these the check recognises.
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
from enum import Enum
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
from tests.unit.host.guard.functions import COUNTER, HELPER, OF_PMU, STUB_SIZE, STUBS, function, stubs

__all__ = ["Did", "Tally", "fuzz"]

BATCH = 300
RUNS = 8
"""With enable_pmu 0 as often as with something else. Work that was seen with 0 and an empty bitmap ends them."""
STEPS = 3000
_END = TEXT - 0x1000
_VCPU, _VM = BASES[Base.VCPU], BASES[Base.KVM]
_PLACE_OF_VM, _PLACE_OF_BITMAP = _VCPU + OFFSETS.kvm, _VCPU + (OFFSETS.counting or 0)
_PLACE_OF_ENABLE = _VM + (OFFSETS.enable_pmu or 0)
assert OFFSETS.pmu is not None
_PMU_FIRST, _PMU_LAST = (_VCPU + place for place in OFFSETS.pmu)
_COUNTER_AT = HEAP + 0x800
_UNFOLLOWED = ("__x86_indirect_thunk_rax", "__x86_return_thunk", "__fentry__")  # they change no register
_SCRATCH = [getattr(x86, f"UC_X86_REG_{name.upper()}") for name in SCRATCH]


class Did(Enum):
    """What the runs of a function did."""

    NOTHING = "never works"
    SPARES = "works with 1 alone"
    EARLY_OUT = "works with 0 while counting"
    WORKS = "works with 0"


class Tally(NamedTuple):
    """What came of it: how many functions have a verdict, and what their runs did.

    :param wrong: the sources of those that the check is wrong about.
    """

    functions: int
    verdicts: Counter[tuple[Verdict, Did]]
    wrong: list[str]

    def recognised(self) -> tuple[int, int]:
        """Of the functions that work with 1 alone: how many are guarded by the check, and how many there are."""
        verdicts = {verdict: number for (verdict, did), number in self.verdicts.items() if did is Did.SPARES}
        return verdicts.get(Verdict.GUARDED, 0), sum(verdicts.values())


class _Run(NamedTuple):
    """What one run did.

    :param work: it did the PMU's work.
    :param touched: it came to a function of the PMU, or read its state.
    """

    work: bool
    touched: bool


class _Emulation:
    """Runs the functions of one batch, and sees what they do."""

    def __init__(self, image: Assembled, dice: random.Random) -> None:
        self._cpu, self._dice = Cpu(image.code), dice
        self._names = {at: name for at, name in image.symbols if at < TEXT + STUB_SIZE * len(STUBS)}
        self._pmus: tuple[range, ...] = ()
        self._touched = self._worked = False
        engine = self._cpu.engine
        engine.mem_map(_END, 0x1000)
        behind = TEXT + STUB_SIZE * len(STUBS)
        engine.hook_add(unicorn.UC_HOOK_CODE, self._on_stub, begin=TEXT, end=behind - 1)
        engine.hook_add(unicorn.UC_HOOK_BLOCK, self._on_block, begin=behind, end=TEXT + len(image.code))
        engine.hook_add(unicorn.UC_HOOK_MEM_READ, self._on_read, begin=_PMU_FIRST, end=_PMU_LAST)
        for start in (_VCPU, _VM & -0x1000, HEAP):
            engine.hook_add(unicorn.UC_HOOK_MEM_WRITE, self._on_write, begin=start, end=start + 0xFFF)

    def run(self, start: int, pmus: tuple[range, ...], *, enable: int, counting: int) -> _Run | None:
        """What one run did; None: it did what KVM never does.

        :param pmus: the functions of the PMU.
        """
        dice = self._dice
        here = Concrete.new(dice, enabled=bool(enable), counting=counting)
        here.registers.update((name, dice.choice((0, 1, dice.getrandbits(64)))) for name in GENERAL)
        here.registers.update(rdi=_VCPU, rsp=STACK)
        for offset in range(0x18, 0x80, 8):
            here.put(_VCPU + offset, dice.choice((0, 1, 5, dice.getrandbits(64))), 8)
        for beside in (0x202, 0x204):
            here.put(_VM + beside, dice.randrange(2), 1)
        here.put(_PLACE_OF_ENABLE, enable, 1)
        here.put(_VCPU + COUNTER, _COUNTER_AT, 8)
        here.put(STACK, _END, 8)
        self._pmus, self._touched, self._worked = pmus, False, False
        self._cpu.set(here)
        with contextlib.suppress(unicorn.UcError):  # what it had done until then counts
            self._cpu.engine.emu_start(start, _END, count=STEPS)
        places = ((_PLACE_OF_ENABLE, 1), (_PLACE_OF_VM, 8), (_PLACE_OF_BITMAP, 8), (STACK, 8))
        kept = [int.from_bytes(self._cpu.engine.mem_read(place, size), "little") for place, size in places]
        return _Run(self._worked, self._touched) if kept == [enable, _VM, counting, _END] else None

    def _on_stub(self, engine: Any, address: int, _size: int, _data: object) -> None:
        name = self._names.get(address)
        self._worked = self._worked or name == "__SCT__kvm_x86_pmu_isr"
        if name is not None and name not in _UNFOLLOWED:
            values = [self._dice.choice((0, 0, 1, self._dice.getrandbits(64))) for _ in _SCRATCH]
            engine.reg_write_batch(list(zip(_SCRATCH, values)))

    def _on_block(self, _engine: Any, address: int, _size: int, _data: object) -> None:
        self._touched = self._touched or any(address == pmu.start for pmu in self._pmus)

    def _on_read(self, _engine: Any, _access: int, _address: int, _size: int, _value: int, _data: object) -> None:
        self._touched = True

    def _on_write(self, engine: Any, _access: int, address: int, _size: int, _value: int, _data: object) -> None:
        at = engine.reg_read(x86.UC_X86_REG_RIP)
        counts = _PMU_FIRST <= address <= _PMU_LAST or address == _COUNTER_AT + 8
        self._worked = self._worked or counts or any(at in pmu for pmu in self._pmus)


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
        for verdict, did, wrong, index in _judged(*assemble_functions(stubs(), sources), dice):
            tally.verdicts[verdict, did] += 1
            tally.wrong.extend([f"{verdict.value}, {wrong}:\n{sources[index]}"] if wrong else [])
            done += 1
        tally = tally._replace(functions=tally.functions + done)
    return tally


def _judged(
    image: Assembled, names: Mapping[int, dict[str, int]], dice: random.Random
) -> Iterator[tuple[Verdict, Did, str, int]]:
    """Of each function the verdict, what its runs did, what is wrong with the verdict, and its number."""
    emulation = _Emulation(image, dice)
    common = [(at, name) for at, name in image.symbols if not re.search(r"\.\d+$", name)]
    starts = sorted(places[FUNCTION] for places in names.values())
    following = dict(zip(starts, starts[1:]))
    for index, places in names.items():
        own = [(at, name) for name, at in places.items()]
        own += [(end, "next") for end in (following.get(places[FUNCTION]),) if end is not None]
        one = Assembled(image.code, Symbols([*common, *own]))
        verdict, _ = judge(walk(one, places[FUNCTION], OFFSETS), OFFSETS)
        pmus = (range(places[CALLEE], places[OF_PMU]), range(places[OF_PMU], places[HELPER]))
        did, wrong = _runs(emulation, places[FUNCTION], pmus, verdict, dice)
        yield verdict, did, wrong, index


def _runs(
    emulation: _Emulation, start: int, pmus: tuple[range, ...], verdict: Verdict, dice: random.Random
) -> tuple[Did, str]:
    """What the runs of a function did, and what is wrong with the verdict."""
    did, wrong = Did.NOTHING, ""
    for number in range(RUNS):
        enable = 0 if number % 2 == 0 else dice.choice((1, 1, 255))
        counting = 0 if number % 4 == 0 else dice.choice((0, 1, 1 << 40))
        came = emulation.run(start, pmus, enable=enable, counting=counting)
        if came is None:
            continue
        if verdict is Verdict.NO_CALL and came.touched:
            wrong = "a function or the state of the PMU was touched"
        if not came.work:
            continue
        if (
            verdict is Verdict.NO_CALL
            or (verdict is Verdict.GUARDED and not enable)
            or (verdict is Verdict.EARLY_OUT and not counting)
        ):
            wrong = f"worked with enable_pmu {enable} and the bitmap {counting:#x}"
        shown = Did.SPARES if enable else Did.EARLY_OUT if counting else Did.WORKS
        did = max(did, shown, key=list(Did).index)
        if did is Did.WORKS:
            break
    return did, wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--functions", type=int, default=1_000_000, help="How many functions in all.")
    parser.add_argument("--seed", type=int, default=1, help="Of the dice: the same seed, the same functions.")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="Stop behind so many.")
    args = parser.parse_args()
    began = time.monotonic()
    tally = fuzz(args.functions, args.seed, seconds=args.seconds)
    took = time.monotonic() - began
    speed = tally.functions / took
    print(f"{tally.functions} functions in {took:.0f} s, {speed:.0f} a second; {len(tally.wrong)} wrong")
    for (verdict, did), number in sorted(tally.verdicts.items(), key=lambda each: (each[0][0].value, each[0][1].value)):
        print(f"{number:8} {verdict.value}, {did.value}")
    recognised, guarded = tally.recognised()
    share = 100 * recognised / max(guarded, 1)
    print(f"{recognised} of {guarded} that work with 1 alone are recognised as guarded, {share:.1f} %")
    for source in tally.wrong:
        print(source)
    return 1 if tally.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
