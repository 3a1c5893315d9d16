"""Small kernels' worth of C, compiled at test time: shapes of the guard and of what looks like it, with BTF."""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

HEADER = """
typedef _Bool bool;
typedef unsigned long u64;
#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)
#define noinline __attribute__((noinline))
struct kvm_arch { long before[300]; bool other; bool enable_pmu; bool third; long after; };
struct kvm { long before[100]; int vcpus; struct kvm_arch arch; };
struct kvm_pmc { u64 counter; u64 eventsel; };
struct kvm_pmu {
    u64 global_ctrl; u64 all_valid_pmc_idx[1]; u64 pmc_counting_instructions[1]; int version;
    struct kvm_pmc *pmcs[64];
};
struct kvm_vcpu_arch { u64 regs[17]; u64 hflags; struct kvm_pmu pmu; };
struct kvm_vcpu { struct kvm *kvm; int cpu; struct kvm_vcpu_arch arch; };
extern bool enable_pmu;
extern struct { u64 INSTRUCTIONS_RETIRED; } kvm_pmu_eventsel;
u64 __SCT__kvm_x86_get_rflags(struct kvm_vcpu *vcpu);
int __SCT__kvm_x86_skip_emulated_instruction(struct kvm_vcpu *vcpu);
int kvm_vcpu_do_singlestep(struct kvm_vcpu *vcpu);
struct kvm_pmc *__SCT__kvm_x86_pmu_pmc_idx_to_pmc(struct kvm_pmu *pmu, int i);
void kvm_pmu_trigger_event(struct kvm_vcpu *vcpu, u64 event);
void kvm_make_request(int request, struct kvm_vcpu *vcpu);
"""

# What the callee does in 5.17-6.6, with a place for a guard of its own.
CALLEE = """
noinline void kvm_pmu_trigger_event(struct kvm_vcpu *vcpu, u64 event)
{{
    struct kvm_pmu *pmu = &vcpu->arch.pmu;
    {guard}
    u64 left = pmu->all_valid_pmc_idx[0];
    while (left) {{
        struct kvm_pmc *pmc = __SCT__kvm_x86_pmu_pmc_idx_to_pmc(pmu, __builtin_ctzl(left));
        left &= left - 1;
        if (pmc && pmc->eventsel == event)
            pmc->counter++;
    }}
}}
"""

# What it does in 6.7-6.8 and in the tree that the guard was written for: a bitmap on the stack.
BITMAP_CALLEE = """
noinline void kvm_pmu_trigger_event(struct kvm_vcpu *vcpu, u64 event)
{{
    struct kvm_pmu *pmu = &vcpu->arch.pmu;
    u64 bitmap[1];
    {guard}
    if (pmu->version <= 1)
        bitmap[0] = {bitmap};
    else if (!(bitmap[0] = {bitmap} & pmu->global_ctrl))
        return;
    while (bitmap[0]) {{
        struct kvm_pmc *pmc = pmu->pmcs[__builtin_ctzl(bitmap[0])];
        bitmap[0] &= bitmap[0] - 1;
        if (pmc && pmc->eventsel == event) {{
            pmc->counter++;
            kvm_make_request(1, vcpu);
        }}
    }}
}}
"""

# Since 6.18 the callee is handed the bitmap.
RETIRED = """
static noinline void kvm_pmu_trigger_event_bits(struct kvm_vcpu *vcpu, const u64 *event_pmcs)
    asm("kvm_pmu_trigger_event.isra.0");
static noinline void kvm_pmu_trigger_event_bits(struct kvm_vcpu *vcpu, const u64 *event_pmcs)
{{
    struct kvm_pmu *pmu = &vcpu->arch.pmu;
    u64 bitmap = event_pmcs[0];
    {early}
    if (pmu->version > 1 && !(bitmap &= pmu->global_ctrl))
        return;
    for (; bitmap; bitmap &= bitmap - 1) {{
        struct kvm_pmc *pmc = pmu->pmcs[__builtin_ctzl(bitmap)];
        pmc->counter++;
        kvm_make_request(1, vcpu);
    }}
}}
noinline void kvm_pmu_branch_retired(struct kvm_vcpu *vcpu)
{{
    kvm_pmu_trigger_event_bits(vcpu, vcpu->arch.pmu.all_valid_pmc_idx);
}}
noinline void kvm_pmu_instruction_retired(struct kvm_vcpu *vcpu)
{{
    kvm_pmu_trigger_event_bits(vcpu, vcpu->arch.pmu.{bitmap});
}}
"""

