"""Reports of pmuconf 0.1.0 are read as if this version had written them."""

from __future__ import annotations

import random

import pytest

from pmuconf.report.document import VERSION
from pmuconf.report.older import VERSIONS, current
from tests.support.fleet import host, of_version_1

DOCUMENT = host("unguarded", "h", 60, random.Random(3))


def test_a_report_of_version_1_is_read_as_a_current_one() -> None:
    assert DOCUMENT["worth"]["savable_per_second"]
    read = current(of_version_1(DOCUMENT))
    for record, now in zip(read["domains"], DOCUMENT["domains"]):
        assert {**record, "remedies": now["remedies"]} == now
    assert {**read, "domains": DOCUMENT["domains"]} == DOCUMENT


def test_the_remedy_of_version_1_is_one_step() -> None:
    """Nobody splits it: what it is made of is not known."""
    read = current(of_version_1(DOCUMENT))["domains"]
    assert any(len(now["remedies"]) > 1 for now in DOCUMENT["domains"])
    for record, now in zip(read, DOCUMENT["domains"]):
        text = "; ".join(remedy["text"] for remedy in now["remedies"])
        assert record["remedies"] == ([{"text": text, "causes": now["causes"]}] if text else [])


def test_a_current_report_stays_as_it_is() -> None:
    assert current(DOCUMENT) is DOCUMENT
    assert VERSIONS[-1] == VERSION == DOCUMENT["version"]


@pytest.mark.parametrize("domains", [None, 7, {}, "x", [None], [7], [[]]])
def test_what_is_no_report_is_left_to_its_reader(domains: object) -> None:
    assert current({"version": 1, "domains": domains})["domains"] == domains
    assert current({"version": 1})["worth"] is None
