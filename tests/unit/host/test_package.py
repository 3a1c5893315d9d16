"""What the kernel's package says of itself: shown, and never more than that."""

from __future__ import annotations

import gzip
import json
import sqlite3
import struct
from pathlib import Path

import pytest

from pmuconf.commands.main import main
from pmuconf.host.guard import judge_host
from pmuconf.host.package import hint
from pmuconf.host.root import Root
from tests.unit.host.sysroot import write
from tests.unit.host.test_live import host_with

STATUS = """Package: adduser
Status: install ok installed
Version: 3.134

Package: linux-image-6.1.0-test
Status: install ok installed
Source: linux-signed-amd64 (6.1.192+2)
Version: 6.1.192-2
Description: Linux
 Version: 9

Package: linux-image-6.1.0-other
Version: 7.7
"""
PROMISE = "linux (6.1.192-2) x; urgency=low\n\n    - KVM: x86: Test enable_pmu before counting, in every exit\n"


def debian(root: Path, changelog: str = PROMISE) -> None:
    write(root, "/proc/sys/kernel/osrelease", b"6.1.0-test\n")
    write(root, "/var/lib/dpkg/status", STATUS.encode())
    write(root, "/usr/share/doc/linux-image-6.1.0-test/changelog.Debian.gz", gzip.compress(changelog.encode()))


def header(**strings: list[str]) -> bytes:
    """A header as rpm keeps it: an index of tags, and their data."""
    tags = {"name": 1000, "version": 1001, "release": 1002, "arch": 1022, "changelog": 1082}
    index, data = b"", b""
    for name, values in strings.items():
        index += struct.pack(">IIII", tags[name], 6 if len(values) == 1 else 8, len(data), len(values))
        data += b"".join(value.encode() + b"\0" for value in values)
    return struct.pack(">II", len(strings), len(data)) + index + data


def rpm(root: Path, *headers: bytes) -> None:
    write(root, "/proc/sys/kernel/osrelease", b"5.14.0-427.el9.x86_64\n")
    write(root, "/var/lib/rpm/rpmdb.sqlite", b"")
    database = sqlite3.connect(root / "var/lib/rpm/rpmdb.sqlite")
    database.execute("CREATE TABLE Packages (hnum INTEGER PRIMARY KEY, blob BLOB)")
    database.execute("CREATE TABLE Name (key TEXT, hnum INTEGER, idx INTEGER)")
    for number, blob in enumerate(headers):
        database.execute("INSERT INTO Packages VALUES (?, ?)", (number, blob))
        database.execute("INSERT INTO Name VALUES ('kernel-core', ?, 0)", (number,))
    database.commit()
    database.close()


def test_debian(tmp_path: Path) -> None:
    debian(tmp_path)
    said = hint(Root(tmp_path))
    assert said[0] == "package linux-image-6.1.0-test 6.1.192-2; its changelog mentions what the guard touches"
    assert said[1] == "- KVM: x86: Test enable_pmu before counting, in every exit"


def test_debian_without_a_word_of_it(tmp_path: Path) -> None:
    debian(tmp_path, "linux (1) x\n")
    assert hint(Root(tmp_path)) == (
        "package linux-image-6.1.0-test 6.1.192-2; its changelog does not mention the guard",
    )


def test_rpm(tmp_path: Path) -> None:
    name, release = {"name": ["kernel-core"], "arch": ["x86_64"]}, {"version": ["5.14.0"], "release": ["427.el9"]}
    other = header(**name, version=["5.14.0"], release=["362.el9"], changelog=["- enable_pmu", "- x"])
    rpm(tmp_path, other, header(**name, **release, changelog=["- nothing", "- kvm_skip_emulated_instruction: less"]))
    assert hint(Root(tmp_path)) == (
        "package kernel-core 5.14.0-427.el9.x86_64; its changelog mentions what the guard touches",
        "- kvm_skip_emulated_instruction: less",
    )


@pytest.mark.parametrize("content", [b"", b"garbage", b"\xff" * 40, struct.pack(">II", 1 << 31, 0)])
def test_garbage_is_no_hint(tmp_path: Path, content: bytes) -> None:
    rpm(tmp_path, content)
    assert hint(Root(tmp_path)) == ()
    write(tmp_path, "/var/lib/rpm/rpmdb.sqlite", content)
    write(tmp_path, "/var/lib/dpkg/status", content)
    assert hint(Root(tmp_path)) == ()
    debian(tmp_path)
    write(tmp_path, "/usr/share/doc/linux-image-6.1.0-test/changelog.Debian.gz", content)
    assert "does not mention" in hint(Root(tmp_path))[0]


@pytest.mark.parametrize("name", ["unlikely", "stock", "unknown-function", "retired"])
def test_it_changes_no_verdict(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    root, _ = host_with(tmp_path, name)
    before, status = judge_host(root), main(["host", "--root", str(root.path), "-f", "json"])
    without = json.loads(capsys.readouterr().out)
    assert without.pop("hint") == []
    debian(root.path)
    assert judge_host(root) == before
    assert main(["host", "--root", str(root.path), "-f", "json"]) == status
    with_hint = json.loads(capsys.readouterr().out)
    assert "mentions what the guard touches" in with_hint.pop("hint")[0]
    assert with_hint == without
    assert main(["host", "--root", str(root.path)]) == status
    assert "hint, which decides nothing: package linux-image" in capsys.readouterr().out
