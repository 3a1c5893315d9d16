"""XML that is out to hurt: each is refused, at once, with a cause code, the source and the line."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from pmuconf.domain.definition import PmuState
from pmuconf.domain.difference import same_but_pmu
from pmuconf.domain.reading import read, read_snapshot
from pmuconf.domain.rewriting import rewrite, rewrite_bytes
from pmuconf.domain.xmltext import MAX_XML_BYTES, DomainXmlError

DOMAIN: Final = "<domain type='kvm'>\n<name>{}</name>\n<os><type arch='{}'>hvm</type></os>\n</domain>"
SOURCE: Final = "domain 'web'"


def refused(xml: str | bytes, source: str = SOURCE) -> DomainXmlError:
    """The refusal of read(), which every other way in shares."""
    with pytest.raises(DomainXmlError) as caught:
        read(xml, source=source)
    error = caught.value
    assert error.message.startswith(source)
    assert len(error.message.splitlines()) == 1
    for state in PmuState:
        with pytest.raises(DomainXmlError) as again:
            rewrite(xml, state, source=source) if isinstance(xml, str) else rewrite_bytes(xml, state, source=source)
        assert (again.value.cause, again.value.message) == (error.cause, error.message)
    return error


# ---- entities ------------------------------------------------------------------------------------------------------


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.write_text("root:s3cret-of-the-host:0:0")
    return path


@pytest.mark.parametrize(
    "doctype",
    [
        "<!DOCTYPE domain [<!ENTITY x SYSTEM 'file://{path}'>]>",
        "<!DOCTYPE domain [<!ENTITY x SYSTEM '{path}'>]>",
        "<!DOCTYPE domain [<!ENTITY x PUBLIC 'any' 'file://{path}'>]>",
        "<!DOCTYPE domain [<!ENTITY % p SYSTEM 'file://{path}'> %p; <!ENTITY x 'y'>]>",
        "<!DOCTYPE domain [<!ENTITY % p '<!ENTITY x SYSTEM \"file://{path}\">'> %p;]>",
        "<!DOCTYPE domain SYSTEM 'file://{path}' [<!ENTITY x 'y'>]>",
        "<!DOCTYPE domain [<!ENTITY x 'y'>]>",
    ],
)
def test_a_doctype_is_refused_and_no_file_is_read_through_it(doctype: str, secret: Path) -> None:
    xml = doctype.format(path=secret) + DOMAIN.format("&x;", "x86_64")
    error = refused(xml)
    assert error.cause == "xml-doctype"
    assert error.message.startswith(f"{SOURCE}:1: ")
    assert "s3cret-of-the-host" not in str(error)
    assert refused(xml.encode()).cause == "xml-doctype"


def test_a_doctype_that_nothing_refers_to_is_refused_too() -> None:
    assert refused("<!DOCTYPE domain>" + DOMAIN.format("web", "x86_64")).cause == "xml-doctype"


def test_in_a_snapshot_and_in_the_comparison_a_doctype_is_refused_too() -> None:
    domain = DOMAIN.format("web", "x86_64")
    with pytest.raises(DomainXmlError) as caught:
        read_snapshot(f"<!DOCTYPE domainsnapshot><domainsnapshot>{domain}</domainsnapshot>", source="a snapshot")
    assert caught.value.cause == "xml-doctype"
    with pytest.raises(DomainXmlError):
        same_but_pmu(domain, "<!DOCTYPE domain>" + domain)


LAUGHS: Final = (
    "<!DOCTYPE domain [<!ENTITY a0 'ha'>"
    + "".join(f"<!ENTITY a{level} '{f'&a{level - 1};' * 10}'>" for level in range(1, 12))
    + "]>\n"
)
QUADRATIC: Final = f"<!DOCTYPE domain [<!ENTITY a11 '{'ha' * 50_000}'>]>\n"


@pytest.mark.parametrize("bomb", [LAUGHS, QUADRATIC], ids=["billion laughs", "quadratic"])
@pytest.mark.parametrize("place", ["text", "attribute"])
def test_entities_that_grow_are_refused_before_they_do(bomb: str, place: str) -> None:
    many = "&a11;" * (1 if bomb is LAUGHS else 50_000)
    domain = DOMAIN.format(many, "x86_64") if place == "text" else DOMAIN.format("web", many)
    # Whether libxml2's own limit or the DOCTYPE comes first depends on its version.
    error = refused(bomb + domain)
    assert error.cause in ("xml-syntax", "xml-doctype")
    assert error.message.startswith(f"{SOURCE}:")
    assert len(str(error)) < 500


def test_an_entity_that_contains_itself_is_refused() -> None:
    loop = "<!DOCTYPE domain [<!ENTITY a '&b;'><!ENTITY b '&a;'>]>" + DOMAIN.format("&a;", "x86_64")
    assert refused(loop).cause in ("xml-syntax", "xml-doctype")


def test_an_entity_that_nobody_declared_is_refused() -> None:
    error = refused(DOMAIN.format("&nbsp;", "x86_64"))
    assert error.cause == "xml-syntax"
    assert error.message.startswith(f"{SOURCE}:2: ")


# ---- size ----------------------------------------------------------------------------------------------------------


def test_a_hundred_mebibytes_are_refused_unread() -> None:
    size = 100 * 1024 * 1024
    for huge in ("<" * size, b"<" * size):
        error = refused(huge)
        assert error.cause == "xml-too-large"
        assert str(size) in error.message
        assert str(MAX_XML_BYTES) in error.message


def test_the_limit_is_exact_and_counts_bytes() -> None:
    domain = DOMAIN.format("é", "x86_64")
    size = len(domain.encode())
    assert read(domain, max_bytes=size).name == "é"
    assert read(domain.encode(), max_bytes=size).name == "é"
    for xml in (domain, domain.encode()):
        with pytest.raises(DomainXmlError) as caught:
            read(xml, max_bytes=size - 1)
        assert caught.value.cause == "xml-too-large"


@pytest.mark.parametrize("closed", [True, False])
def test_elements_nested_a_hundred_thousand_deep_are_refused(closed: bool) -> None:
    deep = "<a>" * 100_000 + ("</a>" * 100_000 if closed else "")
    error = refused(f"<domain>{deep}</domain>")
    assert error.cause == "xml-syntax"
    assert error.message.startswith(f"{SOURCE}:1: ")


def test_elements_nested_as_deep_as_libxml2_lets_them_are_read_and_compared() -> None:
    domain = f"<domain><name>web</name>{'<a>' * 200}{'</a>' * 200}</domain>"
    assert read(domain).name == "web"
    assert same_but_pmu(domain, rewrite(domain, PmuState.OFF))


def test_a_hundred_thousand_features_are_just_a_large_domain() -> None:
    assert read(f"<domain><name>web</name><features>{'<acpi/>' * 100_000}</features></domain>").name == "web"


# ---- signs ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sign", ["\x00", "\x01", "\x1b", "\x08", "&#0;", "&#x1B;", "&#xFFFE;", "\ufffe", "&#xD800;"])
def test_signs_that_xml_does_not_know_are_refused(sign: str) -> None:
    error = refused(DOMAIN.format(sign, "x86_64"))
    assert error.cause == "xml-syntax"
    assert error.message.startswith(f"{SOURCE}:2: ")


@pytest.mark.parametrize("text", ["\ud800", "a\udcffb", "\udfff\ud800"])
def test_lone_surrogates_are_no_text(text: str) -> None:
    error = refused(DOMAIN.format(text, "x86_64"))
    assert error.cause == "xml-encoding"
    str(error).encode()  # what cannot be written must not be in the message


@pytest.mark.parametrize("wrong", [b"\xff\xfe", b"\xc3\x28", b"\xe2\x82", b"\xf5\x80\x80\x80", b"\xc0\xaf"])
def test_broken_utf_8_is_refused(wrong: bytes) -> None:
    error = refused(DOMAIN.format("@", "x86_64").encode().replace(b"@", wrong))
    assert error.cause == "xml-encoding"
    assert error.message.startswith(f"{SOURCE}:2: ")


def test_utf_8_with_a_nul_byte_is_refused() -> None:
    error = refused(DOMAIN.format("a\x00b", "x86_64").encode())
    assert error.cause == "xml-syntax"
    assert error.message.startswith(f"{SOURCE}:2: ")


@pytest.mark.parametrize("declared", ["klingon", "x" * 2000])
def test_an_encoding_that_nobody_knows_is_refused(declared: str) -> None:
    xml = f"<?xml version='1.0' encoding='{declared}'?>{DOMAIN.format('web', 'x86_64')}"
    error = refused(xml.encode())
    assert error.cause == "xml-encoding"
    assert error.message.startswith(f"{SOURCE}:1: ")


@pytest.mark.parametrize(("declared", "really"), [("UTF-16", "utf-8"), ("ascii", "latin-1"), ("UTF-8", "latin-1")])
def test_a_file_that_declares_the_wrong_encoding_is_refused(declared: str, really: str) -> None:
    xml = f"<?xml version='1.0' encoding='{declared}'?>{DOMAIN.format('é', 'x86_64')}"
    # Versions of libxml2 differ in whether they call it an encoding or a syntax error.
    assert refused(xml.encode(really)).cause in ("xml-encoding", "xml-syntax")


def test_text_is_already_decoded_whatever_it_declares() -> None:
    """libvirt's Python module hands out str: its declaration, if any, tells of a file that once was."""
    for declared in ("UTF-16", "ISO-8859-1", "us-ascii"):
        xml = f"<?xml version='1.0' encoding='{declared}'?>{DOMAIN.format('é☃', 'x86_64')}"
        assert read(xml).name == "é☃"


