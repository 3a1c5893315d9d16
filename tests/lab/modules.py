"""A record of a host that was never booted: Debian's modules for Intel, as where kernel memory can't be read.

The emulator has no VMX, so kvm_intel can't be loaded in the lab. What its file says can be judged all the same: as on a
host whose /proc/kcore is closed, where pmuconf finds the files by the build-ids of the modules that run.
"""

from __future__ import annotations

import lzma
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from tests.lab.cut import cut_types

__all__ = ["blank", "intel_host"]

_MODULES: Final = ("kvm", "kvm-intel")
_KEPT: Final = (".text", ".noinstr", ".static_call", ".rodata", ".altinstr", "__jump_table", ".note", ".BTF")
_TABLES: Final = frozenset({".symtab", ".strtab", ".shstrtab"})
_NO_BITS: Final = 8
_HEADER: Final = struct.Struct("<IIQQQQIIQQ")


class _Section(NamedTuple):
    name: str
    kind: int
    offset: int
    size: int


def intel_host(files: Path, release: str, target: Path, *, small: bool) -> Path:
    """Write the host into the new directory ``target``.

    :param files: kvm.ko and kvm-intel.ko of this release, or .ko.xz, and vmlinux: the BTF of its kernel.
    :param small: with what decides alone.
    """
    modules = {name: _module(files, name) for name in _MODULES}
    types = (files / "vmlinux").read_bytes(), _content(modules["kvm"], ".BTF")
    kernel, own = cut_types(*types) if small else types
    for name, data in modules.items():
        running = target / "sys/module" / name.replace("-", "_")
        _write(running / "initstate", b"live\n")
        _write(running / "notes/.note.gnu.build-id", _content(data, ".note.gnu.build-id"))
        content = blank(data, own if name == "kvm" and own else b"") if small else data
        _write(target / f"lib/modules/{release}/kernel/arch/x86/kvm/{name}.ko", content)
    _write(target / "sys/kernel/btf/vmlinux", kernel)
    _write(target / "sys/module/kvm/parameters/enable_pmu", b"Y\n")
    _write(target / "proc/sys/kernel/osrelease", f"{release}\n".encode())
    _write(target / "proc/sys/kernel/arch", b"x86_64\n")
    return target


def blank(module: bytes, types: bytes) -> bytes:
    """The module with zeros for all that does not decide: data, tables of the kernel's, what is run once.

    :param types: put in place of its BTF, which is at least as long; empty: that is zeros too.
    """
    cut = bytearray(module)
    for section in _sections(module):
        if section.kind == _NO_BITS:
            continue
        wanted = section.name.startswith(tuple(prefix + name for name in _KEPT for prefix in ("", ".rela")))
        content = module[section.offset :][: section.size]
        if section.name == ".BTF":
            content = types
        elif not wanted and section.name not in _TABLES:
            content = b""
        cut[section.offset : section.offset + section.size] = content.ljust(section.size, b"\0")
    return bytes(cut)


def _module(files: Path, name: str) -> bytes:
    path = files / f"{name}.ko"
    return path.read_bytes() if path.exists() else lzma.decompress(path.with_name(f"{name}.ko.xz").read_bytes())


def _content(module: bytes, name: str) -> bytes:
    (found,) = (section for section in _sections(module) if section.name == name)
    return module[found.offset :][: found.size]


def _sections(module: bytes) -> Iterator[_Section]:
    (table,) = struct.unpack_from("<Q", module, 40)
    size, number, names = struct.unpack_from("<HHH", module, 58)
    headers = [_HEADER.unpack_from(module, table + size * at) for at in range(1, number)]
    start = headers[names - 1][4]
    for name, kind, _, _, offset, length, *_ in headers:
        end = module.index(b"\0", start + name)
        yield _Section(module[start + name : end].decode(), kind, offset, length)


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
