"""Shapes of the function with what counts inlined into it, or cloned: by always_inline, or by the compiler's choice."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from tests.unit.host.shapes import HEADER, PMU, SKIP, Shape

__all__ = ["SHAPES"]

_ATTRIBUTES: Final = {
    "always-inline": "static inline __attribute__((always_inline))",
    "static": "static",
    "clone": "static noinline",
}
"""How the callee is declared. A static one with one caller is inlined, cloned (.constprop, .isra) or split (.part)."""

# What the callee does, by the kernels that have it; with a place for a test at its start.
_CALLEES: Final = {
    # 5.17-6.6: the vendor module finds the counter.
    "loop": """
{how} void kvm_pmu_trigger_event(struct kvm_vcpu *vcpu, u64 event)
{{
    struct kvm_pmu *pmu = &vcpu->arch.pmu;
    {test}
    for (u64 left = pmu->all_valid_pmc_idx[0]; left; left &= left - 1) {{
        struct kvm_pmc *pmc = __SCT__kvm_x86_pmu_pmc_idx_to_pmc(pmu, __builtin_ctzl(left));
        if (pmc && pmc->eventsel == event)
            pmc->counter++;
    }}
}}
""",
    # 6.7-6.17: the counters are in a table, and a bitmap is made on the stack.
    "bitmap": """
{how} void kvm_pmu_trigger_event(struct kvm_vcpu *vcpu, u64 event)
{{
    struct kvm_pmu *pmu = &vcpu->arch.pmu;
    u64 bitmap[1];
    {test}
    if (pmu->version <= 1)
        bitmap[0] = pmu->all_valid_pmc_idx[0];
    else if (!(bitmap[0] = pmu->all_valid_pmc_idx[0] & pmu->global_ctrl))
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
""",
    # Since 6.18: what is counted was looked up before.
    "retired": """
{how} void kvm_pmu_trigger_event(struct kvm_vcpu *vcpu, u64 event)
{{
    struct kvm_pmu *pmu = &vcpu->arch.pmu;
    u64 bitmap = pmu->pmc_counting_instructions[0];
    {test}
    if (!bitmap)
        return;
    if (pmu->version > 1 && !(bitmap &= pmu->global_ctrl))
        return;
    for (; bitmap; bitmap &= bitmap - 1) {{
        struct kvm_pmc *pmc = pmu->pmcs[__builtin_ctzl(bitmap)];
        pmc->counter++;
        kvm_make_request(1, vcpu);
    }}
}}
""",
}
_CALL: Final = "kvm_pmu_trigger_event(vcpu, 1);"
_RETURN: Final = f"if (!{PMU}) return;"
_OTHER: Final = "if (!vcpu->kvm->arch.other) return;"


def _shapes() -> Iterator[Shape]:
    for kind, callee in _CALLEES.items():
        plain = "early-out" if kind == "retired" else "unguarded"
        for name, how in _ATTRIBUTES.items():
            forms = (
                ("plain", "", _CALL, plain),
                ("guarded", "", f"if (__builtin_expect({PMU}, 0)) {_CALL}", "guarded"),
                ("guarded-inside", _RETURN, _CALL, "guarded"),
                ("other-byte", _OTHER, _CALL, plain),
                ("inverted", "", f"if (!{PMU}) {_CALL}", plain),
            )
            for form, test, work, right in forms:
                source = HEADER.replace("void kvm_pmu_trigger_event(struct kvm_vcpu *vcpu, u64 event);\n", "")
                source += callee.format(how=how, test=test) + SKIP.format(work=work, before="")
                yield Shape(f"{kind}-{name}-{form}", source, (right,))


SHAPES: Final = tuple(_shapes())
