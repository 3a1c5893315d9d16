"""Which flavors choose a PMU state, which of them the policy decides, and which images would conflict then. Pure.

A flavor's ``hw:pmu`` is an explicit choice for every server that is built or resized with it from then on. A server
keeps the copy of the flavor that it was built with. Nova refuses a flavor and an image that contradict each other.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pmuconf.domain.definition import UNKNOWN, Manager, PmuState
from pmuconf.policy import Decision, Policy, Ruling, Subject, decide, explicit_choice

__all__ = ["Embedded", "ExplicitImage", "Flavor", "Judged", "Standing", "judge", "state_of"]


@dataclass(frozen=True)
class Flavor:
    """A flavor of the API. Only ``projects`` may use it; None: all projects may."""

    id: str
    name: str
    extra_specs: Mapping[str, str]
    projects: frozenset[str] | None = None


@dataclass(frozen=True)
class ExplicitImage:
    """An image whose hw_pmu chooses. Only ``owner`` may use it; None: other projects may too."""

    id: str
    name: str
    pmu: PmuState
    owner: str | None = None


@dataclass(frozen=True)
class Embedded:
    """A server's copy of its flavor, and the id of the image that the server was built from."""

    flavor: str
    extra_specs: Mapping[str, str]
    image: str | None = None


class Standing(enum.Enum):
    """How a flavor stands to the policy."""

    EXPLICIT = "explicit"
    TO_SET = "to-set"
    CONFLICT = "conflict"
    KEEP = "keep"
    UNDECIDED = "undecided"


@dataclass(frozen=True)
class Judged:
    """A flavor, judged by the policy.

    :param pmu: the flavor's own choice; DEFAULT if it makes none.
    :param conflicts: the images that Nova would refuse to use with the flavor once it is set.
    :param servers: the number of servers that were built with a flavor of this name.
    :param older: the number of those servers whose copy has another state than the flavor has, or is to have.
    """

    flavor: Flavor
    pmu: PmuState
    ruling: Ruling
    standing: Standing
    conflicts: tuple[ExplicitImage, ...] = ()
    servers: int = 0
    older: int = 0

    def record(self) -> dict[str, Any]:
        """The judgement as a row of the command's table."""
        return {
            "name": self.flavor.name,
            "id": self.flavor.id,
            "public": self.flavor.projects is None,
            "pmu": self.pmu.value,
            "decision": self.ruling.decision.value,
            "rule": self.ruling.rule,
            "reason": self.ruling.reason,
            "standing": self.standing.value,
            "conflicts": [image.name for image in self.conflicts],
            "servers": self.servers,
            "older_copies": self.older,
        }


def state_of(extra_specs: Mapping[str, str]) -> PmuState:
    """The state that extra specs choose, as Nova reads them; DEFAULT if they choose none."""
    choice = explicit_choice(extra_specs, None)
    return PmuState.DEFAULT if choice is None else choice[0]


def judge(
    policy: Policy,
    flavors: Iterable[Flavor],
    images: Sequence[ExplicitImage],
    servers: Iterable[Embedded],
    *,
    only_used: bool = False,
) -> list[Judged]:
    """Every flavor, judged by the policy.

    A rule that reads a project, an image or a domain leaves a flavor undecided: its servers may differ in that.

    :param only_used: an image conflicts only with the flavors of servers that were built from it. By default, it
        conflicts with every flavor that somebody may use with it.
    """
    by_name: dict[str, list[Embedded]] = {}
    for server in servers:
        by_name.setdefault(server.flavor, []).append(server)
    return [_judged(policy, flavor, images, by_name.get(flavor.name, []), only_used=only_used) for flavor in flavors]


def _judged(
    policy: Policy,
    flavor: Flavor,
    images: Sequence[ExplicitImage],
    servers: Sequence[Embedded],
    *,
    only_used: bool,
) -> Judged:
    subject = Subject(
        virt_type="kvm",
        arch="x86_64",
        flavor=flavor.name,
        flavor_id=flavor.id,
        extra_specs=flavor.extra_specs,
        image_properties=UNKNOWN,
        project=UNKNOWN,
        attributes=None,
        name=UNKNOWN,
        uuid=UNKNOWN,
        manager=Manager.NOVA,
    )
    ruling, pmu = decide(policy, subject), state_of(flavor.extra_specs)
    wanted = ruling.decision.state or pmu
    conflicts: tuple[ExplicitImage, ...] = ()
    if wanted is not PmuState.DEFAULT:
        used = {server.image for server in servers}
        conflicts = tuple(
            image
            for image in images
            if image.pmu is not wanted and (image.id in used if only_used else _together(flavor, image))
        )
    older = sum(state_of(server.extra_specs) is not wanted for server in servers)
    return Judged(flavor, pmu, ruling, _standing(pmu, ruling.decision, conflicts), conflicts, len(servers), older)


def _standing(pmu: PmuState, decision: Decision, conflicts: Sequence[ExplicitImage]) -> Standing:
    if pmu is not PmuState.DEFAULT:
        return Standing.EXPLICIT
    if decision is Decision.UNDECIDED:
        return Standing.UNDECIDED
    if decision.state is None:
        return Standing.KEEP
    return Standing.CONFLICT if conflicts else Standing.TO_SET


def _together(flavor: Flavor, image: ExplicitImage) -> bool:
    """Whether some project may use both."""
    return flavor.projects is None or image.owner is None or image.owner in flavor.projects
