"""differences(): the places in which two definitions differ outside the PMU, and no word of what stands there."""

from __future__ import annotations

import pytest
from hypothesis import given

from pmuconf.domain.definition import PmuState
from pmuconf.domain.difference import differences, in_metadata, of_libvirt, same_but_pmu
from pmuconf.domain.rewriting import rewrite
from tests.support.domains import nova_domain, plain_domain
from tests.unit.xmls import domain_texts

PLAIN = plain_domain("web", vnc_password="s3cret")
NOVA = nova_domain("instance-1", version="32.0.0", vnc_password="s3cret", disks=2)
TITLED = PLAIN.replace("</uuid>", "</uuid><title>a</title>")
CONSOLE = PLAIN.replace("</devices>", "<console type='pty'><target type='virtio' port='0'/></console></devices>")
SHMEM = PLAIN.replace("</devices>", "<shmem name='a'><size unit='M'>0</size></shmem></devices>")


@pytest.mark.parametrize("xml", [PLAIN, NOVA])
@pytest.mark.parametrize("state", PmuState)
def test_the_pmu_is_no_difference(xml: str, state: PmuState) -> None:
    assert differences(xml, rewrite(xml, state)) == ()


@pytest.mark.parametrize(
    ("one", "other", "places"),
    [
        (PLAIN, PLAIN.replace(">16384<", ">8192<"), ("memory",)),
        (PLAIN, PLAIN.replace("type='qemu'", "type='kvm'").replace('type="qemu"', 'type="kvm"'), ("@type",)),
        (PLAIN, PLAIN.replace(' passwd="s3cret"', ""), ("devices/graphics@passwd",)),
        (PLAIN, PLAIN.replace("<acpi/>", ""), ("features/acpi",)),
        (PLAIN, PLAIN.replace("</devices>", "<disk/></devices>"), ("devices/disk",)),
        (PLAIN, TITLED, ("title",)),
        (TITLED, TITLED.replace(">a<", ">b<"), ("title",)),
        (NOVA, NOVA.replace("m1.small", "m1.large"), ("metadata",)),
        (CONSOLE, CONSOLE.replace("port='0'", "port='1'"), ("devices/console/target@port",)),
        (SHMEM, SHMEM.replace(">0<", ">4<"), ("devices/shmem/size",)),
    ],
)
def test_where_it_is(one: str, other: str, places: tuple[str, ...]) -> None:
    assert one != other
    assert differences(one, other) == differences(other, one) == places


def test_no_more_than_eight_are_named() -> None:
    other = "<domain type='kvm'><name>b</name>" + "".join(f"<x{n}/>" for n in range(20)) + "</domain>"
    assert len(differences("<domain type='kvm'><name>a</name></domain>", other)) == 8


@given(domain_texts(), domain_texts())
def test_there_is_one_if_and_only_if_the_two_mean_another(one: str, other: str) -> None:
    assert bool(differences(one, other)) is not same_but_pmu(one, other)


def test_what_libvirt_does_by_itself() -> None:
    assert of_libvirt(["devices/console/target@port", "devices/shmem/size"])
    assert not of_libvirt(["devices/console/target@port", "memory"])


def test_what_libvirt_tells_of() -> None:
    assert in_metadata(["title", "description", "metadata"])
    assert not in_metadata(["title", "memory"])


@pytest.mark.parametrize(("added", "place"), [("<!-- c -->", "comment"), ("<?p i?>", "processing-instruction")])
def test_a_comment_is_named_as_one(added: str, place: str) -> None:
    """Its place was called <cyfunction Comment at 0x7fab9ec93dc0>."""
    before = "<domain type='kvm'><name>web</name></domain>"
    assert differences(before, before.replace("<name>", f"{added}<name>")) == (place,)
