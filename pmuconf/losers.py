"""Who would lose a PMU with kvm.enable_pmu=N, which takes it from every VM of a host. Pure.

KVM copies the parameter into each VM that it creates (kvm_arch_init_vm(), since Linux 5.17). So it concerns the VMs
that are here, those that the policy lets have a PMU if they come here, and VMs that libvirt knows nothing of.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from pmuconf.audit.report import Report
from pmuconf.audit.vm import Vm
from pmuconf.domain.definition import X86, PmuState
from pmuconf.flavors.judge import ExplicitImage, Flavor, Judged, judge
from pmuconf.hostfacts import KernelPmu, LiveVm
from pmuconf.policy import Decision, Policy

__all__ = ["Loser", "Supply", "losers"]


@dataclass(frozen=True)
class Loser:
    """Somebody who would lose a PMU, or may.

    :param kind: vm, process, default, rule, flavor, image, or cloud.
    :param certain: a VM of this host would lose a PMU that it is to have, or that it uses.
    :param cause: why it is listed: a code, whose sentence is in pmuconf.causes.
    """

    kind: str
    name: str
    certain: bool
    cause: str


@dataclass(frozen=True)
class Supply:
    """What a cloud may start on this host; None: it was not asked."""

    flavors: Sequence[Flavor] | None = None
    images: Sequence[ExplicitImage] | None = None


def losers(report: Report, policy: Policy, supply: Supply, elsewhere: Sequence[str] = ()) -> list[Loser]:
    """Everybody who would or may lose a PMU: first who certainly would.

    :param report: of the whole host, with its facts.
    :param elsewhere: globs of the rules, flavors and images whose VMs never come to this host.
    """
    concerned = [*_here(report), *_coming(report, policy, supply, _is_elsewhere(elsewhere))]
    return sorted(concerned, key=lambda loser: not loser.certain)


def _is_elsewhere(globs: Sequence[str]) -> Callable[[str], bool]:
    return lambda name: any(name == glob or fnmatchcase(name, glob) for glob in globs)


def _here(report: Report) -> Iterator[Loser]:
    """The VMs of this host: libvirt's, and the others that KVM holds."""
    for vm in report.vms:
        if answer := _of_vm(vm):
            yield Loser("vm", vm.name, *answer)
    for process in report.others:
        if process.kernel_pmu is not KernelPmu.DISABLED:
            yield Loser("process", _named(process), bool(process.in_use), "other-manager")


def _of_vm(vm: Vm) -> tuple[bool, str] | None:
    """Whether a VM would lose a PMU for certain, and why it would or may; None: it loses nothing that it is to have."""
    if vm.error is not None or vm.domain is None:
        return False, "pmu-not-judged"
    if not any(
        domain is not None and domain.x86 and domain.virt_type == "kvm" for domain in (vm.domain, vm.next_domain)
    ):
        return None
    states = _states(vm)
    if vm.decision is Decision.ON:
        return True, "pmu-wanted"
    if vm.decision is Decision.UNDECIDED:
        return None if states == {PmuState.OFF} else (False, "pmu-undecided")
    if vm.decision is Decision.KEEP:
        if PmuState.ON in states:
            return True, "pmu-left-on"
        return (False, "pmu-left-unknown") if None in states else None
    return _of_unwanted(vm)


def _of_unwanted(vm: Vm) -> tuple[bool, str] | None:
    """The same of a VM whose PMU is to be off."""
    process = vm.process
    if vm.live is None or (process is not None and process.kernel_pmu is KernelPmu.DISABLED):
        return None
    if process is None or process.in_use is None:
        return False, "pmu-may-count"
    return (False, "pmu-counts") if process.in_use else None


def _states(vm: Vm) -> set[PmuState | None]:
    """The PMU that the guest has, and that its next boot gets; None: unknown."""
    live = {vm.effective_pmu} if vm.live is not None else set()
    return live | ({vm.next_effective} if vm.next_boot is not None else set())


def _named(process: LiveVm) -> str:
    name = process.name or process.command
    return f"PID {process.pid} {name}".rstrip() if process.pid is not None else name or "a VM without a process"


def _coming(report: Report, policy: Policy, supply: Supply, elsewhere: Callable[[str], bool]) -> Iterator[Loser]:
    """What VMs that are not here may bring."""
    if policy.default is not Decision.OFF:
        yield Loser("default", policy.default.value, certain=False, cause="default-not-off")
    for rule in policy.rules:
        if rule.decision is not Decision.OFF and not elsewhere(rule.name) and _speaks_of_kvm(rule.arch, rule.virt_type):
            yield Loser("rule", rule.name, certain=False, cause="rule-not-off")
    for judged in judge(policy, supply.flavors or (), (), ()):
        if (cause := _of_flavor(judged)) and not elsewhere(judged.flavor.name):
            yield Loser("flavor", judged.flavor.name, certain=False, cause=cause)
    for image in supply.images or ():
        if image.pmu is PmuState.ON and not elsewhere(image.name):
            yield Loser("image", image.name, certain=False, cause="image-on")
    if any(vm.nova for vm in report.vms) and (supply.flavors is None or supply.images is None):
        unseen = "flavors and images" if supply.flavors is None else "images"
        yield Loser("cloud", unseen, certain=False, cause="flavors-not-seen")


def _of_flavor(judged: Judged) -> str:
    if judged.ruling.decision in (Decision.ON, Decision.KEEP):
        return "flavor-on"
    return "flavor-undecided" if judged.ruling.decision is Decision.UNDECIDED else ""


def _speaks_of_kvm(arch: Iterable[str], virt_type: Iterable[str]) -> bool:
    """Whether a rule with these criteria may match a VM that the parameter concerns."""
    return (not arch or bool(X86.intersection(arch))) and (not virt_type or "kvm" in virt_type)
