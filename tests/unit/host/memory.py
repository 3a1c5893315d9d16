"""Kernel memory with VMs in it, laid out by the compiler, not by pmuconf; and the /proc of the processes."""

from __future__ import annotations

import functools
import struct
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from tests.unit.host.sysroot import core, note, write

# Of 6.1, as far as it is asked for, with as much between as makes a struct kvm of 40 KB.
TYPES = """
#include <stddef.h>
typedef unsigned char u8; typedef unsigned int u32; typedef unsigned long u64; typedef _Bool bool;
typedef struct { int counter; } atomic_t;
typedef struct { atomic_t refs; } refcount_t;
struct list_head { struct list_head *next, *prev; };
struct task_struct {
    long thread_info[284]; struct mm_struct *mm, *active_mm; int exit_state; int pid; int tgid;
    struct task_struct *group_leader; u64 start_time; u64 start_boottime; char comm[16];
};
struct mm_struct { struct { long pgd[115]; OWNER unsigned long flags; }; unsigned long cpu_bitmap[8]; };
struct xarray { int xa_lock; u32 xa_flags; void *xa_head; };
struct xa_node {
    u8 shift, offset, count, nr_values; struct xa_node *parent; struct xarray *array; struct list_head private_list;
    void *slots[64]; unsigned long marks[3];
};
struct kvm_pmc {
    int type; u8 idx; u64 counter, eventsel; void *perf_event; struct kvm_vcpu *vcpu; u64 current_config;
    bool is_paused, intr;
};
struct kvm_pmu {
    unsigned nr_gp, nr_fixed, types; u64 fixed_ctr_ctrl, fixed_ctr_ctrl_mask, global_ctrl, global_status;
    u8 version; struct kvm_pmc gp_counters[8]; struct kvm_pmc fixed_counters[3]; u64 pmc_in_use[1]; COUNTING
};
struct kvm_vcpu_arch { u64 regs[17]; struct kvm_pmu pmu; int after; };
struct kvm_vcpu { struct kvm *kvm; int cpu, vcpu_id; struct kvm_vcpu_arch arch; char stats_id[48]; };
struct kvm_arch { u64 n_used_mmu_pages; void *mmu_page_hash[4096]; char sync[1500]; bool other; ENABLE bool exit; };
struct kvm {
    int mmu_lock; char slots_lock[60]; struct mm_struct *mm; char memslots[4300]; VCPUS
    atomic_t online_vcpus; int max_vcpus, created_vcpus, last_boosted_vcpu; struct list_head vm_list; char lock[200];
    struct kvm_arch arch; refcount_t users_count; char srcu[900]; int userspace_pid; bool vm_dead; char pm_notifier[24];
    STATS
};
struct task_struct a; struct mm_struct b; struct xa_node c; struct kvm_vcpu d; struct kvm e;
"""
KINDS = {
    "OWNER": "struct task_struct *owner;",
    "COUNTING": "",
    "ENABLE": "bool enable_pmu;",
    "VCPUS": "struct xarray vcpu_array;",
    "STATS": "char stats_id[48];",
}
PLACES = (
    *("kvm.mm", "kvm.vm_list", "kvm.online_vcpus", "kvm.created_vcpus", "kvm.users_count", "kvm.userspace_pid"),
    *("kvm.vcpu_array.xa_head", "kvm.vcpus", "kvm.arch.enable_pmu", "kvm.stats_id", "mm_struct.owner"),
    *("task_struct.mm", "task_struct.tgid", "task_struct.group_leader", "task_struct.start_boottime"),
    *("xa_node.shift", "xa_node.slots", "kvm_vcpu.kvm", "kvm_vcpu.arch.pmu", "kvm_pmu.fixed_ctr_ctrl"),
    *("kvm_pmu.gp_counters", "kvm_pmu.fixed_counters", "kvm_pmc.eventsel", "kvm_pmc.perf_event"),
    *("kvm_pmu.version", "kvm_pmu.pmc_in_use", "kvm_pmu.pmc_counting_instructions"),
)
OPTIONAL = {
    "mm_struct.owner": ("OWNER", "owner"),
    "kvm.arch.enable_pmu": ("ENABLE", "enable_pmu"),
    "kvm.vcpus": ("VCPUS", "vcpus["),
    "kvm.vcpu_array.xa_head": ("VCPUS", "vcpu_array"),
    "kvm.stats_id": ("STATS", "stats_id"),
    "kvm_pmu.pmc_counting_instructions": ("COUNTING", "pmc_counting_instructions"),
}
HEAD = 0xFFFFFFFFC0B00040
HEAP = 0xFFFF888100000000
ENABLED = 1 << 22


@dataclass(frozen=True)
class Compiled:
    """The types as BTF, and where the compiler says that things are."""

    btf: bytes
    at: dict[str, int]
    size: dict[str, int]