SKIP = """
{before}
noinline int kvm_skip_emulated_instruction(struct kvm_vcpu *vcpu)
{{
    u64 rflags = __SCT__kvm_x86_get_rflags(vcpu);
    int r = __SCT__kvm_x86_skip_emulated_instruction(vcpu);
    if (unlikely(!r))
        return 0;
    {work}
    if (unlikely(rflags & 0x100))
        r = kvm_vcpu_do_singlestep(vcpu);
    return r;
}}
"""

COUNT = "kvm_pmu_trigger_event(vcpu, 1);"
COUNT_EVENTSEL = "kvm_pmu_trigger_event(vcpu, kvm_pmu_eventsel.INSTRUCTIONS_RETIRED);"
POINTER = "void (*volatile f)(struct kvm_vcpu *, u64) = kvm_pmu_trigger_event;"
PMU = "vcpu->kvm->arch.enable_pmu"


@dataclass(frozen=True)
class Shape:
    """Source, and what is right to say of it: the first verdict is what should be said, others are honest too."""

    name: str
    source: str
    right: tuple[str, ...]


def _shape(
    name: str, work: str, *right: str, callee: str = CALLEE.format(guard=""), before: str = "", after: str = ""
) -> Shape:
    return Shape(name, HEADER + callee + SKIP.format(work=work, before=before) + after, right)


_GUARD_INSIDE = f"if (!{PMU}) return;"

