"""What the kernel calls things: each function, structure, member, module and parameter that pmuconf knows by its name.

Names change: each stands with the commit that made it, or with the version that has it first, where the commit is not
known. Compilers change names too. A C identifier has no dot, so a compiler made whatever follows one
(``kvm_pmu_trigger_event.isra.0``, ``.constprop.0``, ``.part.0.cold``, ``.llvm.123``).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

__all__ = [
    "BEFORE_FUNCTIONS",
    "COUNTER",
    "COUNTING_MAPS",
    "COUNTING_OF_VCPU",
    "ENABLE_PMU",
    "EVENTSEL",
    "FIXED_CONTROL",
    "FIXED_COUNTERS",
    "FUNCTION",
    "GENERAL_COUNTERS",
    "HOLDERS",
    "HOOKS",
    "INSTRUMENTATION",
    "KERNEL",
    "KVM",
    "KVM_OPS",
    "MEDIATED",
    "MEMORY",
    "MM_MEMBERS",
    "NESTED",
    "NODE",
    "NODE_MEMBERS",
    "NODE_SLOTS",
    "NOT_COPIES",
    "OF_KVM",
    "OLD_VCPUS",
    "PADDING_PREFIX",
    "PERF_EVENT",
    "PMU",
    "PMU_OF_VCPU",
    "PMU_VERSION",
    "RETURNS",
    "STATIC_CALL",
    "TASK",
    "TASK_MEMBERS",
    "THUNK",
    "VCPU",
    "VENDORS",
    "VM",
    "VM_ENABLE_PMU",
    "VM_LIST",
    "VM_MEMBERS",
    "VM_OF_VCPU",
    "VM_PROTECTED_PMU",
    "bare",
    "callees_of",
    "is_callee",
    "is_cold",
    "is_known",
    "is_kvms",
    "is_of_pmu",
    "is_other_pmu",
    "is_vendor",
    "may_be_copy",
    "replaces",
    "vendors_among",
]

# ---- modules and parameters ---------------------------------------------------------------------------------------

KVM: Final = "kvm"
VENDORS: Final = ("kvm_amd", "kvm_intel")
"""The modules that bring the CPU's part of KVM in mainline: one of them is loaded where VMs can run."""
_VENDOR_MODULE: Final = "kvm_"
HOLDERS: Final = "/sys/module/kvm/holders"
"""The folder of the modules that depend on KVM, where KVM is a module."""
KERNEL: Final = "vmlinux"
"""What a livepatch calls the kernel itself, where a module's name stands otherwise."""

ENABLE_PMU: Final = "enable_pmu"
"""KVM's parameter; N: no VM has a PMU in the kernel. Since Linux kernel commit 4732f2444acd ("KVM: x86: Making the
module parameter of vPMU more common") (in v5.17)."""
NESTED: Final = "nested"
"""A parameter of the vendor modules; Y: a guest may run VMs of its own."""
MEDIATED: Final = ("enable_mediated_pmu", "enable_passthrough_pmu")
"""The parameter, Y where KVM gives guests the hardware's counters: of the vendor modules since Linux 7.0. Other trees
carry the name of the postings before."""
_OTHER_PMU: Final = re.compile(r"enable_\w*pmu")

# ---- functions ----------------------------------------------------------------------------------------------------

FUNCTION: Final = "kvm_skip_emulated_instruction"
"""Ends every exit that KVM finishes by skipping an instruction."""

_COUNTS_INSTRUCTIONS: Final = (
    # Since Linux kernel commit 43f5bea2639c (in v6.18).
    "kvm_pmu_instruction_retired",
    # Since Linux kernel commit 9cd803d496e7 ("KVM: x86: Update vPMCs when retiring instructions") (in v5.17). Since
    # Linux 6.18 it is static, the compiler makes a clone of it, and those that retire end in a jump to that.
    "kvm_pmu_trigger_event",
)
_CALLEES: Final = (
    *_COUNTS_INSTRUCTIONS,
    # Since Linux kernel commit 43f5bea2639c (in v6.18). It counts branches, for instructions that KVM emulates.
    "kvm_pmu_branch_retired",
)

NOT_COPIES: Final = frozenset(
    {
        FUNCTION,
        # They count instructions and branches themselves, in every kernel: no copies of the function. The last four
        # are in the vendor modules. nested_svm_vmrun does since Linux 7.2 at the latest. nested_vmx_run may be inlined
        # into the two that call it.
        "x86_emulate_instruction",
        "nested_vmx_run",
        "handle_vmlaunch",
        "handle_vmresume",
        "nested_svm_vmrun",
    }
)

# ---- variables ----------------------------------------------------------------------------------------------------

VM_LIST: Final = "vm_list"
"""The head of KVM's list of its VMs."""
KVM_OPS: Final = "kvm_x86_ops"
"""The table of vendor functions. KVM called them through its pointers until Linux kernel commit b3646477d458 ("KVM:
x86: use static calls to reduce kvm_x86_ops overhead") (in v5.12)."""

