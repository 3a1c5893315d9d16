"""The live VMs of this host: what KVM holds in kernel memory, joined to the processes that run them.

A VM is given to the process that owns its memory: ``kvm->mm->owner`` leads to a task whose id and start are those of
the process in /proc, so a process id that was used again can't be taken for its predecessor. The thread id that KVM
keeps itself (``userspace_pid``) is that of the thread which made the VM, and may be another's by now: it is used only
where the kernel does not say who owns memory, and only if it leaves nothing open for the whole host.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final, NamedTuple

from pmuconf.errors import PmuconfError
from pmuconf.host.code.kernel import RunningKernel
from pmuconf.host.identity import kvm_built_in, ticks
from pmuconf.host.kvm import read_kvm
from pmuconf.host.names import KVM, VM_LIST
from pmuconf.host.root import Root
from pmuconf.host.vms.kvmlist import KvmList, KvmVm
from pmuconf.host.vms.layout import Layout
from pmuconf.host.vms.process import VmProcess, initial_namespace, same_program, vm_processes
from pmuconf.host.vms.qemu import qemu_of_process
from pmuconf.hostfacts import KernelPmu, LiveVm

__all__ = ["live_vms", "open_list"]

_TRIES: Final = 4


def live_vms(
    root: Root = Root(),  # noqa: B008  # immutable
    *,
    samples: int = 3,
    pause: float = 0.01,
    sleep: Callable[[float], object] = time.sleep,
    kernel: RunningKernel | None = None,
    listed: KvmList | None = None,
) -> tuple[tuple[LiveVm, ...], str]:
    """Every VM that KVM holds and every process that runs one, and why kernel memory was not read (empty if it was).

    One entry a process; several VMs of one process are one entry, and unknown unless all agree. VMs that can't be
    given to a process follow without one. Never raises for what it finds on a live host.

    :param samples: how often it is looked whether counters are programmed, ``pause`` seconds apart.
    :param kernel: the host's kernel, if its sources are open.
    :param listed: KVM's list of VMs in its memory, if that is open.
    :raises PmuconfError: a record leads out of its directory; cause record-escapes.
    """
    with contextlib.ExitStack() as opened:
        cause = ""
        if listed is None:
            try:
                listed = open_list(kernel or opened.enter_context(RunningKernel(root)))
            except PmuconfError as error:
                if error.cause == "record-escapes":
                    raise
                cause = error.cause
        return _live_vms(root, listed, cause, samples, pause, sleep)


def _live_vms(
    root: Root,
    listed: KvmList | None,
    cause: str,
    samples: int,
    pause: float,
    sleep: Callable[[float], object],
) -> tuple[tuple[LiveVm, ...], str]:
    """The same with KVM's list of VMs opened, or the cause why it is not."""
    vms: tuple[KvmVm, ...] = ()
    processes: tuple[VmProcess, ...] = ()
    pairs: dict[int, list[KvmVm]] = {}
    nested = not initial_namespace(root)
    for _ in range(_TRIES):
        asked = ticks(root)
        if listed is not None:
            try:
                vms = listed.vms()
            except PmuconfError as error:
                listed, cause, vms = None, error.cause, ()
        processes = vm_processes(root)
        # One whose threads all came later may run another program by now than the one whose VM was read.
        steady = [one for one in processes if asked is None or one.unchanged_since(asked)]
        pairs = {} if nested else _pairs(vms, steady, owners=listed is not None and listed.layout.mm is not None)
        paired = {vm.address for own in pairs.values() for vm in own}
        # What came or went in between is left over; the next look finds neither or both.
        if listed is None or nested or (len(paired) == len(vms) and len(pairs) == len(processes)):
            break
    in_use = _Seen()
    if listed is not None:
        in_use = _Seen(_in_use(listed, vms, samples, pause, sleep), {vm.address: listed.shown(vm) for vm in vms})
    disabled = read_kvm(root).enable_pmu is False
    unstable = any(vm.cause == "unstable" for vm in vms)
    alone = cause or ("pid-namespace" if nested else "unstable" if unstable else "not-listed")
    found = [_of_process(root, one, pairs.get(one.pid, []), in_use, disabled, alone) for one in processes]
    taken = {vm.address for own in pairs.values() for vm in own}
    found += [
        _told(LiveVm(None), [vm], in_use, disabled, "pid-namespace" if nested else "no-process")
        for vm in sorted(vms, key=lambda vm: vm.thread)
        if vm.address not in taken
    ]
    return tuple(found), cause