def test_an_element_whose_name_speaks_of_encoding_is_no_encoding_error() -> None:
    error = refused("<domain>\n<encoder>\n</domain>")
    assert error.cause == "xml-syntax"
    assert error.message.startswith(f"{SOURCE}:3: ")


# ---- what is no domain ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("xml", ["", " ", "\n\n", "web", "<", "<domain>", "<domain/><domain/>", "<!-- only -->", "{}"])
def test_what_is_no_xml_is_refused(xml: str) -> None:
    for given in (xml, xml.encode()):
        error = refused(given)
        assert error.cause == "xml-syntax"
        assert error.message.startswith(f"{SOURCE}:")


@pytest.mark.parametrize(
    ("xml", "shown"),
    [
        ("\n<domainsnapshot><domain><name>web</name></domain></domainsnapshot>", "<domainsnapshot>"),
        ("\n<network><name>web</name></network>", "<network>"),
        ("\n<Domain><name>web</name></Domain>", "<Domain>"),
        ("\n<domain xmlns='urn:x'><name>web</name></domain>", "<{urn:x}domain>"),
        ("\n<x:domain xmlns:x='urn:x'><name>web</name></x:domain>", "<{urn:x}domain>"),
        ("\n<x><domain><name>web</name></domain></x>", "<x>"),
    ],
)
def test_another_root_element_is_refused_by_its_name(xml: str, shown: str) -> None:
    error = refused(xml)
    assert error.cause == "not-a-domain"
    assert error.message == f"{SOURCE}:2: the root element is {shown}, not <domain>"


