"""What is to be done about a domain. Pure: decides, changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from pmuconf.audit.vm import Vm
from pmuconf.change.result import Outcome, Result
from pmuconf.domain.definition import Domain, PmuState
from pmuconf.policy import Decision, FlavorImageConflict, NovaDomains, Policy, Subject, decide

if TYPE_CHECKING:
    from pmuconf.change.journal import Entry
    from pmuconf.hypervisor.hypervisor import Listed

__all__ = [
    "NOVA_NOTE",
    "Caveat",
    "Goal",
    "Plan",
    "not_to_be_changed",
    "plan",
    "plan_rollback",
    "planned",
    "result_of",
]

NOVA_NOTE: Final = "until Nova's next hard reboot or start"


@dataclass(frozen=True)
class Goal:
    """The state that a domain is to have, why, and which journalled changes that undoes."""

    state: PmuState
    rule: str
    undoes: tuple[int, ...] = ()


@dataclass(frozen=True)
class Caveat:
    """Why a state that is written does nothing for the guest, or may do nothing: a cause code and a sentence."""

    cause: str
    note: str


_OVERRIDDEN: Final = Caveat(
    "cpu-overridden", "the state does nothing for the guest: options in its <qemu:commandline> decide about its PMU"
)
_UNKNOWN: Final = Caveat(
    "next-boot-unknown",
    "what the state does is not known: options in its <qemu:commandline>, or a script as its <emulator>, may decide",
)


@dataclass(frozen=True)
class Plan:
    """One domain to be changed.

    ``pending`` says that it runs, or has a saved image, with another state. ``aim`` gives the goal anew from fresh
    facts, None if there is nothing to do. ``caveat`` says why the change may do nothing for the guest.
    """

    listed: Listed
    old: PmuState
    goal: Goal
    nova: bool
    pending: bool
    caveat: Caveat | None
    aim: Callable[[Domain], Goal | None]


def plan(policy: Policy, looked: Iterable[tuple[Listed, Vm]]) -> list[Plan]:
    """The changes that bring drifting domains on policy; see not_to_be_changed() for the rest."""

    def aim(definition: Domain) -> Goal | None:
        try:
            ruling = decide(policy, Subject.of_domain(definition))
        except FlavorImageConflict:
            return None
        wanted = ruling.decision.state
        return None if wanted in (None, definition.pmu) else Goal(wanted, ruling.rule)

    plans = []
    for listed, vm in looked:
        wanted = vm.decision.state if vm.decision else None
        if not vm.drift or wanted is None or vm.next_boot is None or _only_observed(policy, vm):
            continue
        goal = Goal(wanted, vm.rule or "")
        plans.append(Plan(listed, vm.next_boot, goal, vm.nova, vm.waits(wanted), _caveat(vm, wanted), aim))
    return plans


def not_to_be_changed(policy: Policy, vms: Iterable[Vm]) -> list[Result]:
    """The domains that are off policy, or can't be judged, and that no plan will touch: each with the reason."""
    results = []
    for vm in vms:
        blank = Result(
            vm.name, vm.uuid or "", Outcome.NOT_JUDGED, old=vm.next_boot or vm.live, rule=vm.rule or "", nova=vm.nova
        )
        if vm.error is not None:
            results.append(replace(blank, cause=vm.error.cause, note=vm.error.message))
        elif vm.transient and vm.severity:
            note = "a transient domain has no next boot: the tool that starts it must ask for the PMU state"
            results.append(replace(blank, outcome=Outcome.TRANSIENT, cause="transient", note=note))
        elif vm.drift and _only_observed(policy, vm):
            note = "Nova manages it, and [policy] nova_domains = observe"
            results.append(replace(blank, outcome=Outcome.OBSERVED, cause="nova-observed", note=note))
        elif vm.overridden and vm.decision is not None:
            blank = replace(blank, outcome=Outcome.OVERRIDDEN, new=vm.decision.state)
            results.append(replace(blank, cause=_OVERRIDDEN.cause, note=_OVERRIDDEN.note))
        elif vm.decision is Decision.UNDECIDED:
            results.append(replace(blank, outcome=Outcome.UNDECIDED, cause="undecided", note=vm.reason or ""))
    return results


