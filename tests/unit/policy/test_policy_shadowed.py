"""shadowed(): a rule that can never decide is found; one that ever could is never called so."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pmuconf.domain.definition import PmuState
from pmuconf.policy import Decision, Policy, Rule, Subject, decide, shadowed

UUID = "1b4e28ba-2fa1-11d2-883f-0016d3cca427"


def rule(name: str, **criteria: tuple[str, ...]) -> Rule:
    return Rule(name=name, decision=Decision.ON, **criteria)  # type: ignore[arg-type]


# ---- examples ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("earlier", "later"),
    [
        ({"flavor": ("m1",)}, {"flavor": ("m1",)}),
        ({"flavor": ("*",)}, {"flavor": ("m1", "m[23]")}),
        ({"flavor": ("m*",)}, {"flavor": ("m1.*",)}),
        ({"flavor": ("m?",)}, {"flavor": ("m1",)}),
        ({"flavor": ("a", "m*")}, {"flavor": ("m1", "a")}),
        ({"flavor": ("m*",)}, {"flavor": ("m1",), "project": ("p",)}),
        ({"flavor": ("m*",), "arch": ("x86_64",)}, {"arch": ("x86_64",), "flavor": ("m1",), "domain": ("a",)}),
        ({"extra_spec": ("hw:a",)}, {"extra_spec": ("hw:a=dedicated",)}),
        ({"extra_spec": ("hw:a",)}, {"extra_spec": ("hw:a=d*",)}),
        ({"extra_spec": ("hw:a=*",)}, {"extra_spec": ("hw:a=d*",)}),
        ({"extra_spec": ("hw:a=d*",)}, {"extra_spec": ("hw:a=dedicated",)}),
        ({"image_property": ("os",)}, {"image_property": ("os=linux",)}),
        ({"attribute": ("team",)}, {"attribute": ("team=lab",)}),
        ({"project": ("p", "q")}, {"project": ("q",)}),
        ({"domain": ("web*",)}, {"domain": ("web1",)}),
        ({"domain": (UUID,)}, {"domain": (UUID,)}),
        ({"domain": ("*",)}, {"domain": (UUID,)}),
        ({"flavor": ("X*",)}, {"flavor": ("X1",)}),
        ({"extra_spec": ("a=b*",)}, {"extra_spec": ("a=b=c",)}),
        ({"virt_type": ("kvm", "qemu")}, {"virt_type": ("qemu",)}),
    ],
)
def test_a_rule_that_can_never_decide_is_found(
    earlier: dict[str, tuple[str, ...]], later: dict[str, tuple[str, ...]]
) -> None:
    one, other, between = rule("earlier", **earlier), rule("later", **later), rule("between", project=("zzz",))
    assert shadowed([one, other]) == (other, one)
    assert shadowed([one, between, other]) == (other, one)


@pytest.mark.parametrize(
    ("earlier", "later"),
    [
        ({"flavor": ("m1",)}, {"flavor": ("m2",)}),
        ({"flavor": ("m1",)}, {"flavor": ("m1", "m2")}),
        ({"flavor": ("m1.*",)}, {"flavor": ("m*",)}),
        ({"flavor": ("m1",), "project": ("p",)}, {"flavor": ("m1",)}),
        ({"flavor": ("m1",)}, {"project": ("p",)}),
        ({"extra_spec": ("hw:a=d*",)}, {"extra_spec": ("hw:a",)}),
        ({"extra_spec": ("hw:a=b",)}, {"extra_spec": ("hw:a=c",)}),
        # The key of an extra spec or image property is no glob: it stands for itself alone.
        ({"extra_spec": ("hw:*",)}, {"extra_spec": ("hw:a",)}),
        ({"extra_spec": ("*",)}, {"extra_spec": ("hw:a=b",)}),
        ({"image_property": ("o?=linux",)}, {"image_property": ("os=linux",)}),
        ({"image_property": ("[o]s=linux",)}, {"image_property": ("os=linux",)}),
        ({"attribute": ("t*",)}, {"attribute": ("team",)}),
        # Neither is the id of a project or a flavor.
        ({"project": ("*",)}, {"project": ("p",)}),
        ({"project": ("p*",)}, {"project": ("p1",)}),
        ({"flavor_id": ("?",)}, {"flavor_id": ("1",)}),
        ({"arch": ("*",)}, {"arch": ("x86_64",)}),
        # A prefix that has a sign of a glob in it is no plain prefix.
        ({"flavor": ("a[b*",)}, {"flavor": ("a[bc]*",)}),
        ({"flavor": ("a[*",)}, {"flavor": ("a[b]c*",)}),
        ({"flavor": ("m1*",)}, {"flavor": ("m2",)}),
        # A glob is matched with the name of a domain, never with its UUID.
        ({"domain": ("1*",)}, {"domain": (UUID,)}),
        ({"domain": ("????????-*",)}, {"domain": (UUID,)}),
    ],
)
def test_a_rule_that_may_decide_is_not_called_shadowed(
    earlier: dict[str, tuple[str, ...]], later: dict[str, tuple[str, ...]]
) -> None:
    assert shadowed([rule("earlier", **earlier), rule("later", **later)]) is None


def test_no_rules_and_one_rule_are_fine() -> None:
    assert shadowed([]) is None
    assert shadowed([rule("a", flavor=("*",))]) is None


def test_two_rules_that_only_together_come_first_are_not_told() -> None:
    """What can be told from the patterns alone: one earlier rule, not several."""
    rules = [rule("a", arch=("x86_64",)), rule("b", arch=("i686",)), rule("c", arch=("x86_64", "i686"))]
    assert shadowed(rules) is None


# ---- no rule that ever decides is called shadowed ------------------------------------------------------------------

_WORDS = ("a", "b", "ab", "ba", "a*", "*", "[a]", "a?", "", UUID)
_PAIRS = (
    *("a", "b", "a=a", "a=ab", "a=*", "a=", "a=a*", "*", "*=a", "a*", "a*=a", "[a]=a", "a=[a]", "a=?", "=a", "ab=a"),
)
_MAPPINGS: tuple[dict[str, str], ...] = (
    *({}, {"a": "a"}, {"a": "ab"}, {"a": ""}, {"a": "*"}, {"*": "a"}, {"a*": "a"}, {"b": "a"}, {"": "a"}, {"ab": "a"}),
)
_VALUES = {
    "flavor": [*_WORDS, "a[!b]", "*b"],
    "flavor_id": _WORDS,
    "project": _WORDS,
    "domain": [*_WORDS, "1*", UUID.upper(), UUID[:-1] + "?"],
    "extra_spec": _PAIRS,
    "image_property": _PAIRS,
    "attribute": _PAIRS,
}


def subjects(criteria: set[str]) -> list[Subject]:
    """Every subject of a little world that differs in what these criteria read."""
    names = ["a", "b", "ab", "a*", "*", "1b", UUID]
    plain = [None, "a", "b", "ab", "a*", "*", "[a]", "a?", ""]
    reads: dict[str, list[dict[str, object]]] = {
        "flavor": [{"flavor": name} for name in [*plain, "ac"]],
        "flavor_id": [{"flavor_id": name} for name in plain],
        "project": [{"project": name} for name in plain],
        "extra_spec": [{"extra_specs": mapping} for mapping in _MAPPINGS],
        "image_property": [{"image_properties": mapping} for mapping in _MAPPINGS],
        "attribute": [{"attributes": mapping} for mapping in _MAPPINGS],
        "domain": [{"name": name, "uuid": uuid} for name in names for uuid in (None, UUID)],
    }
    base = Subject(virt_type="kvm", arch="x86_64", name="zzz", pmu=PmuState.DEFAULT)
    found = [base]
    for criterion in criteria:
        found = [replace(one, **facts) for one in found for facts in reads[criterion]]  # type: ignore[arg-type]
    return found


def rules_asking(criterion: str) -> st.SearchStrategy[tuple[str, ...]]:
    return st.lists(st.sampled_from(_VALUES[criterion]), min_size=1, max_size=2).map(tuple)


some_rules = st.lists(st.sampled_from(sorted(_VALUES)), min_size=1, max_size=2, unique=True).flatmap(
    lambda criteria: st.lists(
        st.fixed_dictionaries({}, optional={name: rules_asking(name) for name in criteria}).filter(bool),
        min_size=2,
        max_size=3,
    )
)


@settings(max_examples=100)
@given(some_rules)
@example([{"project": ("*",)}, {"project": ("a",)}])
@example([{"domain": ("1*",)}, {"domain": (UUID,)}])
@example([{"extra_spec": ("a*",)}, {"extra_spec": ("ab=a",)}])
def test_a_rule_that_decides_for_anybody_is_never_called_shadowed(criteria: list[dict[str, tuple[str, ...]]]) -> None:
    rules = [rule(f"r{at}", **named) for at, named in enumerate(criteria)]
    pair = shadowed(rules)
    if pair is None:
        return
    later, earlier = pair
    assert rules.index(earlier) < rules.index(later)
    policy = Policy(default=Decision.KEEP, rules=(earlier, later))
    for subject in subjects({name for named in criteria for name in named}):
        assert decide(policy, subject).rule != later.name, subject
