"""Damage what pmuconf host reads, a million times: python -m tests.fuzz [--inputs N] [--seed S].

Faster than the property tests of tests/unit/host/test_fuzz.py, which do the same with hypothesis. Every input must
give an answer or a PmuconfError, within seconds and within the memory limit; code without a guard must never become
guarded. An input that does not is kept in a file, and its path is shown.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import io
import lzma
import os
import random
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import BinaryIO, NoReturn

import zstandard

from pmuconf.change.journal import ChangeKind, ChangeStatus, Intent, Journal
from pmuconf.domain.definition import PmuState
from pmuconf.errors import PmuconfError
from pmuconf.host.code.btf import Btf
from pmuconf.host.code.dwarf import Dwarf
from pmuconf.host.code.elf import ObjectFile
from pmuconf.host.code.kallsyms import Kallsyms
from pmuconf.host.code.kcore import Kcore
from pmuconf.host.code.members import offsets_of
from pmuconf.host.code.unpack import unpacked
from pmuconf.host.guard.paths import walk
from pmuconf.host.guard.verdict import judge
from pmuconf.host.names import FUNCTION
from pmuconf.host.root import Root
from pmuconf.hostfacts import Verdict
from tests.unit.host.code.test_live import BY_NAME
from tests.unit.host.shapes import compiled
from tests.unit.host.test_fuzz import CORE, LINES, LINKED, STOCK, TYPES, Damaged

SECONDS = 10
MEMORY = 512 << 20
INTERESTING = (0, 1, 0x7F, 0x80, 0xFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 1 << 63, (1 << 64) - 1, 1 << 40)


@dataclass(frozen=True)
class Held(Root):
    """A host that has one file, in memory."""

    data: bytes = b""

    def exists(self, name: str) -> bool:
        return name.startswith("/proc/k")

    def open(self, name: str) -> BinaryIO:
        descriptor = os.memfd_create("fuzz")
        os.write(descriptor, self.data)
        os.lseek(descriptor, 0, os.SEEK_SET)
        return os.fdopen(descriptor, "rb", buffering=0)


def damage(dice: random.Random, seed: bytes) -> bytes:
    """The seed with one to six changes; the start, where headers are, is hit most."""
    data = bytearray(seed)
    for _ in range(dice.randrange(1, 7)):
        size = len(data)
        if not size:
            break
        reach = dice.choice((64, 512, size, size))
        at = dice.randrange(min(reach, size))
        kind = dice.randrange(8)
        if kind < 3:
            data[at] = dice.randrange(256)
        elif kind < 6:
            width = dice.choice((2, 4, 8))
            at &= -width
            value = dice.choice(INTERESTING) if kind < 5 else dice.randrange(size + 16)
            data[at : at + width] = (value & ((1 << 8 * width) - 1)).to_bytes(width, "little")
        elif kind == 6:
            other = dice.randrange(size)
            data[at : at + 16] = data[other : other + 16]
        elif dice.randrange(4):
            del data[at : at + dice.randrange(1, 64)]
        else:
            del data[at:]
    return bytes(data)


def try_btf(data: bytes) -> None:
    offsets_of(Btf(data))


def try_split(data: bytes) -> None:
    offsets_of(Btf(data, Btf(TYPES)))


def try_elf(data: bytes) -> None:
    file = ObjectFile(data, "kvm.ko")
    section, places = file.section(".BTF"), file.symbols.addresses(FUNCTION)
    if section and len(places) == 1:
        offsets = offsets_of(Btf(section))
        # Types that were changed may make any byte the guard's: here it is about crashes only.
        judge(walk(file, places[0], offsets), offsets)


def try_dwarf(data: bytes) -> None:
    offsets_of(Dwarf(io.BytesIO(data), "kvm.ko", FUNCTION))


def try_kcore(data: bytes) -> None:
    memory = Kcore(Held(data=data))
    for at in (0, LINKED.address, LINKED.address + 100, (1 << 64) - 1):
        if len(memory.read(at, 4096)) > 4096:
            raise AssertionError("more than was asked for")


def try_kallsyms(data: bytes) -> None:
    symbols = Kallsyms(Held(data=data))
    symbols.find(FUNCTION)
    symbols.of_module("kvm")
    symbols.of_module(None)
    symbols.at(LINKED.address)


def try_journal(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "journal.sqlite"
        path.touch(0o600)
        path.write_bytes(data)
        with Journal.open(path) as journal:
            journal.entries()


def journal_of(changes: int) -> bytes:
    """A journal as a file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "journal.sqlite"
        with Journal.open(path, create=True) as journal:
            one = Intent(ChangeKind.APPLY, "test:///", "u", "web", PmuState.ON, PmuState.OFF, "default", "<domain/>")
            journal.settle([(number, ChangeStatus.DONE, "") for number in journal.begin([one] * changes)])
        return path.read_bytes()


