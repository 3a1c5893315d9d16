"""Records and files that would take all memory, or for ever: refused with a cause, in 512 MiB and 30 seconds."""

from __future__ import annotations

import json
import lzma
import os
import sqlite3
import struct
import zlib
from pathlib import Path

import pytest
import zstandard

from tests.support.bounded import bounded
from tests.unit.host.code.test_live import BY_NAME, btf_of, host_with, object_of
from tests.unit.host.shapes import compiled
from tests.unit.host.sysroot import BUILD_ID, host, link, link_file, note, write

RELEASE = "6.1.0-test"
BASE = f"/lib/modules/{RELEASE}"
KVM = f"{BASE}/kernel/arch/x86/kvm/kvm.ko"


def xz(mebibytes: int) -> bytes:
    packer = lzma.LZMACompressor(preset=0)
    return b"".join([*(packer.compress(bytes(1 << 20)) for _ in range(mebibytes)), packer.flush()])


def zstd(mebibytes: int) -> bytes:
    packer = zstandard.ZstdCompressor().compressobj()
    return b"".join([*(packer.compress(bytes(1 << 20)) for _ in range(mebibytes)), packer.flush()])


def by_file(root: Path) -> Path:
    """A record whose live text is not there, so that KVM's file is asked for."""
    write(root, "/proc/sys/kernel/osrelease", f"{RELEASE}\n".encode())
    write(root, "/proc/sys/kernel/arch", b"x86_64\n")
    write(root, "/sys/module/kvm/initstate", b"live\n")
    write(root, "/sys/module/kvm/notes/.note.gnu.build-id", note())
    return root


def gz(mebibytes: int) -> bytes:
    packer = zlib.compressobj(1, wbits=31)
    return b"".join([*(packer.compress(bytes(1 << 20)) for _ in range(mebibytes)), packer.flush()])


BOMBS = {"xz": xz, "zst": zstd, "gz": gz}


@pytest.mark.parametrize("kind", BOMBS)
def test_a_module_that_unpacks_without_end_is_refused(tmp_path: Path, kind: str) -> None:
    bomb = tmp_path / f"kvm.ko.{kind}"
    bomb.write_bytes(BOMBS[kind](600))

    ended = bounded("host", "judge", bomb)

    assert ended.status == 255
    assert "unpacks to more than" in ended.err
    assert "(cannot-decompress)" in ended.err


def test_a_record_full_of_hard_links_to_a_bomb_takes_no_more_than_one(tmp_path: Path) -> None:
    root = by_file(tmp_path)
    write(root, f"{KVM}.xz", xz(600))
    names = [f"a{number}/kvm.ko.xz" for number in range(200)]
    for name in names:
        (root / BASE[1:] / name).parent.mkdir()
        os.link(root / f"{KVM}.xz"[1:], root / BASE[1:] / name)
    write(root, f"{BASE}/modules.dep", "".join(f"{name}:\n" for name in names).encode())

    ended = bounded("host", "--root", root, "-f", "json")

    said = json.loads(ended.out)
    assert (said["verdict"], ended.status) == ("unknown", 1)
    assert any("cannot-decompress" in line or "file-unreadable" in line for line in said["notes"])


def test_what_many_files_of_a_record_unpack_to_is_counted_together(tmp_path: Path) -> None:
    root = by_file(tmp_path)
    names = [f"a{number}/kvm.ko.xz" for number in range(40)]
    data = xz(100)  # each of them is allowed
    for number, name in enumerate(names):
        write(root, f"{BASE}/{name}", data + b"\0" * 4 * number)
    write(root, f"{BASE}/modules.dep", "".join(f"{name}:\n" for name in names).encode())

    assert bounded("host", "--root", root).status == 1


def test_a_window_larger_than_any_kernels_is_refused(tmp_path: Path) -> None:
    (tmp_path / "kvm.ko.xz").write_bytes(declaring(lzma.compress(b"x" * 100)))

    ended = bounded("host", "judge", tmp_path / "kvm.ko.xz")

    assert "(cannot-decompress)" in ended.err


def declaring(packed: bytes) -> bytes:
    """The same with a dictionary of 3 GiB declared in its block's header."""
    data = bytearray(packed)
    size = (data[12] + 1) * 4
    at = data.index(b"\x21\x01", 12, 12 + size) + 2
    data[at] = 39
    struct.pack_into("<I", data, 12 + size - 4, zlib.crc32(bytes(data[12 : 12 + size - 4])))
    return bytes(data)


