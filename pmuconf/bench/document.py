"""The answer of a measurement as a record for programs."""

from __future__ import annotations

from statistics import median
from typing import Any

from pmuconf.bench.conclusion import Conclusion
from pmuconf.bench.counters import Fingerprint
from pmuconf.bench.difference import Difference, mad
from pmuconf.bench.measurement import Measurement
from pmuconf.bench.peers import Means

__all__ = ["of_comparison", "of_means", "of_measurement"]


def of_measurement(conclusion: Conclusion, measurement: Measurement) -> dict[str, Any]:
    """The record of one measurement, and of the conclusion from it."""
    fingerprint = measurement.fingerprint
    return {
        **_conclusion(conclusion),
        **_subject(measurement),
        "cycles_per_exit": _costs(measurement),
        "fingerprint": None if fingerprint is None else _fingerprint(fingerprint),
        "notes": list(measurement.notes),
    }


def of_comparison(conclusion: Conclusion, old: Measurement, new: Measurement) -> dict[str, Any]:
    """The record of two measurements, and of the conclusion from them."""
    return {
        **_conclusion(conclusion),
        "cycles_per_exit": {"old": _costs(old), "new": _costs(new)},
        "old": _subject(old),
        "new": _subject(new),
    }


def of_means(means: Means) -> dict[str, Any]:
    """The record of the means of another method."""
    return {
        "method": means.method.value,
        "means": {
            arm.value: {
                "exits_per_second": round(mean.per_second, 1),
                "cycles_per_exit": round(mean.per_exit, 2),
                "exits": mean.exits,
                "seconds": round(mean.seconds, 3),
            }
            for arm, mean in means.of.items()
        },
        "gain_percent": None if means.gain is None else round(100 * means.gain, 2),
        "spoilt_by": {spoil.cause: spoil.message for spoil in means.spoils},
    }


def _conclusion(conclusion: Conclusion) -> dict[str, object]:
    return {
        "quantity": conclusion.quantity.value,
        "conclusion": conclusion.direction and conclusion.direction.value,
        "message": conclusion.sentence,
        "spoilt_by": {spoil.cause: spoil.message for spoil in conclusion.spoils},
        "difference": conclusion.difference and _difference(conclusion.difference),
        "control_difference": conclusion.control and _difference(conclusion.control),
    }


def _difference(difference: Difference) -> dict[str, object]:
    whole, share = difference.whole, difference.share
    return {
        "cycles": round(whole.estimate, 2),
        "lower": round(whole.lower, 2),
        "upper": round(whole.upper, 2),
        "confidence": difference.confidence,
        "percent": None if share is None else round(100 * share, 2),
    }


def _subject(measurement: Measurement) -> dict[str, object]:
    """What was measured, and on which host."""
    return {
        "exit": measurement.exit.value,
        "counters": measurement.counters,
        "release": measurement.release,
        "guard": measurement.guard.value,
        "cpu": measurement.host.cpu,
        "microcode": measurement.host.microcode,
        "kvm_build_id": measurement.host.kvm,
        "mitigations": dict(measurement.host.mitigations),
        "at": measurement.at,
    }


def _costs(measurement: Measurement) -> dict[str, object]:
    return {
        arm.value: {
            "median": round(median(measurement.costs(arm)), 2),
            "mad": round(mad(measurement.costs(arm)), 2),
            "control_median": round(median(measurement.controls(arm)), 2),
            "pairs": len(measurement.pairs),
            "rounds": len(measurement.rounds(arm)),
        }
        for arm in measurement.arms
    }


def _fingerprint(fingerprint: Fingerprint) -> dict[str, object]:
    counts = {
        arm.value: {name: round(number, 2) for name, number in of_arm._asdict().items()}
        for arm, of_arm in fingerprint.counts.items()
    }
    return {"counts_per_exit": counts, "missing": fingerprint.missing or None}
