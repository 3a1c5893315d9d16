"""What read() makes of a domain XML, and what must hold for the rewrite of any domain whatsoever."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pmuconf.domain.definition import UNKNOWN, Domain, Nova, PmuState
from pmuconf.domain.difference import same_but_pmu
from pmuconf.domain.reading import read, read_libvirt, read_snapshot
from pmuconf.domain.rewriting import rewrite, rewrite_bytes, rewrite_libvirt
from pmuconf.domain.xmltext import DomainXmlError
from tests.support.domains import domain_uuid, nova_domain, plain_domain
from tests.unit import oracle
from tests.unit.xmls import any_bytes, any_text, domain_texts

STATES = st.sampled_from(PmuState)


def guest(features: str = "", rest: str = "", *, kind: str = "kvm", arch: str = "x86_64") -> str:
    return (
        f"<domain type='{kind}'><name>web</name><os><type arch='{arch}'>hvm</type></os>"
        f"<features>{features}</features>{rest}</domain>"
    )


# ---- read ----------------------------------------------------------------------------------------------------------


def test_a_plain_domain_is_read_whole() -> None:
    assert read(plain_domain("web", pmu="off")) == Domain(
        name="web",
        uuid=domain_uuid("web"),
        virt_type="qemu",
        arch="x86_64",
        pmu=PmuState.OFF,
        cpu_mode=None,
        nova=None,
        running=False,
    )


@pytest.mark.parametrize(
    ("features", "state"),
    [
        ("", PmuState.DEFAULT),
        ("<acpi/>", PmuState.DEFAULT),
        ("<pmu/>", PmuState.ON),
        ("<pmu state='on'/>", PmuState.ON),
        ("<pmu state='off'/>", PmuState.OFF),
        ("<pmu state='on'/><pmu state='off'/>", PmuState.OFF),
        ("<pmu state='off'/><acpi/><pmu/>", PmuState.ON),
        ("<!-- <pmu state='on'/> -->", PmuState.DEFAULT),
        ("<hyperv><pmu state='on'/></hyperv>", PmuState.DEFAULT),
        # libvirt 9.0 asks for no namespace here.
        ("<pmu xmlns='urn:x' state='on'/>", PmuState.ON),
        ("<pmu state='off'/><q:pmu xmlns:q='urn:x' state='on'/>", PmuState.ON),
        ("<pmu xmlns:q='urn:x' q:state='off' state='on'/>", PmuState.OFF),
        ("<pmu q:state='off'/>", PmuState.ON),
        ("<q:pmu state='off'/>", PmuState.DEFAULT),
    ],
)
def test_the_pmu_state_is_that_of_the_last_pmu_in_features(features: str, state: PmuState) -> None:
    assert read(guest(features)).pmu is state
    assert oracle.pmu_state(guest(features)) == state.value


def test_a_domain_without_features_has_the_default() -> None:
    assert read(plain_domain("web", features=False)).pmu is PmuState.DEFAULT


def test_only_the_definition_of_a_running_guest_has_an_id() -> None:
    assert not read(guest()).running
    assert read(guest().replace("<domain ", "<domain id='7' ")).running


@pytest.mark.parametrize(
    ("cpu", "default_means"),
    [
        ("", PmuState.OFF),
        ("<cpu mode='host-passthrough'/>", PmuState.ON),
        ("<cpu mode='maximum'/>", PmuState.ON),
        ("<cpu mode='host-model'/>", PmuState.OFF),
        ("<cpu mode='custom'><model>Nehalem</model></cpu>", PmuState.OFF),
        ("<cpu><topology sockets='1' cores='1' threads='1'/></cpu>", PmuState.OFF),
    ],
)
def test_the_effective_pmu_of_the_default_is_what_qemu_makes_of_the_cpu_model(
    cpu: str, default_means: PmuState
) -> None:
    assert read(guest("", cpu)).effective_pmu is default_means
    assert read(guest("<pmu state='on'/>", cpu)).effective_pmu is PmuState.ON
    assert read(guest("<pmu state='off'/>", cpu)).effective_pmu is PmuState.OFF


@pytest.mark.parametrize(("kind", "arch"), [("kvm", "aarch64"), ("xen", "x86_64"), ("hvf", "x86_64"), ("kvm", "")])
def test_outside_x86_kvm_and_qemu_the_effective_pmu_of_the_default_is_not_known(kind: str, arch: str) -> None:
    definition = read(guest("", "<cpu mode='host-passthrough'/>", kind=kind, arch=arch))
    assert not definition.x86
    assert definition.effective_pmu is None
    assert replace(definition, pmu=PmuState.ON).effective_pmu is PmuState.ON


@pytest.mark.parametrize(("kind", "arch"), [("kvm", "x86_64"), ("kvm", "i686"), ("qemu", "x86_64"), ("qemu", "i686")])
def test_x86_under_kvm_or_qemu_is_what_the_policy_speaks_of(kind: str, arch: str) -> None:
    assert read(guest(kind=kind, arch=arch)).x86


def test_nova_before_32_does_not_say_extra_specs_image_properties_and_flavor_id() -> None:
    definition = read(nova_domain("instance-1", version="31.0.0", flavor="m1.small", extra_specs={"hw:pmu": "true"}))
    assert definition.nova is not None
    assert definition.nova.flavor == "m1.small"
    assert definition.nova.flavor_id is UNKNOWN
    assert definition.nova.extra_specs is UNKNOWN
    assert definition.nova.image_properties is UNKNOWN


def test_nova_since_32_says_them_even_if_there_are_none() -> None:
    definition = read(nova_domain("instance-1", version="32.0.0", flavor="m1.small"))
    assert definition.nova is not None
    assert isinstance(definition.nova.flavor_id, str)
    assert definition.nova.extra_specs == {}
    assert definition.nova.image_properties == {}


def test_nova_metadata_is_read_whole() -> None:
    xml = nova_domain(
        "instance-1",
        version="34.0.0",
        flavor="perf & co",
        extra_specs={"hw:pmu": "true", "hw:empty": ""},
        image_properties={"hw_pmu": True, "os_<distro>": '"ü"'},
    )
    project = re.search("nova:project uuid='([0-9a-f]{32})'", xml)
    flavor_id = re.search('nova:flavor name="[^"]*" id="([^"]*)"', xml)
    assert project is not None
    assert flavor_id is not None
    assert read(xml).nova == Nova(
        flavor="perf & co",
        flavor_id=flavor_id[1],
        project_id=project[1],
        extra_specs={"hw:pmu": "true", "hw:empty": ""},
        image_properties={"hw_pmu": "True", "os_<distro>": '"ü"'},
    )


def test_the_metadata_of_nova_up_to_22_says_the_same_as_that_of_later_ones() -> None:
    old = nova_domain("instance-1", version="20.6.1", flavor="m1.small")
    assert "nova/1.0" in old
    assert read(old).nova == read(old.replace("nova/1.0", "nova/1.1")).nova
    assert read(old).nova is not None


def test_of_two_instances_of_nova_s_the_newer_one_counts() -> None:
    both = "".join(
        f"<nova:instance xmlns:nova='http://openstack.org/xmlns/libvirt/nova/{version}'>"
        f"<nova:flavor name='{version}'/></nova:instance>"
        for version in ("1.0", "1.1")
    )
    nova = read(guest("", f"<metadata>{both}</metadata>")).nova
    assert nova is not None
    assert nova.flavor == "1.1"


def test_metadata_that_is_not_of_nova_makes_no_nova_domain() -> None:
    other = "<metadata><nova:instance xmlns:nova='urn:other'><nova:flavor name='m1'/></nova:instance></metadata>"
    assert read(guest("", other)).nova is None


@pytest.mark.parametrize(
    ("inside", "state"),
    [
        ("<domain><name>web</name><features><pmu state='off'/></features></domain>", PmuState.OFF),
        (
            "<domain><name>web</name></domain>"
            "<inactiveDomain><name>web</name><features><pmu/></features></inactiveDomain>",
            PmuState.ON,
        ),
    ],
)
def test_a_snapshot_brings_back_its_inactive_domain_else_its_domain(inside: str, state: PmuState) -> None:
    found = read_snapshot(f"<domainsnapshot><name>before</name>{inside}</domainsnapshot>")
    assert found is not None
    assert (found.name, found.pmu) == ("web", state)


def test_an_old_snapshot_holds_no_domain() -> None:
    assert read_snapshot("<domainsnapshot><name>before</name></domainsnapshot>") is None


LIBVIRTS = "<domain type='kvm' id='3'>\n  <name>web</name>\n{}  <os>\n    <type arch='x86_64'>hvm</type>\n  </os>\n{}"
LIBVIRTS += "  <cpu mode='host-passthrough'/>\n  <devices>\n    <disk/>\n  </devices>\n{}</domain>\n"


@pytest.mark.parametrize(
    "metadata",
    [
        "",
        "<metadata>\n  <devices>\n</devices></metadata>",
        "<metadata><domain>\n  <devices>\n</devices></domain></metadata>",
        "<metadata><![CDATA[\n  <devices>\n]]></metadata>",
        "<metadata><a b='\n  &lt;devices>\n'/></metadata>",
        "<!--\n  <devices>\n-->",
        "<?pi\n  <devices>\n?>",
        "<title><![CDATA[</title></domain>\n  <devices>\n]]></title>",
        "<title>\n  &lt;devices>\n</title>",
    ],
)
@pytest.mark.parametrize("pmu", ["", "  <features>\n    <pmu state='off'/>\n  </features>\n"])
def test_what_libvirt_writes_is_read_alike_whatever_a_tenant_put_into_it(metadata: str, pmu: str) -> None:
    """read_libvirt() reads no further than the line that opens the devices: the true one."""
    xml = LIBVIRTS.format(metadata, pmu, "<seclabel type='none'/>")
    assert read_libvirt(xml) == read(xml)
    assert read_libvirt(xml).pmu is (PmuState.OFF if pmu else PmuState.DEFAULT)


def test_features_behind_the_devices_are_read_and_rewritten_too() -> None:
    """libvirt never writes that."""
    xml = LIBVIRTS.format("", "", "<features>\n<pmu state='on'/></features>")
    assert read_libvirt(xml).pmu is PmuState.ON
    assert rewrite_libvirt(xml, PmuState.OFF) == xml.replace("'on'", "'off'")


@pytest.mark.parametrize("xml", [plain_domain("web", pmu="on"), nova_domain("instance-1", version="32.0.0", pmu="off")])
def test_what_libvirt_writes_is_read_alike(xml: str) -> None:
    assert read_libvirt(xml) == read(xml)


def test_what_libvirt_writes_has_the_same_limit() -> None:
    xml = LIBVIRTS.format("", "", f"<!-- {'x' * 5000} -->")
    with pytest.raises(DomainXmlError) as caught:
        read_libvirt(xml, source="domain 'web'", max_bytes=4096)
    assert caught.value.cause == "xml-too-large"
    assert caught.value.message.startswith("domain 'web'")


@pytest.mark.parametrize("xml", ["", "<x/>", "<domain>\n  <devices>\n", "<domain>\n  <devices>\n</devices></domain>"])
def test_what_libvirt_never_writes_is_refused_alike(xml: str) -> None:
    with pytest.raises(DomainXmlError) as caught:
        read(xml)
    with pytest.raises(DomainXmlError, match=re.escape(caught.value.message)):
        read_libvirt(xml)


def test_a_domain_is_no_snapshot() -> None:
    with pytest.raises(DomainXmlError) as caught:
        read_snapshot(guest(), source="snapshot 3")
    assert caught.value.cause == "not-a-snapshot"
    assert "snapshot 3" in caught.value.message


# ---- what holds for any domain -------------------------------------------------------------------------------------


@settings(max_examples=150)
@given(domain_texts())
def test_read_says_what_the_oracle_says(xml: str) -> None:
    assert read(xml).pmu.value == oracle.pmu_state(xml)


@given(domain_texts(), STATES)
def test_rewrite_sets_the_state_and_nothing_else(xml: str, state: PmuState) -> None:
    after = rewrite(xml, state)
    assert oracle.pmu_state(after) == state.value
    assert oracle.outside_pmu(after) == oracle.outside_pmu(xml)


@pytest.mark.parametrize("state", PmuState)
@pytest.mark.parametrize("pmu", ["", "  <features>\n    <pmu state='off'/>\n  </features>\n", "  <features/>\n"])
@pytest.mark.parametrize("metadata", ["", "  <metadata>\n    <a:b/>\n  </metadata>\n", "<!--\n  <devices>\n-->"])
def test_what_libvirt_writes_is_rewritten_alike(metadata: str, pmu: str, state: PmuState) -> None:
    """rewrite_libvirt() edits what stands before the devices, and reads nothing else."""
    xml = LIBVIRTS.format(metadata, pmu, "  <seclabel type='none'/>\n")
    assert rewrite_libvirt(xml, state) == rewrite(xml, state)
    assert oracle.pmu_state(rewrite_libvirt(xml, state)) == state.value


@given(domain_texts(), STATES)
def test_what_libvirt_never_writes_is_rewritten_alike(xml: str, state: PmuState) -> None:
    assert rewrite_libvirt(xml, state) == rewrite(xml, state)


@settings(max_examples=300)
@given(domain_texts(), STATES)
def test_rewrite_leaves_every_character_outside_the_pmu_as_it_is(xml: str, state: PmuState) -> None:
    assert oracle.edited_alone(xml, rewrite(xml, state), state.value)


@given(domain_texts(), st.sampled_from(["\r\n", "\r", "\n"]), STATES)
def test_line_ends_stay_those_of_the_file(xml: str, end: str, state: PmuState) -> None:
    xml = xml.replace("\r\n", "\n").replace("\n", end)
    assert oracle.edited_alone(xml, rewrite(xml, state), state.value)


@given(domain_texts(), st.sampled_from([PmuState.ON, PmuState.OFF]))
def test_rewrite_leaves_exactly_one_pmu_with_its_state_written_out(xml: str, state: PmuState) -> None:
    assert oracle.pmu_states(rewrite(xml, state)) == [state.value]


@given(domain_texts())
def test_rewrite_to_the_default_leaves_none(xml: str) -> None:
    assert oracle.pmu_states(rewrite(xml, PmuState.DEFAULT)) == []


@given(domain_texts(), STATES)
def test_rewriting_twice_is_rewriting_once(xml: str, state: PmuState) -> None:
    once = rewrite(xml, state)
    assert rewrite(once, state) == once


@given(domain_texts())
def test_text_that_says_exactly_this_comes_back_as_it_is(xml: str) -> None:
    said = oracle.pmu_states(xml)
    for state in PmuState:
        already = said == ([] if state is PmuState.DEFAULT else [state.value])
        assert (rewrite(xml, state) is xml) == already


@given(domain_texts())
def test_a_detour_over_on_makes_no_difference(xml: str) -> None:
    detour = rewrite(rewrite(xml, PmuState.ON), PmuState.OFF)
    assert oracle.outside_pmu(detour) == oracle.outside_pmu(xml)
    assert oracle.pmu_states(detour) == ["off"]
    if oracle.pmu_states(xml):  # then it stays in its place
        assert oracle.events(detour) == oracle.events(rewrite(xml, PmuState.OFF))


@given(domain_texts(), STATES)
def test_the_rewrite_of_a_file_says_the_same_as_that_of_its_text(xml: str, state: PmuState) -> None:
    after = rewrite_bytes(xml.encode(), state, source="file")
    assert oracle.events(after) == oracle.events(rewrite(xml, state))


@given(domain_texts(), STATES, STATES)
def test_two_rewrites_of_one_domain_are_the_same_but_for_the_pmu(xml: str, one: PmuState, other: PmuState) -> None:
    assert same_but_pmu(rewrite(xml, one), rewrite(xml, other))
    assert same_but_pmu(xml, rewrite(xml, one))


_Result = TypeVar("_Result")


def outcome(call: Callable[[], _Result]) -> _Result | DomainXmlError:
    """A result or a refusal; whatever else comes out of the call is a defect."""
    try:
        return call()
    except DomainXmlError as error:
        return error


@given(any_text(), STATES)
def test_any_text_gives_a_result_or_a_domain_xml_error(text: str, state: PmuState) -> None:
    outcome(lambda: read_snapshot(text))
    outcome(lambda: read_libvirt(text))
    assert outcome(lambda: same_but_pmu(text, text)) is not False
    definition = outcome(lambda: read(text))
    after = outcome(lambda: rewrite(text, state))
    if isinstance(definition, DomainXmlError):
        assert definition.cause == "no-name" or str(after) == str(definition)  # a rewrite needs no name
    else:
        assert oracle.pmu_state(text) == definition.pmu.value
        assert isinstance(after, str)
        assert read(after) == replace(definition, pmu=state)


@given(any_bytes(), STATES)
def test_any_bytes_give_a_result_or_a_domain_xml_error(data: bytes, state: PmuState) -> None:
    definition = outcome(lambda: read(data))
    after = outcome(lambda: rewrite_bytes(data, state, source="domain XML"))
    if isinstance(definition, DomainXmlError):
        assert definition.cause == "no-name" or str(after) == str(definition)
    else:
        assert isinstance(after, bytes)
        assert read(after) == replace(definition, pmu=state)
