"""What was proved of QEMUs is kept by build-id, and taken from nobody but root."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pmuconf.errors import PmuconfError
from pmuconf.facts import Evidence, Qemu
from pmuconf.host.proofs import FILE, keep, proofs, with_proof
from pmuconf.host.root import Root


def proved(build_id: str | None, disables: bool | None) -> Qemu:
    return Qemu("/usr/bin/qemu", build_id, disables, "proved", Evidence.OBSERVED)


def test_what_was_proved_is_known_from_then_on(tmp_path: Path) -> None:
    root = Root(tmp_path)
    assert proofs(root) == {}
    keep(root, proved("aa", True))
    keep(root, proved("bb", False))
    keep(root, proved("bb", True))
    assert proofs(root) == {"aa": True, "bb": True}


def test_what_was_not_seen_or_has_no_name_is_not_kept(tmp_path: Path) -> None:
    root = Root(tmp_path)
    keep(root, proved("aa", None))
    keep(root, proved(None, True))
    assert proofs(root) == {}


def test_a_proof_outranks_what_the_binary_looks_like() -> None:
    looks = Qemu("/usr/bin/qemu", "aa", True, "strings-in-binary", Evidence.INFERRED)
    assert with_proof(looks, {"aa": False}) == Qemu("/usr/bin/qemu", "aa", False, "proved", Evidence.INFERRED)
    assert with_proof(looks, {"bb": False}) == looks
    assert with_proof(Qemu("q", None, None, "unreadable"), {"aa": True}).disables is None


@pytest.mark.parametrize("mode", [0o664, 0o646])
def test_a_file_that_others_may_write_proves_nothing(tmp_path: Path, mode: int) -> None:
    root = Root(tmp_path)
    keep(root, proved("aa", True))
    root.at(FILE).chmod(mode)
    assert proofs(root) == {}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_nor_does_one_that_belongs_to_somebody_else(tmp_path: Path) -> None:
    root = Root(tmp_path)
    keep(root, proved("aa", True))
    os.chown(root.at(FILE), 65534, 65534)
    assert proofs(root) == {}


@pytest.mark.parametrize("text", ["", "[]", "null", "{", '{"aa": "yes"}', "[" * 100_000])
def test_garbage_proves_nothing(tmp_path: Path, text: str) -> None:
    root = Root(tmp_path)
    keep(root, proved("aa", True))
    root.at(FILE).write_text(text)
    assert proofs(root) == {}


def test_a_folder_that_cant_be_made(tmp_path: Path) -> None:
    (tmp_path / "var").write_text("no folder")
    with pytest.raises(PmuconfError) as error:
        keep(Root(tmp_path), proved("aa", True))
    assert error.value.cause == "output-unwritable"
