"""The rewrite by example: golden/NAME-in.xml and what becomes of it as NAME-off.xml, NAME-on.xml, NAME-default.xml."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from pmuconf.domain import PmuState, read, rewrite, rewrite_bytes
from tests.unit import oracle

GOLDEN: Final = Path(__file__).parent / "golden"
NAMES: Final = sorted(path.name[: -len("-in.xml")] for path in GOLDEN.glob("*-in.xml"))
ENCODINGS: Final = {"utf-16": "utf-16", "iso-8859-1": "iso-8859-1"}  # of the files so named; the others are UTF-8

# What a rewrite leaves as it is, because it already says so: these come back byte for byte.
ALREADY: Final = {
    PmuState.OFF: {"pmu-off"},
    PmuState.ON: {"comments", "nova", "pmu-on", "text"},
    PmuState.DEFAULT: {
        *("features-empty", "features-missing", "iso-8859-1", "line-ends", "namespaces", "one-line", "pmu-absent"),
        *("prolog", "stylesheet", "utf-16"),
    },
}


def golden(name: str, kind: str) -> bytes:
    return (GOLDEN / f"{name}-{kind}.xml").read_bytes()


def test_every_input_has_its_outputs_and_every_output_its_input() -> None:
    wanted = {f"{name}-{kind}.xml" for name in NAMES for kind in ("in", *(state.value for state in PmuState))}
    assert {path.name for path in GOLDEN.glob("*.xml")} == wanted
    assert len(NAMES) > 15


@pytest.mark.parametrize("state", PmuState)
@pytest.mark.parametrize("name", NAMES)
def test_a_file_becomes_exactly_its_golden_output(name: str, state: PmuState) -> None:
    assert rewrite_bytes(golden(name, "in"), state, source=name) == golden(name, state.value)


@pytest.mark.parametrize("state", PmuState)
@pytest.mark.parametrize("name", [name for name in NAMES if name != "iso-8859-1"])
def test_text_becomes_the_same_as_the_file_would(name: str, state: PmuState) -> None:
    encoding = ENCODINGS.get(name, "utf-8")
    given, wanted = golden(name, "in").decode(encoding), golden(name, state.value).decode(encoding)
    assert rewrite(given, state) == wanted


def test_text_needs_no_character_references_whatever_encoding_it_declares() -> None:
    text = golden("iso-8859-1", "in").decode("iso-8859-1")
    assert "<title>☃ 😀</title>" in rewrite(text, PmuState.OFF)


@pytest.mark.parametrize("state", PmuState)
@pytest.mark.parametrize("name", NAMES)
def test_a_file_that_already_says_so_comes_back_as_it_is(name: str, state: PmuState) -> None:
    unchanged = golden(name, "in") == golden(name, state.value)
    assert unchanged == (name in ALREADY[state])


@pytest.mark.parametrize("state", PmuState)
@pytest.mark.parametrize("name", NAMES)
def test_the_golden_outputs_are_right_by_the_oracle(name: str, state: PmuState) -> None:
    before, after = golden(name, "in"), golden(name, state.value)
    assert oracle.pmu_state(after) == state.value
    assert oracle.outside_pmu(after) == oracle.outside_pmu(before)
    assert oracle.declaration(after) == oracle.declaration(before)
    assert read(after).pmu is state


@pytest.mark.parametrize("name", sorted(ALREADY[PmuState.DEFAULT]))
def test_where_there_was_no_pmu_taking_it_away_again_gives_the_old_domain_back(name: str) -> None:
    once = rewrite_bytes(golden(name, "in"), PmuState.OFF, source=name)
    again = rewrite_bytes(once, PmuState.DEFAULT, source=name)
    assert oracle.outside_pmu(again) == oracle.outside_pmu(golden(name, "in"))
    assert rewrite_bytes(again, PmuState.OFF, source=name) == once
