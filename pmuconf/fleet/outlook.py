"""The changes that would bring a VM onto the fast path, from the verdict itself.

Pure. There is no second table of rules: fastpath.answer() is asked again with the facts that a change would make. A VM
needs the fewest changes with which the answer is yes. Nothing is promised for a VM if it is not known what KVM holds of
it, or if its verdict can't be repeated from its report.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import combinations
from typing import Final, NamedTuple

from pmuconf.domain.definition import Domain, Nova, PmuState
from pmuconf.fastpath.cases import CASES, FastPath
from pmuconf.fastpath.guest import Guest
from pmuconf.fastpath.verdict import Answer, answer
from pmuconf.hostfacts import Evidence, GuardFinding, HostFacts, KernelPmu, LiveVm, Qemu, Verdict
from pmuconf.policy import Decision

__all__ = ["Change", "HostState", "Needs", "VmState", "after", "guest_of", "host_of", "needed"]


class Change(str, enum.Enum):
    """A kind of change that somebody makes, in the order in which the changes are made.

    Text, because the hash of a plain enumeration is computed in Python, and sets of changes are looked up for each VM.
    """

    KERNEL = "kernel"
    QEMU = "qemu"
    POLICY = "policy"
    REDEFINE = "redefine"
    CYCLE = "power-cycle"
    SETTLE = "settle"


class HostState(NamedTuple):
    """What the verdict on a VM reads of its host, in the words of the report."""

    verdict: str
    enable_pmu: bool | None
    mediated_pmu: bool | None


class VmState(NamedTuple):
    """What the verdict reads of a VM that runs under KVM on x86, in the words of the report.

    :param qemu: whether its QEMU disables the PMU in KVM; ``next_qemu`` says so of the QEMU that a new start gives it.
    :param causes: those of the report.
    """

    live: str
    next_boot: str | None
    effective_pmu: str | None
    decision: str | None
    in_kernel_pmu: str | None
    pmu_in_use: bool | None
    cpu_has_pmu: bool | None
    may_be_recreated: bool | None
    qemu: bool | None
    next_qemu: bool | None
    nova: bool
    causes: tuple[str, ...]
    obeyed: bool | None = True
    next_effective: str | None = None


class Needs(NamedTuple):
    """The fewest changes that give a VM the fast path, in their order.

    With SETTLE among them nothing is promised: something has to be found out or decided first. ``unsettled`` is the
    cause that says what.
    """

    changes: tuple[Change, ...] = ()
    unsettled: str = ""


_ON_VM: Final = (Change.QEMU, Change.POLICY, Change.REDEFINE, Change.CYCLE)
_NOVA: Final = Nova(None, None, None, {}, {})


@lru_cache(maxsize=1 << 16)
def needed(host: HostState | None, vm: VmState) -> Needs:
    """What gives a running VM the fast path; nothing if it has it, or if its PMU is wanted.

    :raises ValueError: a word that the report can't have.
    """
    if vm.causes[0] not in CASES:
        raise ValueError(f"cause {vm.causes[0]!r} is not known here")
    if CASES[vm.causes[0]].fast_path is FastPath.YES:
        return Needs()
    not_repeated = Needs((Change.SETTLE,), vm.causes[0])
    if host is None:
        return not_repeated
    facts, guest = host_of(host), guest_of(vm)
    verdict = answer(facts, guest)
    if verdict.causes != vm.causes:
        return not_repeated
    if verdict.wanted_on:
        return Needs()
    possible = _possible(facts, vm, verdict)
    fewest = _fewest(possible, facts, guest)
    if fewest:
        return Needs(fewest)
    kernel = _kernel_change(facts)
    then = answer(*after(possible or kernel, facts, guest))
    return Needs((*kernel, Change.SETTLE), _unsettled(verdict, then))


def _kernel_change(facts: HostFacts) -> tuple[Change, ...]:
    return (Change.KERNEL,) if facts.guard.verdict in (Verdict.UNGUARDED, Verdict.PARTIAL) else ()


def _possible(facts: HostFacts, vm: VmState, verdict: Answer) -> tuple[Change, ...]:
    """The changes that may help a VM; none if its facts are too uncertain to promise anything."""
    if vm.in_kernel_pmu not in ("enabled", "disabled"):
        return ()  # kernel memory may have contradicted the conclusions that could be made here
    if verdict.in_kernel.pmu is KernelPmu.ENABLED and "undecided" not in verdict.causes:
        return (*_kernel_change(facts), *_ON_VM)
    return _kernel_change(facts)


def _fewest(possible: tuple[Change, ...], facts: HostFacts, guest: Guest) -> tuple[Change, ...]:
    """The fewest of these changes that give the VM the fast path; none if not even all of them do."""
    for size in range(1, len(possible) + 1):
        for changes in combinations(possible, size):
            if answer(*after(changes, facts, guest)).fast_path is FastPath.YES:
                return changes
    return ()


def _unsettled(now: Answer, then: Answer) -> str:
    """The cause for which nothing is promised: the one that the verdict would still name after all changes."""
    for cause in ("qemu-did-not", "cpu-overridden", "next-boot-unknown"):
        if cause in now.causes:
            return cause
    return "pmu-unknown" if CASES[then.cause].fast_path is FastPath.YES else then.cause


def host_of(state: HostState) -> HostFacts:
    """The host's facts, made from its report."""
    guard = GuardFinding(Verdict(state.verdict), "reported", "", Evidence.OBSERVED)
    return HostFacts(guard, enable_pmu=state.enable_pmu, mediated_pmu=state.mediated_pmu)