# ---- structures, and members: structure and path ------------------------------------------------------------------

VM: Final = "kvm"
VCPU: Final = "kvm_vcpu"
PMU: Final = "kvm_pmu"
COUNTER: Final = "kvm_pmc"
MEMORY: Final = "mm_struct"
TASK: Final = "task_struct"
NODE: Final = "xa_node"
OF_KVM: Final = (VCPU, "kvm_arch")
"""Types that have these structures are those of KVM."""

VM_OF_VCPU: Final = (VCPU, "kvm")
PMU_OF_VCPU: Final = (VCPU, "arch.pmu")
VM_ENABLE_PMU: Final = (VM, "arch.enable_pmu")
"""Since Linux kernel commit ba7bb663f554 ("KVM: x86: Provide per VM capability for disabling PMU virtualization") (in
v5.18). Before it, no VM has a state of its own."""
VM_PROTECTED_PMU: Final = (VM, "arch.has_protected_pmu")
"""Linux 7.3 has it: where it is set, as it is for TDX guests, kvm_arch_init_vm() leaves enable_pmu false."""
# Since Linux kernel commit 5dfd498bad5f (in v6.18): which counters count instructions, and which branches.
COUNTING_OF_VCPU: Final = (VCPU, "arch.pmu.pmc_counting_instructions")
COUNTING_MAPS: Final = ((PMU, "pmc_counting_instructions"), (PMU, "pmc_counting_branches"))
PMU_VERSION: Final = (PMU, "version")
GENERAL_COUNTERS: Final = (PMU, "gp_counters")
FIXED_COUNTERS: Final = (PMU, "fixed_counters")
FIXED_CONTROL: Final = (PMU, "fixed_ctr_ctrl")
EVENTSEL: Final = (COUNTER, "eventsel")
PERF_EVENT: Final = (COUNTER, "perf_event")
OLD_VCPUS: Final = (VM, "vcpus")
"""Until Linux kernel commit c5b077549136 ("KVM: Convert the kvm->vcpus array to a xarray") (in v5.17)."""
NODE_SLOTS: Final = (NODE, "slots")
VM_MEMBERS: Final = {
    "next": ("vm_list.next", 8),
    "prev": ("vm_list.prev", 8),
    "mm": ("mm", 8),
    "thread": ("userspace_pid", 4),
    "enable_pmu": (VM_ENABLE_PMU[1], 1),
    "created": ("created_vcpus", 4),
    "online": ("online_vcpus", 4),
    "users": ("users_count", 4),
    # Since Linux kernel commit fcfe1baeddbf ("KVM: stats: Support binary stats retrieval for a VM") (in v5.14).
    "stats_id": ("stats_id", 48),
    # Since Linux kernel commit c5b077549136 (in v5.17): see OLD_VCPUS.
    "vcpu_array": ("vcpu_array.xa_head", 8),
}
"""The members of VM that are read of each VM: our name for a member, its path, its size in bytes."""
MM_MEMBERS: Final = {"owner": ("owner", 8)}
"""The same of MEMORY; kernels with CONFIG_MEMCG have it."""
TASK_MEMBERS: Final = {
    "mm": ("mm", 8),
    "pid": ("tgid", 4),
    "leader": ("group_leader", 8),
    # Since Linux 5.5; before, it was real_start_time.
    "started": ("start_boottime", 8),
}
"""The same of TASK."""
NODE_MEMBERS: Final = {"shift": ("shift", 1)}
"""The same of NODE."""

# ---- kinds of names -----------------------------------------------------------------------------------------------

