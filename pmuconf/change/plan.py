"""Plans: which domains are to be changed, to which state, and which stay as they are. Pure: changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from pmuconf.audit.vm import Vm
from pmuconf.change.result import Outcome, Result
from pmuconf.domain.definition import Domain, Manager, PmuState
from pmuconf.policy import Decision, FlavorImageConflict, NovaDomains, Policy, Subject, decide

if TYPE_CHECKING:
    from pmuconf.change.entry import Entry
    from pmuconf.hypervisor.listing import Listed

__all__ = [
    "Caveat",
    "Goal",
    "Plan",
    "Seen",
    "not_to_be_changed",
    "plan",
    "plan_rollback",
    "planned",
    "result_of",
]


@dataclass(frozen=True)
class Seen:
    """A domain as the list of the host has it, and as it was judged."""

    listed: Listed
    vm: Vm


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

    :param pending: whether it runs, or has a saved image, with another state.
    :param caveat: why the change may do nothing for the guest.
    :param aim: gives the goal anew from a fresh definition; None if there is nothing to do.
    """

    listed: Listed
    old: PmuState
    goal: Goal
    manager: Manager
    pending: bool
    caveat: Caveat | None
    aim: Callable[[Domain], Goal | None]


def _any_goal(_goal: Goal) -> bool:
    return True


def plan(policy: Policy, seen: Iterable[Seen], *, allowed: Callable[[Goal], bool] = _any_goal) -> list[Plan]:
    """The changes that bring drifting domains on policy; see not_to_be_changed() for the rest.

    :param allowed: which goals may be pursued; it is asked again when a domain has changed before its define.
    """

    def aim(definition: Domain) -> Goal | None:
        try:
            ruling = decide(policy, Subject.of_domain(definition))
        except FlavorImageConflict:
            return None
        wanted = ruling.decision.state
        if wanted is None or wanted is definition.pmu:
            return None
        goal = Goal(wanted, ruling.rule)
        return goal if allowed(goal) else None

    plans = []
    for domain in seen:
        vm = domain.vm
        wanted = vm.decision.state if vm.decision else None
        if not vm.drift or wanted is None or vm.next_boot is None or _only_observed(policy, vm):
            continue
        goal = Goal(wanted, vm.rule or "")
        if allowed(goal):
            plans.append(_plan(domain, vm.next_boot, goal, aim))
    return plans


def _plan(domain: Seen, old: PmuState, goal: Goal, aim: Callable[[Domain], Goal | None]) -> Plan:
    vm = domain.vm
    return Plan(domain.listed, old, goal, vm.writer, vm.waits(goal.state), _caveat(vm, goal.state), aim)


def not_to_be_changed(policy: Policy, vms: Iterable[Vm]) -> list[Result]:
    """The domains that are off policy, or can't be judged, and that no plan will touch: each with the reason."""
    return [result for vm in vms if (result := _left_alone(policy, vm)) is not None]


def _left_alone(policy: Policy, vm: Vm) -> Result | None:
    """Why a domain stays as it is; None if it is on policy, or if there is a plan for it."""

    def result(outcome: Outcome, cause: str, note: str, new: PmuState | None = None) -> Result:
        old, rule = vm.next_boot or vm.live, vm.rule or ""
        notes = (note,) if note else ()
        uuid, manager = vm.uuid or "", vm.writer
        return Result(vm.name, uuid, outcome, old, new, rule=rule, cause=cause, notes=notes, manager=manager)

    if vm.error is not None:
        return result(Outcome.NOT_JUDGED, vm.error.cause, vm.error.message)
    if vm.transient and vm.severity:
        note = "a transient domain has no next boot: the tool that starts it must ask for the PMU state"
        return result(Outcome.TRANSIENT, "transient", note)
    if vm.drift and _only_observed(policy, vm):
        return result(Outcome.OBSERVED, "nova-observed", "Nova manages it, and [policy] nova_domains = observe")
    if vm.overridden and vm.decision is not None:
        return result(Outcome.OVERRIDDEN, _OVERRIDDEN.cause, _OVERRIDDEN.note, new=vm.decision.state)
    if vm.decision is Decision.UNDECIDED:
        return result(Outcome.UNDECIDED, "undecided", vm.reason or "")
    return None


