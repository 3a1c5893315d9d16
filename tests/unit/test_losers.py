"""Who would lose a PMU with kvm.enable_pmu=N: a row for each reason, and who loses nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import pytest

from pmuconf.audit.report import Report, join
from pmuconf.audit.vm import Unjudged, Vm, judge
from pmuconf.domain.definition import UNKNOWN, Domain, Nova, PmuState
from pmuconf.flavors.judge import ExplicitImage, Flavor
from pmuconf.hostfacts import GuardFinding, HostFacts, KernelPmu, LiveVm, Verdict
from pmuconf.losers import Loser, Supply, losers
from pmuconf.policy import Decision, Policy, Rule

ON, OFF, DEFAULT = PmuState.ON, PmuState.OFF, PmuState.DEFAULT
PASSTHROUGH: Final = "host-passthrough"
NOT_ASKED: Final = Supply()
OF_NOVA: Final = Nova("m1", "1", "p", {}, {})


def domain(pmu: PmuState, *, virt_type: str = "kvm", arch: str = "x86_64", nova: Nova | None = None) -> Domain:
    return Domain("web", "uuid-web", virt_type, arch, pmu, PASSTHROUGH, nova, running=True)


def running(pmu: PmuState, policy: Policy, **of_domain: object) -> Vm:
    definition = domain(pmu, **of_domain)  # type: ignore[arg-type]
    return judge(policy, live=definition, next_boot=definition)


def process(pmu: KernelPmu = KernelPmu.ENABLED, *, in_use: bool | None = False, uuid: str = "uuid-web") -> LiveVm:
    return LiveVm(pid=7, started=1, uuid=uuid, name="other", kernel_pmu=pmu, in_use=in_use)


def listed(vms: tuple[Vm, ...], policy: Policy, *processes: LiveVm, supply: Supply = NOT_ASKED) -> list[Loser]:
    facts = HostFacts(GuardFinding(Verdict.GUARDED, "put-in", ""), enable_pmu=True, vms=processes)
    return losers(Report("test", join(vms, facts), facts), policy, supply)


def of_vms(vms: tuple[Vm, ...], policy: Policy, *processes: LiveVm) -> list[tuple[str, bool, str]]:
    found = listed(vms, policy, *processes)
    return [(loser.kind, loser.certain, loser.cause) for loser in found if loser.kind in ("vm", "process")]


@pytest.mark.parametrize(
    ("decision", "pmu", "in_kernel", "in_use", "certain", "cause"),
    [
        (Decision.ON, ON, KernelPmu.ENABLED, False, True, "pmu-wanted"),
        (Decision.ON, OFF, KernelPmu.DISABLED, False, True, "pmu-wanted"),
        (Decision.KEEP, ON, KernelPmu.ENABLED, False, True, "pmu-left-on"),
        (Decision.KEEP, DEFAULT, KernelPmu.ENABLED, False, True, "pmu-left-on"),
        (Decision.OFF, ON, KernelPmu.ENABLED, True, False, "pmu-counts"),
        (Decision.OFF, OFF, KernelPmu.ENABLED, True, False, "pmu-counts"),
        (Decision.OFF, OFF, KernelPmu.ENABLED, None, False, "pmu-may-count"),
        (Decision.OFF, OFF, KernelPmu.UNKNOWN, None, False, "pmu-may-count"),
    ],
)
def test_a_vm_that_would_or_may_lose_its_pmu(
    decision: Decision, pmu: PmuState, in_kernel: KernelPmu, in_use: bool | None, certain: bool, cause: str
) -> None:
    policy = Policy(default=decision)
    assert of_vms((running(pmu, policy),), policy, process(in_kernel, in_use=in_use)) == [("vm", certain, cause)]


@pytest.mark.parametrize(
    ("decision", "pmu", "in_kernel"),
    [
        (Decision.KEEP, OFF, KernelPmu.DISABLED),
        (Decision.KEEP, OFF, KernelPmu.ENABLED),
        (Decision.OFF, OFF, KernelPmu.DISABLED),
        (Decision.OFF, ON, KernelPmu.ENABLED),
    ],
)
def test_a_vm_that_loses_nothing_that_it_is_to_have(decision: Decision, pmu: PmuState, in_kernel: KernelPmu) -> None:
    policy = Policy(default=decision)
    assert of_vms((running(pmu, policy),), policy, process(in_kernel, in_use=False)) == []


def test_a_vm_without_a_process_may_count() -> None:
    assert of_vms((running(OFF, Policy()),), Policy()) == [("vm", False, "pmu-may-count")]


def test_a_vm_that_does_not_run_loses_what_its_next_boot_would_get() -> None:
    keep, idle = Policy(default=Decision.KEEP), replace(domain(ON), running=False)
    assert of_vms((judge(keep, next_boot=idle),), keep) == [("vm", True, "pmu-left-on")]
    assert of_vms((judge(Policy(), next_boot=idle),), Policy()) == []


def test_options_that_nobody_can_read_may_keep_a_pmu() -> None:
    keep = Policy(default=Decision.KEEP)
    vm = judge(keep, live=replace(domain(OFF), arguments=("-readconfig", "x")))
    assert of_vms((vm,), keep, process()) == [("vm", False, "pmu-left-unknown")]


@pytest.mark.parametrize("pmu", [OFF, ON])
def test_an_undecided_vm_may_lose_a_pmu_if_it_has_one(pmu: PmuState) -> None:
    asking = Policy(rules=(Rule("asking", Decision.ON, flavor_id=("42",)),))
    vm = running(pmu, asking, nova=replace(OF_NOVA, flavor_id=UNKNOWN))
    assert of_vms((vm,), asking, process()) == ([] if pmu is OFF else [("vm", False, "pmu-undecided")])


def test_a_vm_that_can_not_be_judged_may_lose_one() -> None:
    assert of_vms((Vm("web", None, error=Unjudged("x", "x")),), Policy()) == [("vm", False, "pmu-not-judged")]


@pytest.mark.parametrize(("virt_type", "arch"), [("qemu", "x86_64"), ("kvm", "aarch64")])
def test_a_vm_that_the_parameter_does_not_concern(virt_type: str, arch: str) -> None:
    on = Policy(default=Decision.ON)
    assert of_vms((running(ON, on, virt_type=virt_type, arch=arch),), on) == []


@pytest.mark.parametrize(
    ("in_kernel", "in_use", "expected"),
    [
        (KernelPmu.ENABLED, True, [("process", True, "other-manager")]),
        (KernelPmu.ENABLED, False, [("process", False, "other-manager")]),
        (KernelPmu.UNKNOWN, None, [("process", False, "other-manager")]),
        (KernelPmu.DISABLED, False, []),
    ],
)
def test_a_vm_that_libvirt_does_not_know(
    in_kernel: KernelPmu, in_use: bool | None, expected: list[tuple[str, bool, str]]
) -> None:
    assert of_vms((), Policy(), process(in_kernel, in_use=in_use, uuid="another")) == expected


def coming(policy: Policy, supply: Supply = NOT_ASKED, *, nova: bool = False) -> list[tuple[str, str, str]]:
    vm = replace(running(OFF, Policy(), nova=OF_NOVA if nova else None), decision=Decision.OFF)
    found = listed((vm,), policy, process(KernelPmu.DISABLED), supply=supply)
    assert not any(loser.certain for loser in found)
    return [(loser.kind, loser.name, loser.cause) for loser in found]


def test_the_policy_may_let_a_pmu_come() -> None:
    assert coming(Policy(default=Decision.KEEP)) == [("default", "keep", "default-not-off")]
    rules = (
        Rule("profiling", Decision.ON, project=("p",)),
        Rule("old", Decision.KEEP, domain=("old-*",)),
        Rule("plain", Decision.OFF),
        Rule("emulated", Decision.ON, virt_type=("qemu",)),
        Rule("arm", Decision.ON, arch=("aarch64",)),
        Rule("x86", Decision.ON, arch=("i686", "aarch64"), virt_type=("kvm", "qemu")),
    )
    assert coming(Policy(rules=rules)) == [("rule", name, "rule-not-off") for name in ("profiling", "old", "x86")]


def test_a_flavor_or_an_image_may_bring_a_pmu() -> None:
    flavors = [Flavor("1", "small", {}), Flavor("2", "perf", {"hw:pmu": "true"}), Flavor("3", "gpu.1", {})]
    images = [ExplicitImage("i", "tracing", ON), ExplicitImage("j", "plain", OFF)]
    policy = Policy(rules=(Rule("gpu", Decision.ON, flavor=("gpu.*",), project=("p",)),))
    assert coming(policy, Supply(flavors, images), nova=True) == [
        ("rule", "gpu", "rule-not-off"),
        ("flavor", "perf", "flavor-on"),
        ("flavor", "gpu.1", "flavor-undecided"),
        ("image", "tracing", "image-on"),
    ]


@pytest.mark.parametrize(
    ("supply", "missing"),
    [(Supply(), "flavors and images"), (Supply([]), "images"), (Supply([], []), None)],
)
def test_with_vms_of_nova_what_was_not_asked_is_listed(supply: Supply, missing: str | None) -> None:
    assert coming(Policy(), supply, nova=True) == ([] if missing is None else [("cloud", missing, "flavors-not-seen")])
    assert coming(Policy(), supply) == []


def test_what_never_comes_here_is_left_out_and_the_certain_come_first() -> None:
    policy = Policy(rules=(Rule("gpu", Decision.ON, domain=("gpu*",)), Rule("web", Decision.ON, domain=("web",))))
    facts = HostFacts(GuardFinding(Verdict.GUARDED, "put-in", ""), enable_pmu=True)
    report = Report("test", join((running(ON, policy),), facts), facts)
    supply = Supply([Flavor("1", "perf[1]", {"hw:pmu": "1"})], [ExplicitImage("i", "gpu-image", ON)])
    assert [loser.name for loser in losers(report, policy, supply)] == ["web", "gpu", "web", "perf[1]", "gpu-image"]
    assert [loser.name for loser in losers(report, policy, supply, ["gpu*", "perf[1]"])] == ["web", "web"]
