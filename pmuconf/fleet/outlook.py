"""What would bring a VM onto the fast path: the verdict itself is asked again, with the facts that a change makes.

Pure. There is no second table of rules here: a VM needs exactly those changes without which fastpath.answer() would
not say yes. What is not known stays so: a VM of which it can't be said what KVM holds, or whose verdict can't be
repeated from its report, is claimed for no change.
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
    """Something that somebody does, in the order in which it is done.

    Text, because an enumeration's own hash is written in Python, and sets of changes are looked up for each VM.
    """

    KERNEL = "kernel"
    QEMU = "qemu"
    POLICY = "policy"
    REDEFINE = "redefine"
    CYCLE = "power-cycle"
    SETTLE = "settle"


class HostState(NamedTuple):
    """What the verdict on a VM asks of its host, in the words of the report."""

    verdict: str
    enable_pmu: bool | None
    mediated_pmu: bool | None


class VmState(NamedTuple):
    """What the verdict asks of a VM that runs under KVM on x86, in the words of the report.

    ``qemu`` and ``next_qemu`` say whether that QEMU disables the PMU in KVM; ``causes`` are those of the report.
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

    With SETTLE among them something has to be found out or decided first, and nothing is promised; ``unsettled`` is the
    cause that says what.
    """

    changes: tuple[Change, ...] = ()
    unsettled: str = ""


@dataclass(frozen=True)
class _World:
    """A host and a VM of it, as they are or as they would be."""

    host: HostFacts
    guest: Guest
    untold: bool = False
    """Its QEMU should have disabled the PMU and did not: nothing is concluded from what a QEMU should do."""


_ON_VM: Final = (Change.QEMU, Change.POLICY, Change.REDEFINE, Change.CYCLE)
_NOVA: Final = Nova(None, None, None, {}, {})


@lru_cache(maxsize=1 << 16)
def needed(host: HostState | None, vm: VmState) -> Needs:
    """What gives a running VM the fast path; nothing if it has it, or shall not.

    :raises ValueError: a word that is none of the report's.
    """
    if vm.causes[0] not in CASES:
        raise ValueError(f"cause {vm.causes[0]!r} is not known here")
    if CASES[vm.causes[0]].fast_path is FastPath.YES:
        return Needs()
    unclear = Needs((Change.SETTLE,), vm.causes[0])
    if host is None:
        return unclear
    facts, guest = host_of(host), guest_of(vm)
    now = answer(facts, guest)
    if now.causes != vm.causes:
        return unclear
    if now.wanted_on:
        return Needs()
    kernel = (Change.KERNEL,) if facts.guard.verdict in (Verdict.UNGUARDED, Verdict.PARTIAL) else ()
    possible = kernel
    if vm.in_kernel_pmu not in ("enabled", "disabled"):
        possible = ()  # kernel memory may have contradicted what would be concluded here
    elif now.in_kernel.pmu is KernelPmu.ENABLED and "undecided" not in now.causes:
        possible = (*kernel, *_ON_VM)
    for size in range(1, len(possible) + 1):
        for some in combinations(possible, size):
            then = after(some, facts, guest)
            if answer(*then).fast_path is FastPath.YES:
                return Needs(some)
    return Needs((*kernel, Change.SETTLE), _unsettled(now, answer(*after(possible or kernel, facts, guest))))


def _unsettled(now: Answer, then: Answer) -> str:
    """The cause that nothing is promised for: what the verdict would still say when all that can be done was done."""
    for cause in ("qemu-did-not", "cpu-overridden", "next-boot-unknown"):
        if cause in now.causes:
            return cause
    return "pmu-unknown" if CASES[then.cause].fast_path is FastPath.YES else then.cause


def after(changes: Iterable[Change], host: HostFacts, guest: Guest) -> tuple[HostFacts, Guest]:
    """The host and the VM when these changes have been made, in the order of Change."""
    world = _World(host, guest, untold="qemu-did-not" in answer(host, guest).causes)
    for change in sorted(changes, key=list(Change).index):
        world = _changed(change, world)
    return world.host, world.guest


def host_of(state: HostState) -> HostFacts:
    """The facts again."""
    guard = GuardFinding(Verdict(state.verdict), "reported", "", Evidence.OBSERVED)
    return HostFacts(guard, enable_pmu=state.enable_pmu, mediated_pmu=state.mediated_pmu)


def guest_of(state: VmState) -> Guest:
    """The VM again. Its process is there if anything of the report was found by it."""
    effective = None if state.effective_pmu is None else PmuState(state.effective_pmu)
    domain = _domain(PmuState(state.live), effective, _NOVA if state.nova else None)
    pmu = KernelPmu.UNKNOWN if state.in_kernel_pmu is None else KernelPmu(state.in_kernel_pmu)
    process = LiveVm(
        pid=None,
        kernel_pmu=pmu,
        in_use=state.pmu_in_use,
        pmu_property=state.cpu_has_pmu,
        may_be_recreated=bool(state.may_be_recreated),
        qemu=_qemu(state.qemu),
        next_qemu=_qemu(state.next_qemu),
    )
    found = pmu is not KernelPmu.UNKNOWN or process != LiveVm(pid=None, qemu=_qemu(None), next_qemu=_qemu(None))
    return Guest(
        domain=domain,
        running=True,
        next_boot=None if state.next_boot is None else PmuState(state.next_boot),
        decision=None if state.decision is None else Decision(state.decision),
        vm=process if found else None,
        next_qemu=process.next_qemu if found else None,
        obeyed=state.obeyed,
        next_effective=None if state.next_effective is None else PmuState(state.next_effective),
    )


def _domain(state: PmuState, effective: PmuState | None, nova: Nova | None) -> Domain:
    """A definition that says the one, of a guest that gets the other: by which options is not in the report."""
    said = "-readconfig" if effective is None else "-cpu"
    value = "" if effective is None else f"Any,pmu={effective.value}"
    mode = "host-passthrough" if effective is PmuState.ON else None
    plain = Domain("", None, "kvm", "x86_64", state, mode, nova, running=True)
    return plain if plain.effective_pmu is effective else replace(plain, arguments=(said, value))


def _qemu(disables: bool | None) -> Qemu:
    return Qemu("", None, disables, "reported")


def _changed(change: Change, world: _World) -> _World:
    host, guest = world.host, world.guest
    if change is Change.KERNEL:
        # The VM is migrated away and back, or restarted: KVM holds of it what it held. A kernel that has a guard has
        # the parameter, and it is Y by default.
        guard = replace(host.guard, verdict=Verdict.GUARDED)
        enable_pmu = True if host.enable_pmu is None else host.enable_pmu
        return replace(world, host=replace(host, guard=guard, enable_pmu=enable_pmu))
    if change is Change.QEMU:
        return replace(world, guest=replace(guest, next_qemu=_qemu(True)))  # the running VM has its own still
    if change is Change.POLICY:
        wrong = guest.decision is Decision.OFF and guest.next_boot is not None
        return replace(world, guest=replace(guest, next_boot=PmuState.OFF)) if wrong else world
    if change is Change.REDEFINE and guest.decision is Decision.OFF and guest.next_boot is None:
        return replace(world, guest=_started(guest, PmuState.OFF, world.untold))
    if change is Change.CYCLE and guest.next_boot is not None:
        return replace(world, guest=_started(guest, guest.next_boot, world.untold))
    return world


def _started(guest: Guest, state: PmuState, untold: bool) -> Guest:
    """The VM after a cold start with that definition, under the QEMU that is there; not seen in kernel memory yet."""
    gets = guest.will_get(state)
    if gets is None and guest.heeded and guest.domain.pmu is state:
        gets = guest.domain.effective_pmu  # an older report does not say what default means, but where it applies now
    process = LiveVm(
        pid=None,
        pmu_property=None if gets is None else gets is PmuState.ON,
        may_be_recreated=guest.vm is not None and guest.vm.may_be_recreated,
        qemu=_qemu(None) if untold else guest.next_qemu,
        next_qemu=guest.next_qemu,
    )
    return replace(guest, domain=_domain(state, gets, guest.domain.nova), vm=process)