@functools.cache
def compiled(**kinds: str) -> Compiled:
    """The types of one kind of kernel."""
    source, chosen = TYPES, {**KINDS, **kinds}
    for name, text in chosen.items():
        source = source.replace(f" {name} ", f" {text} ").replace(f" {name}\n", f" {text}\n")
    asked = [path for path in PLACES if path not in OPTIONAL or OPTIONAL[path][1] in chosen[OPTIONAL[path][0]]]
    structures = sorted({path.partition(".")[0] for path in PLACES})
    lines = [f'__builtin_printf("{p} %zu\\n", offsetof(struct {p.replace(".", ", ", 1)}));' for p in asked]
    lines += [f'__builtin_printf("{s} %zu\\n", sizeof(struct {s}));' for s in structures]
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "program"
        text = f"{source}\nint main(void) {{ {' '.join(lines)} return 0; }}"
        subprocess.run(["gcc", "-gbtf", "-x", "c", "-", "-o", str(program)], input=text.encode(), check=True)
        dump = ["objcopy", f"--dump-section=.BTF={folder}/btf", str(program), f"{folder}/copy"]
        subprocess.run(dump, check=True)
        said = subprocess.run([str(program)], check=True, capture_output=True, text=True).stdout
        numbers = {name: int(number) for name, number in (line.split() for line in said.splitlines())}
        at = {path: numbers[path] for path in asked}
        return Compiled((Path(folder) / "btf").read_bytes(), at, {s: numbers[s] for s in structures})


@dataclass
class Vm:
    """A VM as the kernel has it, and its process."""

    pid: int
    started: int
    enabled: int = 1
    vcpus: int = 1
    thread: int = 0
    uuid: str = ""
    argv: tuple[str, ...] = ()
    address: int = 0
    mm: int = 0
    task: int = 0
    vcpu: list[int] = field(default_factory=list)