@pytest.mark.parametrize(
    "name",
    [
        *(KVM, f"{KVM}.xz", f"{BASE}/modules.dep", "/proc/kallsyms", "/proc/kcore", "/proc/cpuinfo"),
        *("/sys/kernel/btf/vmlinux", "/sys/kernel/btf/kvm", "/var/lib/rpm/rpmdb.sqlite", "/var/lib/dpkg/status"),
        *("/sys/module/kvm/parameters/enable_pmu", "/proc/sys/kernel/osrelease"),
    ],
)
def test_a_fifo_in_a_record_is_never_waited_for(tmp_path: Path, name: str) -> None:
    root, _ = host_with(tmp_path, "unlikely")
    path = root.path / name[1:]
    path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    os.mkfifo(path)

    bounded("host", "--root", root.path)


@pytest.mark.parametrize("option", ["--module", "--vmlinux", "--btf"])
def test_a_fifo_as_an_argument_is_refused(tmp_path: Path, option: str) -> None:
    os.mkfifo(tmp_path / "fifo")
    module = tmp_path / "kvm.ko"
    module.write_bytes(object_of("unlikely"))
    other = ["--module", str(module)] if option == "--btf" else []

    ended = bounded("host", *other, option, tmp_path / "fifo")

    assert (ended.status, "not a regular file (file-unreadable)" in ended.err) == (255, True)


def test_a_database_of_packages_is_not_asked(tmp_path: Path) -> None:
    """A view of it could go on without end."""
    root, _ = host_with(tmp_path, "unlikely")
    write(root.path, "/var/lib/rpm/rpmdb.sqlite", b"")
    database = sqlite3.connect(root.path / "var/lib/rpm/rpmdb.sqlite")
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)"
    database.execute(f"CREATE VIEW Packages AS {endless} SELECT i AS hnum, zeroblob(100) AS blob FROM n")
    database.execute("CREATE TABLE Name (key TEXT, hnum INTEGER, idx INTEGER)")
    database.execute("INSERT INTO Name VALUES ('kernel', -1, 0)")
    database.commit()
    database.close()

    assert bounded("host", "--root", root.path).status == 0


def test_a_list_of_packages_is_not_searched(tmp_path: Path) -> None:
    root, _ = host_with(tmp_path, "unlikely")
    write(root.path, "/var/lib/dpkg/status", b"Package: linux-image-6.1.0-test\nA: b\n" * 50_000)

    assert bounded("host", "--root", root.path).status == 0


def test_thousands_of_calls_into_a_huge_kallsyms_are_answered(tmp_path: Path) -> None:
    calls = "\n".join(f"extern void f{number}(void);" for number in range(2000))
    body = "".join(f"f{number}();" for number in range(2000))
    source = BY_NAME["stock"].source + f"\n{calls}\nvoid many(void) {{ {body} }}\n"
    data = compiled(source, ("-O2",))
    linked = link(data)
    host(tmp_path, linked, btf_of(data))
    with (tmp_path / "proc/kallsyms").open("ab") as file:
        file.write(b"".join(b"%016x t filler_%d\n" % (0xFFFFFFFF82000000 + at, at) for at in range(650_000)))

    assert bounded("host", "--root", tmp_path).status == 2


@pytest.mark.parametrize(
    "lines",
    [
        b"%016x t a\n" % 1 * 3_000_000,
        b"ffffffff81000000 t x vm_list" + b" vm_list" * 3_000_000,
        b"ffffffff81000000 t x\n" + b"\t[kvm]" * 4_000_000,
        b"ffffffff81000000 t kvm_skip_emulated_instruction\n" * 600_000,
        b"".join(b"%016x t kvm_%d\n" % (0xFFFFFFFF81000000 + 8 * at, at) for at in range(900_000)),
    ],
    ids=["more lines", "one line", "one line of modules", "one name", "all of KVM"],
)
def test_a_kallsyms_like_no_kernels_is_refused(tmp_path: Path, lines: bytes) -> None:
    root, _ = host_with(tmp_path, "unlikely")
    write(root.path, "/proc/kallsyms", lines)
    (root.path / "sys/module/kvm/initstate").unlink()  # built in: every line may be KVM's
    (root.path / "sys/module/kvm/notes/.note.gnu.build-id").unlink()
    (root.path / "sys/module/kvm/notes").rmdir()

    assert bounded("host", "--root", root.path).status in (1, 255)


