# SPDX-License-Identifier: Apache-2.0
"""What a ruling says, step by step, and what of a domain it is decided by: whole records, nothing left out."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pmuconf.domain.definition import UNKNOWN, Domain, Managed, Manager, Nova, PmuState
from pmuconf.domain.reading import read
from pmuconf.policy import (
    Decision,
    FlavorImageConflict,
    NovaDomains,
    Policy,
    Rule,
    Ruling,
    Subject,
    decide,
    explicit_choice,
    requesting,
)
from tests.support.domains import domain_uuid, nova_domain, plain_domain

PLAIN = Subject(virt_type="kvm", arch="x86_64", name="web", uuid="u", pmu=PmuState.DEFAULT)
HIDDEN = replace(PLAIN, extra_specs=UNKNOWN, image_properties=UNKNOWN)
BY_NAME = Rule("by-name", Decision.ON, domain=("web",))
BY_BOTH = Rule("by-both", Decision.ON, flavor=("*",), project=("p",))


@pytest.mark.parametrize(
    ("subject", "rules", "ruling"),
    [
        (
            replace(PLAIN, arch=""),
            (),
            Ruling(
                Decision.UNDECIDED,
                "no-arch",
                "the XML names no architecture (<os><type arch=...>): libvirt fills it in when it takes the domain",
            ),
        ),
        (
            replace(PLAIN, virt_type="xen"),
            (),
            Ruling(
                Decision.KEEP,
                "out-of-scope",
                "xen on x86_64: the policy speaks of x86 KVM and QEMU domains only",
            ),
        ),
        (
            replace(PLAIN, virt_type="", arch=""),
            (),
            Ruling(
                Decision.KEEP,
                "out-of-scope",
                "no type on no architecture: the policy speaks of x86 KVM and QEMU domains only",
            ),
        ),
        (
            replace(PLAIN, extra_specs={"hw:pmu": "yes"}),
            (),
            Ruling(Decision.ON, "hw:pmu", "hw:pmu is set explicitly, which beats every rule"),
        ),
        (
            replace(HIDDEN, pmu=PmuState.ON),
            (BY_NAME,),
            Ruling(
                Decision.KEEP,
                "written-on",
                "the domain says on, and its metadata cannot show whether hw:pmu or hw_pmu asked for that",
            ),
        ),
        (
            replace(HIDDEN, pmu=PmuState.OFF),
            (BY_NAME,),
            Ruling(
                Decision.UNDECIDED,
                "hidden-choice",
                "by-name wants on, but the domain says off, and its metadata cannot show whether hw:pmu or hw_pmu "
                "asked for that",
            ),
        ),
        (
            replace(PLAIN, flavor=UNKNOWN, project=UNKNOWN),
            (BY_BOTH,),
            Ruling(Decision.UNDECIDED, "by-both", "rule by-both reads flavor, project, which cannot be known here"),
        ),
        (
            replace(PLAIN, flavor="m1", project="p"),
            (BY_BOTH,),
            Ruling(Decision.ON, "by-both", "matches flavor, project"),
        ),
        (PLAIN, (replace(BY_NAME, reason="it counts"),), Ruling(Decision.ON, "by-name", "it counts")),
        (PLAIN, (BY_BOTH,), Ruling(Decision.OFF, "default", "no rule matches")),
        (PLAIN, (), Ruling(Decision.OFF, "default", "there are no rules")),
    ],
)
def test_each_step_has_its_own_sentence(subject: Subject, rules: tuple[Rule, ...], ruling: Ruling) -> None:
    assert decide(Policy(rules=rules), subject) == ruling


def test_a_contradiction_says_both_sides_and_what_becomes_of_it() -> None:
    with pytest.raises(FlavorImageConflict) as caught:
        explicit_choice({"hw:pmu": "true"}, {"hw_pmu": "no"})
    error = caught.value
    assert error.cause == "flavor-image-conflict"
    assert error.hint == "Nova will refuse to start it: change one of the two"
    assert "the flavor's hw:pmu=true and the image's hw_pmu=no contradict each other" in str(error)


def test_a_subject_has_all_that_a_plain_definition_says() -> None:
    definition = read(plain_domain("web", pmu="off", virt_type="kvm"))
    assert Subject.of_domain(definition) == Subject(
        virt_type="kvm", arch="x86_64", name="web", uuid=domain_uuid("web"), pmu=PmuState.OFF
    )


def test_a_subject_has_all_that_nova_wrote_into_a_definition() -> None:
    nova = Nova(
        flavor="m1.small",
        flavor_id="42",
        project_id="c0ffee",
        extra_specs={"a": "b"},
        image_properties={"c": "d"},
    )
    definition: Domain = replace(read(nova_domain("instance-1")), nova=nova, pmu=PmuState.ON, arch="i686")
    assert Subject.of_domain(definition) == Subject(
        virt_type=definition.virt_type,
        arch="i686",
        name="instance-1",
        uuid=definition.uuid,
        pmu=PmuState.ON,
        flavor="m1.small",
        flavor_id="42",
        project="c0ffee",
        extra_specs={"a": "b"},
        image_properties={"c": "d"},
        manager=Manager.NOVA,
    )


def test_a_subject_has_all_that_another_manager_says() -> None:
    managed = Managed(Manager.OVIRT, flavor="large", project="lab", attributes={"team": "x"})
    definition: Domain = replace(read(plain_domain("web", virt_type="kvm")), managed=managed)
    assert Subject.of_domain(definition) == Subject(
        virt_type="kvm",
        arch="x86_64",
        name="web",
        uuid=domain_uuid("web"),
        pmu=PmuState.DEFAULT,
        flavor="large",
        project="lab",
        attributes={"team": "x"},
        manager=Manager.OVIRT,
    )


MANAGED = replace(PLAIN, manager=Manager.CLOUDSTACK)


@pytest.mark.parametrize("rules", [(), (BY_NAME,), (replace(BY_NAME, decision=Decision.OFF),)])
def test_what_another_manager_wrote_is_a_choice_that_stays(rules: tuple[Rule, ...]) -> None:
    """It knows no hw:pmu: a state in its domain is its own, its user's, or what the policy wrote before."""
    on = decide(Policy(rules=rules), replace(MANAGED, pmu=PmuState.ON))
    reason = "the domain says on, and the metadata of CloudStack cannot show who asked for that"
    assert on == Ruling(Decision.KEEP, "written-on", reason)
    off = decide(Policy(rules=rules), replace(MANAGED, pmu=PmuState.OFF))
    if rules == (BY_NAME,):
        reason = (
            "by-name wants on, but the domain says off, and the metadata of CloudStack cannot show who asked for that"
        )
        assert off == Ruling(Decision.UNDECIDED, "hidden-choice", reason)
    else:
        assert off.decision is Decision.OFF
    assert decide(Policy(default=Decision.ON), replace(MANAGED, pmu=PmuState.OFF)).decision is Decision.UNDECIDED


@pytest.mark.parametrize("manager", [Manager.LIBVIRT, Manager.NOVA])
def test_elsewhere_a_written_state_is_no_choice(manager: Manager) -> None:
    assert decide(Policy(), replace(PLAIN, manager=manager, pmu=PmuState.ON)).decision is Decision.OFF


@pytest.mark.parametrize("state", [PmuState.ON, PmuState.OFF])
def test_a_request_stands_in_place_of_the_rules_and_changes_nothing_else(state: PmuState) -> None:
    policy = Policy(default=Decision.KEEP, rules=(BY_NAME,), nova_domains=NovaDomains.OBSERVE)
    asked = requesting(policy, state)
    assert asked.rules == (Rule("requested", Decision(state.value), "it was asked for"),)
    assert replace(asked, rules=policy.rules) == policy
    assert decide(asked, PLAIN) == Ruling(Decision(state.value), "requested", "it was asked for")
    assert decide(asked, replace(PLAIN, extra_specs={"hw:pmu": "true"})).decision is Decision.ON
