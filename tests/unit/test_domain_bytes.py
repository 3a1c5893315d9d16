"""A file keeps its own encoding, declaration and end over a rewrite, whatever they are."""

from __future__ import annotations

import codecs

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pmuconf.domain import PmuState, read, rewrite_bytes
from tests.unit import oracle
from tests.unit.xmls import domain_texts

DOMAIN = "<domain type='kvm'><name>élan</name><features><acpi/></features></domain>"

# What a file in the encoding of this name, as Python has it, begins with.
BOMS = {
    "utf-8": b"",
    "utf-8-sig": b"",  # Python writes the mark itself
    "utf-16-le": codecs.BOM_UTF16_LE,
    "utf-16-be": codecs.BOM_UTF16_BE,
    "iso-8859-1": b"",
    "iso-8859-15": b"",
    "windows-1252": b"",
}
DECLARED_AS = {"utf-8-sig": "UTF-8", "utf-16-le": "UTF-16", "utf-16-be": "utf-16"}


def encoded(text: str, encoding: str, *, declared: bool) -> bytes:
    name = DECLARED_AS.get(encoding, encoding)
    declaration = f"<?xml version='1.0' encoding='{name}'?>" if declared else ""
    return BOMS[encoding] + (declaration + text).encode(encoding)


@pytest.mark.parametrize("end", ["", "\n", "\n\n"])
@pytest.mark.parametrize("encoding", BOMS)
@pytest.mark.parametrize("state", [PmuState.ON, PmuState.OFF])
def test_a_file_is_well_formed_after_the_rewrite_and_says_the_same(encoding: str, state: PmuState, end: str) -> None:
    before = encoded(DOMAIN + end, encoding, declared=True)
    after = rewrite_bytes(before, state, source="file")
    assert oracle.pmu_state(after) == state.value
    assert oracle.outside_pmu(after) == oracle.outside_pmu(before)
    assert oracle.declaration(after) == oracle.declaration(before)
    assert read(after).name == "élan"


@pytest.mark.parametrize("encoding", BOMS)
def test_a_file_that_ends_with_a_line_end_still_does(encoding: str) -> None:
    for end, ending in (("\n", ">\n"), ("", ">")):
        after = rewrite_bytes(encoded(DOMAIN + end, encoding, declared=True), PmuState.OFF, source="file")
        assert after.decode(encoding).endswith(ending)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16-le", "utf-16-be"])
def test_a_file_that_declares_nothing_keeps_its_encoding_and_gets_no_declaration(encoding: str) -> None:
    after = rewrite_bytes(encoded(DOMAIN + "\n", encoding, declared=False), PmuState.OFF, source="file")
    assert oracle.declaration(after) is None
    assert after.decode(encoding).lstrip("\ufeff").startswith("<domain")


@pytest.mark.parametrize("standalone", ["yes", "no"])
def test_standalone_stays(standalone: str) -> None:
    before = f"<?xml version='1.0' encoding='UTF-8' standalone='{standalone}'?>{DOMAIN}".encode()
    after = rewrite_bytes(before, PmuState.OFF, source="file")
    assert oracle.declaration(after) == oracle.declaration(before)


@pytest.mark.parametrize("first", ["<?xml-stylesheet href='x'?>", "<?xml-model href='x'?>", "<!-- <?xml?> -->"])
def test_what_only_looks_like_a_declaration_is_none(first: str) -> None:
    before = f"{first}{DOMAIN}".encode()
    after = rewrite_bytes(before, PmuState.OFF, source="file")
    assert oracle.declaration(after) is None
    assert oracle.outside_pmu(after) == oracle.outside_pmu(before)


def test_signs_that_the_encoding_lacks_become_character_references() -> None:
    before = "<?xml version='1.0' encoding='ISO-8859-1'?><domain><name>&#x20AC;</name></domain>".encode("latin-1")
    after = rewrite_bytes(before, PmuState.OFF, source="file")
    assert b"<name>&#8364;</name>" in after


@given(domain_texts(), st.sampled_from(sorted(BOMS)), st.sampled_from(PmuState))
def test_any_domain_in_any_encoding(text: str, encoding: str, state: PmuState) -> None:
    name = DECLARED_AS.get(encoding, encoding)
    declaration = f"<?xml version='1.0' encoding='{name}'?>"
    before = BOMS[encoding] + (declaration + text.lstrip()).encode(encoding, "xmlcharrefreplace")
    after = rewrite_bytes(before, state, source="file")
    assert oracle.pmu_state(after) == state.value
    assert oracle.outside_pmu(after) == oracle.outside_pmu(before)
    assert oracle.declaration(after) == oracle.declaration(before)