class Kernel:
    """Memory from HEAP on, and the head of the list."""

    def __init__(self, room: int = 1 << 20, **kinds: str) -> None:
        self.types = compiled(**kinds)
        self.heap = bytearray(room)
        self.head = bytearray(64)
        self.reads = 0
        self._next = HEAP
        self.vms: list[Vm] = []
        self.link()

    def take(self, structure: str, count: int = 1) -> int:
        """Room for a structure, at an address of its own."""
        address = self._next
        self._next += -(-self.types.size[structure] * count // 64) * 64
        assert self._next - HEAP <= len(self.heap)
        return address

    def put(self, address: int, value: int | bytes, size: int = 8) -> None:
        """Write a number or bytes."""
        data = value if isinstance(value, bytes) else value.to_bytes(size, "little")
        if HEAD <= address < HEAD + 16:
            self.head[address - HEAD : address - HEAD + len(data)] = data
        else:
            self.heap[address - HEAP : address - HEAP + len(data)] = data

    def read(self, address: int, size: int) -> bytes:
        """What kernel memory is read with."""
        self.reads += 1
        if HEAD <= address < HEAD + len(self.head):
            return bytes(self.head[address - HEAD : address - HEAD + size])
        return bytes(self.heap[address - HEAP : address - HEAP + size]) if address >= HEAP else b""

    def set(self, base: int, path: str, value: int | bytes, size: int = 8) -> None:
        """Write a member."""
        if path in self.types.at:
            self.put(base + self.types.at[path], value, size)

    def add(self, vm: Vm) -> Vm:
        """A VM with its process's mm and task, on the list."""
        vm.address = vm.address or self.take("kvm")
        vm.mm = vm.mm or self.take("mm_struct")
        vm.task = vm.task or self.take("task_struct")
        vm.thread = vm.thread or vm.pid
        self.fill(vm)
        self.vms.append(vm)
        self.link()
        return vm

    def fill(self, vm: Vm) -> None:
        """Write a VM's structures."""
        self.set(vm.mm, "mm_struct.owner", vm.task)
        self.set(vm.task, "task_struct.mm", vm.mm)
        self.set(vm.task, "task_struct.tgid", vm.pid, 4)
        self.set(vm.task, "task_struct.group_leader", vm.task)
        self.set(vm.task, "task_struct.start_boottime", vm.started * 10_000_000 + 4_999_999)
        self.set(vm.address, "kvm.mm", vm.mm)
        self.set(vm.address, "kvm.userspace_pid", vm.thread, 4)
        self.set(vm.address, "kvm.stats_id", (b"kvm-%d" % vm.thread).ljust(48, b"\0"))
        self.set(vm.address, "kvm.users_count", 1 + vm.vcpus, 4)
        self.set(vm.address, "kvm.created_vcpus", vm.vcpus, 4)
        self.set(vm.address, "kvm.online_vcpus", vm.vcpus, 4)
        self.set(vm.address, "kvm.arch.enable_pmu", vm.enabled, 1)
        while len(vm.vcpu) < vm.vcpus:
            vm.vcpu.append(self.take("kvm_vcpu"))
            self.set(vm.vcpu[-1], "kvm_vcpu.kvm", vm.address)
        for index, vcpu in enumerate(vm.vcpu):
            self.set(vm.address + 8 * index, "kvm.vcpus", vcpu)
        self.set(vm.address, "kvm.vcpu_array.xa_head", self.xarray(vm.vcpu) if vm.vcpus else 0)

    def xarray(self, entries: list[int], shift: int = 0) -> int:
        """The head of an xarray that has these entries."""
        if len(entries) == 1:
            return entries[0]
        if len(entries) > 64:
            inner = [self.xarray(entries[at : at + 64]) for at in range(0, len(entries), 64)]
            return self.node(inner, 6)
        return self.node(entries, 0)

    def node(self, entries: list[int], shift: int) -> int:
        """A node of an xarray."""
        node = self.take("xa_node")
        self.set(node, "xa_node.shift", shift, 1)
        for index, entry in enumerate(entries):
            self.set(node + 8 * index, "xa_node.slots", entry)
        return node + 2

    def link(self) -> None:
        """Link the list again."""
        nodes = [HEAD, *(vm.address + self.types.at["kvm.vm_list"] for vm in self.vms), HEAD]
        for before, node in zip(nodes, nodes[1:]):
            self.put(before, node)
            self.put(node + 8, before)

    def program(self, vm: Vm, path: str, value: int, vcpu: int = 0, index: int = 0) -> None:
        """Write into a vCPU's PMU: kvm_pmu.fixed_ctr_ctrl, gp_counters.eventsel ..."""
        at = self.types.at
        base = vm.vcpu[vcpu] + at["kvm_vcpu.arch.pmu"]
        group, _, inner = path.partition(".")
        offset = at[f"kvm_pmu.{group}"] + (self.types.size["kvm_pmc"] * index + at[f"kvm_pmc.{inner}"] if inner else 0)
        self.put(base + offset, value)

    def write(self, root: Path) -> Path:
        """As a host's files, with a process for each VM that has an id."""
        used = bytes(self.heap[: self._next - HEAP])
        page = bytes(HEAD % 4096) + bytes(self.head)
        write(root, "/proc/kcore", core([(HEAP, used), (HEAD & -4096, page)]))
        lines = f"ffffffffc0a01000 t kvm_skip_emulated_instruction\t[kvm]\n{HEAD:016x} B vm_list\t[kvm]\n"
        lines += f"{HEAD + 64:016x} d vm_list\t[other]\n{HEAD + 64:016x} d vm_list_lock\t[kvm]\n"
        write(root, "/proc/kallsyms", lines.encode())
        write(root, "/proc/sys/kernel/kptr_restrict", b"1\n")
        write(root, "/proc/sys/kernel/arch", b"x86_64\n")
        # All in vmlinux, and a module that adds nothing: what matters is that both are there.
        write(root, "/sys/kernel/btf/vmlinux", self.types.btf)
        write(root, "/sys/kernel/btf/kvm", empty_btf())
        write(root, "/sys/module/kvm/initstate", b"live\n")
        write(root, "/sys/module/kvm/parameters/enable_pmu", b"Y\n")
        write(root, "/sys/module/kvm/notes/.note.gnu.build-id", note())
        (root / "proc/1/ns").mkdir(parents=True, exist_ok=True)
        (root / "proc/1/ns/pid").symlink_to("pid:[4026531836]")
        for vm in self.vms:
            process(root, vm)
        return root


def empty_btf() -> bytes:
    """The BTF of a module without types of its own."""
    return struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, 0, 0, 1) + b"\0"


def stat(pid: int, started: int, name: str) -> bytes:
    """/proc/PID/stat."""
    return f"{pid} ({name}) S 1 {pid} {pid} 0 -1 4194304 1 2 3 4 5 6 7 8 20 0 3 0 {started} 99 88 77\n".encode()


def process(root: Path, vm: Vm, fds: tuple[str, ...] = ("/dev/null", "anon_inode:kvm-vm"), exe: str = "") -> Path:
    """The /proc of one process."""
    folder = root / "proc" / str(vm.pid)
    argv = vm.argv or ("/usr/bin/qemu-system-x86_64", "-name", f"guest=vm{vm.pid}", "-uuid", vm.uuid)
    (folder / "fd").mkdir(parents=True, exist_ok=True)
    for number, target in enumerate(fds):
        (folder / "fd" / str(number)).symlink_to(target)
    (folder / "task" / str(vm.pid)).mkdir(parents=True, exist_ok=True)
    (folder / "task" / str(vm.thread or vm.pid)).mkdir(parents=True, exist_ok=True)
    other = 900_000 + vm.pid
    (folder / "task" / str(other)).mkdir(parents=True, exist_ok=True)
    (folder / "task" / str(other) / "stat").write_bytes(stat(other, vm.started + 1, "call_rcu"))
    (folder / "stat").write_bytes(stat(vm.pid, vm.started, Path(argv[0]).name[:15]))
    (folder / "cmdline").write_bytes(b"".join(word.encode() + b"\0" for word in argv))
    (folder / "exe").symlink_to(exe or argv[0])
    return folder