def plan_rollback(entries: Sequence[Entry], find: Callable[[str], Seen | None]) -> tuple[list[Plan], list[Result]]:
    """Plans that put the old PMU state back, and the results of domains that stay as they are.

    Several changes of one domain are undone as one, newest first, as far as each left what the next one found. A
    domain whose PMU state is no longer what the newest of them left is somebody else's by now and stays.

    :param entries: finished changes, newest first.
    :param find: the domain with this UUID as it is now; None if it is gone.
    """
    plans, results = [], []
    for chain in _chains(entries):
        answer = _undoing(chain, find(chain[0].uuid))
        if isinstance(answer, Plan):
            plans.append(answer)
        else:
            results.append(answer)
    return plans, results


def _chains(entries: Sequence[Entry]) -> Iterator[list[Entry]]:
    """The changes of each domain that can be undone as one, newest first: each left what the next one found."""
    by_domain: dict[str, list[Entry]] = {}
    for entry in entries:
        chain = by_domain.setdefault(entry.uuid, [])
        chain.append(entry)
    for changes in by_domain.values():
        length = 1
        while length < len(changes) and changes[length].new is changes[length - 1].old:
            length += 1
        yield changes[:length]


def _undoing(chain: Sequence[Entry], domain: Seen | None) -> Plan | Result:
    """The plan that undoes these changes of one domain, or why it stays as it is."""
    newest, oldest = chain[0], chain[-1]
    blank = Result(newest.name, newest.uuid, Outcome.VANISHED, old=newest.new, new=oldest.old, rule="rollback")
    if domain is not None and domain.vm.error is not None and domain.vm.next_boot is None:
        error = domain.vm.error
        return replace(blank, outcome=Outcome.NOT_JUDGED, cause=error.cause, notes=(error.message,))
    if domain is None or domain.vm.next_boot is None:
        return replace(blank, cause="domain-vanished", notes=("the domain is gone or has no next boot",))
    now = domain.vm.next_boot
    if now is not newest.new:
        note = f"its PMU state is {now.value} now, not the {newest.new.value} that pmuconf left: it stays"
        return replace(blank, outcome=Outcome.ALREADY, old=now, cause="changed-since", notes=(note,))
    if oldest.old is now:
        return replace(blank, outcome=Outcome.ALREADY, cause="no-change", notes=("its changes cancel out",))
    goal = Goal(oldest.old, "rollback", tuple(entry.id for entry in chain))

    def aim(definition: Domain) -> Goal | None:
        return goal if definition.pmu is newest.new else None

    return _plan(domain, now, goal, aim)


def planned(plan: Plan) -> Result:
    """The result of a plan in a dry run."""
    return replace(result_of(plan, Outcome.PLANNED), pending=plan.pending)


def result_of(plan: Plan, outcome: Outcome, cause: str = "", note: str = "", change: int | None = None) -> Result:
    """The result of a plan; if it is, or would be, carried out, with what makes that of no use."""
    result = Result(
        name=plan.listed.name,
        uuid=plan.listed.uuid,
        outcome=outcome,
        old=plan.old,
        new=plan.goal.state,
        rule=plan.goal.rule,
        cause=cause,
        notes=(note,) if note else (),
        change=change,
        manager=plan.manager,
    )
    if result.temporary:
        result = replace(result, notes=(*result.notes, result.temporary))
    if plan.caveat is not None and result.written and not cause:
        result = replace(result, cause=plan.caveat.cause, notes=(plan.caveat.note, *result.notes))
    return result


def _caveat(vm: Vm, state: PmuState) -> Caveat | None:
    """Why writing that state may do nothing for the guest; None if nothing speaks against it."""
    now = vm.next_domain
    if now is None or not now.x86:
        return None
    if now.obeyed is None:
        return _UNKNOWN
    without_options = replace(now, arguments=())
    options_decide = _brings_the_same(now, state) and not _brings_the_same(without_options, state)
    return _OVERRIDDEN if options_decide or not now.obeyed else None


def _brings_the_same(definition: Domain, state: PmuState) -> bool:
    """Whether the guest's PMU is the same before and after this state is written."""
    return definition.effective_pmu is definition.with_pmu(state).effective_pmu


def _only_observed(policy: Policy, vm: Vm) -> bool:
    return vm.nova and policy.nova_domains is NovaDomains.OBSERVE