def guest_of(state: VmState) -> Guest:
    """The VM, made from its report. It has a process if the report has anything that is read from a process."""
    effective = None if state.effective_pmu is None else PmuState(state.effective_pmu)
    definition = _definition(PmuState(state.live), effective, _NOVA if state.nova else None)
    kernel_pmu = KernelPmu.UNKNOWN if state.in_kernel_pmu is None else KernelPmu(state.in_kernel_pmu)
    process = LiveVm(
        pid=None,
        kernel_pmu=kernel_pmu,
        in_use=state.pmu_in_use,
        pmu_property=state.cpu_has_pmu,
        may_be_recreated=bool(state.may_be_recreated),
        qemu=_qemu(disables=state.qemu),
        next_qemu=_qemu(disables=state.next_qemu),
    )
    has_process = process != LiveVm(pid=None, qemu=_qemu(disables=None), next_qemu=_qemu(disables=None))
    return Guest(
        domain=definition,
        running=True,
        next_boot=None if state.next_boot is None else PmuState(state.next_boot),
        decision=None if state.decision is None else Decision(state.decision),
        vm=process if has_process else None,
        next_qemu=process.next_qemu if has_process else None,
        obeyed=state.obeyed,
        next_effective=None if state.next_effective is None else PmuState(state.next_effective),
    )


def _definition(state: PmuState, effective: PmuState | None, nova: Nova | None) -> Domain:
    """A definition with this state, whose guest gets the ``effective`` PMU; None: it can't be known what it gets.

    Where the two differ, options of QEMU decide. The report does not say which, so any that do will serve.
    """
    cpu_mode = "host-passthrough" if effective is PmuState.ON else None
    plain = Domain("", None, "kvm", "x86_64", state, cpu_mode, nova, running=True)
    if plain.effective_pmu is effective:
        return plain
    options = ("-readconfig", "") if effective is None else ("-cpu", f"Any,pmu={effective.value}")
    return replace(plain, arguments=options)


def _qemu(*, disables: bool | None) -> Qemu:
    return Qemu("", None, disables, "reported")


@dataclass(frozen=True)
class _World:
    """A host and a VM of it, as they are or as they would be.

    :param qemu_failed: its QEMU should have disabled the PMU and did not, so no QEMU's promise counts for this VM.
    """

    host: HostFacts
    guest: Guest
    qemu_failed: bool = False


def after(changes: Iterable[Change], host: HostFacts, guest: Guest) -> tuple[HostFacts, Guest]:
    """The host and the VM when these changes have been made, in the order of Change."""
    world = _World(host, guest, qemu_failed="qemu-did-not" in answer(host, guest).causes)
    requested = frozenset(changes)
    for change, effect in _EFFECTS.items():
        if change in requested:
            world = effect(world)
    return world.host, world.guest


def _with_kernel(world: _World) -> _World:
    """The kernel has the guard. A kernel with the guard has the parameter too, which is Y by default.

    The VM was migrated away and back, or restarted, so KVM holds of it what it held before.
    """
    guard = replace(world.host.guard, verdict=Verdict.GUARDED)
    enable_pmu = True if world.host.enable_pmu is None else world.host.enable_pmu
    return replace(world, host=replace(world.host, guard=guard, enable_pmu=enable_pmu))


def _with_qemu(world: _World) -> _World:
    """A QEMU is installed that disables the PMU in KVM. The running VM keeps its own."""
    return replace(world, guest=replace(world.guest, next_qemu=_qemu(disables=True)))


def _with_policy(world: _World) -> _World:
    """The next boot is off, if the policy wants that and the domain has a next boot."""
    if world.guest.decision is not Decision.OFF or world.guest.next_boot is None:
        return world
    return replace(world, guest=replace(world.guest, next_boot=PmuState.OFF))


def _redefined(world: _World) -> _World:
    """A transient domain is started anew with the PMU off, if the policy wants that."""
    if world.guest.decision is not Decision.OFF or world.guest.next_boot is not None:
        return world
    return _started(world, PmuState.OFF)


def _power_cycled(world: _World) -> _World:
    """A persistent domain is stopped and started, so it gets its next boot."""
    if world.guest.next_boot is None:
        return world
    return _started(world, world.guest.next_boot)


_EFFECTS: Final = {
    Change.KERNEL: _with_kernel,
    Change.QEMU: _with_qemu,
    Change.POLICY: _with_policy,
    Change.REDEFINE: _redefined,
    Change.CYCLE: _power_cycled,
}


def _started(world: _World, state: PmuState) -> _World:
    """The VM after a cold start with this state, under the QEMU that is installed; kernel memory was not read yet."""
    guest = world.guest
    gets = guest.will_get(state)
    if gets is None and guest.heeded and guest.domain.pmu is state:
        # An older report does not say what default gives the next boot. The running guest has the same state.
        gets = guest.domain.effective_pmu
    process = LiveVm(
        pid=None,
        pmu_property=None if gets is None else gets is PmuState.ON,
        may_be_recreated=guest.vm is not None and guest.vm.may_be_recreated,
        qemu=_qemu(disables=None) if world.qemu_failed else guest.next_qemu,
        next_qemu=guest.next_qemu,
    )
    started = replace(guest, domain=_definition(state, gets, guest.domain.nova), vm=process)
    return replace(world, guest=started)