SHAPES: tuple[Shape, ...] = (
    # The guard, as it may be written.
    _shape("unlikely", f"if (unlikely({PMU})) {COUNT}", "guarded"),
    _shape("likely", f"if (likely({PMU})) {COUNT}", "guarded"),
    _shape("plain", f"if ({PMU}) {COUNT}", "guarded"),
    _shape("early-return", f"if (!{PMU}) return r; {COUNT}", "guarded"),
    _shape("eventsel", f"if (unlikely({PMU})) {COUNT_EVENTSEL}", "guarded"),
    _shape("and-other", f"if ({PMU} && vcpu->cpu) {COUNT}", "guarded"),
    _shape("other-and", f"if (vcpu->cpu && {PMU}) {COUNT}", "guarded"),
    _shape("bitwise-and", f"if ({PMU} & vcpu->kvm->arch.other) {COUNT}", "guarded", "unknown"),
    _shape("equals-one", f"if ({PMU} == 1) {COUNT}", "guarded"),
    _shape(
        "spilled",
        f"""bool on = {PMU}; __asm__ volatile("" ::: "rbx", "rbp", "r12", "r13", "r14", "r15", "memory");
        kvm_make_request(2, vcpu); if (on) {COUNT}""",
        "guarded",
    ),
    _shape("stored", f"volatile bool on = {PMU}; kvm_make_request(2, vcpu); if (on) {COUNT}", "guarded"),
    _shape(
        "kvm-variable",
        f"struct kvm *kvm = vcpu->kvm; kvm_make_request(2, vcpu); if (kvm->arch.enable_pmu) {COUNT}",
        "guarded",
    ),
    _shape("arch-variable", f"struct kvm_arch *arch = &vcpu->kvm->arch; if (arch->enable_pmu) {COUNT}", "guarded"),
    _shape(
        "helper",
        f"if (has_pmu(vcpu)) {COUNT}",
        "guarded",
        before=f"static noinline bool has_pmu(struct kvm_vcpu *vcpu) {{ return {PMU}; }}",
    ),
    _shape(
        "helper-calls",
        "count(vcpu);",
        "guarded",
        before=f"static noinline void count(struct kvm_vcpu *vcpu) {{ if ({PMU}) {COUNT} }}",
    ),
    _shape("twice", f"if ({PMU}) {COUNT} if ({PMU}) {COUNT}", "guarded"),
    _shape(
        "cold",
        f"if (unlikely({PMU})) {{ cold(); {COUNT} }}",
        "guarded",
        before='__attribute__((cold)) void cold(void) asm("kvm_make_request");',
    ),
    _shape("tail-call", f"if ({PMU}) kvm_pmu_trigger_event(vcpu, 1); return r;", "guarded"),
    _shape("switch", f"switch ({PMU}) {{ case 0: break; default: {COUNT} }}", "guarded"),
    _shape("loop", f"for (int i = 0; i < 3; i++) if ({PMU}) {COUNT}", "guarded"),
    _shape("in-callee", COUNT, "guarded", callee=CALLEE.format(guard=_GUARD_INSIDE)),
    _shape(
        "in-bitmap-callee",
        COUNT,
        "guarded",
        callee=BITMAP_CALLEE.format(guard=_GUARD_INSIDE, bitmap="pmu->all_valid_pmc_idx[0]"),
    ),
    _shape(
        "bitmap-callee-guarded",
        f"if (unlikely({PMU})) {COUNT}",
        "guarded",
        callee=BITMAP_CALLEE.format(guard="", bitmap="pmu->all_valid_pmc_idx[0]"),
    ),
    # No guard.
    _shape("stock", COUNT, "unguarded"),
    _shape(
        "stock-bitmap", COUNT, "unguarded", callee=BITMAP_CALLEE.format(guard="", bitmap="pmu->all_valid_pmc_idx[0]")
    ),
    _shape(
        "retired-valid-bitmap",
        "kvm_pmu_instruction_retired(vcpu);",
        "unguarded",
        callee=RETIRED.format(early="if (!bitmap) return;", bitmap="all_valid_pmc_idx"),
    ),
    # What looks like it.
    _shape("inverted", f"if (!{PMU}) {COUNT}", "unguarded"),
    _shape("inverted-hint", f"if (unlikely(!{PMU})) {COUNT}", "unguarded"),
    _shape("other-byte", f"if (vcpu->kvm->arch.other) {COUNT}", "unguarded"),
    _shape("third-byte", f"if (unlikely(vcpu->kvm->arch.third)) {COUNT}", "unguarded"),
    _shape("parameter", f"if (unlikely(enable_pmu)) {COUNT}", "unguarded"),
    _shape("pmu-version", f"if (vcpu->arch.pmu.version) {COUNT}", "unguarded"),
    _shape("after", f"{COUNT} if ({PMU}) kvm_make_request(1, vcpu);", "unguarded"),
    _shape("outcome-ignored", f"if ({PMU}) kvm_make_request(1, vcpu); {COUNT}", "unguarded"),
    _shape(
        "both-sides", f"if ({PMU}) kvm_pmu_trigger_event(vcpu, 1); else kvm_pmu_trigger_event(vcpu, 2);", "unguarded"
    ),
    _shape("value-passed", f"kvm_pmu_trigger_event(vcpu, {PMU});", "unguarded"),
    _shape("or-other", f"if ({PMU} || vcpu->cpu) {COUNT}", "unguarded", "unknown"),
    _shape("bitwise-or", f"if ({PMU} | vcpu->kvm->arch.other) {COUNT}", "unguarded", "unknown"),
    _shape("first-only", f"if ({PMU}) {COUNT} {COUNT}", "unguarded"),
    _shape("one-path", f"if (vcpu->cpu) {{ if ({PMU}) {COUNT} }} else {COUNT}", "unguarded"),
    _shape(
        "other-vm", f"if (((struct kvm_vcpu *)vcpu->arch.hflags)->kvm->arch.enable_pmu) {COUNT}", "unguarded", "unknown"
    ),
    _shape("overwritten", f"bool on = {PMU}; kvm_make_request(2, vcpu); on = vcpu->cpu; if (on) {COUNT}", "unguarded"),
    _shape(
        "compared-and-exchanged",
        f"""u64 on = {PMU}, *place = &vcpu->arch.hflags;
        __asm__ volatile("lock cmpxchg %2, %1" : "+a"(on), "+m"(*place) : "r"(1ul) : "memory", "cc");
        if (on) {COUNT}""",
        "unknown",
        "unguarded",
    ),
    _shape(
        "exchanged-in-memory",
        f"""volatile u64 on = {PMU}; u64 none = 0;
        __asm__ volatile("cmpxchg %2, %0" : "+m"(on), "+a"(none) : "r"(1ul) : "cc"); if (on) {COUNT}""",
        "unknown",
        "unguarded",
    ),
    _shape(
        "callee-writes-first",
        COUNT,
        "unguarded",
        callee=CALLEE.format(
            guard=f"""__asm__ volatile("lock cmpxchg %1,"
        " %0" : "+m"(pmu->version) : "r"(1) : "rax", "cc"); {_GUARD_INSIDE}"""
        ),
    ),
    _shape("xor-other", f"if ({PMU} ^ vcpu->kvm->arch.other) {COUNT}", "unguarded", "unknown"),
    _shape(
        "changed-through-a-pointer",
        f"""bool on = {PMU}, other = 0; bool *p = vcpu->cpu ? &on : &other; use(&other); *p = 1;
        if (on) {COUNT}""",
        "unguarded",
        "unknown",
        before='void use(bool *) asm("kvm_make_request");',
    ),
    _shape(
        "changed-through-a-pointer-backwards",
        f"""bool on[4]; on[0] = {PMU}; bool *p = &on[3]; use(p); do *p = 1; while (--p != on - 1 && vcpu->cpu);
        if (on[0]) {COUNT}""",
        "unguarded",
        "unknown",
        before='void use(bool *) asm("kvm_make_request");',
    ),
    _shape(
        "changed-by-another",
        f"""bool on = {PMU}; use(&on); kvm_make_request(1, vcpu); if (on) {COUNT}""",
        "unguarded",
        "unknown",
        before='void use(bool *) asm("kvm_vcpu_do_singlestep");',
    ),
    _shape(
        "inlined-and-guarded-call",
        f"""struct kvm_pmc *pmc = vcpu->arch.pmu.pmcs[0]; if (pmc) pmc->counter++; if ({PMU}) {COUNT}""",
        "unknown",
        "unguarded",
    ),
    _shape("callee-inverted", COUNT, "unguarded", callee=CALLEE.format(guard=f"if ({PMU}) return;")),
    _shape("callee-late", COUNT, "unguarded", callee=CALLEE.format(guard=f"pmu->version++; {_GUARD_INSIDE}")),
    _shape("callee-other-byte", COUNT, "unguarded", callee=CALLEE.format(guard="if (!vcpu->kvm->arch.other) return;")),
    _shape(
        "cold-unguarded",
        f"if (unlikely({PMU})) {{ cold(); }} {COUNT}",
        "unguarded",
        before='__attribute__((cold)) void cold(void) asm("kvm_make_request");',
    ),
    # The early-out of 6.18, and none at all.
    _shape(
        "retired",
        "kvm_pmu_instruction_retired(vcpu);",
        "early-out",
        callee=RETIRED.format(early="if (!bitmap) return;", bitmap="pmc_counting_instructions"),
    ),
    _shape(
        "retired-guarded",
        f"if (unlikely({PMU})) kvm_pmu_instruction_retired(vcpu);",
        "guarded",
        callee=RETIRED.format(early="if (!bitmap) return;", bitmap="pmc_counting_instructions"),
    ),
    _shape("no-call", "", "no-call", callee=""),
    # Calls that nobody knows.
    _shape("pointer", f"{POINTER} f(vcpu, 1);", "unknown", "unguarded"),
    _shape("pointer-guarded", f"{POINTER} if ({PMU}) f(vcpu, 1);", "unknown", "guarded"),
    _shape(
        "unknown-function",
        "vendor_hook(vcpu);",
        "unknown",
        callee="",
        before="void vendor_hook(struct kvm_vcpu *vcpu);",
    ),
)

