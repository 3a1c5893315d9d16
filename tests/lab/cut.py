"""A small record of a host from a whole one: what the verdict needs, and nothing of who made it.

python -m tests.lab.cut RECORD FILE.tar.xz cuts a directory that 'pmuconf host record' wrote. It refuses to write a
record that is judged otherwise than the whole one, or that names this machine.

The type information is nearly all of a record, and nearly all of that is of no use to the verdict. It keeps its shape:
every type keeps its id and every string its offset, because a module's types refer to those of the kernel by both. A
type that is not needed becomes a forward declaration without a name, a string that is not needed becomes zeros, and xz
makes nearly nothing of them. All code that was read stays whole.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import socket
import struct
import sys
import tarfile
import tempfile
from collections.abc import Collection, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from pmuconf.host.root import Root
from pmuconf.host.survey import survey

__all__ = ["Types", "check_words", "cut", "cut_types", "facts_of", "pack"]

STRUCTURES: Final = frozenset(
    {"kvm", "kvm_arch", "kvm_pmc", "kvm_pmu", "kvm_vcpu", "kvm_vcpu_arch", "mm_struct", "task_struct", "xa_node"}
)
"""What pmuconf reads members of; what they hold by value is kept with them."""
_HEADER: Final = struct.Struct("<HBBIIIII")
_FORWARD: Final = struct.pack("<III", 0, 7 << 24, 0)
_STRUCT: Final = 4
# Words behind the three that each type has: some fixed, and some for each of its elements (Documentation/bpf/btf.rst).
_LENGTHS: Final = {
    **dict.fromkeys((2, 7, 8, 9, 10, 11, 12, 16, 18), (0, 0)),
    **dict.fromkeys((1, 14, 17), (1, 0)),
    **dict.fromkeys((4, 5, 15, 19), (0, 3)),
    **dict.fromkeys((6, 13), (0, 2)),
    3: (3, 0),
}
_ARRAY: Final = 3
_MEMBERS: Final = frozenset({_STRUCT, 5})
_MODIFIERS: Final = frozenset({8, 9, 10, 11, 18})
_OF_DISK: Final = frozenset({"loads", "device", "inode", "mtime_ns", "ctime_ns"})
_SHORTEST: Final = 4
"""A shorter host name, such as vm, is a word of symbols and files too."""
_MAC: Final = re.compile(rb"(?<![0-9a-f:])(?:[0-9a-f]{2}:){5}[0-9a-f]{2}(?![0-9a-f:])", re.IGNORECASE)
_OF_KVM: Final = re.compile(r"^kvm(?:_\w+)? .*\n", re.MULTILINE)


@dataclass
class Types:
    """One BTF section: the bytes of each type, and the strings. ``first`` is the id of its first type."""

    types: list[bytes]
    strings: bytes
    first: int = 1
    first_string: int = 0
    kept: set[int] = field(default_factory=set)

    @classmethod
    def read(cls, data: bytes, base: Types | None = None) -> Types:
        """From a file; of a module's, ``base`` are the types of its kernel."""
        _, _, _, header, types_at, types_size, strings_at, strings_size = _HEADER.unpack_from(data)
        body, types, at = data[header + types_at :][:types_size], [], 0
        while at < len(body):
            info = int.from_bytes(body[at + 4 : at + 8], "little")
            fixed, each = _LENGTHS[(info >> 24) & 0x1F]
            size = 12 + 4 * (fixed + each * (info & 0xFFFF))
            types.append(body[at : at + size])
            at += size
        strings = data[header + strings_at :][:strings_size]
        if base is None:
            return cls(types, strings)
        return cls(types, strings, base.first + len(base.types), base.first_string + len(base.strings))

    def name(self, offset: int) -> bytes | None:
        """The string at this offset; None if it is not this section's."""
        at = offset - self.first_string
        return self.strings[at : self.strings.index(b"\0", at)] if 0 <= at < len(self.strings) else None

    def written(self, used: Iterable[int]) -> bytes:
        """The section again with the types that are kept and the strings that are used, each where it was."""
        strings = bytearray(len(self.strings))
        for offset in used:
            name = self.name(offset)
            if name is not None:
                at = offset - self.first_string
                strings[at : at + len(name)] = name
        body = b"".join(
            data if self.first + number in self.kept else _FORWARD for number, data in enumerate(self.types)
        )
        return _HEADER.pack(0xEB9F, 1, 0, _HEADER.size, 0, len(body), len(body), len(strings)) + body + strings


