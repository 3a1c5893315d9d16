"""One measurement, whole: what was measured, on which host, under which conditions. As a file, it can be compared."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from pmuconf.bench.conditions import Spoil
from pmuconf.bench.counters import Counts, Fingerprint
from pmuconf.bench.loops import Exit
from pmuconf.bench.measure import Arm, Pair
from pmuconf.errors import PmuconfError
from pmuconf.files.inputs import read_regular
from pmuconf.files.replacing import replace_file
from pmuconf.host.measured import HostKey
from pmuconf.hostfacts import Verdict

__all__ = ["FORMAT", "MAX_PAIRS", "VERSION", "Run", "load", "save"]

FORMAT: Final = "pmuconf-bench-run"
VERSION: Final = 1
MAX_PAIRS: Final = 500
"""What is concluded of more takes too long; 60 are taken unless another number is asked for."""
_MAX: Final = 32 << 20


@dataclass(frozen=True)
class Run:
    """A measurement.

    :param counters: how many the guests' PMU was to have; None: as many as KVM gave.
    :param guard: the verdict on the kernel, as it was then.
    :param at: when, in ISO 8601.
    :param fingerprint: None where it was not asked for.
    """

    exit: Exit
    counters: int | None
    release: str
    host: HostKey
    guard: Verdict
    at: str
    pairs: tuple[Pair, ...]
    spoils: tuple[Spoil, ...] = ()
    notes: tuple[str, ...] = ()
    fingerprint: Fingerprint | None = None

    @property
    def arms(self) -> tuple[Arm, ...]:
        """What was measured: both sides, or one."""
        return tuple(arm for arm in Arm if self.pairs and arm in self.pairs[0].exit)

    def costs(self, arm: Arm) -> list[float]:
        """TSC cycles per exit, pair by pair."""
        return [pair.value(arm) for pair in self.pairs]

    def controls(self, arm: Arm) -> list[float]:
        """TSC cycles per exit of the control, pair by pair."""
        return [pair.control(arm) for pair in self.pairs]


def save(run: Run, path: Path) -> None:
    """Write the run into a file, all or nothing.

    :raises PmuconfError: it can't be written; cause output-unwritable.
    """
    marks = run.fingerprint
    document = {
        "format": FORMAT,
        "version": VERSION,
        "exit": run.exit.value,
        "counters": run.counters,
        "release": run.release,
        "host": asdict(run.host),
        "guard": run.guard.value,
        "at": run.at,
        "pairs": [
            {"exit": _by_arm(pair.exit), "fault": _by_arm(pair.fault), "clock": _short(pair.clock)}
            for pair in run.pairs
        ],
        "spoils": [asdict(spoil) for spoil in run.spoils],
        "notes": list(run.notes),
        "fingerprint": marks
        and {"counts": {arm.value: counts._asdict() for arm, counts in marks.counts.items()}, "missing": marks.missing},
    }
    replace_file(path, json.dumps(document, separators=(",", ":")) + "\n")


def load(path: Path) -> Run:
    """Read a run back.

    :raises PmuconfError: the file can't be read (file-unreadable) or holds no such run (run-broken).
    """
    try:
        data = read_regular(path, _MAX)
    except OSError as error:
        raise PmuconfError(f"{path}: {error.strerror}", cause="file-unreadable") from None
    try:
        document = json.loads(data)
        if not isinstance(document, dict) or document.get("format") != FORMAT:
            raise ValueError(f"it is no {FORMAT} file")
        if document.get("version") != VERSION:
            raise ValueError(f"its version is {document.get('version')!r}, and {VERSION} is read")
        return _run(document)
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError, OverflowError) as error:
        what = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
        hint = "pmuconf bench cpuid --save FILE writes one"
        raise PmuconfError(f"{path}: {what}", cause="run-broken", hint=hint) from None


def _run(document: Mapping[str, Any]) -> Run:
    host, marks = document["host"], document["fingerprint"]
    if len(document["pairs"]) > MAX_PAIRS:
        raise ValueError(f"it has {len(document['pairs'])} pairs, and {MAX_PAIRS} are the most")
    pairs = tuple(
        Pair(_arms(pair["exit"]), _arms(pair["fault"]), _numbers(pair["clock"])) for pair in document["pairs"]
    )
    shapes = {(frozenset(pair.exit), frozenset(pair.fault)) for pair in pairs}
    lengths_differ = any(len({*map(len, pair.exit.values()), *map(len, pair.fault.values())}) != 1 for pair in pairs)
    if len(shapes) != 1 or lengths_differ or not all(values for pair in pairs for values in pair.exit.values()):
        raise ValueError("its pairs are not alike")
    return Run(
        exit=Exit(document["exit"]),
        counters=document["counters"],
        release=str(document["release"]),
        host=HostKey(
            kernel=host["kernel"],
            kvm=host["kvm"],
            cpu=str(host["cpu"]),
            microcode=host["microcode"],
            mitigations=tuple((str(name), str(state)) for name, state in host["mitigations"]),
        ),
        guard=Verdict(document["guard"]),
        at=str(document["at"]),
        pairs=pairs,
        spoils=tuple(
            Spoil(str(one["cause"]), str(one["message"]), one["arms_only"] is True) for one in document["spoils"]
        ),
        notes=tuple(map(str, document["notes"])),
        fingerprint=marks
        and Fingerprint(
            {
                Arm(arm): Counts(**{name: float(value) for name, value in counts.items()})
                for arm, counts in marks["counts"].items()
            },
            str(marks["missing"]),
        ),
    )


def _by_arm(values: Mapping[Arm, tuple[float, ...]]) -> dict[str, list[float]]:
    return {arm.value: _short(numbers) for arm, numbers in values.items()}


def _short(numbers: tuple[float, ...]) -> list[float]:
    return [round(number, 3) for number in numbers]


def _arms(values: Mapping[str, list[float]]) -> dict[Arm, tuple[float, ...]]:
    return {Arm(name): _numbers(numbers) for name, numbers in values.items()}


def _numbers(values: list[float]) -> tuple[float, ...]:
    numbers = tuple(map(float, values))
    if not all(map(math.isfinite, numbers)):  # Python's JSON has NaN and Infinity
        raise ValueError("a cost is no number")
    return numbers
