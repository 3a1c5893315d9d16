"""pmuconf bench"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pmuconf.commands.base import Record, number
from pmuconf.errors import PmuconfError
from pmuconf.files.replacing import replace_file
from pmuconf.report.plain import printable

if TYPE_CHECKING:
    from pmuconf.bench.conclusion import Conclusion
    from pmuconf.bench.difference import Difference
    from pmuconf.bench.measurement import Measurement

__all__ = ["BenchCpuid", "BenchMsr", "BenchPort", "CompareMeasurements"]


class _Answer(Record):
    """A long record: its plain table leaves out what the sentences above it say, and what only programs read."""

    def take_action(self, args: argparse.Namespace) -> tuple[Sequence[str], Sequence[Any]]:
        names, values = super().take_action(args)
        if args.formatter != "table" or args.columns:
            return names, values
        kept = [(name, value) for name, value in zip(names, values) if name in _BRIEF and value not in ("-", "")]
        return [name for name, _ in kept], [value for _, value in kept]


_BRIEF: Final = frozenset(
    ("quantity", "conclusion", "difference", "control_difference", "exit", "release", "guard", "cpu", "cycles_per_exit")
)


class _Bench(_Answer):
    """Measures one kind of exit."""

    kind: str

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        parser.add_argument(
            "--counters",
            type=number,
            metavar="N",
            help="How many counters the guests' PMU is to have: 4 or 6 on AMD, whose work grows with them. Default: as "
            "many as KVM gives.",
        )
        parser.add_argument(
            "--cpu", type=number, metavar="N", help="Measure on this CPU; one that nothing else uses is best."
        )
        parser.add_argument("--save", type=Path, metavar="FILE", help="Keep the whole run, for 'bench compare'.")
        _add_output(parser)
        parser.add_argument(
            "--anyway",
            action="store_true",
            help="Measure where nothing can follow from it (in a virtual machine, without a constant TSC): figures, "
            "but no conclusion.",
        )
        much = parser.add_argument_group("how much is measured")
        much.add_argument("--seconds", type=_positive, default=40.0, metavar="S", help="Default: 40.")
        much.add_argument(
            "--pairs", type=_pairs, default=60, metavar="N", help="Pairs of VMs, made one after the other. 60."
        )
        much.add_argument(
            "--rounds", type=_count, metavar="N", help="Per pair, instead of as many as there is time for."
        )
        much.add_argument("--exits", type=_count, metavar="N", help="Per batch, instead of as many as take 0.3 ms.")
        return parser

    def record(self, args: argparse.Namespace) -> tuple[Sequence[str], dict[str, Any]]:
        with _host_modules():
            from pmuconf.bench.conclusion import between_arms
            from pmuconf.bench.loops import Exit
            from pmuconf.bench.measure import Effort
            from pmuconf.bench.measurement import save
            from pmuconf.bench.on_host import take

        effort = Effort(seconds=args.seconds, pairs=args.pairs, rounds=args.rounds, turns=args.exits)
        with _progress(args.pairs) as progress:
            measurement = take(
                Exit(self.kind),
                effort,
                counters=args.counters,
                cpu=args.cpu,
                keep=args.save is not None,
                anyway=args.anyway,
                progress=progress,
            )
        conclusion = between_arms(measurement, args.confidence)
        sentences = _sentences(conclusion)
        if args.save is not None and measurement.pairs:
            save(measurement, args.save)
            sentences.append(f"the run is kept in {args.save}")
        sentences += _written(args, conclusion, [(f"PMU {arm.value}", measurement, arm) for arm in measurement.arms])
        self.status = conclusion.severity
        marks = _fingerprint(measurement)
        sentences += marks[0]
        return [printable(line) for line in sentences], {
            **_conclusion(conclusion),
            **_subject(measurement),
            "cycles_per_exit": _costs(measurement),
            "fingerprint": marks[1],
            "notes": list(measurement.notes),
        }


class BenchCpuid(_Bench):
    """Measure what a CPUID exit costs on this host with the PMU on and off, and say what the PMU off saves.

    Two micro-VMs side by side through /dev/kvm, one with its PMU disabled in the kernel, in batches in random order on
    one CPU; no image, no compiler, under a minute. This is one kernel: on an unguarded one the difference may be
    nothing, and what a guarded one would save shows by 'pmuconf bench compare' of two saved runs.

    The difference is given with an interval that holds it with the stated confidence, and only if both halves of the
    run show it. In a virtual machine, without a constant TSC, where the core's clock moved or other work came in, there
    is no conclusion, and the answer says why (docs/bench.md).

    Takes root or membership of the group kvm; branches and instructions per exit take the right to perf events.

    Exit status: 0 a conclusion, 1 no conclusion, 2 the PMU off costs more, 255 error.
    """

    kind = "cpuid"


class BenchMsr(_Bench):
    """Measure what an MSR read costs that KVM intercepts, with the PMU on and off. See 'pmuconf bench cpuid --help'.

    Exit status: 0 a conclusion, 1 no conclusion, 2 the PMU off costs more, 255 error.
    """

    kind = "msr"


class BenchPort(_Bench):
    """Measure what a port write costs that KVM handles by itself, with the PMU on and off. See 'bench cpuid --help'.

    KVM ends it in code that the compiler may have inlined: on a kernel that is guarded in part it may save nothing.

    Exit status: 0 a conclusion, 1 no conclusion, 2 the PMU off costs more, 255 error.
    """

    kind = "port"


class CompareMeasurements(_Answer):
    """Compare what an exit costs with the PMU off in two saved runs: a kernel before, and after.

    Both of the same host: 'pmuconf bench cpuid --save OLD', boot the other kernel, '--save NEW', compare. What other
    changes between the kernels do is seen by a control exit that the guard does not touch; where that differs too, no
    conclusion is drawn. Only the runs' files are read.

    Exit status: 0 a conclusion, 1 no conclusion, 2 the new kernel costs more, 255 error.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        parser.add_argument("old", type=Path, metavar="OLD", help="The run before.")
        parser.add_argument("new", type=Path, metavar="NEW", help="The run after.")
        _add_output(parser)
        return parser

    def given(self, args: argparse.Namespace) -> int:
        return 2

    def record(self, args: argparse.Namespace) -> tuple[Sequence[str], dict[str, Any]]:
        with _host_modules():
            from pmuconf.bench.conclusion import between_measurements
            from pmuconf.bench.measure import Arm
            from pmuconf.bench.measurement import load

        old, new = load(args.old), load(args.new)
        conclusion = between_measurements(old, new, args.confidence)
        sentences = _sentences(conclusion)
        if old.host.kvm == new.host.kvm and old.host.kernel == new.host.kernel:
            sentences.append("both runs are of the same kernel: this shows how well a run repeats itself")
        sentences += _written(
            args, conclusion, [(f"before, {old.release}", old, Arm.OFF), (f"after, {new.release}", new, Arm.OFF)], new
        )
        self.status = conclusion.severity
        return [printable(line) for line in sentences], {
            **_conclusion(conclusion),
            "cycles_per_exit": {"old": _costs(old), "new": _costs(new)},
            "old": _subject(old),
            "new": _subject(new),
        }


