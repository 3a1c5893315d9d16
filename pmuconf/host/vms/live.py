"""The live VMs of this host: what KVM holds in kernel memory, joined to the processes that run them.

A VM belongs to the process that owns its memory: ``kvm->mm->owner`` leads to a task, whose id and start are those of
the process in /proc. So a process id that was used again is not taken for its predecessor. The thread id that KVM
keeps itself (``userspace_pid``) is that of the thread which made the VM, and may be another's by now. It is used only
if the kernel does not say who owns memory, and only if it leaves nothing open for the whole host.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from pmuconf.errors import PmuconfError
from pmuconf.host.code.kernel import RunningKernel
from pmuconf.host.identity import kvm_built_in, ticks
from pmuconf.host.kvm import read_kvm
from pmuconf.host.names import KVM, VM_LIST
from pmuconf.host.root import Root
from pmuconf.host.vms.kvmlist import KvmList, KvmVm
from pmuconf.host.vms.layout import Layout
from pmuconf.host.vms.procdir import initial_namespace, is_there, same_program
from pmuconf.host.vms.process import VmProcess, vm_processes
from pmuconf.host.vms.qemu import qemu_of_process
from pmuconf.hostfacts import MAY_BE_EMULATED, KernelPmu, LiveVm

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
    """Every VM that KVM holds and every process that runs one; and why kernel memory was not read, empty if it was.

    A process is one entry. If it has several VMs that differ, its PMU is unknown. VMs without a process come last.
    Nothing on a live host makes this raise an error.

    :param samples: the number of looks at the counters of each vCPU, ``pause`` seconds apart.
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
        look = _look_until_complete(root, listed, cause)
        pmu = _PmuUse() if look.listed is None else _pmu_use(look.listed, look.vms, samples, pause, sleep)
        return _joined(root, look, pmu), look.cause


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
    heads = [address for address, module in symbols.data(VM_LIST) if module == (None if built_in else KVM)]
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


@dataclass(frozen=True)
class _Look:
    """One look at KVM's list and at the processes.

    :param listed: KVM's list; None if it can't be read, and ``cause`` says why.
    :param nested: the process ids here are not the kernel's, so that no VM can be given to a process.
    :param vms_of: the VMs of each process, by its id; only what is certain.
    """

    listed: KvmList | None
    cause: str
    nested: bool
    vms: tuple[KvmVm, ...] = ()
    processes: tuple[VmProcess, ...] = ()
    vms_of: Mapping[int, Sequence[KvmVm]] = field(default_factory=dict)

    @property
    def given(self) -> frozenset[int]:
        """The addresses of the VMs that have a process."""
        return frozenset(vm.address for vms in self.vms_of.values() for vm in vms)

    @property
    def complete(self) -> bool:
        """Whether every VM has a process and every process a VM, or no further look would change that."""
        every_vm, every_process = len(self.given) == len(self.vms), len(self.vms_of) == len(self.processes)
        return self.listed is None or self.nested or (every_vm and every_process)

    @property
    def cause_without_vm(self) -> str:
        """Why nothing is known of the PMU of a process that has no VM."""
        if self.cause:
            return self.cause
        if self.nested:
            return "pid-namespace"
        return "unstable" if any(vm.cause == "unstable" for vm in self.vms) else "not-listed"

    @property
    def cause_without_process(self) -> str:
        """Why a VM has no process."""
        return "pid-namespace" if self.nested else "no-process"


def _look_until_complete(root: Root, listed: KvmList | None, cause: str) -> _Look:
    """A look at all VMs and processes: what comes or goes in between is left over, and the next look settles it."""
    look = _Look(listed, cause, nested=not initial_namespace(root))
    for _ in range(_TRIES):
        look = _look(root, look)
        if look.complete:
            break
    return look


def _look(root: Root, before: _Look) -> _Look:
    """One look. The list is read before the processes: a process that ends in between leaves a VM without a process."""
    began = ticks(root)
    listed, cause = before.listed, before.cause
    vms: tuple[KvmVm, ...] = ()
    if listed is not None:
        try:
            vms = listed.vms()
        except PmuconfError as error:
            listed, cause = None, error.cause
    processes = vm_processes(root)
    # If all other threads of a process are younger than the look, it may run another program by now, without this VM.
    steady = [process for process in processes if began is None or process.unchanged_since(began)]
    vms_of: Mapping[int, Sequence[KvmVm]] = {}
    if listed is not None and not before.nested:
        vms_of = _by_thread(vms, steady) if listed.layout.mm is None else _by_owner(vms, steady)
    return _Look(listed, cause, before.nested, vms, processes, vms_of)


def _by_owner(vms: Sequence[KvmVm], processes: Sequence[VmProcess]) -> dict[int, list[KvmVm]]:
    """The VMs of each process, by the owner of their memory."""
    known = {(process.pid, process.started): process for process in processes if process.seen}
    vms_of: dict[int, list[KvmVm]] = {}
    for vm in vms:
        process = known.get((vm.owner.pid, vm.owner.started)) if vm.owner is not None else None
        if process is not None:
            vms_of.setdefault(process.pid, []).append(vm)
    return vms_of


def _by_thread(vms: Sequence[KvmVm], processes: Sequence[VmProcess]) -> dict[int, list[KvmVm]]:
    """The VMs of each process, by the threads that made them; none at all unless all of these hold.

    Every VM leads to a process, every process has a VM, and a process and an mm always go together.
    """
    pid_of = {thread: process.pid for process in processes if process.seen for thread in process.threads}
    vms_of: dict[int, list[KvmVm]] = {}
    for vm in vms:
        pid = pid_of.get(vm.thread)
        if pid is None:
            return {}
        vms_of.setdefault(pid, []).append(vm)
    pairs = {(pid, vm.mm) for pid, of_process in vms_of.items() for vm in of_process}
    memories = {mm for _, mm in pairs}
    return vms_of if len(pairs) == len(memories) == len(vms_of) == len(processes) else {}


