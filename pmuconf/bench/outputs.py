"""The files that a conclusion is written into: a picture, and the saving for the report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pmuconf.bench.conclusion import Conclusion
from pmuconf.bench.measure import Arm
from pmuconf.bench.measurement import Measurement
from pmuconf.bench.plot import distributions
from pmuconf.files.replacing import replace_file
from pmuconf.host import measured
from pmuconf.host.root import Root

__all__ = ["Sample", "draw", "keep_saving"]


@dataclass(frozen=True)
class Sample:
    """One side of a comparison, by the name that a picture gives it."""

    name: str
    measurement: Measurement
    arm: Arm


def draw(path: Path, conclusion: Conclusion, samples: Sequence[Sample]) -> str | None:
    """Draw the distributions of the samples into an SVG file: a sentence about it; None if there is nothing to draw.

    :raises PmuconfError: the file can't be written; cause output-unwritable.
    """
    values = [(sample.name, sample.measurement.rounds(sample.arm)) for sample in samples]
    if not values or not all(rounds for _, rounds in values):
        return None
    title = f"{samples[0].measurement.exit.title} exit, {samples[-1].measurement.host.cpu}"
    subtitle = "no conclusion" if conclusion.direction is None else conclusion.sentence
    replace_file(path, distributions(title, values, subtitle))
    return f"the distributions are drawn in {path}"


def keep_saving(conclusion: Conclusion, measurement: Measurement) -> str:
    """Keep the saving for the report, if the conclusion has one for this host as it is now: a sentence about it.

    :raises PmuconfError: as measured.store().
    """
    if conclusion.saving is None:
        return "nothing is kept for the report: that requires a conclusion on a guarded kernel"
    key = measured.host_key(Root())
    if measurement.host != key:
        return "nothing is kept for the report: the measurement is not of this host as it is now"
    measured.store(conclusion.saving, key)
    return f"the report takes {conclusion.saving.cycles:.0f} cycles per exit from now on ({measured.STATE})"