def _add_output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--plot", type=Path, metavar="FILE", help="Draw both distributions into an SVG file.")
    parser.add_argument(
        "--store",
        action="store_true",
        help="Keep the saving for the report, which takes it for the expected one until kernel, KVM, CPU, microcode or "
        "mitigations change. Only on a guarded kernel, and only if there is a conclusion. Takes root.",
    )
    parser.add_argument(
        "--confidence",
        type=_confidence,
        default=0.999,
        metavar="P",
        help="How often an interval holds the true value: 0.999, or another between 0.5 and 1.",
    )


@contextmanager
def _host_modules() -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise PmuconfError(
            f"{error.name} can't be loaded",
            cause="host-missing",
            hint="Install it with 'pip install pmuconf[host]'",
        ) from None


@contextmanager
def _progress(total: int) -> Iterator[Callable[[int], None]]:
    """A bar on standard error if that is a terminal."""
    if not sys.stderr.isatty():
        yield lambda pair: None
        return
    from tqdm import tqdm

    with tqdm(total=total, desc="measure", unit="pair", leave=False) as bar:

        def step(pair: int) -> None:
            bar.update(1)

        yield step


def _written(
    args: argparse.Namespace,
    conclusion: Conclusion,
    samples: list[tuple[str, Measurement, Any]],
    measured: Measurement | None = None,
) -> list[str]:
    """Write what the options ask for; what was done, in sentences."""
    from pmuconf.bench.plot import distributions
    from pmuconf.host import measured as state
    from pmuconf.host.root import Root

    said = []
    taken = [
        (name, [value for pair in measurement.pairs for value in pair.exit.get(arm, ())])
        for name, measurement, arm in samples
    ]
    if args.plot is not None and taken and all(values for _, values in taken):
        title = f"{samples[0][1].exit.title} exit, {samples[-1][1].host.cpu}"
        subtitle = "no conclusion" if conclusion.direction is None else conclusion.sentence
        replace_file(args.plot, distributions(title, taken, subtitle))
        said.append(f"the distributions are drawn in {args.plot}")
    if args.store:
        measurement = measured or (samples[0][1] if samples else None)
        key = state.host_key(Root())
        if conclusion.saving is None or measurement is None:
            said.append("nothing is kept for the report: that takes a conclusion on a guarded kernel")
        elif measurement.host != key:
            said.append("nothing is kept for the report: the run is not of this host as it is now")
        else:
            state.store(conclusion.saving, key)
            said.append(f"the report takes {conclusion.saving.cycles:.0f} cycles per exit from now on ({state.STATE})")
    return said