@pytest.mark.parametrize("name", ["", "<name/>", "<name></name>", "<title>web</title>", "<x><name>web</name></x>"])
def test_a_domain_without_a_name_is_refused(name: str) -> None:
    with pytest.raises(DomainXmlError) as caught:
        read(f"\n<domain>{name}</domain>", source=SOURCE)
    assert caught.value.cause == "no-name"
    assert caught.value.message.startswith(f"{SOURCE}:2: ")


@pytest.mark.parametrize("state", ["", "ON", "yes", "default", " on", "o\u202en", "<off>"])
@pytest.mark.parametrize("last", [True, False])
def test_a_pmu_state_that_libvirt_does_not_know_is_refused_wherever_it_stands(state: str, last: bool) -> None:
    """Also where another pmu comes behind it: what libvirt itself refuses is never ours to put right."""
    wrong = f"<pmu state='{state.replace('<', '&lt;')}'/>"
    both = f"<pmu state='on'/>\n{wrong}" if last else f"\n{wrong}<pmu state='on'/>"
    error = refused(f"<domain><name>web</name><features>{both}</features></domain>")
    assert error.cause == "bad-pmu-state"
    assert error.message.startswith(f"{SOURCE}:2: ")


# ---- namespaces ----------------------------------------------------------------------------------------------------

META: Final = "<domain type='kvm'><name>web</name><metadata>{}</metadata><features><pmu/></features></domain>"
UNDECLARED: Final = "<kept:x xmlns:kept='urn:kept' lab:colour='red'><lab:tier>gold</lab:tier></kept:x>"


