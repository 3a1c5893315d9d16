"""What is said of VMs with a PMU that are to start where KVM has a mediated PMU."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pmuconf.hostfacts import GuardFinding, HostFacts, Verdict
from pmuconf.mediated import start_hazard

FACTS = HostFacts(GuardFinding(Verdict.EARLY_OUT, "nothing-counted", ""), enable_pmu=True, mediated_pmu=True)


@pytest.mark.parametrize(
    ("watchdog", "words"),
    [(True, "runs now (sysctl kernel.nmi_watchdog=0"), (False, "is off now"), (None, "runs is not known")],
)
def test_what_may_hold_the_counters_is_named(watchdog: bool | None, words: str) -> None:
    said = start_hazard(replace(FACTS, nmi_watchdog=watchdog), 1)
    assert "may not start here while the NMI watchdog or a system-wide perf event" in said
    assert words in said
    assert said.endswith(" 1 VM has a PMU.")


@pytest.mark.parametrize("facts", [replace(FACTS, mediated_pmu=False), replace(FACTS, mediated_pmu=None)])
def test_nothing_is_said_where_there_is_none(facts: HostFacts) -> None:
    assert start_hazard(facts) == ""


def test_nor_where_no_vm_has_a_pmu() -> None:
    assert start_hazard(replace(FACTS, enable_pmu=False)) == ""
