"""What counting calls says about a verdict. The counting itself is tested in the lab, where there is a KVM."""

from __future__ import annotations

import pytest

from pmuconf.facts import GuardFinding, Verdict
from pmuconf.host.prove import EXITS, Proof, agrees


@pytest.mark.parametrize(
    ("verdict", "cause", "calls", "expected"),
    [
        (Verdict.GUARDED, "guard-in-caller", 0, True),
        (Verdict.GUARDED, "guard-in-caller", EXITS, False),
        (Verdict.GUARDED, "guard-in-callee", EXITS + 1, True),
        (Verdict.GUARDED, "guard-in-callee", 0, False),
        (Verdict.EARLY_OUT, "nothing-counted", EXITS, True),
        (Verdict.PARTIAL, "unguarded-copies", 1, True),
        (Verdict.PARTIAL, "unguarded-copies", EXITS, False),
        (Verdict.NO_CALL, "no-pmu-call", 0, True),
        (Verdict.UNGUARDED, "no-test", EXITS + 1, True),
        (Verdict.UNGUARDED, "no-test", 0, False),
        (Verdict.UNKNOWN, "hooked", 0, None),
    ],
)
def test_agreement(verdict: Verdict, cause: str, calls: int, expected: bool | None) -> None:
    assert agrees(GuardFinding(verdict, cause, ""), calls) is expected


def test_the_sentence() -> None:
    said = Proof(EXITS, 201, "kvm_pmu_trigger_event", False).sentence
    assert (
        said == "kvm_pmu_trigger_event was called 201 times in 200 CPUID exits and one HLT: against what the code says"
    )