@pytest.mark.parametrize(
    "metadata",
    [
        UNDECLARED,
        "<lab:tier/>",
        "<x xmlns='relative'><y:z/></x>",
        "<x xmlns='no uri at all'/>",
        "<a:b:c/>",
        "<:a/>",
        "<x :y='1' z:='2'/>",
        "<x xmlns:a='urn:x' xmlns:b='urn:x' a:c='1' b:c='1'/>",
        "<?a:b?>",
        "<x xmlns:a=''/>",
        "<x xmlns:xml='urn:x'/>",
        "<x>" + "<a:b/>" * 300 + "</x>",  # libxml2 stops to list errors after a hundred
    ],
)
@pytest.mark.parametrize("state", PmuState)
def test_what_is_wrong_with_namespaces_alone_is_read_and_rewritten_as_libvirt_keeps_it(
    metadata: str, state: PmuState
) -> None:
    xml = META.format(metadata)
    assert read(xml).pmu is PmuState.ON
    assert read(xml.encode()).pmu is PmuState.ON
    after = rewrite(xml, state)
    assert metadata in after
    assert read(after).pmu is state
    assert same_but_pmu(xml, after)


def test_an_instance_of_nova_s_whose_prefix_nobody_declared_is_not_nova_s() -> None:
    assert read(META.format("<nova:instance><nova:flavor name='m1'/></nova:instance>")).nova is None


@pytest.mark.parametrize(
    "metadata",
    [
        "<a:b>",  # not closed
        "<a:b c='1' c='2'/>",
        "<a:b c='1' c:d='1' c:d='2'/>",
        "<a:b>&nobody;</a:b>",
        "<a:b>&#0;</a:b>",
        "<a:b c='<'/>",
        "<x>" + "<a:b/>" * 300,  # what is wrong comes where libxml2 lists no errors any more
        "<x>" + "<a:b/>" * 300 + "</y>",
        "<a:b/>" * 300 + "<x c='1' c='1'/>",
    ],
)
def test_nothing_else_is_tolerated_beside_them(metadata: str) -> None:
    for more in ("", "<lab:tier/>"):
        assert refused(META.format(more + metadata)).cause == "xml-syntax"
        assert refused(META.format(more + metadata).encode("utf-16")).cause == "xml-syntax"


def test_a_doctype_is_refused_behind_a_prefix_that_nobody_declared_too(secret: Path) -> None:
    doctype = f"<!DOCTYPE domain [<!ENTITY x SYSTEM 'file://{secret}'>]>"
    assert refused(doctype + META.format("<lab:tier>&x;</lab:tier>")).cause in ("xml-doctype", "xml-syntax")
    assert refused(doctype + META.format("<lab:tier/>")).cause == "xml-doctype"


# ---- two readers ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", [PmuState.OFF, PmuState.DEFAULT])
def test_what_the_second_reader_refuses_is_not_rewritten(state: PmuState) -> None:
    """libxml2 takes the names of XML 1.0's fifth edition, expat those of the fourth."""
    xml = META.format("<\U00010000/>")
    assert read(xml).pmu is PmuState.ON
    with pytest.raises(DomainXmlError) as caught:
        rewrite(xml, state, source=SOURCE)
    assert caught.value.cause == "xml-readers-disagree"
    assert caught.value.hint


@pytest.mark.parametrize(
    "features",
    [
        "<features xmlns='urn:x'><pmu/></features><features><pmu state='off'/></features>",
        "<features><q:pmu xmlns:q='urn:x' state='off'/></features>",
        "<features><pmu xmlns='urn:x' a='1' state='off'/></features>",
        "<features><pmu xmlns:q='urn:x' a='1' q:state='off' state='no'/></features>",
        "<features><pmu a:state='no' state='off'/></features>",
        "<features><!-- <pmu/> --><![CDATA[<pmu/>]]><?pmu <pmu/>?><pmu state='off'/></features>",
        "<features><pmu:pmu/><pmu state='off'/></features>",
        "<features a='/>' b=\"<pmu/>'\"><pmu a='/>' state = 'off'></pmu ></features >".replace("<pmu/>'", "'"),
    ],
)
def test_the_element_that_counts_is_the_one_that_is_edited(features: str) -> None:
    xml = f"<domain><name>web</name>{features}</domain>"
    assert rewrite(xml, PmuState.ON) == xml.replace("'off'", "'on'")
    assert read(rewrite(xml, PmuState.DEFAULT)).pmu is PmuState.DEFAULT
