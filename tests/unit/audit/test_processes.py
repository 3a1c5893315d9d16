"""VMs that libvirt does not know: each verdict by an oracle, and the steps in the words of what started the VM."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from pmuconf.audit.look import audit_processes, with_processes
from pmuconf.audit.processes import named, vms_of_processes
from pmuconf.audit.report import Report, join
from pmuconf.audit.vm import Severity, Vm, judge
from pmuconf.domain.definition import Domain, Manager, PmuState
from pmuconf.fleet.hostreport import of_document
from pmuconf.hostfacts import (
    MAY_BE_EMULATED,
    Evidence,
    FileId,
    GuardFinding,
    HostFacts,
    KernelPmu,
    LiveVm,
    Qemu,
    Verdict,
)
from pmuconf.policy import Decision, Policy, Rule
from pmuconf.report.document import document
from pmuconf.report.html import page
from pmuconf.report.prometheus import prometheus_text
from pmuconf.report.story import story

POLICY = Policy()
GUARDED = GuardFinding(Verdict.GUARDED, "guard-in-caller", "it asks", Evidence.OBSERVED)
HOST = HostFacts(GUARDED, enable_pmu=True, mediated_pmu=False)
QEMU = Qemu("/usr/bin/qemu-system-x86_64", "00ff", disables=True, cause="proved", evidence=Evidence.OBSERVED)
BY_HAND = LiveVm(
    7, 70, command="qemu-system-x86", name="web", pmu_property=False, qemu=QEMU, next_qemu=QEMU, started_as=QEMU.path
)
FIRECRACKER = LiveVm(8, 80, command="firecracker", started_as="/usr/bin/firecracker")
UUID = "1b4e28ba-2fa1-11d2-883f-0016d3cca427"


def judged(process: LiveVm, host: HostFacts = HOST, policy: Policy = POLICY) -> Vm:
    (vm,) = vms_of_processes(policy, replace(host, vms=(process,)))
    return vm


def oracle(verdict: Verdict, parameter: bool | None, memory: KernelPmu, has_pmu: bool | None, disables: bool) -> str:
    """Whether the VM is fast, told anew: it is, if the kernel asks and its PMU is known to be disabled in KVM.

    Nothing is said here of early-out kernels and of a mediated PMU.
    """
    if verdict is Verdict.UNKNOWN:
        return "unknown"
    if verdict is Verdict.UNGUARDED:
        return "no"
    if verdict is Verdict.NO_CALL:
        return "yes"
    off = memory
    if memory is KernelPmu.UNKNOWN and parameter is False:
        off = KernelPmu.DISABLED
    elif memory is KernelPmu.UNKNOWN and parameter and has_pmu is not None:
        off = KernelPmu.DISABLED if disables and not has_pmu else KernelPmu.ENABLED
    if off is KernelPmu.UNKNOWN:
        return "unknown"
    if off is KernelPmu.ENABLED:
        return "no"
    return "yes" if verdict is Verdict.GUARDED else "partial"


@pytest.mark.parametrize("verdict", [verdict for verdict in Verdict if verdict is not Verdict.EARLY_OUT])
def test_every_combination_of_facts_against_the_oracle(verdict: Verdict) -> None:
    facts = itertools.product((True, False, None), KernelPmu, (True, False, None), (True, False), (True, False))
    for parameter, memory, has_pmu, disables, is_qemu in facts:
        if not is_qemu:
            has_pmu = None
        if parameter is False and memory is KernelPmu.ENABLED:
            continue  # the probe calls that contradictory
        host = replace(HOST, guard=replace(GUARDED, verdict=verdict), enable_pmu=parameter)
        qemu = replace(QEMU, disables=disables) if is_qemu else None
        process = replace(BY_HAND, kernel_pmu=memory, pmu_property=has_pmu, qemu=qemu, next_qemu=qemu)
        report = audit_processes(POLICY, replace(host, vms=(process,)))
        (vm,) = report.vms
        assert vm.answer is not None
        assert vm.answer.fast_path.value == oracle(verdict, parameter, memory, has_pmu, disables), process
        assert (vm.next_boot, vm.drift, vm.pending, vm.transient, vm.by_process) == (None, False, False, True, True)
        assert bool(report.remedies(vm)) is (vm.severity is not Severity.OK)
        of_document(document(report, POLICY))  # a fleet reads it, and repeats the verdict


@pytest.mark.parametrize(
    ("process", "facts", "state", "effective", "status"),
    [
        (replace(BY_HAND, pmu_property=True), HOST, "on", PmuState.ON, "stuck"),
        (BY_HAND, HOST, "off", PmuState.OFF, "ok"),
        (replace(BY_HAND, pmu_property=None), HOST, "default", None, "stuck"),
        (FIRECRACKER, HOST, "default", None, "stuck"),
        (replace(FIRECRACKER, kernel_pmu=KernelPmu.ENABLED), HOST, "default", None, "stuck"),
        (replace(FIRECRACKER, kernel_pmu=KernelPmu.DISABLED), HOST, "off", PmuState.OFF, "ok"),
        (FIRECRACKER, replace(HOST, enable_pmu=False), "off", PmuState.OFF, "ok"),
    ],
)
def test_its_pmu_state(process: LiveVm, facts: HostFacts, state: str, effective: PmuState | None, status: str) -> None:
    vm = judged(process, facts)
    assert vm.live is not None
    assert (vm.live.value, vm.status.value) == (state, status)
    assert vm.effective_pmu is (PmuState.OFF if state == "off" else effective)
    assert vm.obeyed is True  # of <pmu>, which it has not, nothing is said
    assert not vm.overridden


def test_what_can_not_be_seen_is_unknown_with_its_cause() -> None:
    hidden = judged(replace(FIRECRACKER, cause="kcore-refused"))
    assert hidden.answer is not None
    assert (hidden.answer.cause, hidden.answer.in_kernel.cause) == ("pmu-unknown", "no-qemu")
    assert "no QEMU that is known here" in hidden.answer.message
    maybe = judged(replace(BY_HAND, cause=MAY_BE_EMULATED), replace(HOST, enable_pmu=False))
    assert maybe.answer is not None
    assert (maybe.answer.cause, maybe.answer.in_kernel.cause) == ("pmu-unknown", MAY_BE_EMULATED)
    several = judged(replace(FIRECRACKER, cause="several-vms"), replace(HOST, enable_pmu=False))
    assert several.answer is not None
    assert several.answer.in_kernel.cause == "several-vms"


ON = replace(BY_HAND, pmu_property=True, kernel_pmu=KernelPmu.ENABLED)


@pytest.mark.parametrize(
    ("process", "words", "never"),
    [
        (ON, "-cpu host,pmu=off", "virsh"),
        (replace(ON, manager="proxmox"), "'flags -pmu'", "virsh"),
        (replace(ON, manager="proxmox"), "qm shutdown ID, qm start ID", "virsh"),
        (replace(ON, manager="kata"), 'cpu_features="pmu=off"', "virsh"),
        (replace(ON, manager="libvirt"), "--connect", "virsh"),
        (replace(FIRECRACKER, kernel_pmu=KernelPmu.ENABLED), "kvm.enable_pmu=N", "-cpu"),
        (replace(ON, manager="\x1b[31m"), "-cpu host,pmu=off", "virsh"),
    ],
)
def test_what_takes_its_pmu_away(process: LiveVm, words: str, never: str) -> None:
    report = audit_processes(POLICY, replace(HOST, vms=(process,)))
    (step,) = report.remedies(report.vms[0])
    assert words in step.text
    assert never not in step.text
    assert step.causes == ("transient",)


@pytest.mark.parametrize(
    ("manager", "words"),
    [("", "end its process"), ("proxmox", "qm start ID"), ("kata", "pod"), ("libvirt", "--connect")],
)
def test_how_it_starts_under_the_qemu_that_is_installed_now(manager: str, words: str) -> None:
    old = replace(QEMU, disables=False)
    process = replace(BY_HAND, manager=manager, kernel_pmu=KernelPmu.ENABLED, qemu=old)
    report = audit_processes(POLICY, replace(HOST, vms=(process,)))
    (vm,) = report.vms
    assert vm.answer is not None
    assert vm.answer.causes == ("qemu-upgraded",)
    (step,) = report.remedies(vm)
    assert words in step.text


def test_a_pmu_that_the_policy_wants_or_leaves() -> None:
    wanted = Policy(rules=(Rule("perf", Decision.ON, domain=("web",)),))
    assert judged(ON, policy=wanted).severity is Severity.OK
    kept = Policy(default=Decision.KEEP)
    vm = judged(replace(FIRECRACKER, kernel_pmu=KernelPmu.ENABLED), policy=kept)
    assert vm.answer is not None
    assert (vm.answer.cause, vm.severity) == ("pmu-kept", Severity.OK)
    report = audit_processes(wanted, replace(HOST, vms=(replace(BY_HAND, kernel_pmu=KernelPmu.DISABLED),)))
    assert ["pmu=on" in step.text for step in report.remedies(report.vms[0])] == [True]


def test_a_rule_that_needs_a_name_which_could_not_be_read_decides_nothing() -> None:
    policy = Policy(rules=(Rule("perf", Decision.ON, domain=("PID *", "web")),))
    assert judged(replace(FIRECRACKER, started_as=""), policy=policy).decision is Decision.UNDECIDED
    assert judged(FIRECRACKER, policy=policy).decision is Decision.OFF  # "PID 8 firecracker" is no name
    assert judged(BY_HAND, policy=policy).decision is Decision.ON


class TestBesideLibvirt:
    def vms(self, *, running: bool = True) -> tuple[Vm, ...]:
        text = Domain("db", UUID, "kvm", "x86_64", PmuState.OFF, None, None, running=running)
        return (judge(POLICY, live=text, next_boot=text) if running else judge(POLICY, next_boot=text),)

    def report(self, *processes: LiveVm, running: bool = True) -> Report:
        facts = replace(HOST, vms=processes)
        return with_processes(Report("qemu:///system", join(self.vms(running=running), facts), facts), POLICY)

    def test_only_what_it_does_not_know_is_added(self) -> None:
        its = replace(BY_HAND, pid=9, uuid=UUID, name="db", manager="libvirt")
        report = self.report(its, BY_HAND, FIRECRACKER)
        assert [(vm.name, vm.by_process) for vm in report.vms] == [
            ("db", False),
            ("PID 8 firecracker", True),
            ("web", True),
        ]
        assert report.others == ()
        assert document(report, POLICY)["host_facts"]["other_vms"] == []

    def test_a_process_with_the_uuid_of_a_domain_that_does_not_run_is_not_that_domain(self) -> None:
        report = self.report(replace(BY_HAND, uuid=UUID), running=False)
        assert [(vm.name, vm.live is not None, vm.by_process) for vm in report.vms] == [
            ("db", False, False),
            ("web", True, True),
        ]

    def test_two_processes_with_the_uuid_of_a_domain_are_both_listed(self) -> None:
        """Which of them is the domain's can't be said, so nothing is said of that."""
        report = self.report(replace(BY_HAND, uuid=UUID), replace(BY_HAND, pid=9, uuid=UUID))
        assert [vm.by_process for vm in report.vms] == [False, True, True]
        assert report.vms[0].process is None

    def test_of_another_host_a_warning_says_that_nothing_is_seen(self) -> None:
        report = with_processes(Report("qemu+ssh://there/system", self.vms()), POLICY)
        assert len(report.vms) == 1
        assert "another host" in report.warnings[0]


def test_vms_without_a_process() -> None:
    facts = replace(HOST, vms=(LiveVm(None, kernel_pmu=KernelPmu.ENABLED, cause="no-process"),))
    (vm,) = vms_of_processes(POLICY, facts)
    assert (vm.name, vm.process and vm.process.pid) == ("a VM without a process", None)


def test_in_a_container_vms_that_may_be_those_of_the_processes_are_not_listed_twice() -> None:
    unpaired = LiveVm(None, kernel_pmu=KernelPmu.ENABLED, cause="pid-namespace")
    report = audit_processes(POLICY, replace(HOST, vms=(replace(BY_HAND, cause="pid-namespace"), unpaired)))
    assert [vm.name for vm in report.vms] == ["web"]
    assert report.others == (unpaired,)


HOSTILE = ("\x1b[31m", "a\nb", "<script>", "x" * 1_000_000, "\u202e", '"', "=1+1", "{{ 7 }}", "\ufffd", "PID 1")


@pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_names_are_bounded_and_shown_as_text(name: str) -> None:
    process = replace(ON, name=name, command=name[:15], exe=FileId(f"/{name}"[:4000], 1, 1, 1, 1, 1))
    report = audit_processes(POLICY, replace(HOST, vms=(process, replace(process, pid=9, name=None))))
    texts = [page(document(report, POLICY)), prometheus_text(document(report, POLICY))]
    for vm in report.vms:
        assert len(vm.name) <= 203
        texts.append("\n".join(story(report, vm)))
    assert all(len(text) < 500_000 for text in texts)
    assert "<script>" not in texts[0].split("<tbody", 1)[1].split("</tbody>", 1)[0]
    assert all(sign not in text for text in texts[:2] for sign in ("\x1b", "\u202e"))


def test_what_it_is_called_without_a_name() -> None:
    assert named(FIRECRACKER) == "PID 8 firecracker"
    assert named(replace(FIRECRACKER, exe=FileId("/opt/fc-1.7 (deleted)", 1, 1, 1, 1, 1))) == "PID 8 fc-1.7"


def test_the_story_names_its_starter() -> None:
    report = audit_processes(POLICY, replace(HOST, vms=(replace(ON, manager="proxmox", uuid=UUID),)))
    (vm,) = report.vms
    assert vm.manager is Manager.PROXMOX
    first, *rest = story(report, vm)
    assert first == f"web: not known to this libvirt, process 7 of Proxmox, running, {UUID}"
    assert "only what starts it can take the PMU away" in "\n".join(rest)