def _sentences(conclusion: Conclusion) -> list[str]:
    """The answer for a person: a line for each reason if there is no conclusion, and what was measured all the same."""
    if not conclusion.spoils:
        return [conclusion.sentence]
    lines = [f"no conclusion: {spoil.message}" for spoil in conclusion.spoils]
    if conclusion.difference is not None:
        whole = conclusion.difference.whole
        lines.append(f"measured was {whole.estimate:.1f} ({whole.lower:.1f} to {whole.upper:.1f}) cycles per exit")
    return lines


def _conclusion(conclusion: Conclusion) -> dict[str, Any]:
    return {
        "quantity": conclusion.quantity.value,
        "conclusion": conclusion.direction and conclusion.direction.value,
        "message": conclusion.sentence,
        "spoilt_by": {spoil.cause: spoil.message for spoil in conclusion.spoils},
        "difference": _difference(conclusion.difference),
        "control_difference": _difference(conclusion.control),
    }


def _difference(difference: Difference | None) -> dict[str, Any] | None:
    if difference is None:
        return None
    whole, share = difference.whole, difference.share
    return {
        "cycles": round(whole.estimate, 2),
        "lower": round(whole.lower, 2),
        "upper": round(whole.upper, 2),
        "confidence": difference.confidence,
        "percent": None if share is None else round(100 * share, 2),
    }


def _subject(measurement: Measurement) -> dict[str, Any]:
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


def _costs(measurement: Measurement) -> dict[str, Any]:
    from statistics import median

    from pmuconf.bench.difference import mad

    return {
        arm.value: {
            "median": round(median(measurement.costs(arm)), 2),
            "mad": round(mad(measurement.costs(arm)), 2),
            "control_median": round(median(measurement.controls(arm)), 2),
            "pairs": len(measurement.pairs),
            "rounds": sum(len(pair.exit[arm]) for pair in measurement.pairs),
        }
        for arm in measurement.arms
    }


_TOLD: Final = ("spectre_v2", "retbleed", "spec_rstack_overflow", "indirect_target_selection")


def _fingerprint(measurement: Measurement) -> tuple[list[str], dict[str, Any] | None]:
    """Counts per exit and the mitigations that make calls and returns dear, for a person and as a record."""
    marks = measurement.fingerprint
    if marks is None:
        return [], None
    counts = {
        arm.value: {name: round(value, 2) for name, value in one._asdict().items()} for arm, one in marks.counts.items()
    }
    record = {"counts_per_exit": counts, "missing": marks.missing or None}
    if marks.missing:
        return [f"instructions and branches per exit are not known: {marks.missing}"], record
    lines = [
        f"PMU {arm}: {one['instructions']:.0f} instructions, {one['branches']:.0f} branches, "
        f"{one['branch_misses']:.2f} branch misses per exit in the host kernel"
        for arm, one in counts.items()
    ]
    states = dict(measurement.host.mitigations)
    lines.append("mitigations: " + "; ".join(f"{name}: {states[name]}" for name in _TOLD if name in states))
    return lines, record


def _positive(text: str) -> float:
    number = float(text)
    if not (math.isfinite(number) and number > 0):
        raise argparse.ArgumentTypeError(f"{text} is not more than 0")
    return number


def _count(text: str) -> int:
    number = int(text)
    if not 1 <= number <= 1_000_000:
        raise argparse.ArgumentTypeError(f"{text} is not from 1 to 1000000")
    return number


def _pairs(text: str) -> int:
    from pmuconf.bench.measurement import MAX_PAIRS

    if _count(text) > MAX_PAIRS:
        raise argparse.ArgumentTypeError(f"{text} is not from 1 to {MAX_PAIRS}")
    return _count(text)


def _confidence(text: str) -> float:
    number = float(text)
    if not 0.5 < number <= 0.999999:
        raise argparse.ArgumentTypeError(f"{text} is not between 0.5 and 0.999999")
    return number
