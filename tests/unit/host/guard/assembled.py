"""Assembly as an image that the path check can read: gas assembles it, in Intel's syntax."""

from __future__ import annotations

import io
import re
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

from pmuconf.host.code.image import Symbols
from pmuconf.host.code.offsets import Offsets
from pmuconf.host.guard.paths import walk
from pmuconf.host.guard.verdict import judge
from pmuconf.host.names import FUNCTION
from pmuconf.hostfacts import Verdict

__all__ = [
    "CALLEE",
    "OFFSETS",
    "TEXT",
    "Assembled",
    "assemble",
    "assemble_functions",
    "assemble_what_can_be",
    "verdict_on",
]

TEXT = 0x10000000
"""Where the code lies."""
OFFSETS = Offsets(kvm=0x10, enable_pmu=0x203, pmu=(0x300, 0x3FF), counting=0x340)
CALLEE = "kvm_pmu_trigger_event"
_LINE = re.compile(r"^[^:]*:(\d+): Error", re.MULTILINE)
_NUMBER = re.compile(r"\.(\d+): ")


class Assembled:
    """Code at TEXT. Labels that begin with .L are no symbols."""

    switches: Mapping[int, int] = {}

    def __init__(self, code: bytes, symbols: Symbols) -> None:
        self.code, self.symbols = code, symbols

    def read(self, address: int, size: int) -> bytes:
        return self.code[address - TEXT : address - TEXT + size] if address >= TEXT else b""

    def text(self) -> Iterator[tuple[int, bytes]]:
        yield TEXT, self.code


def assemble(source: str) -> Assembled:
    """The code of a source; all that it calls has to be in it."""
    made, said = _assembled(source)
    assert made is not None, said
    return made


def assemble_what_can_be(lines: Iterable[str]) -> tuple[Assembled, list[str]]:
    """The code of those lines that are instructions, and these lines. Each begins a slot of 16 bytes."""
    kept = [f".balign 16; {line}" for line in lines]
    made, said = _assembled("\n".join(kept))
    if made is None:
        wrong = {int(number) - 2 for number in _LINE.findall(said)}
        kept = [line for number, line in enumerate(kept) if number not in wrong]
        made, said = _assembled("\n".join(kept))
    assert made is not None, said
    return made, [line.partition("; ")[2] for line in kept]


def assemble_functions(common: str, sources: Sequence[str]) -> tuple[Assembled, dict[int, dict[str, int]]]:
    """The code of sources that have a line for each function, whose name ends with a dot and the source's number.

    A source that is no assembly is left out. Beside the code: where the functions are, by number and name.
    """
    text = "\n".join([common, *sources])
    made, said = _assembled(text)
    if made is None:
        lines = text.split("\n")
        wrong = {_NUMBER.findall(lines[int(number) - 2])[0] for number in _LINE.findall(said)}
        kept = [source for source in sources if _NUMBER.findall(source)[0] not in wrong]
        made, said = _assembled("\n".join([common, *kept]))
    assert made is not None, said
    places: dict[int, dict[str, int]] = {}
    for address, name in made.symbols:
        stem, _, number = name.rpartition(".")
        if number.isdigit():
            places.setdefault(int(number), {})[stem] = address
    return made, places


def _assembled(source: str) -> tuple[Assembled | None, str]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "code.o"
        text = f".intel_syntax noprefix\n{source}\n"
        run = subprocess.run(["as", "-o", str(path)], input=text, capture_output=True, text=True, check=False)
        if run.returncode:
            return None, run.stderr
        file = ELFFile(io.BytesIO(path.read_bytes()))
    assert file.get_section_by_name(".rela.text") is None, "the code calls what is not in it"
    code, table = file.get_section_by_name(".text"), file.get_section_by_name(".symtab")
    assert code is not None
    entries = table.iter_symbols() if isinstance(table, SymbolTableSection) else ()
    names = [(TEXT + entry["st_value"], entry.name) for entry in entries if entry["st_shndx"] == 1 and entry.name]
    return Assembled(code.data(), Symbols(names)), ""


def verdict_on(source: str) -> tuple[Verdict, str]:
    """The verdict on the function of a source, and its cause."""
    image = assemble(source)
    (entry,) = image.symbols.addresses(FUNCTION)
    return judge(walk(image, entry, OFFSETS), OFFSETS)
