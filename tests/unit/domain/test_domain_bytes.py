"""A file keeps every byte outside the PMU over a rewrite, whatever its encoding is."""

from __future__ import annotations

import codecs

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pmuconf.domain.definition import PmuState
from pmuconf.domain.reading import read
from pmuconf.domain.rewriting import rewrite_bytes
from pmuconf.domain.xmltext import DomainXmlError
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
    "utf-32-le": codecs.BOM_UTF32_LE,
    "utf-32-be": codecs.BOM_UTF32_BE,
}
# Those that expat can't read by itself: the tests give it their text.
FOREIGN = ("utf-32-le", "utf-32-be", "shift_jis", "gb18030", "euc-jp", "iso-2022-jp", "koi8-r", "utf-7")
DECLARED_AS = {
    "utf-8-sig": "UTF-8",
    "utf-16-le": "UTF-16",
    "utf-16-be": "utf-16",
    "utf-32-le": "UTF-32",
    "utf-32-be": "utf-32",
}


def decoded(data: bytes, encoding: str) -> str:
    return data[len(BOMS.get(encoding, b"")) :].decode(encoding)


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
    assert oracle.pmu_state(decoded(after, encoding)) == state.value
    assert oracle.edited_alone(decoded(before, encoding), decoded(after, encoding), state.value)
    assert after.startswith(BOMS[encoding])
    assert read(after).name == "élan"


@pytest.mark.parametrize("encoding", BOMS)
def test_a_file_that_ends_with_a_line_end_still_does(encoding: str) -> None:
    for end, ending in (("\n", ">\n"), ("", ">")):
        after = rewrite_bytes(encoded(DOMAIN + end, encoding, declared=True), PmuState.OFF, source="file")
        assert after.decode(encoding).endswith(ending)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
def test_a_file_that_declares_nothing_keeps_its_encoding_and_gets_no_declaration(encoding: str) -> None:
    after = rewrite_bytes(encoded(DOMAIN + "\n", encoding, declared=False), PmuState.OFF, source="file")
    assert after.decode(encoding).lstrip("\ufeff").startswith("<domain")


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
def test_a_file_without_a_byte_order_mark_gets_none(encoding: str) -> None:
    before = f"<?xml version='1.0' encoding='{DECLARED_AS[encoding]}'?>{DOMAIN}".encode(encoding)
    after = rewrite_bytes(before, PmuState.ON, source="file")
    assert oracle.edited_alone(before.decode(encoding), after.decode(encoding), "on")
    assert after.startswith("<?xml".encode(encoding))


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


@pytest.mark.parametrize("reference", ["&#x20AC;", "&#8364;", "&#x00020ac;", "&apos;", "&gt;"])
def test_a_character_reference_stays_as_it_was_written(reference: str) -> None:
    before = f"<?xml version='1.0' encoding='ISO-8859-1'?><domain><name>{reference}</name></domain>".encode("latin-1")
    after = rewrite_bytes(before, PmuState.OFF, source="file")
    assert f"<name>{reference}</name>".encode() in after


def test_an_encoding_that_can_t_be_told_byte_from_byte_is_refused_with_what_to_do() -> None:
    # UTF-7 may write "é" in more than one way; this one is not Python's.
    before = b"<?xml version='1.0' encoding='UTF-7'?><domain><name>+AOkA6Q-+AOk-</name></domain>"
    with pytest.raises(DomainXmlError) as caught:
        rewrite_bytes(before, PmuState.OFF, source="file")
    assert caught.value.cause == "xml-encoding"
    assert "iconv" in caught.value.hint


@given(domain_texts(), st.sampled_from(sorted({*BOMS, *FOREIGN})), st.sampled_from(PmuState))
def test_any_domain_in_any_encoding(text: str, encoding: str, state: PmuState) -> None:
    name = DECLARED_AS.get(encoding, encoding)
    declaration = f"<?xml version='1.0' encoding='{name}'?>"
    before = BOMS.get(encoding, b"") + (declaration + text.lstrip()).encode(encoding, "xmlcharrefreplace")
    after = rewrite_bytes(before, state, source="file")
    assert oracle.edited_alone(decoded(before, encoding), decoded(after, encoding), state.value)
    assert read(after).pmu is state
    if encoding not in FOREIGN:
        assert oracle.pmu_state(after) == state.value
        assert oracle.outside_pmu(after) == oracle.outside_pmu(before)
        assert oracle.declaration(after) == oracle.declaration(before)
