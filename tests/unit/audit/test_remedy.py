"""Whatever is wrong with a VM, there is something to do about it; and nothing where nothing is wrong."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import product

import pytest

from pmuconf.audit.remedy import needless, remedies
from pmuconf.audit.report import Report
from pmuconf.audit.vm import Severity, Status, Unjudged, Vm
from pmuconf.domain.definition import Domain, PmuState
from pmuconf.fastpath.cases import CASES, RemedyKind
from pmuconf.fastpath.inkernel import InKernel
from pmuconf.fastpath.verdict import Answer
from pmuconf.hostfacts import Evidence, GuardFinding, HostFacts, KernelPmu, Verdict
from pmuconf.policy import Decision
from pmuconf.report.story import story

ON, OFF, DEFAULT = PmuState.ON, PmuState.OFF, PmuState.DEFAULT
STATES = (None, ON, OFF, DEFAULT)
HOST = HostFacts(GuardFinding(Verdict.UNGUARDED, "no-test", "it does not ask", remedy="a kernel that asks"))


def domain(pmu: PmuState, *arguments: str) -> Domain:
    return Domain("web", "uuid", "kvm", "x86_64", pmu, "host-passthrough", None, arguments=arguments)


def vm(decision: Decision | None, live: PmuState | None, next_boot: PmuState | None, *arguments: str) -> Vm:
    known = next((state for state in (live, next_boot) if state is not None), OFF)
    return Vm(
        name="web",
        uuid="uuid",
        decision=decision,
        rule="default",
        live=live,
        next_boot=next_boot,
        domain=domain(known, *arguments),
        next_domain=None if next_boot is None else domain(next_boot, *arguments),
        transient=next_boot is None,
    )


def statuses() -> Iterator[Vm]:
    """A VM of every status, by every way that leads to it."""
    for decision, live, next_boot in product(Decision, STATES, STATES):
        if live is not None or next_boot is not None:
            one = vm(decision, live, next_boot)
            yield from (one, replace(one, saved=ON), replace(one, saved=OFF), replace(one, nova=True))
            yield vm(decision, live, next_boot, "-cpu", "host,pmu=on")
    yield replace(vm(None, ON, ON), error=Unjudged("flavor-image-conflict", "they contradict each other"))
    yield Vm("web", None, error=Unjudged("xml-syntax", "no XML"))
    yield Vm("web", None, error=Unjudged("domain-timeout", "no answer", "Look at libvirt"))


def answers() -> Iterator[Answer | None]:
    """Every cause alone, and before a further one; and no verdict at all."""
    yield None
    for cause, case in CASES.items():
        for causes in ((cause,), (cause, "drift" if cause != "drift" else "qemu-upgraded")):
            for held in ("kernel-memory", "process-unknown", "qemu-unknown"):
                pmu = InKernel(KernelPmu.UNKNOWN, Evidence.NONE, held)
                yield Answer(case.fast_path, causes, Evidence.OBSERVED, case.message, pmu)


VMS = list(statuses())


def test_there_is_a_vm_of_every_status() -> None:
    assert {one.status for one in VMS} == set(Status)


@pytest.mark.parametrize("answer", list(answers()), ids=lambda answer: "-".join(answer.causes) if answer else "none")
def test_every_status_with_every_cause_has_a_remedy_or_a_reason_why_none_is_needed(answer: Answer | None) -> None:
    for one in VMS:
        joined = replace(one, answer=answer)
        steps = remedies(joined, HOST, 2)
        texts = [remedy.text for remedy in steps]
        assert all(texts), joined
        assert len(set(texts)) == len(texts), joined
        assert all(remedy.causes for remedy in steps), joined
        if joined.severity is not Severity.OK:
            assert steps, joined
        if not steps:
            assert needless(joined), joined


@pytest.mark.parametrize("one", VMS, ids=lambda one: one.status.value)
def test_explain_says_nothing_is_to_be_done_only_where_all_is_as_wanted(one: Vm) -> None:
    """Of a stopped VM that was off policy it said "nothing", with exit status 2."""
    for joined in (one, replace(one, answer=_not_running())):
        report = Report("test:///", (joined,))
        (line,) = (line for line in story(report, joined) if line.startswith("what to do: "))
        assert line.startswith("what to do: nothing") == (report.severity is Severity.OK), joined


def _not_running() -> Answer:
    case = CASES["not-running"]
    pmu = InKernel(KernelPmu.UNKNOWN, Evidence.NONE, "not-running")
    return Answer(case.fast_path, ("not-running",), Evidence.OBSERVED, case.message, pmu)


# ---- by example ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "words", "causes"),
    [
        (vm(Decision.OFF, None, ON), ["pmuconf apply"], ["drift"]),
        (vm(Decision.ON, None, OFF), ["pmuconf apply"], ["drift"]),
        (vm(Decision.OFF, ON, ON), ["pmuconf apply, then stop and start it"], ["drift"]),
        (vm(Decision.OFF, OFF, ON), ["pmuconf apply"], ["drift"]),
        (replace(vm(Decision.OFF, None, ON), nova=True), ["hw:pmu=false in the flavor"], ["drift"]),
        (replace(vm(Decision.ON, None, OFF), nova=True), ["hw:pmu=true in the flavor"], ["drift"]),
        (vm(Decision.OFF, ON, OFF), ["stop and start it"], ["pending"]),
        (replace(vm(Decision.OFF, ON, OFF), nova=True), ["openstack server reboot"], ["pending"]),
        (replace(vm(Decision.OFF, None, OFF), saved=ON), ["managedsave-remove"], ["pending"]),
        (vm(Decision.OFF, ON, None), ["must ask for <pmu state='off'/>"], ["stuck"]),
        (vm(Decision.ON, OFF, None), ["must ask for <pmu state='on'/>"], ["stuck"]),
        (vm(Decision.UNDECIDED, ON, ON), ["pmuconf policy explain"], ["undecided"]),
        (vm(Decision.OFF, None, OFF, "-cpu", "host,pmu=on"), ["write pmu=off there"], ["overridden"]),
        (Vm("web", None, error=Unjudged("xml-syntax", "no XML")), ["mend its XML"], ["xml-syntax"]),
        (Vm("web", None, error=Unjudged("libvirt-error", "no", "Ask libvirt")), ["Ask libvirt"], ["libvirt-error"]),
    ],
)
def test_what_to_do_by_status(one: Vm, words: list[str], causes: list[str]) -> None:
    (remedy,) = remedies(one, None, None)
    assert all(word in remedy.text for word in words)
    assert list(remedy.causes) == causes
    if causes == ["drift"] and "then" not in words[0] and not one.nova:
        assert remedy.text == "pmuconf apply"


def test_a_cause_and_a_status_that_ask_for_the_same_are_one_step() -> None:
    """A running VM that drifts has drift as its status, and among the causes of its verdict."""
    held = InKernel(KernelPmu.ENABLED, Evidence.OBSERVED, "kernel-memory")
    case = CASES["drift"]
    answer = Answer(case.fast_path, ("qemu-upgraded", "drift"), Evidence.OBSERVED, case.message, held)
    (remedy,) = remedies(replace(vm(Decision.OFF, ON, ON), answer=answer), HOST, 0)
    assert remedy.causes == ("qemu-upgraded", "drift")


def test_every_kind_of_remedy_is_asked_for_by_some_case() -> None:
    """So that none of them is a leftover."""
    assert {kind for case in CASES.values() for kind in case.remedies} == set(RemedyKind)
