"""What the policy decides: explicit choices, rules in order, what cannot be known, the default."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st
from oslo_utils import strutils

from pmuconf.domain.definition import UNKNOWN, PmuState
from pmuconf.domain.reading import read
from pmuconf.policy import (
    CONFLICT,
    CRITERIA,
    RESERVED,
    Decision,
    FlavorImageConflict,
    Policy,
    Rule,
    Ruling,
    Subject,
    decide,
    explicit_choice,
)
from tests.support.domains import nova_domain, plain_domain

# A VM of a Nova whose metadata says everything, and one of a Nova that does not.
KNOWN = Subject(
    virt_type="kvm",
    arch="x86_64",
    flavor="m1.small",
    flavor_id="42",
    extra_specs={},
    image_properties={},
    project="c0ffee",
    attributes={},
    name="instance-0000002a",
    uuid="1B4E28BA-2fa1-11d2-883f-0016d3cca427",
    pmu=PmuState.DEFAULT,
)
OLD_NOVA = replace(KNOWN, flavor_id=UNKNOWN, extra_specs=UNKNOWN, image_properties=UNKNOWN)
PLAIN = Subject(virt_type="kvm", arch="x86_64", name="web", uuid="u", pmu=PmuState.DEFAULT)


def rule(name: str = "r", decision: Decision = Decision.ON, **criteria: tuple[str, ...]) -> Rule:
    return Rule(name=name, decision=decision, **criteria)  # type: ignore[arg-type]


def decided(subject: Subject, *rules: Rule, default: Decision = Decision.OFF) -> tuple[Decision, str]:
    ruling = decide(Policy(default=default, rules=rules), subject)
    assert ruling.reason
    return ruling.decision, ruling.rule


# ---- explicit choices ----------------------------------------------------------------------------------------------


def nova_says(flavor: str | None, image: str | None) -> PmuState | None:
    """What nova.virt.hardware.get_pmu_constraint() makes of it, by the library that it asks itself."""
    values = [None if text is None else strutils.bool_from_string(text) for text in (flavor, image)]
    if None not in values and values[0] != values[1]:
        raise FlavorImageConflict(str(flavor), str(image))
    value = values[0] if values[0] is not None else values[1]
    return None if value is None else PmuState.ON if value else PmuState.OFF


def choice(flavor: str | None, image: str | None) -> PmuState | None:
    specs = {"hw:cpu_policy": "dedicated"} if flavor is None else {"hw:pmu": flavor}
    properties = {"hw_cpu_policy": "dedicated"} if image is None else {"hw_pmu": image}
    made = explicit_choice(specs, properties)
    if made is not None:
        assert made[1] == ("hw_pmu" if flavor is None else "hw:pmu")
    return None if made is None else made[0]


YES = ["1", "t", "true", "on", "y", "yes", "True", "TRUE", "oN", " yes", "yes\t\n", "T", "\u00a0on\u2003"]
NO = [
    *("0", "f", "false", "off", "n", "no", "False", "OFF", "", " ", "2", "enabled", "truee", "y e s", "on!"),
    *("\uff4f\uff4e", "o\u0000n"),
]


@pytest.mark.parametrize(("text", "state"), [*((yes, PmuState.ON) for yes in YES), *((no, PmuState.OFF) for no in NO)])
def test_hw_pmu_is_read_as_nova_reads_it_garbage_means_off(text: str, state: PmuState) -> None:
    assert choice(text, None) is state
    assert choice(None, text) is state
    assert nova_says(text, None) is state


@given(st.text() | st.sampled_from(YES + NO) | st.text(alphabet="onyestrf1\u0130\u0131\u212a \t\x1c\x85"))
def test_any_text_is_read_as_nova_reads_it(text: str) -> None:
    assert choice(text, None) is nova_says(text, None)
    assert choice(None, text) is nova_says(None, text)


def test_no_key_is_no_choice() -> None:
    assert choice(None, None) is None
    assert explicit_choice(None, None) is None
    assert explicit_choice(UNKNOWN, UNKNOWN) is None
    assert explicit_choice({"HW:PMU": "true", "hw_pmu": "true"}, {"hw:pmu": "true"}) is None


@pytest.mark.parametrize(("flavor", "image"), [*product([None, *YES[:4], *NO[:4], "garbage"], repeat=2)])
def test_flavor_and_image_agree_or_conflict_as_in_nova(flavor: str | None, image: str | None) -> None:
    try:
        wanted = nova_says(flavor, image)
    except FlavorImageConflict:
        with pytest.raises(FlavorImageConflict) as caught:
            choice(flavor, image)
        assert caught.value.cause == CONFLICT
        assert f"hw:pmu={flavor}" in caught.value.message
        assert f"hw_pmu={image}" in caught.value.message
        assert caught.value.hint
    else:
        assert choice(flavor, image) is wanted


def test_a_choice_on_one_side_counts_where_the_other_side_is_not_known() -> None:
    assert explicit_choice({"hw:pmu": "true"}, UNKNOWN) == (PmuState.ON, "hw:pmu")
    assert explicit_choice(UNKNOWN, {"hw_pmu": "no"}) == (PmuState.OFF, "hw_pmu")
    assert explicit_choice({}, {"hw_pmu": "yes"}) == (PmuState.ON, "hw_pmu")


# ---- the order of the steps ----------------------------------------------------------------------------------------


def test_without_anything_the_default_decides() -> None:
    for default in (Decision.OFF, Decision.ON, Decision.KEEP):
        assert decided(KNOWN, default=default) == (default, "default")
    assert decide(Policy(), PLAIN) == Ruling(Decision.OFF, "default", "there are no rules")


@pytest.mark.parametrize(
    ("virt_type", "arch"),
    [("kvm", "aarch64"), ("qemu", "ppc64le"), ("xen", "x86_64"), ("lxc", "x86_64"), ("hvf", "x86_64"), ("", "")],
)
def test_out_of_scope_is_kept_before_anything_else(virt_type: str, arch: str) -> None:
    """Even a contradiction there is none of ours."""
    subject = replace(KNOWN, virt_type=virt_type, arch=arch)
    everything = rule(domain=("*",))
    assert decided(subject, everything) == (Decision.KEEP, "out-of-scope")
    torn = replace(subject, extra_specs={"hw:pmu": "true"}, image_properties={"hw_pmu": "false"})
    assert decided(torn, everything) == (Decision.KEEP, "out-of-scope")


@pytest.mark.parametrize("pmu", [*PmuState, UNKNOWN])
@pytest.mark.parametrize(("text", "wanted"), [("true", Decision.ON), ("false", Decision.OFF), ("?", Decision.OFF)])
def test_an_explicit_choice_beats_every_rule_and_what_stands_there(text: str, wanted: Decision, pmu: PmuState) -> None:
    against = rule(decision=Decision.OFF if wanted is Decision.ON else Decision.ON, domain=("*",))
    by_flavor = replace(KNOWN, extra_specs={"hw:pmu": text}, pmu=pmu)
    assert decided(by_flavor, against) == (wanted, "hw:pmu")
    by_image = replace(KNOWN, image_properties={"hw_pmu": text}, pmu=pmu)
    assert decided(by_image, against) == (wanted, "hw_pmu")


def test_a_contradiction_is_an_error_not_a_decision() -> None:
    torn = replace(KNOWN, extra_specs={"hw:pmu": "true"}, image_properties={"hw_pmu": "false"})
    with pytest.raises(FlavorImageConflict):
        decide(Policy(), torn)


def test_the_first_rule_that_matches_decides() -> None:
    first, second = rule("a", Decision.ON, flavor=("m1.*",)), rule("b", Decision.KEEP, domain=("*",))
    assert decided(KNOWN, first, second) == (Decision.ON, "a")
    assert decided(KNOWN, second, first) == (Decision.KEEP, "b")
    assert decided(replace(KNOWN, flavor="perf.1"), first, second) == (Decision.KEEP, "b")
    assert decided(replace(KNOWN, flavor="perf.1"), first) == (Decision.OFF, "default")


def test_the_reason_is_the_rules_own_or_says_what_matched() -> None:
    spoken = replace(rule(flavor=("m1.*",)), reason="they run perf")
    assert decide(Policy(rules=(spoken,)), KNOWN).reason == "they run perf"
    assert decide(Policy(rules=(rule(flavor=("m1.*",), arch=("x86_64",)),)), KNOWN).reason == "matches flavor, arch"


# ---- what cannot be seen -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rules", [(), (rule(decision=Decision.OFF, domain=("*",)),), (rule(domain=("*",)),)])
@pytest.mark.parametrize("hidden", ["extra_specs", "image_properties"])
def test_a_written_on_whose_origin_is_hidden_is_kept(rules: tuple[Rule, ...], hidden: str) -> None:
    """Nova before 32 writes no extra specs: hw:pmu=true may be why it says on."""
    subject = replace(KNOWN, pmu=PmuState.ON, **{hidden: UNKNOWN})  # type: ignore[arg-type]
    assert decided(subject, *rules) == (Decision.KEEP, "written-on")
    assert decided(replace(subject, pmu=PmuState.DEFAULT)) == (Decision.OFF, "default")


def test_a_written_on_whose_origin_can_be_seen_is_not_kept() -> None:
    assert decided(replace(KNOWN, pmu=PmuState.ON)) == (Decision.OFF, "default")
    assert decided(replace(PLAIN, pmu=PmuState.ON)) == (Decision.OFF, "default")


def test_a_written_off_whose_origin_is_hidden_is_never_turned_on() -> None:
    """hw:pmu=false may be why it says off, and that would beat the rule."""
    off = replace(OLD_NOVA, pmu=PmuState.OFF)
    assert decided(off, rule(flavor=("m1.*",))) == (Decision.UNDECIDED, "hidden-choice")
    assert decided(off, default=Decision.ON) == (Decision.UNDECIDED, "hidden-choice")
    assert decided(off, rule(decision=Decision.KEEP, flavor=("m1.*",))) == (Decision.KEEP, "r")
    assert decided(off) == (Decision.OFF, "default")
    assert decided(replace(off, pmu=PmuState.DEFAULT), rule(flavor=("m1.*",))) == (Decision.ON, "r")


@pytest.mark.parametrize("version", ["26.2.2", "31.0.0"])
def test_nova_up_to_31_a_domain_as_it_is_found(version: str) -> None:
    def ruling(pmu: str | None) -> tuple[Decision, str]:
        xml = nova_domain("instance-1", version=version, pmu=pmu, flavor="m1.small").replace(
            "<type ", "<type arch='x86_64' "
        )
        return decided(Subject.of_domain(read(xml)), rule(flavor=("perf.*",)))

    assert ruling("on") == (Decision.KEEP, "written-on")
    assert ruling("off") == (Decision.OFF, "default")
    assert ruling(None) == (Decision.OFF, "default")


def test_nova_since_32_a_domain_as_it_is_found() -> None:
    def ruling(specs: dict[str, str], pmu: str | None) -> tuple[Decision, str]:
        xml = nova_domain("instance-1", version="32.0.0", pmu=pmu, extra_specs=specs)
        return decided(Subject.of_domain(read(xml.replace("<type ", "<type arch='x86_64' "))))

    assert ruling({}, "on") == (Decision.OFF, "default")
    assert ruling({"hw:pmu": "true"}, "on") == (Decision.ON, "hw:pmu")
    assert ruling({"hw:pmu": "true"}, None) == (Decision.ON, "hw:pmu")
    assert ruling({"hw:pmu": "false"}, None) == (Decision.OFF, "hw:pmu")


def test_a_plain_domain_has_no_flavor_and_hides_nothing() -> None:
    subject = Subject.of_domain(read(plain_domain("web", pmu="on", virt_type="kvm")))
    assert decided(subject, rule(flavor=("*",)), rule("p", project=("*",))) == (Decision.OFF, "default")


@pytest.mark.parametrize("more", ["", "<pmu state='on'/>", "<pmu state='off'/>"])
@pytest.mark.parametrize("type_", ["<type>hvm</type>", "<type machine='pc'>hvm</type>", "<type arch=''>hvm</type>", ""])
def test_a_domain_that_names_no_architecture_is_undecided(type_: str, more: str) -> None:
    """libvirt fills it in when it takes the domain: then it may be one that the policy speaks of."""
    xml = f"<domain type='kvm'><name>web</name><os>{type_}</os><features>{more}</features></domain>"
    subject = Subject.of_domain(read(xml))
    ruling = decide(Policy(rules=(rule(domain=("*",)),)), subject)
    assert (ruling.decision, ruling.rule) == (Decision.UNDECIDED, "no-arch")
    assert "libvirt fills it in" in ruling.reason
    torn = replace(subject, extra_specs={"hw:pmu": "true"}, image_properties={"hw_pmu": "false"})
    assert decided(torn) == (Decision.UNDECIDED, "no-arch")


@pytest.mark.parametrize("version", ["20.6.1", "22.4.0"])
def test_nova_up_to_22_a_domain_as_it_is_found(version: str) -> None:
    """Its metadata is in the namespace nova/1.0, and may live on for years."""

    def ruling(pmu: str | None) -> tuple[Decision, str]:
        xml = nova_domain("instance-1", version=version, pmu=pmu, flavor="m1.small")
        assert "nova/1.0" in xml
        return decided(
            Subject.of_domain(read(xml.replace("<type ", "<type arch='x86_64' "))), rule("m1", flavor=("m1.*",))
        )

    assert ruling("on") == (Decision.KEEP, "written-on")
    assert ruling("off") == (Decision.UNDECIDED, "hidden-choice")
    assert ruling(None) == (Decision.ON, "m1")


# ---- criteria ------------------------------------------------------------------------------------------------------


# A criterion, a value of it, what it makes match in KNOWN, and what it does not.
EXAMPLES: list[tuple[str, str, dict[str, object], list[dict[str, object]]]] = [
    (
        "flavor",
        "perf.*",
        {"flavor": "perf.large"},
        [{"flavor": "m1.perf.x"}, {"flavor": "Perf.large"}, {"flavor": None}],
    ),
    ("flavor", "m[12].?", {"flavor": "m2.x"}, [{"flavor": "m3.x"}, {"flavor": "m1.xx"}]),
    # A name that looks like a glob can be given as it is.
    ("flavor", "perf[1]", {"flavor": "perf[1]"}, [{"flavor": "perf[2]"}, {"flavor": "perf"}]),
    ("domain", "[win10] work", {"name": "[win10] work"}, [{"name": "[win11] work"}, {"name": "win10 work"}]),
    ("extra_spec", "hw:a=[x", {"extra_specs": {"hw:a": "[x"}}, [{"extra_specs": {"hw:a": "x"}}]),
    ("image_property", "os=[a]b", {"image_properties": {"os": "[a]b"}}, [{"image_properties": {"os": "[b]b"}}]),
    ("flavor_id", "42", {"flavor_id": "42"}, [{"flavor_id": "421"}, {"flavor_id": None}]),
    ("extra_spec", "hw:a", {"extra_specs": {"hw:a": ""}}, [{"extra_specs": {"hw:ab": "x"}}, {"extra_specs": None}]),
    ("extra_spec", "hw:a=d*", {"extra_specs": {"hw:a": "dedicated"}}, [{"extra_specs": {"hw:a": "shared"}}]),
    ("extra_spec", "hw:a=b=c", {"extra_specs": {"hw:a": "b=c"}}, [{"extra_specs": {"hw:a": "b"}}]),
    ("extra_spec", "hw:a=", {"extra_specs": {"hw:a": ""}}, [{"extra_specs": {"hw:a": "x"}}, {"extra_specs": {}}]),
    ("image_property", "os=w*", {"image_properties": {"os": "win"}}, [{"image_properties": {"os": "linux"}}]),
    ("project", "c0ffee", {"project": "c0ffee"}, [{"project": "c0ffe"}, {"project": "C0FFEE"}, {"project": None}]),
    ("attribute", "team", {"attributes": {"team": ""}}, [{"attributes": {"teams": "x"}}, {"attributes": None}]),
    ("attribute", "a.b/c=p*", {"attributes": {"a.b/c": "perf"}}, [{"attributes": {"a.b/c": "x"}}, {"attributes": {}}]),
    ("domain", "web-*", {"name": "web-1"}, [{"name": "db-web-1"}]),
    ("domain", "1b4e28ba-2FA1-11d2-883f-0016d3cca427", {}, [{"uuid": "1b4e28ba-2fa1-11d2-883f-000000000000"}]),
    ("arch", "i686", {"arch": "i686"}, [{"arch": "x86_64"}]),
    ("virt_type", "qemu", {"virt_type": "qemu"}, [{"virt_type": "kvm"}]),
]


@pytest.mark.parametrize(("criterion", "value", "facts", "others"), EXAMPLES)
def test_each_criterion(criterion: str, value: str, facts: dict[str, object], others: list[dict[str, object]]) -> None:
    asking = rule(**{criterion: ("nonsense", value)})  # type: ignore[arg-type]
    assert decided(replace(KNOWN, **facts), asking) == (Decision.ON, "r")  # type: ignore[arg-type]
    for other in others:
        assert decided(replace(KNOWN, **other), asking) == (Decision.OFF, "default")  # type: ignore[arg-type]


def test_every_criterion_is_tried_above() -> None:
    assert {criterion for criterion, *_ in EXAMPLES} == set(CRITERIA)


def test_a_rule_matches_if_every_criterion_does() -> None:
    both = rule(flavor=("m1.*",), project=("c0ffee", "beef"))
    assert decided(KNOWN, both) == (Decision.ON, "r")
    assert decided(replace(KNOWN, project="beef"), both) == (Decision.ON, "r")
    assert decided(replace(KNOWN, project="dead"), both) == (Decision.OFF, "default")
    assert decided(replace(KNOWN, flavor="x"), both) == (Decision.OFF, "default")


def test_no_rule_can_have_the_name_of_a_step() -> None:
    steps = {"default", "out-of-scope", "no-arch", "written-on", "hidden-choice", "hw:pmu", "hw_pmu", "requested"}
    assert steps == RESERVED


@pytest.mark.parametrize(
    ("decision", "state"),
    [
        (Decision.ON, PmuState.ON),
        (Decision.OFF, PmuState.OFF),
        (Decision.KEEP, None),
        (Decision.UNDECIDED, None),
    ],
)
def test_the_state_that_a_decision_wants_written(decision: Decision, state: PmuState | None) -> None:
    assert decision.state is state
