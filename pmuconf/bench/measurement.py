"""One measurement, whole: what was measured, on which host, under which conditions. As a file, it can be compared."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from pmuconf.bench.conditions import Spoil
from pmuconf.bench.counters import Counts, Fingerprint
from pmuconf.bench.loops import Exit
from pmuconf.bench.measure import Arm, Pair
from pmuconf.errors import PmuconfError
from pmuconf.files.inputs import read_regular
from pmuconf.files.replacing import replace_file
from pmuconf.host.measured import HostKey, read_key
from pmuconf.hostfacts import Verdict
from pmuconf.typed import JsonObject, TypedError, parse_object

__all__ = ["FORMAT", "MAX_PAIRS", "VERSION", "Measurement", "load", "save"]

FORMAT: Final = "pmuconf-bench-run"
VERSION: Final = 1
MAX_PAIRS: Final = 500
"""What is concluded of more takes too long; 60 are taken unless another number is asked for."""
_MAX: Final = 32 << 20


@dataclass(frozen=True)
class Measurement:
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


def save(measurement: Measurement, path: Path) -> None:
    """Write the run into a file, all or nothing.

    :raises PmuconfError: it can't be written; cause output-unwritable.
    """
    marks = measurement.fingerprint
    document = {
        "format": FORMAT,
        "version": VERSION,
        "exit": measurement.exit.value,
        "counters": measurement.counters,
        "release": measurement.release,
        "host": asdict(measurement.host),
        "guard": measurement.guard.value,
        "at": measurement.at,
        "pairs": [
            {"exit": _by_arm(pair.exit), "fault": _by_arm(pair.fault), "clock": _short(pair.clock)}
            for pair in measurement.pairs
        ],
        "spoils": [asdict(spoil) for spoil in measurement.spoils],
        "notes": list(measurement.notes),
        "fingerprint": marks
        and {"counts": {arm.value: counts._asdict() for arm, counts in marks.counts.items()}, "missing": marks.missing},
    }
    replace_file(path, json.dumps(document, separators=(",", ":")) + "\n")


def load(path: Path) -> Measurement:
    """Read a run back.

    :raises PmuconfError: the file can't be read (file-unreadable) or holds no such run (run-broken).
    """
    try:
        data = read_regular(path, _MAX)
    except OSError as error:
        raise PmuconfError(f"{path}: {error.strerror}", cause="file-unreadable") from None
    try:
        document = parse_object(data)
        if "format" not in document or document.get_str("format") != FORMAT:
            raise TypedError(f"it is no {FORMAT} file")
        if document.get_int("version") != VERSION:
            raise TypedError(f"its version is {document.get_int('version')}, and {VERSION} is read")
        return _measurement(document)
    except TypedError as error:
        hint = "pmuconf bench cpuid --save FILE writes one"
        raise PmuconfError(f"{path}: {error}", cause="run-broken", hint=hint) from None


def _measurement(document: JsonObject) -> Measurement:
    pairs = tuple(map(_pair, document.get_objects("pairs")))
    if len(pairs) > MAX_PAIRS:
        raise TypedError(f"it has {len(pairs)} pairs, and {MAX_PAIRS} are the most")
    shapes = {(frozenset(pair.exit), frozenset(pair.fault)) for pair in pairs}
    lengths_differ = any(len({*map(len, pair.exit.values()), *map(len, pair.fault.values())}) != 1 for pair in pairs)
    if len(shapes) != 1 or lengths_differ or not all(values for pair in pairs for values in pair.exit.values()):
        raise TypedError("its pairs are not alike")
    marks = document.opt_object("fingerprint")
    return Measurement(
        exit=document.get_enum("exit", Exit),
        counters=document.opt_int("counters"),
        release=document.get_str("release"),
        host=read_key(document.get_object("host")),
        guard=document.get_enum("guard", Verdict),
        at=document.get_str("at"),
        pairs=pairs,
        spoils=tuple(
            Spoil(spoil.get_str("cause"), spoil.get_str("message"), spoil.get_bool("arms_only"))
            for spoil in document.get_objects("spoils")
        ),
        notes=document.get_strs("notes"),
        fingerprint=None if marks is None else _fingerprint(marks),
    )


def _pair(pair: JsonObject) -> Pair:
    return Pair(_arms(pair.get_object("exit")), _arms(pair.get_object("fault")), pair.get_floats("clock"))


def _fingerprint(marks: JsonObject) -> Fingerprint:
    counts = marks.get_object("counts")
    by_arm = {
        arm: Counts(**{name: counts.get_object(arm.value).get_float(name) for name in Counts._fields})
        for arm in _arms_of(counts)
    }
    return Fingerprint(by_arm, marks.get_str("missing"))


def _arms(values: JsonObject) -> dict[Arm, tuple[float, ...]]:
    return {arm: values.get_floats(arm.value) for arm in _arms_of(values)}


def _arms_of(record: JsonObject) -> list[Arm]:
    """The arms that an object has, which has nothing else."""
    record.has_only(*(arm.value for arm in Arm))
    return [arm for arm in Arm if arm.value in record]


def _by_arm(values: Mapping[Arm, tuple[float, ...]]) -> dict[str, list[float]]:
    return {arm.value: _short(numbers) for arm, numbers in values.items()}


def _short(numbers: tuple[float, ...]) -> list[float]:
    return [round(number, 3) for number in numbers]
