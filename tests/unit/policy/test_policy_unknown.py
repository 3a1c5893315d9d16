"""Three-valued matching: a rule that reads what is not known here leaves the domain undecided, never to the next."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import fields, replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pmuconf
from pmuconf.domain.definition import UNKNOWN, PmuState
from pmuconf.policy import CRITERIA, Decision, Policy, Rule, Subject, decide

SUBJECT = Subject(
    virt_type="kvm",
    arch="x86_64",
    flavor="m1.small",
    flavor_id="42",
    extra_specs={"hw:a": "b"},
    image_properties={"os": "linux"},
    project="c0ffee",
    attributes={"team": "lab"},
    name="web",
    uuid="1b4e28ba-2fa1-11d2-883f-0016d3cca427",
    pmu=PmuState.DEFAULT,
)

# For each criterion that may read what is not known: the facts that it reads, a value that matches SUBJECT, one not.
READS: dict[str, tuple[tuple[str, ...], str, str]] = {
    "flavor": (("flavor",), "m1.*", "perf.*"),
    "flavor_id": (("flavor_id",), "42", "43"),
    "extra_spec": (("extra_specs",), "hw:a=b", "hw:a=c"),
    "image_property": (("image_properties",), "os", "os=windows"),
    "project": (("project",), "c0ffee", "beef"),
    "attribute": (("attributes",), "team=l*", "team=shop"),
    "domain": (("name", "uuid"), "we?", "db*"),
}
ELSE = Rule("else", Decision.OFF, domain=("*",), flavor=("*",))


def unknown(*facts: str) -> Subject:
    return replace(SUBJECT, **dict.fromkeys(facts, UNKNOWN))  # type: ignore[arg-type]


def decided(subject: Subject, *rules: Rule) -> tuple[Decision, str]:
    ruling = decide(Policy(default=Decision.KEEP, rules=rules), subject)
    return ruling.decision, ruling.rule


def test_every_criterion_but_those_always_known_is_tried_here() -> None:
    assert {*READS, "arch", "virt_type"} == set(CRITERIA)


def test_every_front_end_says_of_every_fact_what_it_is_or_that_it_is_unknown() -> None:
    """The defaults of a Subject mean a known absence: a front end that forgets a fact would ask the next rule."""
    tree = Path(pmuconf.__file__).resolve().parents[1]
    calls = {
        file.relative_to(tree).as_posix(): {keyword.arg for keyword in node.keywords}
        for folder in ("pmuconf", "nova_hooks/pmuconf_nova")
        for file in sorted((tree / folder).rglob("*.py"))
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Subject"
    }
    assert len(calls) == 3
    facts = {fact.name for fact in fields(Subject)} - {"pmu"}  # UNKNOWN unless given
    assert {file: facts - given for file, given in calls.items() if facts - given} == {}


@pytest.mark.parametrize("criterion", READS)
def test_a_rule_that_reads_an_unknown_fact_leaves_undecided_and_says_what_it_read(criterion: str) -> None:
    facts, match, _ = READS[criterion]
    asking = Rule("asking", Decision.ON, **{criterion: (match,)})  # type: ignore[arg-type]
    assert decided(SUBJECT, asking, ELSE) == (Decision.ON, "asking")
    assert decided(unknown(*facts), asking, ELSE) == (Decision.UNDECIDED, "asking")
    reason = decide(Policy(rules=(asking,)), unknown(*facts)).reason
    assert "asking" in reason
    assert criterion in reason


@pytest.mark.parametrize(
    ("criterion", "other"), [pair for pair in product(READS, [*READS, "arch", "virt_type"]) if pair[0] != pair[1]]
)
def test_a_criterion_known_not_to_match_takes_the_rule_out_whatever_the_others_read(criterion: str, other: str) -> None:
    wrong = {"arch": "i686", "virt_type": "qemu"}.get(other) or READS[other][2]
    asking = Rule("asking", Decision.ON, **{criterion: (READS[criterion][1],), other: (wrong,)})  # type: ignore[arg-type]
    assert decided(unknown(*READS[criterion][0]), asking) == (Decision.KEEP, "default")


@pytest.mark.parametrize("criterion", READS)
def test_a_criterion_known_to_match_does_not_make_up_for_an_unknown_one(criterion: str) -> None:
    facts, match, _ = READS[criterion]
    asking = Rule("asking", Decision.ON, arch=("x86_64",), **{criterion: (match,)})  # type: ignore[arg-type]
    assert decided(unknown(*facts), asking, ELSE) == (Decision.UNDECIDED, "asking")


def test_a_rule_before_it_that_matches_still_decides() -> None:
    asking = Rule("asking", Decision.ON, project=("c0ffee",))
    assert decided(unknown("project"), ELSE, asking) == (Decision.OFF, "else")


@pytest.mark.parametrize(("fact", "value"), [("name", "we*"), ("uuid", "1B4E28BA-2FA1-11d2-883f-0016d3cca427")])
def test_a_domain_whose_name_or_uuid_matches_is_known_to_match(fact: str, value: str) -> None:
    other = "uuid" if fact == "name" else "name"
    assert decided(unknown(other), Rule("asking", Decision.ON, domain=(value,))) == (Decision.ON, "asking")


def test_none_is_known_to_be_absent() -> None:
    plain = Subject(virt_type="kvm", arch="x86_64", name="web", uuid=None, pmu=PmuState.DEFAULT)
    for criterion in ("flavor", "flavor_id", "extra_spec", "image_property", "project"):
        asking = Rule("asking", Decision.ON, **{criterion: (READS[criterion][1],)})  # type: ignore[arg-type]
        assert decided(plain, asking) == (Decision.KEEP, "default")


# ---- every front end, whatever it knows, against one that knows everything -----------------------------------------

# Small, but every value below matches something in it, and nothing matches all.
_WORLD: dict[str, list[Any]] = {
    "flavor": ["a", "ab", None],
    "flavor_id": ["a", "b"],
    "extra_specs": [{}, {"k": "v"}, {"l": ""}, None],
    "image_properties": [{}, {"k": "v"}, {"k": "w"}],
    "project": ["a", "b"],
    "attributes": [{}, {"k": "v"}],
    "identity": [("a", "u"), ("ab", "v")],
}
_VALUES: dict[str, list[str]] = {
    "flavor": ["a", "a*", "*", "?b"],
    "flavor_id": ["a", "b"],
    "extra_spec": ["k", "k=v", "k=*", "l"],
    "image_property": ["k", "k=v"],
    "project": ["a", "b"],
    "attribute": ["k", "k=w"],
    "domain": ["a", "*b", "u", "V"],
    "arch": ["x86_64", "i686"],
    "virt_type": ["kvm", "qemu"],
}


def facts_of(drawn: dict[str, Any]) -> Subject:
    identity = drawn["identity"]
    name, uuid = (UNKNOWN, UNKNOWN) if identity is UNKNOWN else identity
    rest = {key: value for key, value in drawn.items() if key != "identity"}
    return Subject(virt_type="kvm", arch="x86_64", name=name, uuid=uuid, pmu=PmuState.DEFAULT, **rest)


def completions(drawn: dict[str, Any]) -> Iterator[Subject]:
    """Every domain of the little world that the partly known one may be."""
    choices = [values if drawn[key] is UNKNOWN else [drawn[key]] for key, values in _WORLD.items()]
    return (facts_of(dict(zip(_WORLD, chosen))) for chosen in product(*choices))


partly_known = st.fixed_dictionaries({key: st.sampled_from([*values, UNKNOWN]) for key, values in _WORLD.items()})
some_rules = st.lists(
    st.dictionaries(st.sampled_from(sorted(_VALUES)), st.integers(0, 3), min_size=1, max_size=2).map(
        lambda chosen: {key: (_VALUES[key][index % len(_VALUES[key])],) for key, index in chosen.items()}
    ),
    max_size=3,
)


@settings(max_examples=100)
@given(partly_known, some_rules)
def test_who_knows_less_may_be_undecided_but_never_decides_otherwise(
    drawn: dict[str, Any], criteria: list[dict[str, Any]]
) -> None:
    rules = tuple(Rule(f"r{at}", Decision.ON if at % 2 else Decision.OFF, **named) for at, named in enumerate(criteria))
    policy = Policy(default=Decision.KEEP, rules=rules)
    here = decide(policy, facts_of(drawn))
    there = [decide(policy, subject) for subject in completions(drawn)]
    if here.decision is Decision.UNDECIDED:
        assert here.rule in {ruling.rule for ruling in there}, "it could not have matched"
    else:
        assert {(ruling.decision, ruling.rule) for ruling in there} == {(here.decision, here.rule)}
