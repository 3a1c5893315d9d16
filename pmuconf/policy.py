"""Which PMU state a domain or flavor should have, and which rule says so.

Pure: facts in, a ruling out. Every front end (command, service, Nova plugin, Ansible module) asks here and has no rule
of its own. The steps, in their order:

1. Outside x86 KVM and QEMU: keep. A domain that names no architecture is undecided: libvirt has not filled it in yet.
2. An explicit ``hw:pmu`` (flavor) or ``hw_pmu`` (image) beats every rule. It is read exactly as Nova reads it.
3. Before version 32, Nova writes no extra specs into a domain's metadata, so an explicit choice is invisible there. If
   such a domain says ``on``, somebody chose that: keep. The other managers (KubeVirt, oVirt, CloudStack, OpenNebula)
   know no hw:pmu: there, a written state is all that shows of a choice.
4. The first rule that matches. If a rule needs a fact that is unknown here, the domain is undecided; the next rule is
   not asked.
5. The default.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Final
from uuid import UUID

from pmuconf.domain.definition import UNKNOWN, X86, Domain, Manager, PmuState, Unknown
from pmuconf.errors import PmuconfError

__all__ = [
    "CONFLICT",
    "CRITERIA",
    "RESERVED",
    "VIRT_TYPES",
    "Decision",
    "FlavorImageConflict",
    "NovaDomains",
    "Policy",
    "Rule",
    "Ruling",
    "Subject",
    "decide",
    "explicit_choice",
    "requesting",
    "shadowed",
]

VIRT_TYPES: Final = frozenset({"kvm", "qemu"})

# The names under which the steps other than a rule appear where a rule's name would.
DEFAULT, OUT_OF_SCOPE, WRITTEN_ON, HIDDEN_CHOICE = "default", "out-of-scope", "written-on", "hidden-choice"
NO_ARCH = "no-arch"
FLAVOR_CHOICE, IMAGE_CHOICE, REQUESTED = "hw:pmu", "hw_pmu", "requested"
CHOICE_TEXTS: Final = {PmuState.ON: "true", PmuState.OFF: "false"}
"""The values of hw:pmu and hw_pmu, in the form that Nova's API accepts since microversion 2.86."""
RESERVED: Final = frozenset(
    {DEFAULT, OUT_OF_SCOPE, NO_ARCH, WRITTEN_ON, HIDDEN_CHOICE, FLAVOR_CHOICE, IMAGE_CHOICE, REQUESTED}
)

CONFLICT: Final = "flavor-image-conflict"


class Decision(enum.Enum):
    """What the policy wants: ``off`` and ``on`` written as a state; ``keep`` and ``undecided`` change nothing."""

    OFF = "off"
    ON = "on"
    KEEP = "keep"
    UNDECIDED = "undecided"

    @property
    def state(self) -> PmuState | None:
        """The PMU state that this decision wants written; None if it wants none."""
        if self is Decision.OFF:
            return PmuState.OFF
        return PmuState.ON if self is Decision.ON else None


class NovaDomains(enum.Enum):
    """What front ends do about a domain that Nova manages and that is off policy: change it, or only report it."""

    ENFORCE = "enforce"
    OBSERVE = "observe"


class FlavorImageConflict(PmuconfError):
    """The flavor's ``hw:pmu`` and the image's ``hw_pmu`` disagree: Nova refuses that with HTTP 400."""

    def __init__(self, flavor_says: str, image_says: str) -> None:
        super().__init__(
            f"the flavor's hw:pmu={flavor_says} and the image's hw_pmu={image_says} contradict each other",
            cause=CONFLICT,
            hint="Nova will refuse to start it: change one of the two",
        )


@dataclass(frozen=True)
class Subject:
    """The facts of a domain or flavor that the policy decides by.

    None means a known absence: a plain libvirt domain has no flavor. ``UNKNOWN`` means that the caller cannot know.

    :param pmu: the state in the domain's definition now; ``UNKNOWN`` if there is no domain yet.
    """

    virt_type: str
    arch: str
    flavor: str | Unknown | None = None
    flavor_id: str | Unknown | None = None
    extra_specs: Mapping[str, str] | Unknown | None = None
    image_properties: Mapping[str, str] | Unknown | None = None
    project: str | Unknown | None = None
    attributes: Mapping[str, str] | Unknown | None = None
    name: str | Unknown | None = None
    uuid: str | Unknown | None = None
    manager: Manager = Manager.LIBVIRT
    pmu: PmuState | Unknown = UNKNOWN

    @classmethod
    def of_domain(cls, domain: Domain) -> Subject:
        """The subject that a definition of a domain gives."""
        subject = cls(
            virt_type=domain.virt_type,
            arch=domain.arch,
            name=domain.name,
            uuid=domain.uuid,
            manager=domain.manager,
            pmu=domain.pmu,
        )
        nova, managed = domain.nova, domain.managed
        if nova is not None:
            return replace(
                subject,
                flavor=nova.flavor,
                flavor_id=nova.flavor_id,
                project=nova.project_id,
                extra_specs=nova.extra_specs,
                image_properties=nova.image_properties,
            )
        if managed is not None:
            return replace(subject, flavor=managed.flavor, project=managed.project, attributes=managed.attributes)
        return subject

    @property
    def hidden(self) -> str:
        """Why an explicit choice may have been made that can't be seen; empty if none can be hidden."""
        if self.extra_specs is UNKNOWN or self.image_properties is UNKNOWN:
            return "its metadata cannot show whether hw:pmu or hw_pmu asked for that"
        if self.manager in (Manager.LIBVIRT, Manager.NOVA) or not self.manager.of_libvirt:
            return ""  # of a VM without a definition, nobody has written on into one
        return f"the metadata of {self.manager.title} cannot show who asked for that"


