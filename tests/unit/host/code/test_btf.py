"""Offsets from BTF: plain and split, nested and anonymous, newer than the reader, and broken."""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path

import pytest

from pmuconf.errors import PmuconfError
from pmuconf.host.code.btf import Btf
from pmuconf.host.code.offsets import Member


class Builder:
    """Makes BTF of types; names become offsets into its strings."""

    def __init__(self, string_base: int = 0) -> None:
        self.strings = bytearray(b"" if string_base else b"\0")
        self._base = string_base
        self.types = bytearray()

    def name(self, text: str) -> int:
        if not text:
            return 0
        at = self._base + len(self.strings)
        self.strings += text.encode() + b"\0"
        return at

    def add(self, name: str, kind: int, vlen: int, size: int, words: tuple[int, ...] = (), flag: int = 0) -> None:
        info = flag << 31 | kind << 24 | vlen
        self.types += struct.pack(f"<III{len(words)}I", self.name(name), info, size, *words)

    def struct(self, name: str, size: int, *members: tuple[str, int, int], union: bool = False) -> None:
        words = tuple(word for member, type_id, bits in members for word in (self.name(member), type_id, bits))
        self.add(name, 5 if union else 4, len(members), size, words)

    def data(self, layout: bytes = b"") -> bytes:
        types, strings = bytes(self.types), bytes(self.strings)
        header = 32 if layout else 24
        head = struct.pack("<HBBIIIII", 0xEB9F, 1, 0, header, 0, len(types), len(types), len(strings))
        if layout:
            head += struct.pack("<II", len(types) + len(strings), len(layout))
        return head + types + strings + layout


def plain() -> Builder:
    built = Builder()
    built.add("long", 1, 0, 8, (64,))
    built.struct("inner", 16, ("first", 1, 0), ("second", 1, 64))
    built.struct("", 24, ("hidden", 1, 64), ("deep", 2, 128), union=False)
    built.add("inner_t", 8, 0, 2)
    built.add("", 3, 0, 0, (1, 1, 4))
    built.struct("outer", 200, ("plain", 1, 0), ("by_name", 4, 64), ("", 3, 192), ("array", 5, 512))
    return built


def test_members_at_any_depth() -> None:
    types = Btf(plain().data())
    assert types.find("outer", "plain") == Member(0, 8, 1)
    assert types.find("outer", "by_name.second") == Member(16, 8, 1)
    assert types.find("outer", "hidden") == Member(32, 8, 1)
    assert types.find("outer", "deep.second") == Member(48, 8, 1)
    assert types.find("outer", "array") == Member(64, 32, 5)
    assert types.find("outer", "absent") is None
    assert types.find("absent", "plain") is None


def test_split_btf_goes_on_where_its_base_ends() -> None:
    base = plain()
    module = Builder(string_base=len(base.strings))
    module.struct("mine", 80, ("counter", 1, 0), ("outer", 6, 64), ("next", 8, 128))
    module.struct("next", 8, ("value", 1, 0))
    types = Btf(module.data(), Btf(base.data()))
    assert types.find("mine", "outer.by_name.second") == Member(24, 8, 1)
    assert types.find("mine", "next.value") == Member(16, 8, 1)
    assert types.find("outer", "plain") == Member(0, 8, 1)


def test_a_new_kind_is_skipped_if_the_file_tells_its_length() -> None:
    built = plain()
    built.add("new", 21, 2, 0, (7, 1, 2, 3, 4))  # one word, and two for each of its elements
    built.struct("behind", 8, ("value", 1, 0))
    with pytest.raises(PmuconfError, match="kind 21 is unknown"):
        Btf(built.data())
    layout = bytes(4 * 21) + bytes((4, 8, 0, 0))
    assert Btf(built.data(layout)).find("behind", "value") == Member(0, 8, 1)


def test_structures_that_disagree_are_refused() -> None:
    built = plain()
    built.struct("outer", 8, ("plain", 1, 64))
    types = Btf(built.data())
    with pytest.raises(PmuconfError, match="several struct outer that differ in plain") as caught:
        types.find("outer", "plain")
    assert caught.value.cause == "btf-ambiguous"
    with pytest.raises(PmuconfError, match="several struct outer of different sizes") as caught:
        types.size("outer")
    assert caught.value.cause == "btf-ambiguous"
    assert types.size("inner") == 16


def test_a_bit_field_is_refused() -> None:
    built = Builder()
    built.add("bool", 1, 0, 1, (8,))
    built.add("flags", 4, 1, 4, (built.name("on"), 1, 1 << 24 | 3), flag=1)
    with pytest.raises(PmuconfError, match="bit field") as caught:
        Btf(built.data()).find("flags", "on")
    assert caught.value.cause == "btf-bit-field"


@pytest.mark.parametrize("size", [0, 1, 23, 24, 60, 200, -1, -4])
def test_truncated(size: int) -> None:
    with pytest.raises(PmuconfError) as caught:
        Btf(plain().data()[:size])
    assert caught.value.cause == "btf-broken"


def test_types_that_go_round_in_circles() -> None:
    built = Builder()
    built.add("a", 8, 0, 2)
    built.add("b", 8, 0, 1)
    built.struct("outer", 8, ("a", 1, 0), ("", 1, 0), ("self", 3, 0))
    types = Btf(built.data())
    for path in ("a", "a.x", "y"):
        with pytest.raises(PmuconfError):
            types.find("outer", path)


def test_the_compiler_agrees(tmp_path: Path) -> None:
    """An oracle that is not ours: what gcc says by offsetof is what we read of the BTF that gcc wrote."""
    source = """
    #include <stddef.h>
    struct a { char c; struct { short s; union { long l; char t[3]; }; } in; _Bool b; };
    struct a use;
    int main(void) { return __builtin_printf("%zu %zu %zu", offsetof(struct a, in), offsetof(struct a, in.t),
                                             offsetof(struct a, b)) < 0; }
    """
    binary = tmp_path / "a"
    subprocess.run(["gcc", "-gbtf", "-x", "c", "-", "-o", str(binary)], input=source.encode(), check=True)
    dump = ["objcopy", f"--dump-section=.BTF={tmp_path}/btf", str(binary), f"{tmp_path}/copy"]
    subprocess.run(dump, check=True)
    said = subprocess.run([str(binary)], check=True, capture_output=True, text=True).stdout
    types = Btf((tmp_path / "btf").read_bytes())
    found = [types.find("a", path) for path in ("in", "in.t", "b")]
    assert " ".join(str(member.offset) for member in found if member) == said


def test_structures_that_contain_themselves_are_searched_once() -> None:
    built = Builder()
    built.add("long", 1, 0, 8, (64,))
    built.struct("", 8, ("", 3, 0), ("", 4, 0), ("", 3, 0))  # 2 to the 30th ways lead through these
    built.struct("", 8, ("", 2, 0), ("", 4, 0), ("", 2, 0))
    built.struct("", 8, ("", 2, 0), ("", 3, 0), ("there", 1, 0))
    built.struct("outer", 8, ("", 2, 0))
    types = Btf(built.data())
    assert types.find("outer", "absent") is None
    assert types.find("outer", "there") == Member(0, 8, 1)


def test_a_name_again_and_again_is_refused() -> None:
    built = plain()
    built.strings += b"outer\0" * 100_000  # each would be searched for in all types
    with pytest.raises(PmuconfError, match="again and again"):
        Btf(built.data()).find("outer", "plain")