def try_unpack(data: bytes) -> None:
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        unpacked(file.name).read()


PACKED = (gzip.compress(STOCK), lzma.compress(STOCK), zstandard.compress(STOCK))
OFFSETS = offsets_of(Btf(TYPES))


def try_code(data: bytes) -> None:
    verdict, _ = judge(walk(Damaged(data), LINKED.symbols[FUNCTION], OFFSETS), OFFSETS)
    if verdict is Verdict.GUARDED:
        raise AssertionError("guarded")


DEBUG = tuple(compiled(BY_NAME["stock"].source, ("-O2", form)) for form in ("-gdwarf-4", "-gdwarf-5"))
# What is damaged, and of a hundred inputs so many.
TARGETS: tuple[tuple[Callable[[bytes], None], tuple[bytes, ...], int], ...] = (
    (try_btf, (TYPES,), 34),
    (try_split, (TYPES,), 10),
    (try_kallsyms, (LINES,), 24),
    (try_kcore, (CORE[:8192],), 23),
    (try_unpack, PACKED, 2),
    (try_journal, (journal_of(3),), 1),
    (try_elf, (STOCK,), 3),
    (try_dwarf, DEBUG, 2),
    (try_code, (bytes(LINKED.text),), 1),
)


def hang(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise TimeoutError(f"no answer within {SECONDS} seconds")


def run(target: Callable[[bytes], None], seeds: tuple[bytes, ...], inputs: int, dice: random.Random) -> None:
    """Try so many inputs on one target; exits with status 1 at the first that is not handled."""
    began, answered = time.monotonic(), 0
    for number in range(inputs):
        if number % 100 == 0:
            signal.setitimer(signal.ITIMER_REAL, SECONDS)
        data = damage(dice, seeds[number % len(seeds)])
        try:
            with contextlib.suppress(PmuconfError):
                target(data)
                answered += 1
        except BaseException:
            descriptor, path = tempfile.mkstemp(prefix=f"{target.__name__}-")
            os.write(descriptor, data)
            os.close(descriptor)
            sys.stderr.write(f"{target.__name__}: input {number}, kept as {path}\n")
            raise
    signal.setitimer(signal.ITIMER_REAL, 0)
    seconds = time.monotonic() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    sys.stdout.write(
        f"{target.__name__}: {inputs} inputs, {answered} of them answered, the others refused; "
        f"{seconds:.0f} s, peak memory {peak} MB\n"
    )
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--inputs", type=int, default=1_000_000, help="How many inputs in all.")
    parser.add_argument("--seed", type=int, default=1, help="Of the dice: the same seed, the same inputs.")
    args = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    signal.signal(signal.SIGALRM, hang)
    for number, (target, seeds, share) in enumerate(TARGETS):
        run(target, seeds, args.inputs * share // 100, random.Random(args.seed * 100 + number))


if __name__ == "__main__":
    main()
