"""The commands ``pmuconf bench ...``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pmuconf.access import host_modules
from pmuconf.commands.base import Record
from pmuconf.commands.values import number, positive, whole
from pmuconf.errors import PmuconfError
from pmuconf.report.plain import printable

if TYPE_CHECKING:
    from pmuconf.bench.conclusion import Conclusion
    from pmuconf.bench.measurement import Measurement
    from pmuconf.bench.outputs import Sample

__all__ = ["BenchCpuid", "BenchMsr", "BenchPort", "CompareMeasurements"]

_COUNT: Final = whole(1, 1_000_000)
_BRIEF: Final = frozenset(
    (
        *("quantity", "conclusion", "difference", "control_difference", "exit", "release", "guard", "cpu"),
        *("cycles_per_exit", "method"),
    )
)


class _Answer(Record):
    """A long record. Its plain table leaves out what the sentences above it say, and what only programs read."""

    def take_action(self, args: argparse.Namespace) -> tuple[Sequence[str], Sequence[Any]]:
        names, values = super().take_action(args)
        if args.formatter != "table" or args.columns:
            return names, values
        shown = [(name, value) for name, value in zip(names, values) if name in _BRIEF and value not in ("-", "")]
        return [name for name, _ in shown], [value for _, value in shown]


class _Bench(_Answer):
    """Measures one kind of exit."""

    kind: str

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        parser.add_argument(
            "--counters",
            type=number,
            metavar="N",
            help="The number of counters of the guests' PMU: 4 or 6 on AMD, where more counters are more work. The "
            "default is as many as KVM gives.",
        )
        parser.add_argument(
            "--cpu", type=number, metavar="N", help="Measure on this CPU. A CPU that nothing else uses is best."
        )
        parser.add_argument("--save", type=Path, metavar="FILE", help="Keep the measurement, for 'bench compare'.")
        _add_output(parser)
        parser.add_argument(
            "--anyway",
            action="store_true",
            help="Measure even if no conclusion can follow (in a virtual machine, without a constant TSC). The answer "
            "has figures, but no conclusion.",
        )
        extent = parser.add_argument_group("how much is measured")
        extent.add_argument("--seconds", type=positive, default=40.0, metavar="S", help="The default is 40.")
        extent.add_argument(
            "--pairs", type=_pairs, default=60, metavar="N", help="Pairs of VMs, made one after the other. Default: 60."
        )
        extent.add_argument(
            "--rounds", type=_COUNT, metavar="N", help="Rounds per pair. Default: as many as there is time for."
        )
        extent.add_argument("--exits", type=_COUNT, metavar="N", help="Exits per batch. Default: 0.3 ms of them.")
        return parser

    def record(self, args: argparse.Namespace) -> tuple[Sequence[str], dict[str, Any]]:
        with host_modules():
            from pmuconf.bench import document, on_host, words
            from pmuconf.bench.conclusion import between_arms
            from pmuconf.bench.loops import Exit
            from pmuconf.bench.measure import Effort
            from pmuconf.bench.measurement import save
            from pmuconf.bench.outputs import Sample

        effort = Effort(seconds=args.seconds, pairs=args.pairs, rounds=args.rounds, turns=args.exits)
        keep = args.save is not None
        request = on_host.Request(Exit(self.kind), effort, args.counters, args.cpu, keep=keep, anyway=args.anyway)
        with _progress(args.pairs) as progress:
            measurement = on_host.take(request, progress=progress)
        conclusion = between_arms(measurement, args.confidence)
        self.status = conclusion.severity
        sentences = words.of_conclusion(conclusion)
        if keep and measurement.pairs:
            save(measurement, args.save)
            sentences.append(f"the measurement is kept in {args.save}")
        samples = [Sample(f"PMU {arm.value}", measurement, arm) for arm in measurement.arms]
        sentences += _written(args, conclusion, samples, measurement)
        sentences += words.of_fingerprint(measurement)
        return list(map(printable, sentences)), document.of_measurement(conclusion, measurement)


class BenchCpuid(_Bench):
    """Measure what a CPUID exit costs on this host with the PMU on and off, and say what the PMU off saves.

    Two micro-VMs run side by side through /dev/kvm, one of them with its PMU disabled in the kernel. They take turns on
    one CPU, in batches in random order. No image and no compiler is needed, and it takes under a minute. The answer
    is about this kernel: if it is unguarded, the difference may be zero. 'pmuconf bench compare' of two saved
    measurements shows what a guarded kernel saves.

    The difference is given with an interval that holds it with the stated confidence, and only if both halves of the
    measurement show it. There is no conclusion in a virtual machine, without a constant TSC, or if the core's clock
    moved or other work came in. The answer says why (docs/bench.md).

    Requires root or membership of the group kvm. Branches and instructions per exit require the right to perf events.

    Exit status: 0 a conclusion, 1 no conclusion, 2 the PMU off costs more, 255 error.
    """

    kind = "cpuid"

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        way = parser.add_argument_group("measure as others do, to compare figures").add_mutually_exclusive_group()
        way.add_argument(
            "--seed-method",
            dest="method",
            action="store_const",
            const="at_cpu_cpuid",
            help="As at_cpu_cpuid: one loop of CPUID leaf 0x29a in one VM with its PMU on, and in one with it off; the "
            "exits a second of each. No interval, no conclusion. --seconds is for both together.",
        )
        way.add_argument(
            "--vmexit-method",
            dest="method",
            action="store_const",
            const="vmexit",
            help="As the test 'vmexit cpuid' of kvm-unit-tests: the mean of one long loop, in TSC cycles.",
        )
        return parser

    def record(self, args: argparse.Namespace) -> tuple[Sequence[str], dict[str, Any]]:
        return super().record(args) if args.method is None else self._as_others_do(args)

    def _as_others_do(self, args: argparse.Namespace) -> tuple[Sequence[str], dict[str, Any]]:
        """The means of another method.

        :raises PmuconfError: usage, or as peers.compare().
        """
        if args.save or args.plot or args.store:
            raise PmuconfError(
                "--seed-method and --vmexit-method give means without a spread: nothing to save, plot or store",
                cause="usage",
            )
        with host_modules():
            from pmuconf.bench import document, peers, words
        means = peers.compare(peers.Method(args.method), args.seconds, args.cpu, args.counters, anyway=args.anyway)
        self.status = int(bool(means.spoils))
        return list(map(printable, words.of_means(means))), document.of_means(means)


class BenchMsr(_Bench):
    """Measure what an MSR read costs that KVM intercepts, with the PMU on and off. See 'pmuconf bench cpuid --help'.

    Exit status: 0 a conclusion, 1 no conclusion, 2 the PMU off costs more, 255 error.
    """

    kind = "msr"


class BenchPort(_Bench):
    """Measure what a port write costs that KVM handles by itself, with the PMU on and off. See 'bench cpuid --help'.

    KVM ends it in code that the compiler may have inlined: on a partially guarded kernel it may save nothing.

    Exit status: 0 a conclusion, 1 no conclusion, 2 the PMU off costs more, 255 error.
    """

    kind = "port"


class CompareMeasurements(_Answer):
    """Compare what an exit costs with the PMU off in two saved measurements: a kernel before, and after.

    Take both on one host: 'pmuconf bench cpuid --save OLD', boot the other kernel, '--save NEW', compare. A control
    exit, which the guard does not touch, shows other changes between the kernels. If that differs too, no conclusion is
    drawn. Only the files of the measurements are read.

    Exit status: 0 a conclusion, 1 no conclusion, 2 the new kernel costs more, 255 error.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        parser.add_argument("old", type=Path, metavar="OLD", help="The measurement before.")
        parser.add_argument("new", type=Path, metavar="NEW", help="The measurement after.")
        _add_output(parser)
        return parser

    def given(self, args: argparse.Namespace) -> int:
        return len((args.old, args.new))

    def record(self, args: argparse.Namespace) -> tuple[Sequence[str], dict[str, Any]]:
        with host_modules():
            from pmuconf.bench import document, words
            from pmuconf.bench.conclusion import between_measurements
            from pmuconf.bench.measure import Arm
            from pmuconf.bench.measurement import load
            from pmuconf.bench.outputs import Sample

        old, new = load(args.old), load(args.new)
        conclusion = between_measurements(old, new, args.confidence)
        self.status = conclusion.severity
        sentences = words.of_conclusion(conclusion)
        if (old.host.kvm, old.host.kernel) == (new.host.kvm, new.host.kernel):
            sentences.append(
                "both measurements are of the same kernel: they show how much two of them differ by chance"
            )
        samples = [
            Sample(f"before, {old.release}", old, Arm.OFF),
            Sample(f"after, {new.release}", new, Arm.OFF),
        ]
        sentences += _written(args, conclusion, samples, new)
        return list(map(printable, sentences)), document.of_comparison(conclusion, old, new)


