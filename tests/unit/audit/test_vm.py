"""The judgement on one domain: drift, pending, severity, over every combination of what it has and should have."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest

from pmuconf.audit.report import Report, join
from pmuconf.audit.vm import Severity, Unjudged, Vm, guest_of, judge
from pmuconf.domain.definition import UNKNOWN, Domain, Nova, PmuState
from pmuconf.hostfacts import GuardFinding, HostFacts, LiveVm, Qemu, Verdict
from pmuconf.policy import Decision, Policy, Rule

ON, OFF, DEFAULT = PmuState.ON, PmuState.OFF, PmuState.DEFAULT
STATES = (ON, OFF, DEFAULT)


def domain(pmu: PmuState, *, name: str = "web", cpu_mode: str | None = None, nova: Nova | None = None) -> Domain:
    return Domain(name, f"uuid-{name}", "kvm", "x86_64", pmu, cpu_mode, nova)


def maybe(pmu: PmuState | None) -> Domain | None:
    return None if pmu is None else domain(pmu)


# Policies that decide as wanted for any domain().
POLICIES = {
    Decision.ON: Policy(default=Decision.ON),
    Decision.OFF: Policy(default=Decision.OFF),
    Decision.KEEP: Policy(default=Decision.KEEP),
    Decision.UNDECIDED: Policy(rules=(Rule("asking", Decision.ON, flavor_id=("42",)),)),
}
# Known to be Nova's, but not of which flavor id: what makes the last of them undecided.
OLD_NOVA = Nova(flavor="m1", flavor_id=UNKNOWN, project_id="p", extra_specs={}, image_properties={})


# ---- examples, as the vocabulary has them --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("live", "next_boot", "saved", "drift", "pending", "severity"),
    [
        # The policy wants off, written out.
        (None, OFF, None, False, False, Severity.OK),
        (OFF, OFF, None, False, False, Severity.OK),
        (None, ON, None, True, False, Severity.FINDING),
        (None, DEFAULT, None, True, False, Severity.FINDING),
        (OFF, DEFAULT, None, True, False, Severity.FINDING),
        (ON, OFF, None, False, True, Severity.WARNING),
        (DEFAULT, OFF, None, False, True, Severity.WARNING),
        (None, OFF, ON, False, True, Severity.WARNING),
        (None, OFF, OFF, False, False, Severity.OK),
        (ON, ON, None, True, False, Severity.FINDING),
        # Running without a next boot: transient, or a dump of a running guest.
        (OFF, None, None, False, False, Severity.OK),
        (ON, None, None, False, False, Severity.WARNING),
        (DEFAULT, None, None, False, False, Severity.WARNING),
    ],
)
def test_drift_pending_and_severity_by_example(
    live: PmuState | None,
    next_boot: PmuState | None,
    saved: PmuState | None,
    drift: bool,
    pending: bool,
    severity: Severity,
) -> None:
    vm = judge(Policy(), live=maybe(live), next_boot=maybe(next_boot), saved=maybe(saved))
    assert (vm.drift, vm.pending, vm.severity) == (drift, pending, severity)
    assert (vm.live, vm.next_boot, vm.saved) == (live, next_boot, saved)


@pytest.mark.parametrize("state", STATES)
def test_where_the_policy_says_keep_everything_is_as_wanted(state: PmuState) -> None:
    vm = judge(POLICIES[Decision.KEEP], live=domain(ON), next_boot=domain(state), saved=domain(OFF))
    assert (vm.drift, vm.pending, vm.severity) == (False, False, Severity.OK)


def test_undecided_is_a_warning_and_never_drift() -> None:
    vm = judge(POLICIES[Decision.UNDECIDED], live=domain(ON, nova=OLD_NOVA), next_boot=domain(DEFAULT, nova=OLD_NOVA))
    assert vm.decision is Decision.UNDECIDED
    assert (vm.drift, vm.pending, vm.severity) == (False, False, Severity.WARNING)


def test_a_contradiction_of_flavor_and_image_is_an_error_of_that_domain() -> None:
    torn = Nova("m1", "42", "p", {"hw:pmu": "true"}, {"hw_pmu": "false"})
    vm = judge(Policy(), next_boot=domain(DEFAULT, nova=torn))
    assert vm.error is not None
    assert vm.error.cause == "flavor-image-conflict"
    assert (vm.decision, vm.rule, vm.reason) == (None, None, None)
    assert (vm.drift, vm.pending, vm.severity) == (False, False, Severity.FINDING)


def test_what_is_next_is_what_the_policy_is_asked_about() -> None:
    """A running guest whose next boot somebody already gave to another flavor."""
    old, new = Nova("perf", "1", "p", {}, {}), Nova("m1", "2", "p", {}, {})
    policy = Policy(rules=(Rule("perf", Decision.ON, flavor=("perf",)),))
    vm = judge(policy, live=domain(ON, nova=old), next_boot=domain(OFF, nova=new))
    assert (vm.flavor, vm.rule, vm.decision) == ("m1", "default", Decision.OFF)
    assert vm.pending


def test_a_domain_with_neither_definition_is_no_domain() -> None:
    with pytest.raises(ValueError, match="neither"):
        judge(Policy(), saved=domain(ON))


def test_the_facts_are_passed_on() -> None:
    vm = judge(Policy(), next_boot=domain(OFF, name="db", nova=OLD_NOVA))
    assert (vm.name, vm.uuid, vm.flavor, vm.nova, vm.transient) == ("db", "uuid-db", "m1", True, False)
    assert not judge(Policy(), next_boot=domain(OFF)).nova


def test_the_effective_pmu_is_that_of_the_running_guest_else_that_of_the_next_boot() -> None:
    passthrough, model = domain(DEFAULT, cpu_mode="host-passthrough"), domain(DEFAULT, cpu_mode="host-model")
    assert judge(Policy(), live=passthrough, next_boot=domain(OFF)).effective_pmu is ON
    assert judge(Policy(), live=model, next_boot=domain(ON)).effective_pmu is OFF
    assert judge(Policy(), next_boot=passthrough).effective_pmu is ON


def test_snapshots_that_would_bring_another_state_back_are_counted() -> None:
    kept = [domain(ON), None, domain(OFF), domain(DEFAULT), domain(ON)]
    assert judge(Policy(), next_boot=domain(OFF), live=domain(ON), snapshots=kept).snapshots == 3
    assert judge(Policy(), next_boot=domain(ON), snapshots=kept).snapshots == 2
    assert judge(Policy(), live=domain(DEFAULT), snapshots=kept).snapshots == 3
    assert judge(Policy(), next_boot=domain(OFF)).snapshots == 0


def test_snapshots_alone_are_no_reason_for_a_warning() -> None:
    vm = judge(Policy(), next_boot=domain(OFF), snapshots=[domain(ON)])
    assert (vm.snapshots, vm.severity) == (1, Severity.OK)


# ---- every combination ---------------------------------------------------------------------------------------------


def exit_status_for(wanted: str, live: str | None, next_boot: str | None, saved: str | None) -> tuple[str, int]:
    """Written from docs/vocabulary.md, in its words: what the domain is, and the exit status for it."""
    if wanted == "undecided":
        return "undecided", 1
    if wanted == "keep":
        return "ok", 0
    if next_boot is None:  # nothing can be written for it: all that counts is what runs
        return ("ok", 0) if live == wanted else ("stuck", 1)
    if next_boot != wanted:
        return "drift", 2
    not_yet = {state for state in (live, saved) if state is not None} - {wanted}
    return ("pending", 1) if not_yet else ("ok", 0)


@pytest.mark.parametrize("decision", Decision)
def test_every_combination_of_states_and_decision(decision: Decision) -> None:
    tried = 0
    nova = OLD_NOVA if decision is Decision.UNDECIDED else None
    for live, next_boot, saved in product((None, *STATES), repeat=3):
        if live is None and next_boot is None:
            continue
        given = {
            name: None if state is None else domain(state, nova=nova)
            for name, state in (("live", live), ("next_boot", next_boot), ("saved", saved))
        }
        vm = judge(POLICIES[decision], **given)  # type: ignore[arg-type]
        assert vm.decision is decision
        words = [None if state is None else state.value for state in (live, next_boot, saved)]
        what, status = exit_status_for(decision.value, *words)
        assert int(vm.severity) == status, (words, what)
        assert vm.drift == (what == "drift"), words
        assert vm.pending == (what == "pending"), words
        tried += 1
    assert tried == 60


@pytest.mark.parametrize(("live", "next_boot", "saved"), [*product((None, *STATES), repeat=3)])
def test_a_domain_that_could_not_be_judged_is_a_finding_whatever_it_has(
    live: PmuState | None, next_boot: PmuState | None, saved: PmuState | None
) -> None:
    vm = Vm("web", None, live=live, next_boot=next_boot, saved=saved, error=Unjudged("xml-syntax", "no XML"))
    assert (vm.drift, vm.pending, vm.severity) == (False, False, Severity.FINDING)


def test_a_host_is_as_bad_as_its_worst_domain() -> None:
    well = judge(Policy(), next_boot=domain(OFF))
    waiting = judge(Policy(), live=domain(ON), next_boot=domain(OFF))
    off_policy = judge(Policy(), next_boot=domain(ON))
    for vms, severity in (
        ((), Severity.OK),
        ((well, well), Severity.OK),
        ((well, waiting), Severity.WARNING),
        ((waiting, off_policy, well), Severity.FINDING),
    ):
        assert Report("test:///", tuple(vms)).severity is severity


@pytest.mark.parametrize("other", [True, False])
def test_of_a_vm_whose_next_boot_has_another_emulator_the_next_qemu_is_not_known(*, other: bool) -> None:
    """What is now where its own QEMU was started from says nothing of that one."""
    next_boot = replace(domain(OFF), emulator="/usr/bin/qemu-kvm" if other else "/usr/bin/qemu")
    vm = judge(Policy(), live=replace(domain(ON), emulator="/usr/bin/qemu"), next_boot=next_boot)
    qemu = Qemu("/usr/bin/qemu", None, True, "strings-in-binary")
    process = LiveVm(7, 1, uuid="uuid-web", qemu=qemu, next_qemu=qemu)
    facts = HostFacts(GuardFinding(Verdict.GUARDED, "guard-in-caller", "it asks"), vms=(process,))
    (joined,) = join([vm], facts)
    guest = guest_of(joined)
    assert guest is not None
    assert guest.next_qemu is not None
    assert guest.next_qemu.disables is (None if other else True)
    assert guest.next_qemu.cause == ("another-emulator" if other else "strings-in-binary")


@pytest.mark.parametrize(
    ("live", "cpu_mode", "waits"),
    [(OFF, "host-passthrough", True), (ON, "host-passthrough", False), (ON, None, True), (OFF, None, False)],
)
def test_a_guest_waits_for_the_default_if_that_gives_it_another_pmu(
    live: PmuState, cpu_mode: str | None, waits: bool
) -> None:
    """As after a rollback. It was never said to wait, for no guest has a PMU that is neither on nor off."""
    running, following = domain(live, cpu_mode=cpu_mode), domain(DEFAULT, cpu_mode=cpu_mode)
    assert judge(Policy(), live=running, next_boot=following).guest_waits(DEFAULT) is waits
