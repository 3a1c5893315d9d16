"""Runs as files."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pmuconf.bench.conditions import Spoil
from pmuconf.bench.counters import Counts, Fingerprint
from pmuconf.bench.measure import Arm
from pmuconf.bench.measurement import load, save
from pmuconf.errors import PmuconfError
from tests.unit.bench.fake import measurement_of


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    measurement = replace(
        measurement_of(2157.123, 2100, pairs=3, spread=0),
        spoils=(Spoil("nested", "it is", arms_only=True),),
        notes=("a note",),
        fingerprint=Fingerprint({Arm.ON: Counts(2776, 500, 0.5)}, ""),
    )
    save(measurement, tmp_path / "run")
    assert load(tmp_path / "run") == measurement
    bare = measurement_of(None, 2100, spread=0)
    save(bare, tmp_path / "run")
    assert load(tmp_path / "run") == bare


def without(key: str) -> Callable[[dict[str, Any]], None]:
    return lambda document: document.pop(key) and None


def change(key: str, value: object) -> Callable[[dict[str, Any]], None]:
    return lambda document: document.__setitem__(key, value)


@pytest.mark.parametrize(
    "damage",
    [
        *(without(key) for key in ("exit", "counters", "host", "guard", "pairs", "spoils", "fingerprint")),
        *(change(key, 5) for key in ("format", "version", "host", "pairs", "spoils", "notes", "guard", "fingerprint")),
        change("pairs", []),
        change("pairs", [{"exit": {"off": []}, "fault": {"off": []}, "clock": []}]),
        change("pairs", [{"exit": {"off": [1, 2]}, "fault": {"off": [1]}, "clock": []}]),
        change("pairs", [{"exit": {"up": [1]}, "fault": {"up": [1]}, "clock": []}]),
        change("pairs", [{"exit": {"off": [float("nan")]}, "fault": {"off": [1]}, "clock": []}]),
        change("pairs", [{"exit": {"off": [1]}, "fault": {"off": [1]}, "clock": [float("inf")]}]),
        change("pairs", [{"exit": {"off": ["x"]}, "fault": {"off": [1]}, "clock": []}]),
    ],
)
def test_a_file_that_is_no_run(tmp_path: Path, damage: Callable[[dict[str, Any]], None]) -> None:
    path = tmp_path / "run"
    save(measurement_of(2157, 2100, pairs=2), path)
    document = json.loads(path.read_text())
    damage(document)
    path.write_text(json.dumps(document))
    with pytest.raises(PmuconfError) as caught:
        load(path)
    assert caught.value.cause == "run-broken"
    assert caught.value.message.startswith(str(path))


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff", b"[" * 100_000])
def test_no_json(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "run").write_bytes(content)
    with pytest.raises(PmuconfError) as caught:
        load(tmp_path / "run")
    assert caught.value.cause == "run-broken"


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(PmuconfError) as caught:
        load(tmp_path / "run")
    assert caught.value.cause == "file-unreadable"