# The criteria of a rule, each an option of its group. A criterion matches if one of its values does.
CRITERIA: Final = (
    "flavor",
    "flavor_id",
    "extra_spec",
    "image_property",
    "project",
    "attribute",
    "domain",
    "arch",
    "virt_type",
)
_MAPPINGS: Final = {"extra_spec": "extra_specs", "image_property": "image_properties", "attribute": "attributes"}
"""The criteria whose values are KEY or KEY=GLOB, and the facts that they read."""


@dataclass(frozen=True)
class Rule:
    """One exception from the default. It matches if each of its criteria has a value that matches.

    ``flavor`` and ``domain`` are globs (``domain`` also UUIDs), ``extra_spec``, ``image_property`` and ``attribute``
    are ``KEY`` or ``KEY=GLOB``, the others exact words. A glob also matches the text that is written exactly like it,
    so a name with ``[`` in it can be given as it is. An empty criterion asks nothing.
    """

    name: str
    decision: Decision
    reason: str = ""
    flavor: tuple[str, ...] = ()
    flavor_id: tuple[str, ...] = ()
    extra_spec: tuple[str, ...] = ()
    image_property: tuple[str, ...] = ()
    project: tuple[str, ...] = ()
    attribute: tuple[str, ...] = ()
    domain: tuple[str, ...] = ()
    arch: tuple[str, ...] = ()
    virt_type: tuple[str, ...] = ()

    @cached_property
    def criteria(self) -> dict[str, tuple[str, ...]]:
        """The criteria that this rule names, with their values."""
        named: dict[str, tuple[str, ...]] = {name: getattr(self, name) for name in CRITERIA}
        return {name: values for name, values in named.items() if values}


@dataclass(frozen=True)
class Policy:
    """The whole policy: the rules in their order, and the default if no rule matches."""

    default: Decision = Decision.OFF
    rules: tuple[Rule, ...] = ()
    nova_domains: NovaDomains = NovaDomains.ENFORCE

    @cached_property
    def image_properties(self) -> frozenset[str]:
        """The names of the image properties on which a decision may depend."""
        return frozenset(
            {IMAGE_CHOICE, *(text.partition("=")[0] for rule in self.rules for text in rule.image_property)}
        )


@dataclass(frozen=True)
class Ruling:
    """A decision, the rule (or the step before the rules) that made it, and the reason in a sentence."""

    decision: Decision
    rule: str
    reason: str


def explicit_choice(
    extra_specs: Mapping[str, str] | Unknown | None,
    image_properties: Mapping[str, str] | Unknown | None,
) -> tuple[PmuState, str] | None:
    """The explicit choice of the flavor or the image, and its key; None if none is visible.

    Read as nova.virt.hardware.get_pmu_constraint() does since Nova 25, by oslo.utils' bool_from_string() without
    strict: 1, t, true, on, y and yes in any case mean on. Every other text, garbage included, means off.

    :raises FlavorImageConflict: both are set and differ.
    """
    flavor_says = None if extra_specs is None or extra_specs is UNKNOWN else extra_specs.get(FLAVOR_CHOICE)
    image_says = None if image_properties is None or image_properties is UNKNOWN else image_properties.get(IMAGE_CHOICE)
    if flavor_says is not None and image_says is not None and _truth(flavor_says) is not _truth(image_says):
        raise FlavorImageConflict(flavor_says, image_says)
    if flavor_says is not None:
        return _truth(flavor_says), FLAVOR_CHOICE
    if image_says is not None:
        return _truth(image_says), IMAGE_CHOICE
    return None


def decide(policy: Policy, subject: Subject) -> Ruling:
    """The ruling of the policy on a subject.

    :raises FlavorImageConflict: the flavor's and the image's explicit choices differ.
    """
    if subject.virt_type in VIRT_TYPES and not subject.arch:
        return Ruling(
            Decision.UNDECIDED,
            NO_ARCH,
            "the XML names no architecture (<os><type arch=...>): libvirt fills it in when it takes the domain",
        )
    if subject.virt_type not in VIRT_TYPES or subject.arch not in X86:
        what = f"{subject.virt_type or 'no type'} on {subject.arch or 'no architecture'}"
        return Ruling(Decision.KEEP, OUT_OF_SCOPE, f"{what}: the policy speaks of x86 KVM and QEMU domains only")
    choice = explicit_choice(subject.extra_specs, subject.image_properties)
    if choice is not None:
        state, key = choice
        return Ruling(Decision(state.value), key, f"{key} is set explicitly, which beats every rule")
    hidden = subject.hidden
    if hidden and subject.pmu is PmuState.ON:
        return Ruling(Decision.KEEP, WRITTEN_ON, f"the domain says on, and {hidden}")
    ruling = _first_match(policy, subject)
    if hidden and subject.pmu is PmuState.OFF and ruling.decision is Decision.ON:
        reason = f"{ruling.rule} wants on, but the domain says off, and {hidden}"
        return Ruling(Decision.UNDECIDED, HIDDEN_CHOICE, reason)
    return ruling