def open_list(kernel: RunningKernel) -> KvmList:
    """KVM's list of VMs in a running kernel's memory, which has to stay open.

    :raises PmuconfError: it can't be read, with the cause of RunningKernel; or kvm-not-loaded, no-offsets,
        list-not-found.
    """
    root = kernel.root
    if not root.exists("/sys/module/kvm"):
        raise PmuconfError("KVM is not loaded", cause="kvm-not-loaded")
    machine = root.text("/proc/sys/kernel/arch")
    if machine is not None and machine != "x86_64":
        raise PmuconfError(f"{machine}: only x86-64 is judged", cause="not-x86")
    built_in = kvm_built_in(root)
    symbols, memory = kernel.symbols, kernel.memory
    heads = [address for address, where in symbols.data(VM_LIST) if where == (None if built_in else KVM)]
    if len(heads) != 1:
        raise PmuconfError(
            f"/proc/kallsyms has {len(heads)} variables {VM_LIST} of KVM",
            cause="list-not-found",
            hint="It lists variables only if the kernel was built with CONFIG_KALLSYMS_ALL",
        )
    types = kernel.types if built_in else kernel.module_types
    if types is None:
        # Without BTF of its own the module was refused as not being of this kernel: no other types will do.
        raise PmuconfError("no BTF of KVM", cause="no-offsets")
    return KvmList(memory, heads[0], Layout(types))


def _pairs(vms: Sequence[KvmVm], processes: Sequence[VmProcess], *, owners: bool) -> dict[int, list[KvmVm]]:
    """The VMs of each process, by its id; only what is certain."""
    if not owners:
        return _pairs_by_thread(vms, processes)
    known = {(process.pid, process.started): process for process in processes if process.seen}
    pairs: dict[int, list[KvmVm]] = {}
    for vm in vms:
        process = known.get((vm.owner.pid, vm.owner.started)) if vm.owner is not None else None
        if process is not None:
            pairs.setdefault(process.pid, []).append(vm)
    return pairs


def _pairs_by_thread(vms: Sequence[KvmVm], processes: Sequence[VmProcess]) -> dict[int, list[KvmVm]]:
    """By the ids of threads, if every VM leads to one process that has all VMs of one mm, and none is left over."""
    of_thread = {thread: process.pid for process in processes if process.seen for thread in process.threads}
    pairs: dict[int, list[KvmVm]] = {}
    for vm in vms:
        pid = of_thread.get(vm.thread)
        if pid is None:
            return {}
        pairs.setdefault(pid, []).append(vm)
    memories = {(pid, vm.mm) for pid, own in pairs.items() for vm in own}
    if len(memories) != len(pairs) or len({mm for _, mm in memories}) != len(pairs) or len(pairs) != len(processes):
        return {}
    return pairs


class _Seen(NamedTuple):
    """What was read of the vCPUs' PMUs of each VM, by its address: whether one counts, whether one has a version."""

    counting: Mapping[int, bool | None] = {}
    shown: Mapping[int, bool | None] = {}


def _in_use(
    listed: KvmList, vms: Sequence[KvmVm], samples: int, pause: float, sleep: Callable[[float], object]
) -> dict[int, bool | None]:
    """For each VM by its address, whether counters were seen; False only if every sample saw all and none."""
    seen: dict[int, bool | None] = {vm.address: None if samples < 1 else False for vm in vms}
    for number in range(samples):
        if number:
            sleep(pause)
        for vm in vms:
            if seen[vm.address] is not True:
                now = listed.in_use(vm)
                seen[vm.address] = True if now else None if now is None else seen[vm.address]
    return seen


def _of_process(root: Root, process: VmProcess, own: list[KvmVm], in_use: _Seen, disabled: bool, alone: str) -> LiveVm:
    args = process.args
    vm = LiveVm(
        process.pid,
        process.started,
        command=process.command,
        uuid=args.uuid if args else None,
        name=args.name if args else None,
        cause=alone,
        pmu_property=args.pmu if args else None,
        incoming=args.incoming if args else False,
        may_be_recreated=args.may_be_recreated if args else False,
        tdx=args.tdx if args else False,
        started_as=args.binary if args else "",
        qemu=qemu_of_process(root, process.pid, process.started, process.exe) if args else None,
        exe=process.file,
        threads=process.others,
    )
    vm = _told(vm, own, in_use, disabled, "") if own else vm
    if same_program(root, process.pid, process.started, process.file, process.others):
        return vm
    # By exec(2) within the same process, as QEMU's migration mode cpr-exec does it; or it has ended.
    return LiveVm(vm.pid, vm.started, command=vm.command, uuid=vm.uuid, name=vm.name, cause="unstable")


def _told(vm: LiveVm, own: list[KvmVm], in_use: _Seen, disabled: bool, alone: str) -> LiveVm:
    """With what kernel memory says of its VMs."""
    states = {one.enable_pmu for one in own}
    causes = [one.cause for one in own if one.cause]
    uses, shown = ({which.get(one.address) for one in own} for which in (in_use.counting, in_use.shown))
    if len(states) > 1:
        state, cause = None, "several-vms"
    else:
        (state,) = states
        cause = causes[0] if causes else alone
    if state is True and disabled:
        # The parameter is read-only and decides when a VM is made: with it off, no VM has the flag.
        state, cause = None, "kernel-memory-odd"
    counts = [one.vcpus for one in own]
    return replace(
        vm,
        kernel_pmu={True: KernelPmu.ENABLED, False: KernelPmu.DISABLED, None: KernelPmu.UNKNOWN}[state],
        cause=cause,
        in_use=True if True in uses else None if None in uses else False,
        pmu_shown=True if True in shown else None if None in shown else False,
        vcpus=None if None in counts else sum(count or 0 for count in counts),
    )