def cut_types(kernel: bytes, module: bytes | None) -> tuple[bytes, bytes | None]:
    """The BTF of a kernel, and of its KVM module where that has its own, with the needed types alone."""
    base = Types.read(kernel)
    sections = [base] if module is None else [base, Types.read(module, base)]

    def find(number: int) -> tuple[Types, bytes] | None:
        for section in sections:
            if section.first <= number < section.first + len(section.types):
                return section, section.types[number - section.first]
        return None

    names = {
        section.first_string + match.start() + 1
        for section in sections
        for name in STRUCTURES
        for match in re.finditer(rb"\0(?=" + name.encode() + rb"\0)", section.strings)
    }
    waiting = [
        section.first + number
        for section in sections
        for number, data in enumerate(section.types)
        if (_words(data)[1] >> 24) & 0x1F == _STRUCT and _words(data)[0] in names
    ]
    used: set[int] = set()
    while waiting:
        number = waiting.pop()
        place = find(number)
        if place is None or number in place[0].kept:
            continue
        place[0].kept.add(number)
        words = _words(place[1])
        used.update(_names(words))
        waiting.extend(_inside(words))
    written = [section.written(used) for section in sections]
    return written[0], written[1] if module is not None else None


def _words(data: bytes) -> tuple[int, ...]:
    return struct.unpack(f"<{len(data) // 4}I", data)


def _inside(words: tuple[int, ...]) -> Iterator[int]:
    """The types that one holds by value."""
    kind = (words[1] >> 24) & 0x1F
    if kind in _MEMBERS:
        yield from words[4::3]
    elif kind == _ARRAY:
        yield words[3]
    elif kind in _MODIFIERS:
        yield words[2]


def _names(words: tuple[int, ...]) -> Iterator[int]:
    yield words[0]
    if (words[1] >> 24) & 0x1F in _MEMBERS:
        yield from words[3::3]


def cut(whole: Path, small: Path) -> None:
    """Write the small record of a whole one into the new directory ``small``.

    :raises ValueError: it would be judged otherwise, or says more than it should.
    """
    shutil.copytree(whole, small, symlinks=True)
    kernel, module = small / "sys/kernel/btf/vmlinux", small / "sys/kernel/btf/kvm"
    types, own = cut_types(kernel.read_bytes(), module.read_bytes() if module.exists() else None)
    kernel.write_bytes(types)
    if own is not None:
        module.write_bytes(own)
    modules = small / "proc/modules"
    modules.write_text("".join(_OF_KVM.findall(modules.read_text())))
    check_words(small)
    if facts_of(small) != facts_of(whole):
        raise ValueError(f"the small record of {whole} is judged otherwise")


def facts_of(record: Path) -> Any:
    """All that pmuconf says of a recorded host, but for what its files happen to be on this disk."""
    return _without(asdict(survey(Root(record))), _OF_DISK)


def _without(value: Any, names: Collection[str]) -> Any:
    if isinstance(value, dict):
        return {name: _without(inner, names) for name, inner in value.items() if name not in names}
    return [_without(inner, names) for inner in value] if isinstance(value, (list, tuple)) else value


def check_words(record: Path) -> None:
    """Refuse what names this machine, its folders or a network card."""
    here = {str(Path.home()), os.getcwd(), socket.gethostname()}
    here = {word for word in here if len(word) >= _SHORTEST}
    for path in record.rglob("*"):
        data = os.fsencode(os.readlink(path)) if path.is_symlink() else path.read_bytes() if path.is_file() else b""
        for word in here:
            if re.search(rb"(?<!\w)" + re.escape(word.encode()) + rb"(?!\w)", data):
                raise ValueError(f"{path} has {word!r} in it")
        if _MAC.search(data):
            raise ValueError(f"{path} has what looks like the address of a network card")


def pack(record: Path, target: Path) -> None:
    """Write the record as a .tar.xz that is the same whoever makes it and whenever."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:xz", preset=9, format=tarfile.PAX_FORMAT) as archive:
        for path in sorted(record.rglob("*")):
            entry = archive.gettarinfo(str(path), str(path.relative_to(record)))
            entry.uid = entry.gid = entry.mtime = 0
            entry.uname = entry.gname = ""
            entry.mode = 0o755 if entry.mode & 0o100 else 0o644
            with path.open("rb") if entry.isreg() else io.BytesIO() as content:
                archive.addfile(entry, content)
    target.write_bytes(stream.getvalue())


def main() -> None:
    """Cut one record."""
    whole, target = map(Path, sys.argv[1:])
    with tempfile.TemporaryDirectory() as folder:
        cut(whole, Path(folder) / "record")
        pack(Path(folder) / "record", target)
    sys.stdout.write(f"{target}: {target.stat().st_size:,} bytes\n")


if __name__ == "__main__":
    main()
