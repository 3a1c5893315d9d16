"""The answer of a measurement in sentences for a person."""

from __future__ import annotations

from typing import Final

from pmuconf.bench.conclusion import Conclusion
from pmuconf.bench.measurement import Measurement
from pmuconf.bench.peers import Means

__all__ = ["of_conclusion", "of_fingerprint", "of_means"]

_CALLS: Final = ("spectre_v2", "retbleed", "spec_rstack_overflow", "indirect_target_selection")
"""The vulnerabilities whose mitigations make calls and returns expensive."""


def of_conclusion(conclusion: Conclusion) -> list[str]:
    """The conclusion; or, if there is none, a sentence for each reason, and what was measured all the same."""
    if not conclusion.spoils:
        return [conclusion.sentence]
    lines = [f"no conclusion: {spoil.message}" for spoil in conclusion.spoils]
    if conclusion.difference is not None:
        whole = conclusion.difference.whole
        lines.append(f"measured was {whole.estimate:.1f} ({whole.lower:.1f} to {whole.upper:.1f}) cycles per exit")
    return lines


def of_fingerprint(measurement: Measurement) -> list[str]:
    """The counts per exit, and the mitigations that make calls and returns expensive."""
    fingerprint = measurement.fingerprint
    if fingerprint is None:
        return []
    if fingerprint.missing:
        return [f"instructions and branches per exit are not known: {fingerprint.missing}"]
    lines = [
        f"PMU {arm.value}: {counts.instructions:.0f} instructions, {counts.branches:.0f} branches, "
        f"{counts.branch_misses:.2f} branch misses per exit in the host kernel"
        for arm, counts in fingerprint.counts.items()
    ]
    states = dict(measurement.host.mitigations)
    lines.append("mitigations: " + "; ".join(f"{name}: {states[name]}" for name in _CALLS if name in states))
    return lines


def of_means(means: Means) -> list[str]:
    """The means of another method, and why they say nothing of other hosts."""
    lines = [
        f"PMU {arm.value}: {mean.per_second:,.0f} CPUID exits a second, {mean.per_exit:.0f} TSC cycles each"
        for arm, mean in means.of.items()
    ]
    if means.gain is not None:
        lines.append(f"PMU off: {100 * means.gain:+.1f} % exits a second, by one run of each")
    return lines + [f"no conclusion: {spoil.message}" for spoil in means.spoils]