def _add_output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--plot", type=Path, metavar="FILE", help="Draw both distributions into an SVG file.")
    parser.add_argument(
        "--store",
        action="store_true",
        help="Keep the saving for the report, which uses it in place of the expected one until kernel, KVM, CPU, "
        "microcode or mitigations change. Only on a guarded kernel, and only if there is a conclusion. Requires root.",
    )
    parser.add_argument(
        "--confidence",
        type=_confidence,
        default=0.999,
        metavar="P",
        help="The probability with which an interval holds the true value, between 0.5 and 1. The default is 0.999.",
    )


def _written(
    args: argparse.Namespace, conclusion: Conclusion, samples: Sequence[Sample], measurement: Measurement
) -> list[str]:
    """Write the files that the options ask for: a sentence about each."""
    from pmuconf.bench.outputs import draw, keep_saving

    sentences = []
    if args.plot is not None:
        drawn = draw(args.plot, conclusion, samples)
        sentences += [] if drawn is None else [drawn]
    if args.store:
        sentences.append(keep_saving(conclusion, measurement))
    return sentences


@contextmanager
def _progress(total: int) -> Iterator[Callable[[], object]]:
    """A function to call after each pair: it moves a bar on standard error if that is a terminal."""
    if not sys.stderr.isatty():
        yield lambda: None
        return
    from tqdm import tqdm

    with tqdm(total=total, desc="measure", unit="pair", leave=False) as bar:
        yield bar.update


def _pairs(text: str) -> int:
    from pmuconf.bench.measurement import MAX_PAIRS

    return whole(1, MAX_PAIRS)(text)


def _confidence(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.5 < value <= 0.999999:
        raise argparse.ArgumentTypeError(f"{text!r:.40} is no number between 0.5 and 0.999999")
    return value
