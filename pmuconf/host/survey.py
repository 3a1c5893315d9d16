"""All facts of one host at once: its kernel, KVM, CPU and live VMs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from pmuconf.host.code.kernel import RunningKernel
from pmuconf.host.cpu import capacity, read_cpu
from pmuconf.host.guard.verdict import judge_kernel
from pmuconf.host.identity import Identity, read_identity, uptime
from pmuconf.host.kvm import Kvm, nmi_watchdog, read_kvm
from pmuconf.host.measured import measured_cycles
from pmuconf.host.prove.experiment import with_experiment
from pmuconf.host.root import Root
from pmuconf.host.vms.installed import installed_qemus
from pmuconf.host.vms.live import live_vms
from pmuconf.host.vms.procdir import DELETED
from pmuconf.host.vms.proofs import proofs, with_proof
from pmuconf.host.vms.qemu import qemu_of_descriptor
from pmuconf.host.vms.search import open_inside, root_of, searches
from pmuconf.hostfacts import GuardFinding, HostFacts, LiveVm, Qemu, Verdict

__all__ = ["survey"]

_TRIES: Final = 5
_CHANGING: Final = GuardFinding(
    Verdict.UNKNOWN, "host-changes", "KVM or its livepatches change while they are looked at", remedy="Ask again later"
)


def survey(root: Root, *, experiment: bool = False) -> HostFacts:
    """The facts of the host below ``root``. Without the rights of root, the facts say what they lack.

    All of them are about one KVM with one set of livepatches: if those change meanwhile, the survey begins again.

    :param experiment: compare the verdict on the kernel with an experiment, which is made if none was. Requires root.
    :raises PmuconfError: files of the host are broken.
    """
    for _ in range(_TRIES):
        identity, settings = read_identity(root), read_kvm(root)
        with RunningKernel(root) as kernel:
            facts = _look(kernel, identity, settings, experiment=experiment)
        if (read_identity(root), read_kvm(root)) == (identity, settings):
            return facts
    return replace(facts, guard=_CHANGING, vms=(), vms_cause="unstable")


def _look(kernel: RunningKernel, identity: Identity, settings: Kvm, *, experiment: bool) -> HostFacts:
    """The facts of a host with this identity and these settings, which the caller reads again afterwards."""
    root = kernel.root
    taken = uptime(root)
    guard = with_experiment(root, identity, judge_kernel(kernel), make=experiment)
    cpu, measured = read_cpu(root), measured_cycles(root)
    cpus, cycles_a_second = capacity(root) or (None, None)
    vms, cause = live_vms(root, kernel=kernel)
    known = proofs(root)
    of_daemons = searches(root)
    return HostFacts(
        guard=guard,
        boot_id=identity.boot_id,
        kvm_build_id=identity.kvm_build_id,
        enable_pmu=settings.enable_pmu,
        mediated_pmu=settings.mediated_pmu,
        nmi_watchdog=nmi_watchdog(root),
        release=settings.release,
        cpu=cpu.name,
        mitigations=dict(cpu.mitigations),
        cycles=cpu.resembles.cycles if measured is None else measured,
        measured=measured is not None,
        cpus=cpus,
        capacity=cycles_a_second,
        livepatches=identity.livepatches,
        parameters=identity.parameters,
        loads=identity.loads,
        taken=taken,
        qemus=tuple(with_proof(qemu, known) for qemu in installed_qemus(root, of_daemons)),
        searches=of_daemons,
        vms=tuple(_with_qemus(root, vm, known) for vm in vms),
        vms_cause=cause,
    )


def _with_qemus(root: Root, vm: LiveVm, known: Mapping[str, bool]) -> LiveVm:
    """The VM with the binary that would be started next, and with what was proved of both."""
    if vm.qemu is None:
        return vm
    successor = _next_qemu(root, vm, vm.qemu)
    return replace(vm, qemu=with_proof(vm.qemu, known), next_qemu=with_proof(successor, known))


def _next_qemu(root: Root, vm: LiveVm, qemu: Qemu) -> Qemu:
    """The QEMU at the path by which the VM's process was started: it may be a link, and lead to another file now.

    The path is followed from the process's own root directory: a container's is not the host's.
    """
    path = vm.started_as if vm.started_as.startswith("/") else qemu.path.removesuffix(DELETED)
    if path == qemu.path:
        return qemu
    try:
        top = root_of(root, vm.pid or 0, vm.started or 0)
        try:
            descriptor, real = open_inside(top, path)
        finally:
            os.close(top)
    except OSError:
        return Qemu(path, None, None, "unreadable")
    return qemu_of_descriptor(descriptor, path, real)