_PMU: Final = re.compile(r"pmu|pmc|perf_event|reprogram_counter|trigger_event|instruction_retired")
STATIC_CALL: Final = "__SCT__"
"""What the name of a static call begins with."""
PADDING_PREFIX: Final = "__pfx_"
"""What the kernel puts before the name of a function, for the room before it."""
BEFORE_FUNCTIONS: Final = (PADDING_PREFIX, "__cfi_")
"""The same, and what compilers put there for the check of indirect calls."""
RETURNS: Final = re.compile(r"__x86_return_\w+|\w+_return_thunk")
"""Where a jump leads that stands for a return."""
THUNK: Final = re.compile(r"__x86_indirect_(?:call_|jump_)?thunk_(r\w+)")
"""Where a call or jump leads that stands for an indirect one, and the register that has its target."""
INSTRUMENTATION: Final = re.compile(
    r"__fentry__|mcount|__sanitizer_cov_\w+|__[akm]san_\w+|__[akt]san_\w+|__stack_chk_fail|__warn_printk"
)
"""The functions whose calls the compiler adds."""
HOOKS: Final = re.compile(r"ftrace_\w*caller\w*|ftrace_trampoline|bpf_trampoline_\w+|arch_ftrace_ops_list_func")
"""The functions whose calls ftrace puts at the start of a function."""
# What KVM's exit path calls beside the PMU: its vendor module, by static call or directly, and exceptions.
_KNOWN: Final = re.compile(
    r"__SCT__(?:kvm_x86_\w+|might_resched|cond_resched|preempt_schedule\w*)|(?:svm|vmx|vt|tdx)_\w+|skip_emulated_instruction"
    r"|__?kvm_[sg]et_rflags|kvm_[sg]et_rflags|kvm_get_linear_rip|kvm_is_linear_rip|kvm_vcpu_do_singlestep"
    r"|kvm_(?:re)?queue_exception\w*|kvm_multiple_exception|kvm_deliver_exception_payload|kvm_make_request"
    r"|__kvm_make_request|kvm_update_dr7|__traceiter_\w+|trace_\w+|lockdep_\w+|lock_\w+|__rcu_\w+|rcu_\w+"
)
# The beginnings of names of KVM's own code, with its vendor part: in a kernel that has KVM built in, they lie together.
_KVMS: Final = ("kvm_", "svm_", "vmx_", "vt_", "nested_svm_", "nested_vmx_")
_OF_VENDOR: Final = {"kvm_amd": "svm_", "kvm_intel": "vmx_"}
_KVM_STATIC_CALL: Final = re.compile(r"__SCT__kvm_x86_(?=.)")
_VENDOR: Final = re.compile(r"(?:__)?(?:svm|vmx|vt|tdx)_(?=.)")


def bare(name: str) -> str:
    """The name as the source has it: without .isra.0, .cold and the like, alone or several of them."""
    stem, dot, _ = name.partition(".")
    return stem if stem and dot else name


def is_callee(names: Iterable[str]) -> bool:
    """Whether one of the names is that of a function that counts an event, or of a compiler's clone of one."""
    return any(bare(name) in _CALLEES for name in names)


def callees_of(names: Iterable[str] = ()) -> tuple[str, ...]:
    """The functions that may count instructions, the likeliest first: as the source names them, then clones of them.

    :param names: the symbols among which to look for clones.
    """
    clones = sorted({name for name in names if bare(name) in _COUNTS_INSTRUCTIONS and not is_cold(name)})
    return (*_COUNTS_INSTRUCTIONS, *(name for name in clones if name not in _COUNTS_INSTRUCTIONS))


def is_cold(name: str) -> bool:
    """Whether the name is that of the part of a function that a compiler moved elsewhere, because it seldom runs."""
    return ".cold" in name or name.endswith(("_cold", "-cold"))


def is_of_pmu(name: str) -> bool:
    """Whether the name is that of a function of the PMU's."""
    return _PMU.search(name) is not None


def is_known(name: str) -> bool:
    """Whether the exit path calls a function of that name, and not for the PMU."""
    return _KNOWN.fullmatch(bare(name)) is not None


def is_kvms(name: str) -> bool:
    """Whether the name begins as those of KVM's own code do, or of its vendor part."""
    return name.startswith(_KVMS)


def is_other_pmu(parameter: str) -> bool:
    """Whether a parameter brings a PMU of an unknown kind (AMD's enable_virtualized_pmu is in review)."""
    return parameter not in (ENABLE_PMU, *MEDIATED) and _OTHER_PMU.fullmatch(parameter) is not None


def is_vendor(module: str) -> bool:
    """Whether the name is that of a vendor module: other trees have more of them than mainline (kvm_pvm)."""
    return module.startswith(_VENDOR_MODULE)


def may_be_copy(owner: str) -> bool:
    """Whether a function may have a copy of FUNCTION. Livepatches may put something before its name."""
    name = bare(owner)
    return not is_callee([owner]) and not any(name == other or name.endswith(f"_{other}") for other in NOT_COPIES)


def replaces(replaced: Iterable[str], names: Iterable[str]) -> bool:
    """Whether the functions that a livepatch replaces include one of these names, under any name of it.

    A clone counts as its function does. So does the vendor's function that a static call leads to:
    __SCT__kvm_x86_skip_emulated_instruction leads to svm_skip_emulated_instruction.

    :param replaced: the functions that the livepatch replaces.
    """
    ours = {_KVM_STATIC_CALL.sub("", bare(name)) for name in names}
    return any(name in ours or _VENDOR.sub("", name) in ours for name in map(bare, replaced))


def vendors_among(symbols: Iterable[tuple[int, str]]) -> frozenset[str]:
    """The vendor modules whose code is among these symbols."""
    beginnings = {beginning for _, name in symbols for beginning in _OF_VENDOR.values() if name.startswith(beginning)}
    return frozenset(vendor for vendor, beginning in _OF_VENDOR.items() if beginning in beginnings)
