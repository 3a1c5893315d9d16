"""The accounting of the service's changes: what counts against which limit, and when nothing is changed any more."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pmuconf import conf
from pmuconf.audit.vm import judge
from pmuconf.change.plan import Seen
from pmuconf.change.result import Outcome, Result
from pmuconf.conf import Mode
from pmuconf.domain.reading import read
from pmuconf.hypervisor.listing import Listed
from pmuconf.service.announcer import Announcer
from pmuconf.service.enforcement import Enforcement
from pmuconf.service.health import Health
from pmuconf.service.log import Log
from pmuconf.service.notes import Notes
from pmuconf.service.systemd import Systemd
from tests.support.domains import plain_domain


@pytest.fixture
def chosen() -> conf.Settings:
    defaults = conf.load(["/dev/null"])
    return replace(defaults, service=replace(defaults.service, mode=Mode.ENFORCE, max_failures=1), max_changes=2)


@pytest.fixture
def notes() -> Notes:
    return Notes()


@pytest.fixture
def announcer() -> Announcer:
    return Announcer(Health(), Log(), Systemd())


@pytest.fixture
def enforcement(chosen: conf.Settings, notes: Notes, announcer: Announcer) -> Enforcement:
    return Enforcement(chosen, notes, announcer)


def off_policy(policy_of: conf.Settings, *names: str) -> list[Seen]:
    return [
        Seen(Listed(name, name, False, True, False, False), judge(policy_of.policy, next_boot=read(plain_domain(name))))
        for name in names
    ]


def account(enforcement: Enforcement, uuid: str, outcome: Outcome, cause: str = "", since: float | None = None) -> None:
    enforcement._account(Result(uuid, uuid, outcome, cause=cause), since)


def causes(announcer: Announcer) -> list[str]:
    return [problem["cause"] for problem in announcer.health.answer()["problems"]]


def test_one_domain_too_many_that_failed_and_nothing_is_changed_until_the_configuration_is_read_anew(
    enforcement: Enforcement, announcer: Announcer, chosen: conf.Settings
) -> None:
    account(enforcement, "a", Outcome.FAILED, "verify-failed")
    account(enforcement, "a", Outcome.FAILED, "verify-failed")
    assert causes(announcer) == []
    account(enforcement, "b", Outcome.CHANGED, "differs-after")
    assert causes(announcer) == ["too-many-failures"]
    assert enforcement.bring(off_policy(chosen, "c"), {}, settle=True, failed_too=True) == []
    enforcement.configure(chosen)
    assert enforcement.failures.total == 0


def test_a_change_that_succeeds_is_forgiven_and_what_differs_until_the_next_pass(enforcement: Enforcement) -> None:
    account(enforcement, "a", Outcome.FAILED, "verify-failed")
    account(enforcement, "b", Outcome.CHANGED, "differs-after")
    account(enforcement, "a", Outcome.CHANGED)
    assert (enforcement.failures.failed, enforcement.failures.total) == (0, 1)
    enforcement.failures.begin_pass({"a", "b"})
    assert enforcement.failures.total == 0


def test_the_allowance_is_used_by_what_was_tried_and_the_rest_waits(
    enforcement: Enforcement, chosen: conf.Settings
) -> None:
    seen = off_policy(chosen, "a", "b", "c")
    assert [plan.listed.name for plan in enforcement._within_allowance(seen, failed_too=True)] == ["a", "b"]
    account(enforcement, "a", Outcome.FAILED, "verify-failed")
    account(enforcement, "b", Outcome.ALREADY)
    assert [plan.listed.name for plan in enforcement._within_allowance(seen, failed_too=True)] == ["b"]
    assert [plan.listed.name for plan in enforcement._within_allowance(seen[:1], failed_too=False)] == []


def test_our_own_event_is_no_reason_to_look_again_and_an_unheard_one_makes_deaf(
    enforcement: Enforcement, notes: Notes, announcer: Announcer
) -> None:
    notes.event("a")
    account(enforcement, "a", Outcome.CHANGED, since=0.0)
    assert notes.due() == {}
    assert not notes.deaf
    account(enforcement, "b", Outcome.CHANGED, "not-confirmed")
    assert notes.deaf
    reaction = announcer.health.registry.get_sample_value("pmuconf_service_reaction_seconds_count")
    assert reaction == 1


def test_an_observing_service_opens_no_connection(chosen: conf.Settings, notes: Notes, announcer: Announcer) -> None:
    observing = replace(chosen, uri="qemu:///nowhere", service=replace(chosen.service, mode=Mode.OBSERVE))
    enforcement = Enforcement(observing, notes, announcer)
    assert enforcement.bring(off_policy(chosen, "a"), {}, settle=True, failed_too=True) == []
    assert causes(announcer) == []
