"""Flavors: which make an explicit choice, which the policy decides, and where that would stand in an image's way. Pure.

A flavor's ``hw:pmu`` is an explicit choice for every server that is built or resized with it from then on; servers keep
the copy of the flavor that they were built with. Nova refuses a flavor and an image that contradict each other.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from pmuconf.domain.definition import UNKNOWN, PmuState
from pmuconf.policy import Decision, Policy, Ruling, Subject, decide, explicit_choice

__all__ = ["SPEC", "Embedded", "Flavor", "Image", "Standing", "Verdict", "audit", "spec_text", "state_of"]

SPEC: Final = "hw:pmu"


@dataclass(frozen=True)
class Flavor:
    """A flavor as the API has it; ``projects`` may use it, None if all may."""

    id: str
    name: str
    extra_specs: Mapping[str, str]
    projects: frozenset[str] | None = None


@dataclass(frozen=True)
class Image:
    """An image that makes an explicit choice; ``owner`` alone may use it, None if others may too."""

    id: str
    name: str
    pmu: PmuState
    owner: str | None = None


@dataclass(frozen=True)
class Embedded:
    """The copy of a flavor in a server, and the image that the server was built from."""

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
class Verdict:
    """One flavor.

    :param pmu: what it says now; DEFAULT if nothing.
    :param ruling: of the policy.
    :param conflicts: the images with which its use would be refused once it is set.
    :param servers: that were built with a flavor of this name.
    :param older: those of them whose copy has not what the flavor has, or is to have.
    """

    flavor: Flavor
    pmu: PmuState
    ruling: Ruling
    standing: Standing
    conflicts: tuple[Image, ...] = ()
    servers: int = 0
    older: int = 0


def state_of(extra_specs: Mapping[str, str]) -> PmuState:
    """What extra specs say, as Nova reads them; DEFAULT if nothing."""
    choice = explicit_choice({SPEC: extra_specs[SPEC]} if SPEC in extra_specs else {}, {})
    return PmuState.DEFAULT if choice is None else choice[0]


def spec_text(state: PmuState) -> str:
    """The value of hw:pmu that says it, in the form that the API validates since microversion 2.86."""
    return {PmuState.ON: "true", PmuState.OFF: "false"}[state]


def audit(
    policy: Policy,
    flavors: Iterable[Flavor],
    images: Sequence[Image],
    servers: Iterable[Embedded],
    *,
    only_used: bool = False,
) -> list[Verdict]:
    """Judge every flavor.

    A rule that reads a project, an image or a domain leaves a flavor undecided: its servers may differ in that.

    :param images: those that make an explicit choice.
    :param only_used: an image is in the way of the flavors of servers that were built from it only; else of every
        flavor that somebody may use with it.
    """
    by_name: dict[str, list[Embedded]] = {}
    for server in servers:
        by_name.setdefault(server.flavor, []).append(server)
    return [_verdict(policy, flavor, images, by_name.get(flavor.name, []), only_used) for flavor in flavors]


def _verdict(
    policy: Policy, flavor: Flavor, images: Sequence[Image], servers: Sequence[Embedded], only_used: bool
) -> Verdict:
    subject = Subject(
        virt_type="kvm",
        arch="x86_64",
        flavor=flavor.name,
        flavor_id=flavor.id,
        extra_specs=flavor.extra_specs,
        image_properties=UNKNOWN,
        project=UNKNOWN,
        name=UNKNOWN,
        uuid=UNKNOWN,
    )
    ruling, pmu = decide(policy, subject), state_of(flavor.extra_specs)
    wanted = ruling.decision.state or pmu
    used = {server.image for server in servers}
    in_the_way = tuple(
        image
        for image in images
        if wanted not in (PmuState.DEFAULT, image.pmu) and (image.id in used if only_used else _together(flavor, image))
    )
    if pmu is not PmuState.DEFAULT:
        standing = Standing.EXPLICIT
    elif ruling.decision.state is None:
        standing = Standing.UNDECIDED if ruling.decision is Decision.UNDECIDED else Standing.KEEP
    else:
        standing = Standing.CONFLICT if in_the_way else Standing.TO_SET
    older = sum(state_of(server.extra_specs) is not wanted for server in servers)
    return Verdict(flavor, pmu, ruling, standing, in_the_way, len(servers), older)


def _together(flavor: Flavor, image: Image) -> bool:
    """Whether there may be somebody who can use both."""
    return flavor.projects is None or image.owner is None or image.owner in flavor.projects