OPTIMIZATIONS = ("-O2", "-O3", "-Os")
RETPOLINES = (
    *("-mindirect-branch=thunk-extern", "-mfunction-return=thunk-extern", "-fcf-protection=branch"),
    *("-pg", "-mfentry"),
)
FLAGS = tuple((level, *extra) for level in OPTIMIZATIONS for extra in ((), RETPOLINES, ("-fno-reorder-blocks",)))
_KERNEL = (
    *("-mcmodel=kernel", "-mno-red-zone", "-fno-pic", "-fno-stack-protector", "-mno-sse", "-ffreestanding"),
    *("-fno-asynchronous-unwind-tables", "-w"),
)


def compilers() -> list[str]:
    """The compilers that are here: the one that everybody has, and particular versions of it."""
    return [name for name in ("gcc", "gcc-11", "clang") if shutil.which(name)]


def flags_for(compiler: str, flags: tuple[str, ...]) -> tuple[str, ...]:
    """The same for a compiler that calls them differently or lacks some."""
    if compiler != "clang":
        return flags
    names = {RETPOLINES[0]: "-mretpoline-external-thunk", RETPOLINES[1]: "", "-fno-reorder-blocks": ""}
    return tuple(name for name in (names.get(flag, flag) for flag in flags) if name)


@functools.cache
def compiled(source: str, flags: tuple[str, ...], compiler: str = "gcc") -> bytes:
    """The relocatable object that a source gives; kept from one test to the next."""
    store = Path(tempfile.gettempdir()) / f"pmuconf-shapes-{os.getuid()}"
    store.mkdir(mode=0o700, exist_ok=True)
    if store.stat().st_uid != os.getuid():
        raise RuntimeError(f"{store} belongs to somebody else")
    own = ("-mstack-alignment=8",) if compiler == "clang" else ("-mpreferred-stack-boundary=3",)
    others = compiler != "gcc" or any(flag.startswith("-gdwarf") for flag in flags)
    types = () if others else ("-gbtf",)  # other compilers write none, or not for x86
    command = [compiler, *_KERNEL, *own, *types, *flags_for(compiler, flags)]
    key = hashlib.sha256("\0".join([*command, source]).encode()).hexdigest()
    path = store / f"{key}.o"
    if not path.exists():
        made = store / f"{key}.{os.getpid()}.tmp"
        subprocess.run([*command, "-c", "-x", "c", "-", "-o", str(made)], input=source.encode(), check=True)
        made.rename(path)
    return path.read_bytes()
