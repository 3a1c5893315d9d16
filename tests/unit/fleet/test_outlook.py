"""What a VM needs, against a model of what KVM does: what is promised comes true there, and no less would do."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain, combinations, product

import pytest

from pmuconf.audit.report import Report, join
from pmuconf.audit.vm import judge
from pmuconf.domain.definition import Domain, PmuState
from pmuconf.fastpath.cases import CASES, FastPath
from pmuconf.fastpath.guest import Guest
from pmuconf.fastpath.verdict import answer
from pmuconf.fleet.hostreport import of_document
from pmuconf.fleet.outlook import Change, HostState, Needs, VmState, guest_of, host_of, needed
from pmuconf.fleet.steps import power_cycles
from pmuconf.hostfacts import Evidence, GuardFinding, HostFacts, KernelPmu, LiveVm, Qemu, Verdict
from pmuconf.policy import Decision, Policy
from pmuconf.report.document import document
from tests.support.fleet import FACTS_OF, host
from tests.unit.test_fastpath import KERNELS, World

STATES = ("on", "off", "default")
_OBEYED = (True, False, None)  # False, None: options in the definition decide, which is seen to be so or not sure
KERNEL, QEMU, POLICY, REDEFINE, CYCLE, SETTLE = Change


class Model:
    """A VM of that world, with its definition and the QEMU that is installed: what changes really do."""

    def __init__(
        self, world: World, next_boot: str | None, passthrough: bool, next_qemu: bool, decision: str, obeyed: bool
    ) -> None:
        self.world, self.next_boot, self.next_qemu, self.decision = world, next_boot, next_qemu, decision
        self.passthrough, self.obeyed = passthrough, obeyed

    def after(self, changes: tuple[Change, ...]) -> World:
        world, next_boot, next_qemu = self.world, self.next_boot, self.next_qemu
        if KERNEL in changes:
            world = replace(world, kernel="guarded")
        if QEMU in changes:
            next_qemu = True
        if POLICY in changes and next_boot is not None and self.decision == "off":
            next_boot = "off"
        if REDEFINE in changes and next_boot is None:
            world = replace(world, has_pmu=world.has_pmu and not self.obeyed, qemu_disables=next_qemu)
        if CYCLE in changes and next_boot is not None:
            has_pmu = next_boot == "on" or (next_boot == "default" and self.passthrough)
            has_pmu = has_pmu if self.obeyed else world.has_pmu
            world = replace(world, has_pmu=has_pmu, qemu_disables=next_qemu)
        return world


def models() -> Iterator[tuple[Model, HostState, VmState]]:
    """Every model there is, and what a report tells of it when all was seen."""
    worlds = [
        replace(World(kernel, *bits), mediated=mediated)
        for kernel in KERNELS
        for bits in product((False, True), repeat=4)
        for mediated in (False, True)
    ]
    for world, live, next_boot, passthrough, next_qemu, decision, obeyed in product(
        worlds, STATES, (*STATES, None), (False, True), (False, True), ("off", "keep", "on", "undecided"), _OBEYED
    ):
        if obeyed and world.has_pmu != (live == "on" or (live == "default" and passthrough)):
            continue  # QEMU does what the definition says
        if not obeyed and (passthrough or decision not in ("off", "on")):
            continue  # the CPU model does not matter then
        counts = world.enabled and world.counting
        state = HostState(world.kernel, world.parameter, world.mediated)
        vm = VmState(
            live, next_boot, "on" if world.has_pmu else "off", decision, "enabled" if world.enabled else "disabled",
            counts, world.has_pmu, False, world.qemu_disables, next_qemu, False, ("no-call",),
        )  # fmt: skip
        if not obeyed:
            gets = vm.effective_pmu if obeyed is False and next_boot is not None else None
            vm = vm._replace(obeyed=obeyed, next_effective=gets)
        causes = answer(host_of(state), guest_of(vm)).causes
        yield (
            Model(world, next_boot, passthrough, next_qemu, decision, obeyed is True),
            state,
            vm._replace(causes=causes),
        )


MODELS = list(models())


def subsets(changes: tuple[Change, ...]) -> Iterator[tuple[Change, ...]]:
    yield from chain.from_iterable(combinations(changes, size) for size in range(len(changes)))


def test_what_is_promised_comes_true_and_less_would_not_do() -> None:
    promised = 0
    for model, state, vm in MODELS:
        needs = needed(state, vm).changes
        if not needs or SETTLE in needs:
            continue
        promised += 1
        assert model.after(needs).truth is FastPath.YES, (state, vm)
        if model.world.kernel == "early-out" or (vm.next_boot == "default" and vm.live != "default"):
            continue  # fast without a change as long as nothing counts; a CPU model that the report does not tell
        for fewer in subsets(needs):
            assert model.after(fewer).truth is not FastPath.YES, (state, vm, fewer)
    assert promised > 500


def test_who_is_fast_or_keeps_its_pmu_needs_nothing_and_who_is_slow_is_never_left_out() -> None:
    for model, state, vm in MODELS:
        fast = model.world.truth is FastPath.YES
        wanted = vm.decision == "on" or any(cause in ("pmu-on-by-policy", "pmu-kept") for cause in vm.causes)
        if fast:
            assert not needed(state, vm).changes
        elif wanted:
            assert not needed(state, vm).changes, (state, vm)
        else:
            assert needed(state, vm).changes, (state, vm)


def test_the_causes_that_stand_in_the_way_are_those_that_changes_remove() -> None:
    """The verdict lists what stands in the way; what is needed must say the same in its own words."""
    told = {
        "kernel-unguarded": {KERNEL}, "partial-guard": {KERNEL}, "qemu-keeps-pmu": {QEMU}, "transient": {REDEFINE},
        "pending-power-cycle": {CYCLE}, "qemu-upgraded": {CYCLE, REDEFINE},
    }  # fmt: skip
    for _, state, vm in MODELS:
        needs = needed(state, vm).changes
        if needs and SETTLE not in needs:
            for cause in vm.causes:
                assert told.get(cause, set(needs)) & set(needs), (state, vm)
            if "drift" in vm.causes and vm.cpu_has_pmu:  # without one, off need not be written for the fast path
                assert POLICY in needs, (state, vm)


@pytest.mark.parametrize("kind", FACTS_OF)
def test_a_report_has_all_that_its_verdicts_can_be_repeated_from(kind: str) -> None:
    document = host(kind, "h", 400, random.Random(7))
    facts = document["host_facts"]
    state = facts and HostState(facts["guard"]["verdict"], facts["enable_pmu"], facts["mediated_pmu"])
    repeated = 0
    for record in document["domains"]:
        case = CASES[record["cause"]]
        if not record["running"] or record["cause"] in ("not-kvm", "not-x86") or case.fast_path is FastPath.YES:
            continue
        qemu, next_qemu = (record[which] and record[which]["disables_pmu"] for which in ("qemu", "next_qemu"))
        vm = VmState(
            record["live"], record["next_boot"], record["effective_pmu"], record["decision"], record["in_kernel_pmu"],
            record["pmu_in_use"], record["cpu_has_pmu"], record["may_be_recreated"], qemu, next_qemu,
            record["nova"], tuple(record["causes"]), record["pmu_obeyed"], record["next_effective_pmu"],
        )  # fmt: skip
        assert answer(state and host_of(state), guest_of(vm)).causes == vm.causes
        repeated += 1
    assert repeated or kind == "no-call"


VM = VmState("on", "off", "on", "off", "enabled", False, True, False, True, True, False, ("pending-power-cycle",))
OLD = VM._replace(live="off", effective_pmu="off", cpu_has_pmu=False, qemu=False)
GUARDED, UNGUARDED = HostState("guarded", True, False), HostState("unguarded", True, False)


@pytest.mark.parametrize(
    ("state", "vm", "needs"),
    [
        (GUARDED, VM, Needs((CYCLE,))),
        (GUARDED, VM._replace(next_boot="on", causes=("drift",)), Needs((POLICY, CYCLE))),
        (GUARDED, VM._replace(next_boot=None, causes=("transient",)), Needs((REDEFINE,))),
        (GUARDED, OLD._replace(next_qemu=False, causes=("qemu-keeps-pmu",)), Needs((QEMU, CYCLE))),
        (GUARDED, OLD._replace(causes=("qemu-upgraded",)), Needs((CYCLE,))),
        (UNGUARDED, OLD._replace(in_kernel_pmu="disabled", qemu=True, causes=("kernel-unguarded",)), Needs((KERNEL,))),
        (
            UNGUARDED,
            OLD._replace(next_qemu=False, causes=("kernel-unguarded", "qemu-keeps-pmu")),
            Needs((KERNEL, QEMU, CYCLE)),
        ),
        (GUARDED._replace(verdict="unknown"), VM._replace(causes=("kernel-unknown", "pending-power-cycle")),
         Needs((SETTLE,), "kernel-unknown")),
        (UNGUARDED, VM._replace(in_kernel_pmu="unknown", cpu_has_pmu=None, causes=("kernel-unguarded",)),
         Needs((KERNEL, SETTLE), "pmu-unknown")),
        (GUARDED, VM._replace(decision="undecided", causes=("undecided",)), Needs((SETTLE,), "undecided")),
        (None, VM._replace(causes=("remote-host",)), Needs((SETTLE,), "remote-host")),
        (GUARDED, VM._replace(decision="on", causes=("pmu-on-by-policy",)), Needs()),
    ],
)  # fmt: skip
def test_examples(state: HostState | None, vm: VmState, needs: Needs) -> None:
    assert needed(state, vm) == needs


@pytest.mark.parametrize("cause", ["cpu-overridden", "next-boot-unknown"])
@pytest.mark.parametrize("next_boot", ["off", "on", "default", None])
def test_no_power_cycle_is_promised_where_options_decide(cause: str, next_boot: str | None) -> None:
    vm = VM._replace(live="off", next_boot=next_boot, obeyed=False if cause == "cpu-overridden" else None)
    vm = vm._replace(next_effective="on" if vm.obeyed is False and next_boot else None)
    vm = vm._replace(causes=answer(host_of(GUARDED), guest_of(vm)).causes)
    assert vm.causes[0] == cause
    assert needed(GUARDED, vm) == Needs((SETTLE,), cause)


def test_a_power_cycle_is_promised_where_the_options_themselves_say_off() -> None:
    vm = VM._replace(live="default", obeyed=False, next_effective="off")
    assert needed(GUARDED, vm) == Needs((CYCLE,))


def test_what_default_means_at_the_next_boot_is_told_by_a_newer_report() -> None:
    vm = VM._replace(decision="keep", next_boot="default", causes=("pmu-kept",))
    assert needed(GUARDED, vm) == Needs()
    drift = VM._replace(next_boot="default", next_effective="off", causes=("drift",))
    assert needed(GUARDED, drift) == Needs((CYCLE,))


def test_a_qemu_that_once_did_not_do_it_is_promised_nothing() -> None:
    failed = OLD._replace(qemu=True, causes=("qemu-did-not",))
    assert needed(GUARDED, failed) == Needs((SETTLE,), "qemu-did-not")


def test_a_confidential_guest_is_promised_nothing_that_a_reset_may_take_away() -> None:
    assert needed(GUARDED, VM._replace(may_be_recreated=True)) == Needs((SETTLE,), "pmu-unknown")


@pytest.mark.parametrize("pmu", ["unknown", None])
def test_what_kernel_memory_contradicted_is_not_concluded_after_all(pmu: str | None) -> None:
    """A report does not say why it is unknown: its process may have several VMs in KVM, which differ."""
    odd = OLD._replace(in_kernel_pmu=pmu, qemu=True, causes=("kernel-unguarded",))
    assert needed(UNGUARDED, odd) == Needs((KERNEL, SETTLE), "pmu-unknown")


def test_what_can_not_be_repeated_is_promised_nothing() -> None:
    """Another version of pmuconf may have judged it by what this one does not know."""
    assert needed(GUARDED, VM._replace(causes=("drift",))) == Needs((SETTLE,), "drift")


def test_words_that_are_not_known_are_refused() -> None:
    with pytest.raises(ValueError, match="no-such-cause"):
        needed(GUARDED, VM._replace(causes=("no-such-cause",)))
    with pytest.raises(ValueError, match="no-such-verdict"):
        needed(GUARDED._replace(verdict="no-such-verdict"), VM)


def test_the_facts_come_back_as_they_were() -> None:
    guest = guest_of(VM)
    assert isinstance(guest, Guest)
    assert (guest.domain.pmu, guest.next_boot, guest.decision) == (PmuState.ON, PmuState.OFF, Decision.OFF)
    assert guest.vm is not None
    assert guest.vm.kernel_pmu is KernelPmu.ENABLED
    nothing = VM._replace(in_kernel_pmu="unknown", pmu_in_use=None, cpu_has_pmu=None, qemu=None, next_qemu=None)
    assert guest_of(nothing).vm is None  # its process was not found


ENDS = Domain("web", "uuid", "kvm", "x86_64", PmuState.OFF, "host-passthrough", None, emulator="/usr/bin/qemu")
RUNS = replace(ENDS, pmu=PmuState.ON, running=True)
LATEST = Qemu("/usr/bin/qemu", None, True, "strings-in-binary", Evidence.INFERRED)
HELD = LiveVm(
    7, 1, uuid="uuid", kernel_pmu=KernelPmu.ENABLED, pmu_property=True, qemu=LATEST, next_qemu=LATEST, tdx=False
)


@pytest.mark.parametrize(
    ("live", "next_boot", "process", "promised"),
    [
        (RUNS, ENDS, HELD, True),
        (RUNS, replace(ENDS, tdx=True), HELD, False),
        (replace(RUNS, tdx=True), replace(ENDS, tdx=True), HELD, False),
        (RUNS, ENDS, replace(HELD, tdx=None), False),
        (RUNS, replace(ENDS, emulator="/usr/bin/qemu-kvm"), HELD, False),
    ],
    ids=["plain", "next-tdx", "tdx", "tdx-perhaps", "other-emulator"],
)
def test_no_power_cycle_is_promised_to_help_whose_next_start_is_not_known(
    live: Domain, next_boot: Domain, process: LiveVm, *, promised: bool
) -> None:
    """From the audit to the plan: what a report leaves out, no fleet can ask for."""
    guard = GuardFinding(Verdict.GUARDED, "guard-in-caller", "it asks", Evidence.OBSERVED)
    facts = HostFacts(guard, enable_pmu=True, mediated_pmu=False, vms=(process,))
    vms = join([judge(Policy(), live=live, next_boot=next_boot)], facts)
    report = of_document(document(Report("qemu:///system", vms, facts), Policy()))
    assert power_cycles(report) == (["uuid"] if promised else [])