def requesting(policy: Policy, state: PmuState) -> Policy:
    """The same policy, with a request for this state in place of the rules. What beats every rule beats it too."""
    return replace(policy, rules=(Rule(REQUESTED, Decision(state.value), "it was asked for"),))


def shadowed(rules: Sequence[Rule]) -> tuple[Rule, Rule] | None:
    """A rule that can never decide, and the earlier rule that always decides before it; None if there is no such pair.

    Only the patterns are compared: each criterion of a single earlier rule has to cover the later rule's values of that
    criterion.
    """
    for at, later in enumerate(rules):
        wanted = later.criteria
        for earlier in rules[:at]:
            if all(_covers(name, values, wanted.get(name, ())) for name, values in earlier.criteria.items()):
                return later, earlier
    return None


def _truth(text: str) -> PmuState:
    return PmuState.ON if text.strip().lower() in ("1", "t", "true", "on", "y", "yes") else PmuState.OFF


def _first_match(policy: Policy, subject: Subject) -> Ruling:
    for rule in policy.rules:
        unknown = []
        for name, values in rule.criteria.items():
            answer = _matches(name, values, subject)
            if answer is False:
                break
            if answer is None:
                unknown.append(name)
        else:
            if unknown:
                what = f"rule {rule.name} reads {', '.join(unknown)}, which cannot be known here"
                return Ruling(Decision.UNDECIDED, rule.name, what)
            return Ruling(rule.decision, rule.name, rule.reason or f"matches {', '.join(rule.criteria)}")
    return Ruling(policy.default, DEFAULT, "no rule matches" if policy.rules else "there are no rules")


def _matches(criterion: str, values: Iterable[str], subject: Subject) -> bool | None:
    """Whether one of the values matches; None if that is unknown."""
    if criterion == "domain":
        return _matches_domain(values, subject)
    if criterion in _MAPPINGS:
        mapping: Mapping[str, str] | Unknown | None = getattr(subject, _MAPPINGS[criterion])
        if mapping is UNKNOWN:
            return None
        return any(_has(mapping or {}, value) for value in values)
    fact: str | Unknown | None = getattr(subject, criterion)
    if fact is UNKNOWN:
        return None
    if fact is None:
        return False
    if criterion == "flavor":
        return any(_fits(fact, glob) for glob in values)
    return fact in values


def _matches_domain(values: Iterable[str], subject: Subject) -> bool | None:
    name, uuid = subject.name, subject.uuid
    for value in values:
        if isinstance(name, str) and _fits(name, value):
            return True
        if isinstance(uuid, str) and uuid.lower() == value.lower():
            return True
    return None if UNKNOWN in (name, uuid) else False


def _has(mapping: Mapping[str, str], wanted: str) -> bool:
    key, equals, glob = wanted.partition("=")
    return key in mapping and (not equals or _fits(mapping[key], glob))


def _fits(text: str, glob: str) -> bool:
    return text == glob or fnmatchcase(text, glob)


def _covers(criterion: str, values: Sequence[str], others: Sequence[str]) -> bool:
    """Whether each subject that ``others`` match is also matched by ``values``."""
    return bool(others) and all(any(_implies(criterion, other, value) for value in values) for other in others)


def _implies(criterion: str, other: str, value: str) -> bool:
    if criterion == "flavor" or (criterion == "domain" and not _is_uuid(other)):
        return _is_narrower(other, value)
    if criterion == "domain":  # it may match by name or by UUID
        return value in (other, "*")
    if criterion in _MAPPINGS:
        key, equals, glob = value.partition("=")
        other_key, other_equals, other_glob = other.partition("=")
        return key == other_key and (not equals or (bool(other_equals) and _is_narrower(other_glob, glob)))
    return other == value


def _is_narrower(other: str, glob: str) -> bool:
    """Whether every text that matches ``other`` matches ``glob``; false if the two globs do not show it."""
    if glob in (other, "*"):
        return True
    if glob.endswith("*") and not _is_glob(glob[:-1]):
        return other.startswith(glob[:-1])
    return not _is_glob(other) and fnmatchcase(other, glob)  # equal texts are handled above


def _is_uuid(text: str) -> bool:
    try:
        UUID(text)
    except ValueError:
        return False
    return True


def _is_glob(text: str) -> bool:
    return any(sign in text for sign in "*?[")
