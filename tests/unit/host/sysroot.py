"""A directory in the shape of a running host's /, made of one of the small kernels. Linked by ld, not by pmuconf."""

from __future__ import annotations

import io
import struct
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

TEXT = 0xFFFFFFFFC0A01000
VENDOR_TEXT = 0xFFFFFFFFC0B01000
PATCH_TEXT = 0xFFFFFFFFC0C01000
CORE_TEXT = 0xFFFFFFFF81000000
BUILD_ID = "00112233445566778899aabbccddeeff00112233"
VENDOR_BUILD_ID = BUILD_ID[::-1]
PAGE = 4096


@dataclass
class Linked:
    """Code where it would run: its bytes, and name, type and address of its symbols and of what it refers to."""

    address: int
    text: bytearray
    symbols: dict[str, int] = field(default_factory=dict)
    outside: dict[str, int] = field(default_factory=dict)


def link_file(data: bytes, address: int = TEXT, known: dict[str, int] | None = None) -> tuple[bytes, dict[str, int]]:
    """Link an object at an address; what it lacks is put into the kernel's own text, or where it is known to be."""
    with tempfile.TemporaryDirectory() as folder:
        source, target, script = (Path(folder) / name for name in ("in.o", "out", "script"))
        source.write_bytes(data)
        listed = subprocess.run(["nm", "-u", str(source)], check=True, capture_output=True, text=True).stdout
        outside = {}
        for number, name in enumerate(sorted(line.split()[-1] for line in listed.splitlines())):
            outside[name] = (known or {}).get(name, CORE_TEXT + 0x1000 + 64 * number)
        script.write_text(
            f"SECTIONS {{ . = {address:#x}; .text : {{ *(.text.unlikely*) *(.text*) }} "
            ".data : { *(.data*) *(.rodata*) *(.bss*) } .note.gnu.build-id : { *(.note.gnu.build-id) } }"
        )
        defined = [f"--defsym={name}={value:#x}" for name, value in outside.items()]
        subprocess.run(
            [
                "ld",
                "-nostdlib",
                "--build-id=0x" + BUILD_ID,
                "-T",
                str(script),
                *defined,
                "-o",
                str(target),
                str(source),
            ],
            check=True,
            stderr=subprocess.DEVNULL,
        )
        return target.read_bytes(), outside


def link(data: bytes, address: int = TEXT, known: dict[str, int] | None = None) -> Linked:
    """The same, as code in memory."""
    whole, outside = link_file(data, address, known)
    elf = ELFFile(io.BytesIO(whole))
    table, text = elf.get_section_by_name(".symtab"), elf.get_section_by_name(".text")
    assert isinstance(table, SymbolTableSection)
    assert text is not None
    symbols = {s.name: s["st_value"] for s in table.iter_symbols() if s["st_info"]["type"] == "STT_FUNC"}
    return Linked(address, bytearray(text.data()), symbols, outside)


def note(build_id: str = BUILD_ID) -> bytes:
    """The ELF note that holds a build-id."""
    return struct.pack("<III4s", 4, len(build_id) // 2, 3, b"GNU\0") + bytes.fromhex(build_id)


def core(pieces: list[tuple[int, bytes]], machine: int = 62) -> bytes:
    """An ELF core file."""
    offset = PAGE
    ident = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    head = struct.pack("<16sHHIQQQIHHHHHH", ident, 4, machine, 1, 0, 64, 0, 0, 64, 56, len(pieces), 0, 0, 0)
    body = b""
    for address, data in pieces:
        data = data.ljust(-(-len(data) // PAGE) * PAGE, b"\0")
        start = address & -PAGE
        head += struct.pack("<IIQQQQQQ", 1, 7, offset + len(body), start, 0, len(data), len(data), PAGE)
        body += data
    return head.ljust(offset, b"\0") + body


def kallsyms(modules: dict[str, Linked]) -> str:
    """The lines for the kernel and its modules."""
    lines = [f"{CORE_TEXT:016x} T _text"]
    for linked in modules.values():
        lines += [f"{address:016x} T {name}" for name, address in linked.outside.items() if address < TEXT]
    for module, linked in modules.items():
        lines += [f"{address:016x} t {name}\t[{module}]" for name, address in linked.symbols.items()]
        lines += [f"{0x34E20:016x} d {module}_percpu\t[{module}]"]
    return "\n".join(dict.fromkeys(lines)) + "\n"


def host(
    root: Path,
    linked: Linked,
    btf: bytes,
    patches: dict[str, Linked] | None = None,
    vendors: dict[str, Linked] | None = None,
) -> Path:
    """Write a host that runs the code as its KVM module, with modules of vendors and of livepatches."""
    modules = {"kvm": linked, **(vendors or {}), **(patches or {})}
    pieces = sorted((one.address, bytes(one.text)) for one in modules.values())
    write(root, "/proc/kallsyms", kallsyms(modules).encode())
    write(root, "/proc/kcore", core(pieces))
    write(root, "/proc/sys/kernel/osrelease", b"6.1.0-test\n")
    write(root, "/proc/sys/kernel/arch", b"x86_64\n")
    write(root, "/proc/sys/kernel/kptr_restrict", b"1\n")
    write(root, "/sys/kernel/btf/vmlinux", btf)
    write(root, "/sys/module/kvm/initstate", b"live\n")
    write(root, "/sys/module/kvm/parameters/enable_pmu", b"Y\n")
    write(root, "/sys/module/kvm/notes/.note.gnu.build-id", note())
    for vendor in vendors or {}:
        write(root, f"/sys/module/{vendor}/initstate", b"live\n")
        write(root, f"/sys/module/{vendor}/notes/.note.gnu.build-id", note(VENDOR_BUILD_ID))
    for patch in patches or {}:
        base = f"/sys/kernel/livepatch/{patch}"
        write(root, f"{base}/enabled", b"1\n")
        write(root, f"{base}/transition", b"0\n")
        (root / base[1:] / "kvm" / "kvm_skip_emulated_instruction,1").mkdir(parents=True)
    return root


def write(root: Path, name: str, data: bytes) -> None:
    """Write a file of the host."""
    path = root / name.lstrip("/")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
