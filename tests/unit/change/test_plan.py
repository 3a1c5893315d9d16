"""Which domains a plan changes, which stay as they are and why, and what the result of each says: whole records."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timezone

import pytest

from pmuconf.audit.vm import Unjudged, Vm, judge
from pmuconf.change.entry import ChangeKind, ChangeStatus, Entry
from pmuconf.change.plan import (
    Caveat,
    Goal,
    Plan,
    Seen,
    not_to_be_changed,
    plan,
    plan_rollback,
    planned,
    result_of,
)
from pmuconf.change.result import Outcome, Result
from pmuconf.domain.definition import UNKNOWN, Domain, Managed, Manager, Nova, PmuState
from pmuconf.domain.reading import read
from pmuconf.hypervisor.listing import Listed
from pmuconf.policy import Decision, NovaDomains, Policy, Rule
from tests.support.domains import nova_domain, plain_domain

ON, OFF, DEFAULT = PmuState.ON, PmuState.OFF, PmuState.DEFAULT
WANT_OFF = Policy()
OBSERVE = Policy(nova_domains=NovaDomains.OBSERVE)
OFF_BY_GLOBAL = ("-global", "host-x86_64-cpu.pmu=off")
AT = datetime(2024, 1, 1, tzinfo=timezone.utc)

OVERRIDDEN = Caveat(
    "cpu-overridden", "the state does nothing for the guest: options in its <qemu:commandline> decide about its PMU"
)
NEXT_UNKNOWN = Caveat(
    "next-boot-unknown",
    "what the state does is not known: options in its <qemu:commandline>, or a script as its <emulator>, may decide",
)


def definition(pmu: PmuState, name: str = "web", *, nova: bool = False, **fields: object) -> Domain:
    """A KVM domain whose <pmu> says this."""
    of_nova = Nova(flavor="m1", flavor_id="1", project_id="p", extra_specs={}, image_properties={})
    plain = read(plain_domain(name, virt_type="kvm"))
    return replace(plain, pmu=pmu, nova=of_nova if nova else None, **fields)  # type: ignore[arg-type]


def listed(vm: Vm) -> Listed:
    running = vm.live is not None
    return Listed(
        vm.name, vm.uuid or "", active=running, persistent=vm.next_boot is not None, saved=False, snapshots=False
    )


def seen(next_boot: Domain, live: Domain | None = None, policy: Policy = WANT_OFF) -> Seen:
    vm = judge(policy, next_boot=next_boot, live=live)
    return Seen(listed(vm), vm)


# ---- which domains are changed ---------------------------------------------------------------------------------------


def test_a_domain_that_drifts_gets_a_plan_that_says_all_of_it() -> None:
    domain = seen(definition(ON))
    (change,) = plan(WANT_OFF, [domain])
    assert change == Plan(
        domain.listed, ON, Goal(OFF, "default"), manager=Manager.LIBVIRT, pending=False, caveat=None, aim=change.aim
    )


def test_a_guest_that_runs_with_another_state_waits() -> None:
    (change,) = plan(
        WANT_OFF, [seen(definition(ON, cpu_mode="host-passthrough"), definition(ON, cpu_mode="host-passthrough"))]
    )
    assert change.pending


def test_the_rule_that_wants_it_is_the_goal_s() -> None:
    policy = Policy(rules=(Rule("databases", Decision.ON, domain=("db*",)),))
    changes = plan(policy, [seen(definition(OFF, "db1"), policy=policy), seen(definition(ON), policy=policy)])
    assert [change.goal for change in changes] == [Goal(ON, "databases"), Goal(OFF, "default")]
    assert {change.manager for change in changes} == {Manager.LIBVIRT}


def test_a_domain_of_nova_s_is_called_that() -> None:
    (change,) = plan(WANT_OFF, [seen(definition(ON, nova=True))])
    assert change.manager is Manager.NOVA


@pytest.mark.parametrize(
    ("policy", "vm"),
    [
        (WANT_OFF, judge(WANT_OFF, next_boot=definition(OFF))),
        (WANT_OFF, judge(WANT_OFF, live=definition(ON))),
        (WANT_OFF, Vm("web", "u")),
        (WANT_OFF, Vm("web", "u", decision=Decision.OFF)),
        (WANT_OFF, Vm("web", "u", decision=Decision.KEEP, next_boot=ON)),
        (WANT_OFF, Vm("web", "u", decision=Decision.UNDECIDED, next_boot=ON)),
        (OBSERVE, judge(OBSERVE, next_boot=definition(ON, nova=True))),
    ],
    ids=["on policy", "no next boot", "not judged", "wanted off without a boot", "kept", "undecided", "only observed"],
)
def test_these_get_no_plan_and_those_behind_them_do(policy: Policy, vm: Vm) -> None:
    drifting = seen(definition(ON, "other"))
    changes = plan(policy, [Seen(drifting.listed, vm), drifting])
    assert [change.listed for change in changes] == [drifting.listed]


def test_a_goal_that_is_not_allowed_is_not_pursued() -> None:
    asked: list[Goal] = []

    def allowed(goal: Goal) -> bool:
        asked.append(goal)
        return goal.state is OFF

    policy = Policy(rules=(Rule("databases", Decision.ON, domain=("db*",)),))
    both = [seen(definition(OFF, "db1"), policy=policy), seen(definition(ON), policy=policy)]
    (change,) = plan(policy, both, allowed=allowed)
    assert change.goal == Goal(OFF, "default")
    assert asked == [Goal(ON, "databases"), Goal(OFF, "default")]
    assert change.aim(definition(OFF, "db1")) is None
    assert asked[-1] == Goal(ON, "databases")


# ---- the goal, when the domain has changed meanwhile ----------------------------------------------------------------


def test_the_goal_is_given_anew_by_what_the_domain_is_by_then() -> None:
    policy = Policy(rules=(Rule("databases", Decision.ON, domain=("db*",)), Rule("left", Decision.KEEP, domain=("x",))))
    (change,) = plan(policy, [seen(definition(ON), policy=policy)])
    assert change.aim(definition(ON)) == Goal(OFF, "default")
    assert change.aim(definition(DEFAULT)) == Goal(OFF, "default")
    assert change.aim(definition(OFF)) is None
    assert change.aim(definition(OFF, "db1")) == Goal(ON, "databases")
    assert change.aim(definition(ON, "x")) is None
    disputed = Nova("m1", "1", "p", {"hw:pmu": "true"}, {"hw_pmu": "false"})
    assert change.aim(replace(definition(ON), nova=disputed)) is None


# ---- which stay as they are ------------------------------------------------------------------------------------------


def left(vm: Vm, policy: Policy = WANT_OFF) -> Result | None:
    """The result of a domain that stays as it is, among others that get a plan or need none."""
    results = not_to_be_changed(
        policy, [judge(policy, next_boot=definition(ON)), vm, judge(policy, next_boot=definition(OFF))]
    )
    assert len(results) <= 1
    return results[0] if results else None


def test_a_domain_that_could_not_be_judged() -> None:
    vm = Vm("web", None, live=ON, rule=None, nova=True, error=Unjudged("xml-syntax", "it is no XML", "mend it"))
    assert left(vm) == Result(
        "web",
        "",
        Outcome.NOT_JUDGED,
        ON,
        None,
        rule="",
        cause="xml-syntax",
        notes=("it is no XML",),
        manager=Manager.NOVA,
    )


def test_a_transient_domain_that_is_off_policy() -> None:
    vm = replace(judge(WANT_OFF, live=definition(ON, cpu_mode="host-passthrough")), transient=True)
    assert left(vm) == Result(
        "web",
        vm.uuid or "",
        Outcome.TRANSIENT,
        ON,
        None,
        rule="default",
        cause="transient",
        notes=("a transient domain has no next boot: the tool that starts it must ask for the PMU state",),
    )
    assert left(replace(vm, live=OFF, domain=definition(OFF))) is None


def test_a_domain_of_nova_s_that_is_only_observed() -> None:
    vm = judge(OBSERVE, next_boot=definition(ON, nova=True))
    assert left(vm, OBSERVE) == Result(
        "web",
        vm.uuid or "",
        Outcome.OBSERVED,
        ON,
        None,
        rule="default",
        cause="nova-observed",
        notes=("Nova manages it, and [policy] nova_domains = observe",),
        manager=Manager.NOVA,
    )
    assert left(vm, WANT_OFF) is None
    assert left(judge(OBSERVE, next_boot=definition(OFF, nova=True)), OBSERVE) is None


def test_a_domain_whose_options_decide() -> None:
    vm = judge(WANT_OFF, next_boot=definition(OFF, arguments=("-cpu", "host")))
    assert vm.overridden
    assert left(vm) == Result(
        "web",
        vm.uuid or "",
        Outcome.OVERRIDDEN,
        OFF,
        OFF,
        rule="default",
        cause=OVERRIDDEN.cause,
        notes=(OVERRIDDEN.note,),
    )


def test_a_domain_that_the_policy_can_t_decide() -> None:
    hidden = Nova("m1", UNKNOWN, "p", UNKNOWN, UNKNOWN)
    policy = Policy(rules=(Rule("by-id", Decision.ON, flavor_id=("1",)),))
    vm = judge(policy, next_boot=replace(definition(OFF), nova=hidden))
    assert left(vm, policy) == Result(
        "web",
        vm.uuid or "",
        Outcome.UNDECIDED,
        OFF,
        None,
        rule="by-id",
        cause="undecided",
        notes=("rule by-id reads flavor_id, which cannot be known here",),
        manager=Manager.NOVA,
    )
    assert left(replace(vm, reason=None), policy) == replace(
        left(vm, policy) or Result("", "", Outcome.FAILED), notes=()
    )


# ---- results of plans ------------------------------------------------------------------------------------------------


def a_plan(*, manager: Manager = Manager.LIBVIRT, pending: bool = False, caveat: Caveat | None = None) -> Plan:
    domain = Listed("web", "u-1", active=False, persistent=True, saved=False, snapshots=False)
    return Plan(domain, ON, Goal(OFF, "default"), manager, pending, caveat, aim=lambda _: None)


def test_the_result_of_a_plan_says_all_of_it() -> None:
    assert result_of(a_plan(), Outcome.CHANGED, change=7) == Result(
        "web", "u-1", Outcome.CHANGED, ON, OFF, rule="default", cause="", notes=(), change=7
    )
    assert result_of(a_plan(), Outcome.FAILED, "libvirt-error", "it was refused") == Result(
        "web", "u-1", Outcome.FAILED, ON, OFF, rule="default", cause="libvirt-error", notes=("it was refused",)
    )


@pytest.mark.parametrize("pending", [True, False])
def test_a_dry_run_s_result_says_whether_the_guest_will_wait(pending: bool) -> None:
    assert planned(a_plan(pending=pending)) == Result(
        "web", "u-1", Outcome.PLANNED, ON, OFF, rule="default", pending=pending
    )


def test_what_nova_takes_away_again_is_said() -> None:
    of_nova = a_plan(manager=Manager.NOVA)
    lasts = "until Nova's next hard reboot or start"
    assert result_of(of_nova, Outcome.CHANGED, note="first").notes == ("first", lasts)
    assert result_of(of_nova, Outcome.CHANGED).manager is Manager.NOVA
    assert result_of(of_nova, Outcome.FAILED).notes == ()


@pytest.mark.parametrize("manager", [Manager.KUBEVIRT, Manager.OVIRT, Manager.CLOUDSTACK, Manager.OPENNEBULA])
def test_what_another_manager_takes_away_again_is_said_in_its_words(manager: Manager) -> None:
    managed = Managed(manager, None, None, {})
    (change,) = plan(WANT_OFF, [seen(definition(DEFAULT, managed=managed), definition(ON, managed=managed))])
    assert change.manager is manager
    result = result_of(change, Outcome.CHANGED)
    assert result.notes == (f"until {manager.title} starts it anew",)
    assert result_of(change, Outcome.FAILED).notes == ()
    (cycle,) = replace(result, pending=True).remedies
    assert manager.title in cycle or "by the engine" in cycle
    assert "virsh" not in cycle


@pytest.mark.parametrize("outcome", list(Outcome))
def test_a_caveat_is_that_of_a_state_that_was_written_without_a_graver_cause(outcome: Outcome) -> None:
    written = outcome in (Outcome.PLANNED, Outcome.CHANGED)
    result = result_of(a_plan(caveat=OVERRIDDEN), outcome, note="noted")
    assert (result.cause, result.notes) == (
        (OVERRIDDEN.cause, (OVERRIDDEN.note, "noted")) if written else ("", ("noted",))
    )
    assert result_of(a_plan(caveat=OVERRIDDEN), outcome, "graver").cause == "graver"
    assert result_of(a_plan(), outcome).cause == ""


@pytest.mark.parametrize(
    ("domain", "caveat"),
    [
        (definition(ON), None),
        (definition(ON, arguments=("-cpu", "host")), OVERRIDDEN),
        (definition(ON, arguments=("-cpu", "host,pmu=off")), OVERRIDDEN),
        (definition(ON, arguments=("-set", "cpu.pmu=off")), NEXT_UNKNOWN),
        (definition(ON, emulator="/usr/local/bin/wrapper"), NEXT_UNKNOWN),
        (definition(ON, arguments=("-name", "x")), None),
        (
            definition(DEFAULT, cpu_mode="host-passthrough", arguments=("-global", "host-x86_64-cpu.pmu=off")),
            OVERRIDDEN,
        ),
    ],
    ids=["plain", "last -cpu on", "last -cpu off", "set", "script", "other options", "off by options already"],
)
def test_why_a_state_may_do_nothing(domain: Domain, caveat: Caveat | None) -> None:
    """What QEMU makes of its options is tested against QEMU itself, in tests/functional."""
    changes = plan(WANT_OFF, [seen(domain)])
    assert [change.caveat for change in changes] == [caveat]


# ---- rollback --------------------------------------------------------------------------------------------------------


def entry(number: int, uuid: str, old: PmuState, new: PmuState) -> Entry:
    name = f"name of {uuid}"
    return Entry(
        number, AT, "me", ChangeKind.APPLY, "q", uuid, name, old, new, "r", ChangeStatus.DONE, "", undone=False
    )


def test_each_domain_is_looked_for_by_its_uuid() -> None:
    asked: list[str] = []

    def find(uuid: str) -> None:
        asked.append(uuid)

    plans, results = plan_rollback([entry(2, "u-2", ON, OFF), entry(1, "u-1", DEFAULT, OFF)], find)
    assert (plans, asked) == ([], ["u-2", "u-1"])
    gone = ("the domain is gone or has no next boot",)
    assert results == [
        Result("name of u-2", "u-2", Outcome.VANISHED, OFF, ON, rule="rollback", cause="domain-vanished", notes=gone),
        Result(
            "name of u-1", "u-1", Outcome.VANISHED, OFF, DEFAULT, rule="rollback", cause="domain-vanished", notes=gone
        ),
    ]


def test_what_is_put_back_and_why_others_stay() -> None:
    blank = Result("name of u-1", "u-1", Outcome.ALREADY, OFF, ON, rule="rollback")
    (change,), none = plan_rollback([entry(1, "u-1", ON, OFF)], lambda _: seen(definition(OFF)))
    assert (change.goal, change.old, none) == (Goal(ON, "rollback", (1,)), OFF, [])

    def result(found: Seen, *changes: Entry) -> Result:
        plans, (only,) = plan_rollback(changes or [entry(1, "u-1", ON, OFF)], lambda _: found)
        assert plans == []
        return only

    since = "its PMU state is default now, not the off that pmuconf left: it stays"
    assert result(seen(definition(DEFAULT))) == replace(blank, old=DEFAULT, cause="changed-since", notes=(since,))
    both = (entry(2, "u-1", ON, OFF), entry(1, "u-1", OFF, ON))
    cancelled = replace(blank, new=OFF, cause="no-change", notes=("its changes cancel out",))
    assert result(seen(definition(OFF)), *both) == cancelled
    broken = Vm("web", "u-1", error=Unjudged("xml-syntax", "it is no XML"))
    assert result(Seen(listed(broken), broken)) == replace(
        blank, outcome=Outcome.NOT_JUDGED, cause="xml-syntax", notes=("it is no XML",)
    )


def test_a_conflict_of_flavor_and_image_keeps_nobody_from_going_back() -> None:
    """It has an error, and a next boot that is known."""
    disputed = replace(definition(OFF), nova=Nova("m1", "1", "p", {"hw:pmu": "true"}, {"hw_pmu": "false"}))
    (change,), none = plan_rollback([entry(1, "u-1", ON, OFF)], lambda _: seen(disputed))
    assert (change.goal.state, none) == (ON, [])


def test_a_domain_as_nova_writes_it_is_planned_too() -> None:
    xml = nova_domain("instance-1", version="32.0.0", pmu="on", extra_specs={}).replace(
        "<type ", "<type arch='x86_64' "
    )
    (change,) = plan(WANT_OFF, [seen(read(xml))])
    assert (change.manager, change.goal) == (Manager.NOVA, Goal(OFF, "default"))


def test_a_state_that_is_put_back_may_do_nothing_either() -> None:
    overridden = seen(definition(OFF, arguments=("-cpu", "host")))
    (change,), _ = plan_rollback([entry(1, "u-1", ON, OFF)], lambda _: overridden)
    assert change.caveat == OVERRIDDEN
    foreign = seen(definition(OFF, arch="aarch64", arguments=("-cpu", "host")))
    (change,), _ = plan_rollback([entry(1, "u-1", ON, OFF)], lambda _: foreign)
    assert change.caveat is None


def test_a_default_that_brings_the_same_pmu_is_no_work_of_options() -> None:
    """A named model has no PMU by default, and options that leave <pmu> alone do not make that their doing."""
    obedient = seen(definition(OFF, cpu_mode="custom", cpu_model="EPYC", arguments=("-machine", "q35")))
    (change,), _ = plan_rollback([entry(1, "u-1", DEFAULT, OFF)], lambda _: obedient)
    assert (change.goal.state, change.caveat) == (DEFAULT, None)