def planned(one: Plan) -> Result:
    """What a dry run says of a plan."""
    return replace(result_of(one, Outcome.PLANNED, "", NOVA_NOTE if one.nova else ""), pending=one.pending)


def plan_rollback(
    entries: Sequence[Entry], find: Callable[[str], tuple[Listed, Vm] | None]
) -> tuple[list[Plan], list[Result]]:
    """Plans that put the old PMU state back, and what can't be put back and why.

    Several changes of one domain are undone as one, newest first, as far as each left what the next one found. A
    domain whose PMU state is no longer what the newest of them left is somebody else's by now and stays.

    :param entries: finished changes, newest first.
    :param find: the domain with this UUID and what it has now, None if it is gone.
    """
    plans, rest = [], []
    by_domain: dict[str, list[Entry]] = {}
    for entry in entries:
        by_domain.setdefault(entry.uuid, []).append(entry)
    for uuid, chain in by_domain.items():
        newest = oldest = chain[0]
        undoes = [newest.id]
        for entry in chain[1:]:
            if entry.new is not oldest.old:
                break
            oldest = entry
            undoes.append(entry.id)
        found = find(uuid)
        blank = Result(newest.name, uuid, Outcome.VANISHED, old=newest.new, new=oldest.old, rule="rollback")
        if found is None or found[1].next_boot is None:
            error = found[1].error if found else None
            if error is not None:
                rest.append(replace(blank, outcome=Outcome.NOT_JUDGED, cause=error.cause, note=error.message))
            else:
                rest.append(replace(blank, cause="domain-vanished", note="the domain is gone or has no next boot"))
            continue
        listed, vm = found
        now = found[1].next_boot
        if now is not newest.new:
            note = f"its PMU state is {now.value} now, not the {newest.new.value} that pmuconf left: it stays"
            rest.append(replace(blank, outcome=Outcome.ALREADY, old=now, cause="changed-since", note=note))
            continue
        goal = Goal(oldest.old, "rollback", tuple(undoes))

        def aim(fresh: Domain, left: PmuState = newest.new, goal: Goal = goal) -> Goal | None:
            return goal if fresh.pmu is left else None

        if goal.state is now:
            rest.append(replace(blank, outcome=Outcome.ALREADY, cause="no-change", note="its changes cancel out"))
            continue
        plans.append(Plan(listed, now, goal, vm.nova, vm.waits(goal.state), _caveat(vm, goal.state), aim))
    return plans, rest


def result_of(plan: Plan, outcome: Outcome, cause: str, note: str, change: int | None = None) -> Result:
    """The result of a plan; if it is, or would be, carried out, with what makes that of no use."""
    if plan.caveat is not None and not cause and outcome in (Outcome.PLANNED, Outcome.CHANGED):
        cause = plan.caveat.cause
        note = "; ".join(filter(None, (plan.caveat.note, note)))
    return Result(
        name=plan.listed.name,
        uuid=plan.listed.uuid,
        outcome=outcome,
        old=plan.old,
        new=plan.goal.state,
        rule=plan.goal.rule,
        cause=cause,
        note=note,
        change=change,
        nova=plan.nova,
    )


def _caveat(vm: Vm, state: PmuState) -> Caveat | None:
    """What to say of writing that state."""
    now = vm.next_domain
    if now is None or not now.x86:
        return None
    if now.obeyed is None:
        return _UNKNOWN
    before, after = now.effective_pmu, now.with_pmu(state).effective_pmu
    same = bool(now.arguments) and before is after is not None
    return _OVERRIDDEN if same or not now.obeyed else None


def _only_observed(policy: Policy, vm: Vm) -> bool:
    return vm.nova and policy.nova_domains is NovaDomains.OBSERVE
