"""What may be concluded from a run, or from two. Pure.

Two quantities that must not be taken for one another:

PMU on against off, on one kernel: what a VM without PMU is spared there. On an unguarded 6.1 and AMD that is nothing.
Kernel before against after, both with the PMU off: what a new kernel, such as one with the guard, spares such VMs.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

from pmuconf.bench.conditions import Spoil
from pmuconf.bench.difference import CONFIDENCE, Difference, Direction, fewest, paired, unpaired
from pmuconf.bench.measure import Arm
from pmuconf.bench.measurement import Measurement
from pmuconf.errors import PmuconfError
from pmuconf.host.measured import Saving
from pmuconf.hostfacts import Verdict

__all__ = ["Conclusion", "Quantity", "between_arms", "between_measurements"]


class Quantity(enum.Enum):
    """What is compared."""

    ARMS = "pmu-on-against-off"
    KERNELS = "kernel-before-against-after"


@dataclass(frozen=True)
class Conclusion:
    """The answer.

    :param outcome: None: no conclusion is drawn, and ``spoils`` say why. The differences are what was measured then.
    :param difference: of the exit; None where there is nothing to compare or too little of it.
    :param control: of the exit that the guard does not touch.
    :param saving: what the guard saves per exit on the measured host, if this measurement shows that.
    """

    quantity: Quantity
    direction: Direction | None
    sentence: str
    difference: Difference | None = None
    control: Difference | None = None
    spoils: tuple[Spoil, ...] = ()
    saving: Saving | None = None

    @property
    def severity(self) -> int:
        """The exit status: 0 a conclusion, 1 none, 2 that the side which should be cheaper is dearer."""
        if self.direction is None or self.direction is Direction.UNCLEAR:
            return 1
        return 2 if self.direction is Direction.COSTS else 0


_ATTRIBUTED: Final = 0.25
"""The control may differ by up to this share of the difference, or by a cycle: more, and it is not the guard alone."""


def between_arms(measurement: Measurement, confidence: float = CONFIDENCE) -> Conclusion:
    """PMU on against off, on the kernel of the run."""
    spoils, difference, control = list(measurement.spoils), None, None
    if set(measurement.arms) == set(Arm) and len(measurement.pairs) >= 2 * fewest(confidence):
        difference = paired(
            [pair.difference() for pair in measurement.pairs], median(measurement.costs(Arm.ON)), confidence
        )
        controls = [pair.control_difference() for pair in measurement.pairs]
        control = paired(controls, median(measurement.controls(Arm.ON)), confidence)
        spoils += _unattributed(difference, control)
    elif not spoils:
        spoils.append(_too_few(confidence))
    what = f"{measurement.exit.title} exit"
    words = {
        Direction.SAVES: "on this kernel PMU off saves {} cycles per {}",
        Direction.COSTS: "on this kernel PMU off costs {} cycles more per {}",
        Direction.NONE: "on this kernel PMU off makes no difference larger than {} cycles per {}",
    }
    direction, sentence = _said(words, what, difference, spoils)
    saving = None
    if measurement.guard is Verdict.GUARDED:
        saving = _saving(Quantity.ARMS, direction, difference, measurement)
    return Conclusion(Quantity.ARMS, direction, sentence, difference, control, tuple(spoils), saving)


def between_measurements(old: Measurement, new: Measurement, confidence: float = CONFIDENCE) -> Conclusion:
    """Both with the PMU off, kernel before against after.

    :raises PmuconfError: they are of different CPUs, mitigations, exits or counters, so that more than the kernel
        differs; cause runs-differ.
    """
    _comparable(old, new)
    spoils = [spoil for measurement in (old, new) for spoil in measurement.spoils if not spoil.arms_only]
    difference, control = None, None
    if any(
        Arm.OFF not in measurement.arms or len(measurement.pairs) < 2 * fewest(confidence) for measurement in (old, new)
    ):
        spoils.append(_too_few(confidence))
    else:
        difference = unpaired(old.costs(Arm.OFF), new.costs(Arm.OFF), confidence)
        control = unpaired(old.controls(Arm.OFF), new.controls(Arm.OFF), confidence)
        spoils += _unattributed(difference, control)
    words = {
        Direction.SAVES: "with the PMU off, the new kernel saves {} cycles per {}",
        Direction.COSTS: "with the PMU off, the new kernel costs {} cycles more per {}",
        Direction.NONE: "with the PMU off, the kernels differ by no more than {} cycles per {}",
    }
    direction, sentence = _said(words, f"{new.exit.title} exit", difference, spoils)
    saving = None
    if new.guard is Verdict.GUARDED and old.guard is Verdict.UNGUARDED:
        saving = _saving(Quantity.KERNELS, direction, difference, new)
    return Conclusion(Quantity.KERNELS, direction, sentence, difference, control, tuple(spoils), saving)


def _comparable(old: Measurement, new: Measurement) -> None:
    differing = {
        "kinds of exit": (old.exit, new.exit),
        "numbers of counters": (old.counters, new.counters),
        "CPUs": (old.host.cpu, new.host.cpu),
        "microcode revisions": (old.host.microcode, new.host.microcode),
        "mitigations": (old.host.mitigations, new.host.mitigations),
    }
    what = [name for name, (one, other) in differing.items() if one != other]
    if what:
        raise PmuconfError(
            f"the runs can't be compared: they have other {' and '.join(what)}",
            cause="runs-differ",
            hint="Take both on one host, the same way, with nothing but the kernel changed in between",
        )


def _unattributed(difference: Difference, control: Difference) -> list[Spoil]:
    allowed = max(1.0, _ATTRIBUTED * abs(difference.whole.estimate))
    if control.direction is Direction.NONE or abs(control.whole.estimate) <= allowed:
        return []
    return [
        Spoil(
            "control-differs",
            f"an exit that the guard does not touch differs by {control.whole.estimate:+.1f} cycles as well, so "
            "something else is at work",
        )
    ]


def _too_few(confidence: float) -> Spoil:
    return Spoil(
        "too-few-pairs", f"too little was measured: a difference takes {2 * fewest(confidence)} pairs of VMs at least"
    )


def _said(
    words: dict[Direction, str], what: str, difference: Difference | None, spoils: Sequence[Spoil]
) -> tuple[Direction | None, str]:
    """The outcome in a sentence."""
    if spoils or difference is None:
        return None, "no conclusion: " + "; ".join(spoil.message for spoil in spoils)
    whole, direction = difference.whole, difference.direction
    if direction is Direction.UNCLEAR:
        return direction, "no conclusion: a part of the run shows a difference that the other part does not show"
    number = _figure(whole.largest) if direction is Direction.NONE else f"{_figure(abs(whole.estimate))} +- "
    share = whole.largest / difference.base if direction is Direction.NONE else abs(difference.share or 0.0)
    if direction is not Direction.NONE:
        number += _figure(whole.margin)
    relative = f" ({100 * share:.1f} %)" if difference.base > 0 else ""
    return direction, words[direction].format(number, what) + relative


def _figure(number: float) -> str:
    return f"{number:.0f}" if number >= 10 else f"{number:.1f}"


def _saving(
    quantity: Quantity, direction: Direction | None, difference: Difference | None, measurement: Measurement
) -> Saving | None:
    if difference is None or direction not in (Direction.SAVES, Direction.NONE):
        return None
    whole = difference.whole
    cycles = whole.estimate if direction is Direction.SAVES else 0.0
    return Saving(cycles, whole.lower, whole.upper, difference.confidence, quantity.value, measurement.exit.value)
