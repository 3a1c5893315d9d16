"""What was proved of QEMUs is kept by their contents, and taken from nobody but root."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from pmuconf.errors import PmuconfError
from pmuconf.host.root import Root
from pmuconf.host.vms.proofs import FILE, keep, proofs, with_proof
from pmuconf.hostfacts import Evidence, Qemu

ONE, OTHER = "aa" * 32, "bb" * 32


def proved(contents: str | None, disables: bool | None) -> Qemu:
    return Qemu("/usr/bin/qemu", "00ff", disables, "proved", Evidence.OBSERVED, contents)


def test_what_was_proved_is_known_from_then_on(tmp_path: Path) -> None:
    root = Root(tmp_path)
    assert proofs(root) == {}
    keep(root, proved(ONE, True))
    keep(root, proved(OTHER, False))
    keep(root, proved(OTHER, True))
    assert proofs(root) == {f"sha256:{ONE}": True, f"sha256:{OTHER}": True}


def test_what_was_not_seen_or_has_no_name_is_not_kept(tmp_path: Path) -> None:
    root = Root(tmp_path)
    keep(root, proved(ONE, None))
    keep(root, proved(None, True))
    assert proofs(root) == {}


def test_a_proof_outranks_what_the_binary_looks_like() -> None:
    looks = Qemu("/usr/bin/qemu", "00ff", True, "strings-in-binary", Evidence.INFERRED, ONE)
    said = with_proof(looks, {f"sha256:{ONE}": False})
    assert (said.disables, said.cause, said.evidence) == (False, "proved", Evidence.INFERRED)
    assert with_proof(looks, {f"sha256:{OTHER}": False}) == looks
    assert with_proof(Qemu("q", None, None, "unreadable"), {"sha256:None": True}).disables is None


def test_another_binary_with_the_build_id_of_a_proved_one_is_not_proved(tmp_path: Path) -> None:
    """Anybody can write the note into a file of his own."""
    root = Root(tmp_path)
    keep(root, proved(ONE, True))
    other = Qemu("/usr/bin/qemu", "00ff", None, "no-known-string", sha256=OTHER)
    assert with_proof(other, proofs(root)) == other


def test_what_was_kept_by_build_id_proves_nothing(tmp_path: Path) -> None:
    root = Root(tmp_path)
    keep(root, proved(ONE, False))
    root.at(FILE).write_text(json.dumps({"00ff": True, "sha256:00ff": True, f"sha256:{ONE}\n": True}))
    assert proofs(root) == {}


@pytest.mark.parametrize("mode", [0o664, 0o646])
def test_a_file_that_others_may_write_proves_nothing(tmp_path: Path, mode: int) -> None:
    root = Root(tmp_path)
    keep(root, proved(ONE, True))
    root.at(FILE).chmod(mode)
    assert proofs(root) == {}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_nor_does_one_that_belongs_to_somebody_else(tmp_path: Path) -> None:
    root = Root(tmp_path)
    keep(root, proved(ONE, True))
    os.chown(root.at(FILE), 65534, 65534)
    assert proofs(root) == {}


@pytest.mark.parametrize("text", ["", "[]", "null", "{", json.dumps({f"sha256:{ONE}": "yes"}), "[" * 100_000])
def test_garbage_proves_nothing(tmp_path: Path, text: str) -> None:
    root = Root(tmp_path)
    keep(root, proved(ONE, True))
    root.at(FILE).write_text(text)
    assert proofs(root) == {}


def test_a_folder_that_cant_be_made(tmp_path: Path) -> None:
    (tmp_path / "var").write_text("no folder")
    with pytest.raises(PmuconfError) as error:
        keep(Root(tmp_path), proved(ONE, True))
    assert error.value.cause == "output-unwritable"
