"""The conclusion from one measurement, or from two. Pure.

There are two quantities, and neither may be taken for the other:

PMU on against off, on one kernel: what a VM without a PMU saves there. On an unguarded 6.1 and AMD that is nothing.
Kernel before against after, both with the PMU off: what a new kernel, such as one with the guard, saves such VMs.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
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
    """The two sides that are compared."""

    ARMS = "pmu-on-against-off"
    KERNELS = "kernel-before-against-after"


@dataclass(frozen=True)
class Conclusion:
    """The answer.

    :param direction: None: no conclusion is drawn, and ``spoils`` say why. The differences are still what was measured.
    :param difference: of the exit; None if there is nothing to compare, or too little.
    :param control: the difference of the exit that the guard does not touch.
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
        """The exit status: 0 a conclusion, 1 none, 2 the side that should be cheaper costs more."""
        if self.direction is None or self.direction is Direction.UNCLEAR:
            return 1
        return 2 if self.direction is Direction.COSTS else 0


_ATTRIBUTED: Final = 0.25
"""The control may differ by this share of the difference, or by a cycle. If it differs by more, the guard is not the
only cause."""

_ARMS: Final = {
    Direction.SAVES: "on this kernel PMU off saves {} cycles per {} exit",
    Direction.COSTS: "on this kernel PMU off costs {} cycles more per {} exit",
    Direction.NONE: "on this kernel PMU off makes no difference larger than {} cycles per {} exit",
}
_KERNELS: Final = {
    Direction.SAVES: "with the PMU off, the new kernel saves {} cycles per {} exit",
    Direction.COSTS: "with the PMU off, the new kernel costs {} cycles more per {} exit",
    Direction.NONE: "with the PMU off, the kernels differ by no more than {} cycles per {} exit",
}


def between_arms(measurement: Measurement, confidence: float = CONFIDENCE) -> Conclusion:
    """The conclusion about PMU on against off, on the kernel of the measurement."""
    spoils, difference, control = list(measurement.spoils), None, None
    if set(measurement.arms) == set(Arm) and _is_enough(measurement, confidence):
        exits = [pair.difference() for pair in measurement.pairs]
        controls = [pair.control_difference() for pair in measurement.pairs]
        difference = paired(exits, median(measurement.costs(Arm.ON)), confidence)
        control = paired(controls, median(measurement.controls(Arm.ON)), confidence)
        spoils += _unattributed(difference, control)
    elif not spoils:
        spoils.append(_too_few(confidence))
    direction = _direction(difference, spoils)
    sentence = _sentence(_ARMS, measurement.exit.title, difference, spoils)
    saving = None
    if measurement.guard is Verdict.GUARDED:
        saving = _saving(Quantity.ARMS, direction, difference, measurement)
    return Conclusion(Quantity.ARMS, direction, sentence, difference, control, tuple(spoils), saving)


def between_measurements(old: Measurement, new: Measurement, confidence: float = CONFIDENCE) -> Conclusion:
    """The conclusion about a kernel before against after, both with the PMU off.

    :raises PmuconfError: they are of different CPUs, mitigations, exits or counters, so that more than the kernel
        differs; cause runs-differ.
    """
    _refuse_others(old, new)
    both = (old, new)
    spoils = [spoil for measurement in both for spoil in measurement.spoils if not spoil.arms_only]
    difference, control = None, None
    if all(Arm.OFF in measurement.arms and _is_enough(measurement, confidence) for measurement in both):
        difference = unpaired(old.costs(Arm.OFF), new.costs(Arm.OFF), confidence)
        control = unpaired(old.controls(Arm.OFF), new.controls(Arm.OFF), confidence)
        spoils += _unattributed(difference, control)
    else:
        spoils.append(_too_few(confidence))
    direction = _direction(difference, spoils)
    sentence = _sentence(_KERNELS, new.exit.title, difference, spoils)
    saving = None
    if new.guard is Verdict.GUARDED and old.guard is Verdict.UNGUARDED:
        saving = _saving(Quantity.KERNELS, direction, difference, new)
    return Conclusion(Quantity.KERNELS, direction, sentence, difference, control, tuple(spoils), saving)


def _refuse_others(old: Measurement, new: Measurement) -> None:
    """Refuse two measurements in which more than the kernel differs."""
    before_and_after = {
        "kinds of exit": (old.exit, new.exit),
        "numbers of counters": (old.counters, new.counters),
        "CPUs": (old.host.cpu, new.host.cpu),
        "microcode revisions": (old.host.microcode, new.host.microcode),
        "mitigations": (old.host.mitigations, new.host.mitigations),
    }
    differing = [name for name, (before, after) in before_and_after.items() if before != after]
    if differing:
        raise PmuconfError(
            f"the measurements can't be compared: they have other {' and '.join(differing)}",
            cause="runs-differ",
            hint="Take both on one host, the same way, and change nothing but the kernel in between",
        )


def _is_enough(measurement: Measurement, confidence: float) -> bool:
    return len(measurement.pairs) >= 2 * fewest(confidence)


def _too_few(confidence: float) -> Spoil:
    pairs = 2 * fewest(confidence)
    return Spoil("too-few-pairs", f"too little was measured: a difference requires at least {pairs} pairs of VMs")


def _unattributed(difference: Difference, control: Difference) -> list[Spoil]:
    """A spoil if the control differs too, so that the difference can't be the guard's alone."""
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


def _direction(difference: Difference | None, spoils: Sequence[Spoil]) -> Direction | None:
    return None if spoils or difference is None else difference.direction


def _sentence(
    forms: Mapping[Direction, str], exit_name: str, difference: Difference | None, spoils: Sequence[Spoil]
) -> str:
    """The conclusion for a person."""
    if spoils or difference is None:
        return "no conclusion: " + "; ".join(spoil.message for spoil in spoils)
    if difference.direction is Direction.UNCLEAR:
        return "no conclusion: a part of the measurement shows a difference that the other part does not show"
    whole = difference.whole
    if difference.direction is Direction.NONE:
        figure, share = _figure(whole.largest), whole.largest / difference.base if difference.base > 0 else None
    else:
        figure, share = f"{_figure(abs(whole.estimate))} +- {_figure(whole.margin)}", difference.share
    percent = "" if share is None else f" ({100 * abs(share):.1f} %)"
    return forms[difference.direction].format(figure, exit_name) + percent


def _figure(number: float) -> str:
    return f"{number:.0f}" if number >= 10 else f"{number:.1f}"


def _saving(
    quantity: Quantity, direction: Direction | None, difference: Difference | None, measurement: Measurement
) -> Saving | None:
    """The saving that this difference shows; None if it shows none. "No difference" is a saving of 0."""
    if difference is None or direction not in (Direction.SAVES, Direction.NONE):
        return None
    whole = difference.whole
    cycles = whole.estimate if direction is Direction.SAVES else 0.0
    return Saving(cycles, whole.lower, whole.upper, difference.confidence, quantity.value, measurement.exit.value)