def test_a_cpuinfo_of_lines_without_a_colon_is_read_once(tmp_path: Path) -> None:
    root, _ = host_with(tmp_path, "unlikely")
    write(root.path, "/proc/cpuinfo", b"a\n" * 2_000_000)

    assert bounded("host", "--root", root.path).status == 0


def test_a_number_of_thousands_of_digits_is_no_cpu_family(tmp_path: Path) -> None:
    root, _ = host_with(tmp_path, "unlikely")
    write(root.path, "/proc/cpuinfo", b"vendor_id\t: AuthenticAMD\ncpu family\t: " + b"1" * 5000 + b"\n")

    assert bounded("host", "--root", root.path).status == 0


@pytest.mark.parametrize(
    "name", ["/proc/version", "/proc/sys/kernel/osrelease", f"{BASE}/modules.dep", "/proc/cpuinfo"]
)
def test_a_small_file_that_is_huge_is_not_read(tmp_path: Path, name: str) -> None:
    root = by_file(tmp_path)
    write(root, name, b"")
    os.truncate(root / name[1:], 1 << 30)

    ended = bounded("host", "--root", root)

    assert (ended.status, ended.peak < 200) == (1, True)


@pytest.mark.parametrize("kind", ["hash", "names", "symbols", "relocations"])
def test_a_module_whose_sections_claim_the_absurd_is_refused(tmp_path: Path, kind: str) -> None:
    data = bytearray(object_of("unlikely"))
    header = struct.Struct("<IIQQQQIIQQ")
    (start,), (count,) = struct.unpack_from("<Q", data, 40), struct.unpack_from("<H", data, 60)
    filler = len(data)
    data += b"\x01" * (100 << 20) if kind != "hash" else struct.pack("<II", 0x1FFFFFF, 1) + b"\x01" * (100 << 20)
    headers = [list(header.unpack_from(data, start + number * header.size)) for number in range(count)]
    kinds = {"hash": 5, "names": None, "symbols": 2, "relocations": 4}
    target = next(one for one in headers if one[1] == 1 and not one[2] & 4)
    if kind == "names":
        (names_at,) = struct.unpack_from("<H", data, 62)
        target = headers[names_at]
        target[4], target[5] = filler, 100 << 20
    else:
        target[1], target[4], target[5], target[9] = kinds[kind], filler, len(data) - filler, 8
        if kind == "relocations":
            target[7] = next(number for number, one in enumerate(headers) if one[2] & 4)
    for number, one in enumerate(headers):
        header.pack_into(data, start + number * header.size, *one)
    (tmp_path / "kvm.ko").write_bytes(data)

    bounded("host", "judge", tmp_path / "kvm.ko")


def test_a_large_vmlinux_is_read_where_it_matters(tmp_path: Path) -> None:
    data = link_file(object_of("unlikely"), 0xFFFFFFFF81000000)[0]
    path = tmp_path / "vmlinux"
    path.write_bytes(data)
    os.truncate(path, 700 << 20)  # as its debug information would make it

    ended = bounded("host", "judge", path)

    assert (ended.status, ended.peak < 200) == (0, True)


def test_types_without_end_are_refused(tmp_path: Path) -> None:
    root, _ = host_with(tmp_path, "unlikely")
    strings = b"\0kvm_vcpu\0kvm_arch\0kvm\0arch\0pmu\0"
    # Structures of one name, each with the next as a member without a name.
    number = 500_000
    words = b"".join(struct.pack("<IIIIII", 1, 4 << 24 | 1, 8, 0, at + 2, 0) for at in range(number))
    head = struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(words), len(words), len(strings))
    write(root.path, "/sys/kernel/btf/vmlinux", head + words + strings)

    assert bounded("host", "--root", root.path).status == 1


def test_the_build_id_is_that_of_a_file_that_is_no_bomb(tmp_path: Path) -> None:
    """A bomb before the right file does not hide it."""
    root = by_file(tmp_path)
    write(root, f"{KVM}.xz", xz(600))
    right = link_file(object_of("unlikely"))[0]
    write(root, f"{BASE}/updates/kvm.ko", right)
    write(root, f"{BASE}/modules.dep", b"updates/kvm.ko:\n")
    write(root, "/sys/kernel/btf/vmlinux", btf_of(object_of("unlikely")))

    ended = bounded("host", "--root", root, "-f", "json")

    assert (json.loads(ended.out)["verdict"], json.loads(ended.out)["build_id"]) == ("guarded", BUILD_ID)
