"""All facts of one host at once: its kernel, KVM, CPU and live VMs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from pmuconf.facts import GuardFinding, HostFacts, LiveVm, Verdict
from pmuconf.host.code import running_build_id
from pmuconf.host.cpu import read_cpu
from pmuconf.host.guard import judge_host
from pmuconf.host.installed import installed_qemus
from pmuconf.host.kvm import nmi_watchdog, read_kvm
from pmuconf.host.measured import measured_cycles
from pmuconf.host.process import DELETED
from pmuconf.host.proofs import proofs, with_proof
from pmuconf.host.qemu import qemu_of_file
from pmuconf.host.root import Root
from pmuconf.host.vms import live_vms

__all__ = ["boot_id", "kvm_build_id", "livepatches", "survey"]


_TRIES: Final = 5
_CHANGING: Final = GuardFinding(
    Verdict.UNKNOWN, "host-changes", "KVM or its livepatches change while they are looked at", remedy="Ask again later"
)


def survey(root: Root) -> HostFacts:
    """Look at the host below ``root``. Takes root to see all; without, the facts say what they lack.

    All of it is about one KVM with one set of livepatches: where those change meanwhile, it looks again.

    :raises PmuconfError: files of the host are broken.
    """
    for _ in range(_TRIES):
        before = _identity(root)
        facts = _look(root)
        if _identity(root) == before:
            return facts
    return replace(facts, guard=_CHANGING, vms=(), vms_cause="unstable")


def _identity(root: Root) -> tuple[object, ...]:
    """What the facts are about."""
    return boot_id(root), kvm_build_id(root), livepatches(root), read_kvm(root)


def _look(root: Root) -> HostFacts:
    guard = judge_host(root)
    settings, cpu = read_kvm(root), read_cpu(root)
    measured = measured_cycles(root)
    vms, cause = live_vms(root)
    known = proofs(root)
    return HostFacts(
        guard=guard,
        boot_id=boot_id(root),
        kvm_build_id=kvm_build_id(root),
        enable_pmu=settings.enable_pmu,
        mediated_pmu=settings.mediated_pmu,
        nmi_watchdog=nmi_watchdog(root),
        release=settings.release,
        cpu=cpu.name,
        mitigations=dict(cpu.mitigations),
        cycles=cpu.resembles.cycles if measured is None else measured,
        measured=measured is not None,
        livepatches=livepatches(root),
        qemus=tuple(with_proof(qemu, known) for qemu in installed_qemus(root)),
        vms=tuple(_with_qemus(root, vm, known) for vm in vms),
        vms_cause=cause,
    )


def boot_id(root: Root) -> str | None:
    """What tells this boot of the host from every other."""
    return root.text("/proc/sys/kernel/random/boot_id")


def kvm_build_id(root: Root) -> str | None:
    """The build-id of the running KVM, module or built in."""
    return running_build_id(root) or running_build_id(root, built_in=True)


def livepatches(root: Root) -> tuple[str, ...]:
    """The livepatches that are in, each with whether it is enabled and in transition, as one text a patch."""
    folder = "/sys/kernel/livepatch"
    return tuple(
        f"{name} {root.text(f'{folder}/{name}/enabled')} {root.text(f'{folder}/{name}/transition')}"
        for name in root.names(folder)
    )


def _with_qemus(root: Root, vm: LiveVm, known: Mapping[str, bool]) -> LiveVm:
    """With the binary that would be started next, and with what was proved of both."""
    if vm.qemu is None:
        return vm
    path = vm.qemu.path
    then = qemu_of_file(root.at(path[: -len(DELETED)])) if path.endswith(DELETED) else vm.qemu
    return replace(vm, qemu=with_proof(vm.qemu, known), next_qemu=with_proof(then, known))
