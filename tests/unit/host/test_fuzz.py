"""The parsers on garbage: an answer or a PmuconfError, never anything else. PMUCONF_FUZZ=N runs N inputs each."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pmuconf.errors import PmuconfError
from pmuconf.host.code.btf import Btf
from pmuconf.host.code.elf import ObjectFile
from pmuconf.host.code.image import Symbols
from pmuconf.host.code.kallsyms import Kallsyms
from pmuconf.host.code.kcore import Kcore
from pmuconf.host.code.members import offsets_of
from pmuconf.host.guard.paths import walk
from pmuconf.host.guard.verdict import judge, judge_host
from pmuconf.host.names import FUNCTION
from pmuconf.host.root import Root
from pmuconf.hostfacts import Verdict
from tests.unit.host.code.test_live import KERNEL_FLAGS, btf_of
from tests.unit.host.shapes import SHAPES, compiled
from tests.unit.host.sysroot import TEXT, core, host, kallsyms, link, write

INPUTS = int(os.environ.get("PMUCONF_FUZZ", "400"))
BOUNDED = settings(
    max_examples=INPUTS,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
    derandomize=INPUTS <= 1000,
)

STOCK = compiled(next(shape.source for shape in SHAPES if shape.name == "stock"), KERNEL_FLAGS)
LINKED = link(STOCK)
TYPES = btf_of(STOCK)
LINES = kallsyms({"kvm": LINKED}).encode()
CORE = core([(LINKED.address, bytes(LINKED.text))])


def damaged(seed: bytes, reach: int | None = None) -> st.SearchStrategy[bytes]:
    """The seed with some bytes changed, cut out or put in, most of them near its start; or plain garbage."""
    span = min(len(seed), reach or len(seed)) - 1
    edit = st.tuples(st.integers(0, span), st.integers(0, 8), st.binary(max_size=8))

    def apply(edits: list[tuple[int, int, bytes]]) -> bytes:
        data = bytearray(seed)
        for at, length, new in edits:
            data[at : at + length] = new
        return bytes(data)

    def overwrite(edits: list[tuple[int, int, bytes]]) -> bytes:
        data = bytearray(seed)
        for at, _, new in edits:
            data[at : at + len(new)] = new
        return bytes(data)

    edits = st.lists(edit, max_size=6)
    cut = st.integers(0, len(seed)).map(lambda size: seed[:size])
    return st.one_of(edits.map(overwrite), edits.map(apply), cut, st.binary(max_size=200))


@BOUNDED
@given(damaged(TYPES))
def test_btf(data: bytes) -> None:
    with contextlib.suppress(PmuconfError):
        offsets_of(Btf(data))


@BOUNDED
@given(damaged(STOCK, 64))
def test_elf_header(data: bytes) -> None:
    check_elf(data)


@BOUNDED
@given(damaged(STOCK))
def test_elf(data: bytes) -> None:
    check_elf(data)


def check_elf(data: bytes) -> None:
    with contextlib.suppress(PmuconfError):
        file = ObjectFile(data, "kvm.ko")
        section = file.section(".BTF")
        places = file.symbols.addresses(FUNCTION)
        if section and len(places) == 1:
            offsets = offsets_of(Btf(section))
            judge(walk(file, places[0], offsets), offsets)


class Damaged:
    """The stock kernel's code, or what is left of it, as an image."""

    switches: Mapping[int, int] = {}
    symbols = Symbols([(address, name) for name, address in {**LINKED.symbols, **LINKED.outside}.items()])

    def __init__(self, code: bytes) -> None:
        self._code = code

    def read(self, address: int, size: int) -> bytes:
        return self._code[address - TEXT : address - TEXT + size] if address >= TEXT else b""

    def text(self) -> Iterator[tuple[int, bytes]]:
        yield TEXT, self._code


@BOUNDED
@given(damaged(bytes(LINKED.text)))
def test_code_never_becomes_guarded(text: bytes) -> None:
    """However code without a guard is damaged, there is no guard in it."""

    image = Damaged(text)
    offsets = offsets_of(Btf(TYPES))
    verdict, _ = judge(walk(image, LINKED.symbols[FUNCTION], offsets), offsets)
    assert verdict is not Verdict.GUARDED


@BOUNDED
@given(st.one_of(damaged(CORE, 200), damaged(CORE)), st.integers(0, (1 << 64) - 1))
def test_kcore(data: bytes, address: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), "/proc/kcore", data)
        with contextlib.suppress(PmuconfError):
            memory = Kcore(Root(Path(folder)))
            for at in (address, LINKED.address, LINKED.address + 100):
                assert len(memory.read(at, 4096)) <= 4096


@BOUNDED
@given(damaged(LINES))
def test_kallsyms(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), "/proc/kallsyms", data)
        with contextlib.suppress(PmuconfError):
            symbols = Kallsyms(Root(Path(folder)))
            symbols.find(FUNCTION)
            symbols.of_module("kvm")
            symbols.of_module(None)
            symbols.at(LINKED.address)


@BOUNDED
@given(st.sampled_from(["/proc/kallsyms", "/proc/kcore", "/sys/kernel/btf/vmlinux"]), st.data())
def test_a_whole_host(name: str, data: st.DataObject) -> None:
    seeds = {"/proc/kallsyms": LINES, "/proc/kcore": CORE, "/sys/kernel/btf/vmlinux": TYPES}
    with tempfile.TemporaryDirectory() as folder:
        root = Root(host(Path(folder), LINKED, TYPES))
        write(root.path, name, data.draw(damaged(seeds[name])))
        with contextlib.suppress(PmuconfError):
            assert judge_host(root).verdict is not Verdict.GUARDED
