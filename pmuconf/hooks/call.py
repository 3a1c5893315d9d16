"""One call of a manager's hook, and the reply of the policy to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from pmuconf.domain.definition import Domain, Managed
from pmuconf.domain.reading import read
from pmuconf.domain.rewriting import rewrite_bytes
from pmuconf.policy import Policy, Subject, decide

__all__ = ["Call", "Facts", "Reply", "reply"]


@dataclass(frozen=True)
class Facts:
    """What a manager says beside the XML.

    :param managed: what it says of the VM, in place of what stands in the metadata.
    :param untouchable: why this domain must stay as it is; empty if nothing speaks against a change.
    """

    managed: Managed
    untouchable: str = ""


@dataclass(frozen=True)
class Call:
    """What a manager's hook was called with.

    :param xml: the domain, byte for byte as it came.
    :param source: where it came from, for messages.
    :param facts: reads what the manager says beside it; raises PmuconfError, and OSError for a file.
    :param put: gives the manager the domain that it is to use; raises OSError.
    :param in_place: whether the manager has the domain already, and there is nothing to put if it stays as it is.
    """

    xml: bytes
    source: str
    facts: Callable[[Domain], Facts]
    put: Callable[[bytes], None]
    in_place: bool = False


@dataclass(frozen=True)
class Reply:
    """The domain that the manager is to use, and in a sentence what was done to it and why."""

    xml: bytes
    sentence: str


def reply(call: Call, policy: Policy, max_bytes: int) -> Reply:
    """The domain with the PMU state that the policy wants, or the very bytes that came.

    A state that is written already came from the manager or its user, and stays: see policy.decide().

    :raises PmuconfError: as rewrite_bytes(), and what facts() raises.
    """
    definition = read(call.xml, source=call.source, max_bytes=max_bytes)
    facts = call.facts(definition)
    if facts.untouchable:
        return Reply(call.xml, f"{definition.name}: left as it came: {facts.untouchable}")
    ruling = decide(policy, Subject.of_domain(replace(definition, nova=None, managed=facts.managed)))
    state = ruling.decision.state
    why = f"{ruling.decision.value} by {ruling.rule}: {ruling.reason}"
    if state is None or state is definition.pmu:
        return Reply(call.xml, f"{definition.name}: left as it came, PMU {definition.pmu.value} ({why})")
    xml = rewrite_bytes(call.xml, state, source=call.source, max_bytes=max_bytes)
    return Reply(xml, f"{definition.name}: PMU {definition.pmu.value} -> {state.value} ({why})")