@dataclass(frozen=True)
class _PmuUse:
    """What was read of the PMUs of the vCPUs, for each VM by its address; None: not read.

    :param counting: whether a counter is programmed.
    :param shown: whether a PMU has a version.
    """

    counting: Mapping[int, bool | None] = field(default_factory=dict)
    shown: Mapping[int, bool | None] = field(default_factory=dict)


def _pmu_use(
    listed: KvmList, vms: Sequence[KvmVm], samples: int, pause: float, sleep: Callable[[float], object]
) -> _PmuUse:
    """What the vCPUs do. A VM counts if one sample shows it; it does not, if every sample shows that of all vCPUs."""
    counting: dict[int, bool | None] = {vm.address: None if samples < 1 else False for vm in vms}
    for number in range(samples):
        if number:
            sleep(pause)
        for vm in vms:
            if counting[vm.address] is not True:
                counting[vm.address] = _any_of([counting[vm.address], listed.in_use(vm)])
    return _PmuUse(counting, {vm.address: listed.shown(vm) for vm in vms})


def _any_of(answers: Iterable[bool | None]) -> bool | None:
    """True if one is; else None if one is unknown; else False."""
    values = set(answers)
    return True if True in values else None if None in values else False


def _joined(root: Root, look: _Look, pmu: _PmuUse) -> tuple[LiveVm, ...]:
    """All processes with what KVM holds for them, then the VMs without a process."""
    all_disabled = read_kvm(root).enable_pmu is False
    without_vm, without_process = look.cause_without_vm, look.cause_without_process
    entries = []
    for process in look.processes:
        entry, kvm_vms = _of_process(root, process), look.vms_of.get(process.pid)
        if kvm_vms:
            entry = _with_memory(entry, kvm_vms, pmu, all_disabled=all_disabled)
        else:
            maybe = not process.seen and process.args is not None and process.args.may_be_emulated
            entry = replace(entry, cause=MAY_BE_EMULATED if maybe else without_vm)
        entry = _if_same_program(root, process, entry)
        if entry.cause != "unstable" or is_there(root, process.pid, process.started):
            entries.append(entry)
    given = look.given
    for kvm_vm in sorted(look.vms, key=lambda kvm_vm: kvm_vm.thread):
        if kvm_vm.address not in given:
            entry = LiveVm(None, cause=without_process)
            entries.append(_with_memory(entry, [kvm_vm], pmu, all_disabled=all_disabled))
    return tuple(entries)


def _of_process(root: Root, process: VmProcess) -> LiveVm:
    """What /proc says of a process that runs a VM."""
    vm = LiveVm(process.pid, process.started, command=process.command, exe=process.file, threads=process.others)
    args = process.args
    if args is None:
        return replace(vm, name=process.name, manager=process.manager, started_as=process.started_as)
    return replace(
        vm,
        uuid=args.uuid,
        name=args.name,
        pmu_property=args.pmu,
        incoming=args.incoming,
        may_be_recreated=args.may_be_recreated,
        tdx=args.tdx,
        started_as=args.binary,
        manager=args.manager,
        qemu=qemu_of_process(root, process.pid, process.started, process.exe),
    )


def _if_same_program(root: Root, process: VmProcess, vm: LiveVm) -> LiveVm:
    """The entry, if its process still runs the same program; otherwise little more than that it is there.

    A process gets another program by exec(2), as QEMU's migration mode cpr-exec does it; or it has ended.
    """
    if same_program(root, process.pid, process.started, process.file, process.others):
        return vm
    return LiveVm(
        vm.pid, vm.started, command=vm.command, uuid=vm.uuid, name=vm.name, manager=vm.manager, cause="unstable"
    )


def _with_memory(vm: LiveVm, vms: Sequence[KvmVm], pmu: _PmuUse, *, all_disabled: bool) -> LiveVm:
    """The entry with what kernel memory says of its VMs; its cause stays if there is no other.

    :param all_disabled: kvm.enable_pmu is N.
    """
    state, cause = _state_of(vms, all_disabled=all_disabled)
    vcpus = [kvm_vm.vcpus for kvm_vm in vms]
    return replace(
        vm,
        kernel_pmu={True: KernelPmu.ENABLED, False: KernelPmu.DISABLED, None: KernelPmu.UNKNOWN}[state],
        cause=cause or vm.cause,
        in_use=_any_of(pmu.counting.get(kvm_vm.address) for kvm_vm in vms),
        pmu_shown=_any_of(pmu.shown.get(kvm_vm.address) for kvm_vm in vms),
        vcpus=None if None in vcpus else sum(count or 0 for count in vcpus),
    )


def _state_of(vms: Sequence[KvmVm], *, all_disabled: bool) -> tuple[bool | None, str]:
    """The enable_pmu of the VMs of one process, and the cause if that is unknown."""
    states = {kvm_vm.enable_pmu for kvm_vm in vms}
    if len(states) > 1:
        return None, "several-vms"
    state = states.pop()
    if state and all_disabled:
        # The parameter is read-only and decides when a VM is made: while it is N, no VM has the flag.
        return None, "kernel-memory-odd"
    causes = [kvm_vm.cause for kvm_vm in vms if kvm_vm.cause]
    return state, causes[0] if causes else ""
