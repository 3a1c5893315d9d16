"""same_but_pmu(): what libvirt may do to a domain on a define, and every single thing that nobody may."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from lxml import etree

from pmuconf.domain.definition import PmuState
from pmuconf.domain.difference import same_but_pmu
from pmuconf.domain.reading import read
from pmuconf.domain.rewriting import rewrite
from pmuconf.domain.xmltext import DomainXmlError
from tests.support.domains import nova_domain, plain_domain
from tests.unit import oracle
from tests.unit.xmls import domain_texts

NOVA = nova_domain("instance-1", version="32.0.0", pmu="on", vnc_password="s3cret", extra_specs={"hw:a": "b"}, disks=2)
PLAIN = plain_domain("web", pmu="off", vnc_password="s3cret")

Mutation = Callable[[etree._Element], None]


def written(root: etree._Element) -> str:
    text: str = etree.tostring(root, encoding="unicode")
    return text


def changed(xml: str, change: Mutation) -> str:
    root = etree.fromstring(xml)
    change(root)
    return written(root)


def only(root: etree._Element, path: str) -> etree._Element:
    (found,) = root.findall(path)
    return found


# ---- what makes no difference --------------------------------------------------------------------------------------


@pytest.mark.parametrize("one", PmuState)
@pytest.mark.parametrize("other", PmuState)
@pytest.mark.parametrize("xml", [NOVA, PLAIN, plain_domain("web", features=False)], ids=["nova", "plain", "bare"])
def test_every_pmu_state_is_the_same(xml: str, one: PmuState, other: PmuState) -> None:
    assert same_but_pmu(rewrite(xml, one), rewrite(xml, other))


def test_white_space_between_elements_is_the_same() -> None:
    flat = etree.fromstring(NOVA, etree.XMLParser(remove_blank_text=True))
    assert written(flat) != NOVA
    assert same_but_pmu(NOVA, written(flat))
    assert same_but_pmu(written(flat), NOVA)


def test_quotes_attribute_order_and_empty_elements_written_out_are_the_same() -> None:
    assert same_but_pmu(
        "<domain id='1' type='kvm'><name>a</name><devices><disk type='file' device='disk'></disk></devices></domain>",
        '<domain type="kvm" id="1"><name>&#97;</name><devices><disk device="disk" type="file" /></devices></domain>',
    )


def test_features_without_anything_in_it_is_the_same_as_none() -> None:
    assert same_but_pmu("<domain><name>a</name><features/></domain>", "<domain><name>a</name></domain>")


def test_controllers_in_another_order_are_the_same() -> None:
    """libvirt 9.0 reorders the PCI controllers of a fresh q35 domain on its first redefine."""

    def turn_round(root: etree._Element) -> None:
        devices = only(root, "devices")
        controllers = devices.findall("controller")
        for controller in controllers:
            devices.remove(controller)
        devices.extend(reversed(controllers))

    assert same_but_pmu(NOVA, changed(NOVA, turn_round))


def test_devices_of_another_kind_in_between_are_the_same() -> None:
    """libvirt lists the devices kind by kind, whatever order it was given."""

    def sort_by_kind(root: etree._Element) -> None:
        devices = only(root, "devices")
        devices[:] = sorted(devices, key=lambda device: str(device.tag))

    assert same_but_pmu(NOVA, changed(NOVA, sort_by_kind))


@pytest.mark.parametrize("namespace", ["urn:x", "relative", "../up", ""])
def test_metadata_in_any_namespace_is_compared(namespace: str) -> None:
    """virsh metadata takes any text for a URI; canonical XML as the standard has it refuses relative ones."""
    domain = "<domain><name>a</name><metadata><x xmlns='{}' a='{}'/></metadata><features>{}</features></domain>"
    one = domain.format(namespace, 1, "<acpi/>")
    assert same_but_pmu(one, domain.format(namespace, 1, " <acpi/> <pmu/> "))
    assert not same_but_pmu(one, domain.format(namespace, 2, "<acpi/>"))
    assert not same_but_pmu(one, domain.format(f"{namespace}-other", 1, "<acpi/>"))


@pytest.mark.parametrize("namespace", ["a b", "%", "http://[", "é"])
def test_a_namespace_that_is_no_uri_is_no_reason_not_to_read_a_domain(namespace: str) -> None:
    """libvirt defines such a domain without a word."""
    one = f"<domain><name>a</name><metadata><x xmlns='{namespace}'/></metadata><features><pmu/></features></domain>"
    assert read(one).pmu is PmuState.ON
    assert same_but_pmu(one, rewrite(one, PmuState.OFF))


# ---- what does -----------------------------------------------------------------------------------------------------


def told(one: str, other: str) -> bool:
    try:
        return not same_but_pmu(one, other)
    except DomainXmlError:  # the change made it none
        return True


def outside(root: etree._Element) -> Iterator[etree._Element]:
    """Every element but features/pmu and what is in it."""
    pmus = {below for pmu in root.iterfind("features/pmu") for below in pmu.iter()}
    return (element for element in root.iter() if element not in pmus)


def mutations(xml: str) -> Iterator[tuple[str, str]]:
    """The domain with one single thing changed, each time another one, and what that was."""
    count = sum(1 for _ in outside(etree.fromstring(xml)))
    for index in range(count):

        def mutated(change: Mutation, index: int = index) -> str:
            root = etree.fromstring(xml)
            change(list(outside(root))[index])
            return written(root)

        element = list(outside(etree.fromstring(xml)))[index]
        what = f"{index} {element.tag!r}"
        for key in element.attrib:
            yield f"{what}/@{key} changed", mutated(lambda here, key=key: here.set(key, here.attrib[key] + "x"))  # type: ignore[misc]
            yield f"{what}/@{key} gone", mutated(lambda here, key=key: here.attrib.__delitem__(key))  # type: ignore[misc]
        yield f"{what}/@extra", mutated(lambda here: here.set("extra", "1"))
        if element.text and element.text.strip():
            yield f"{what} text", mutated(lambda here: setattr(here, "text", f"{here.text}x"))
        yield f"{what} child", mutated(lambda here: here.append(etree.Element("extra")))
        parent = element.getparent()
        if parent is not None and not (element.tag == "features" and len(element) == 1):
            yield f"{what} gone", mutated(lambda here: here.getparent().remove(here))  # type: ignore[union-attr]
            yield f"{what} renamed", mutated(lambda here: setattr(here, "tag", "extra"))
            yield f"{what} doubled", mutated(lambda here: here.addnext(etree.fromstring(etree.tostring(here))))


@pytest.mark.parametrize("xml", [NOVA, PLAIN], ids=["nova", "plain"])
def test_every_single_change_outside_the_pmu_is_told(xml: str) -> None:
    tried = 0
    for what, other in mutations(xml):
        tried += 1
        assert told(xml, other), what
        assert told(other, xml), what
    assert tried > 60


@pytest.mark.parametrize("path", ["devices/disk", "devices/interface", "devices/disk[1]/source/host"])
def test_two_devices_of_one_kind_in_another_order_are_told(path: str) -> None:
    """The order of the disks is the order in which the guest boots from them and sees them."""

    def swap(root: etree._Element) -> None:
        first, second = root.findall(path)[:2]
        second.addnext(first)

    assert not same_but_pmu(NOVA, changed(NOVA, swap))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("<acpi/>", "<acpi/><pvspinlock/>"),
        ("nova/1.1", "nova/1.0"),
        ("passwd=", "connected='keep' passwd="),
        ("</name>", " </name>"),
        ("<on_poweroff>destroy", "<on_poweroff>restart"),
        ("<serial type=", "<serial><!-- a comment --></serial><serial type="),
    ],
)
def test_small_things_in_the_text_are_told(old: str, new: str) -> None:
    xml = NOVA if old in NOVA else PLAIN
    assert old in xml
    assert not same_but_pmu(xml, xml.replace(old, new, 1))


def test_a_lost_password_is_told() -> None:
    """What a define of XML that was read without its secrets does."""
    without = nova_domain("instance-1", version="32.0.0", pmu="off", extra_specs={"hw:a": "b"}, disks=2)
    assert not same_but_pmu(NOVA, without)


def test_white_space_in_text_is_told() -> None:
    domain = "<domain><name>a</name><title>{}</title></domain>"
    assert not same_but_pmu(domain.format("x"), domain.format(" x"))
    assert not same_but_pmu(domain.format(""), domain.format(" "))


FAKE = "    <pmu state='on'/>"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        # In metadata, in text and in a comment, a line may look just as libvirt writes the PMU.
        (f"<metadata>\n{FAKE}\n</metadata>", "<metadata>\n</metadata>"),
        (f"<metadata>\n{FAKE}\n</metadata>", "<metadata>\n    <pmu state='off'/>\n</metadata>"),
        (f"<metadata>\n{FAKE}<a/>\n</metadata>", f"<metadata>\n{FAKE}<b/>\n</metadata>"),
        (f"<title><![CDATA[\n{FAKE}\n]]></title>", "<title><![CDATA[\n]]></title>"),
        (f"<!--\n{FAKE}\n-->", "<!--\n-->"),
        (f"<metadata>\n{FAKE}\n</metadata>", f"<metadata><x>\n{FAKE}\n</x></metadata>"),
        ("<metadata>\n  <features>\n  </features>\n</metadata>", "<metadata>\n</metadata>"),
    ],
)
@pytest.mark.parametrize(
    "features",
    [
        "",
        "\n  <features>\n  </features>\n",
        "\n  <features>\n    <pmu state='on'/>\n  </features>\n",
        "\n  <features>\n    <acpi/>\n    <pmu state='off'/>\n  </features>\n",
        "<features><pmu state='on'/></features>",
        "\n <features>\n  <pmu state='off'/>\n </features>\n",
    ],
)
def test_what_only_looks_like_the_pmu_is_compared(features: str, one: str, other: str) -> None:
    domain = "<domain type='kvm'>\n  <name>web</name>\n{}{}\n  <devices>\n  </devices>\n</domain>\n"
    assert told(domain.format(one, features), domain.format(other, features))
    assert same_but_pmu(domain.format(one, features), domain.format(one, features))


@given(domain_texts(), domain_texts())
def test_two_domains_that_the_oracle_tells_apart_are_told(one: str, other: str) -> None:
    """White space aside, and the order of devices, which count in the oracle but not always here."""
    if "devices" not in one + other and elements(one) != elements(other):
        assert told(one, other)


def elements(xml: str) -> list[oracle.Event]:
    """What the oracle sees outside the PMU from the first to the last tag, but for text."""
    seen = [event for event in oracle.outside_pmu(xml) if event[0] != "text"]
    tags = [at for at, event in enumerate(seen) if event[0] in ("start", "end")]
    return seen[tags[0] : tags[-1] + 1]


def test_domains_beyond_the_size_that_is_read_are_compared_too() -> None:
    """What could be read with a higher max_bytes must be verifiable after the define as well."""
    big = PLAIN.replace("<devices>", f"<description>{'x' * 5_000_000}</description><devices>")
    assert same_but_pmu(big, big.replace("state='off'", "state='on'"))
    assert not same_but_pmu(big, big.replace("xxx</description>", "xxy</description>"))
