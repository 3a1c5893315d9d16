"""A measurement with its host and its conditions, and the file that keeps it for a comparison."""

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
"""A conclusion from more pairs takes too long. The default is 60."""
_MAX: Final = 32 << 20


@dataclass(frozen=True)
class Measurement:
    """A measurement.

    :param counters: the number of counters of the guests' PMU; None: as many as KVM gave.
    :param guard: the verdict on the kernel, as it was then.
    :param at: the time, in ISO 8601.
    :param spoils: the reasons why no conclusion can be drawn.
    :param notes: what might have spoilt it, in sentences.
    :param fingerprint: None if nothing was counted.
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
        """The arms that were measured: both, or one."""
        return tuple(arm for arm in Arm if self.pairs and arm in self.pairs[0].exit)

    def costs(self, arm: Arm) -> list[float]:
        """The TSC cycles per exit, pair by pair."""
        return [pair.value(arm) for pair in self.pairs]

    def controls(self, arm: Arm) -> list[float]:
        """The TSC cycles per exit of the control, pair by pair."""
        return [pair.control(arm) for pair in self.pairs]

    def rounds(self, arm: Arm) -> list[float]:
        """The TSC cycles per exit, round by round."""
        return [value for pair in self.pairs for value in pair.exit.get(arm, ())]


def save(measurement: Measurement, path: Path) -> None:
    """Write the measurement into a file, all or nothing.

    :raises PmuconfError: it can't be written; cause output-unwritable.
    """
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
        "fingerprint": measurement.fingerprint and _of_fingerprint(measurement.fingerprint),
    }
    replace_file(path, json.dumps(document, separators=(",", ":")) + "\n")


def load(path: Path) -> Measurement:
    """The measurement in a file.

    :raises PmuconfError: the file can't be read (file-unreadable) or has no measurement (run-broken).
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
    fingerprint = document.opt_object("fingerprint")
    return Measurement(
        exit=document.get_enum("exit", Exit),
        counters=document.opt_int("counters"),
        release=document.get_str("release"),
        host=read_key(document.get_object("host")),
        guard=document.get_enum("guard", Verdict),
        at=document.get_str("at"),
        pairs=_pairs(document),
        spoils=tuple(
            Spoil(spoil.get_str("cause"), spoil.get_str("message"), spoil.get_bool("arms_only"))
            for spoil in document.get_objects("spoils")
        ),
        notes=document.get_strs("notes"),
        fingerprint=None if fingerprint is None else _fingerprint(fingerprint),
    )


def _pairs(document: JsonObject) -> tuple[Pair, ...]:
    """The pairs, one at least: all with the same arms, and each with as many rounds of everything."""
    pairs = tuple(map(_pair, document.get_objects("pairs")))
    if len(pairs) > MAX_PAIRS:
        raise TypedError(f"it has {len(pairs)} pairs, and {MAX_PAIRS} are the most")
    arms = {(frozenset(pair.exit), frozenset(pair.fault)) for pair in pairs}
    if len(arms) != 1 or not all(map(_has_rounds, pairs)):
        raise TypedError("its pairs are not alike")
    return pairs


def _has_rounds(pair: Pair) -> bool:
    rounds = {len(values) for values in (*pair.exit.values(), *pair.fault.values())}
    return len(rounds) == 1 and 0 not in rounds


def _pair(pair: JsonObject) -> Pair:
    return Pair(_arms(pair.get_object("exit")), _arms(pair.get_object("fault")), pair.get_floats("clock"))


def _fingerprint(document: JsonObject) -> Fingerprint:
    counts = document.get_object("counts")
    by_arm = {arm: _counts(counts.get_object(arm.value)) for arm in _arms_of(counts)}
    return Fingerprint(by_arm, document.get_str("missing"))


def _counts(document: JsonObject) -> Counts:
    return Counts(**{name: document.get_float(name) for name in Counts._fields})


def _of_fingerprint(fingerprint: Fingerprint) -> dict[str, object]:
    counts = {arm.value: of_arm._asdict() for arm, of_arm in fingerprint.counts.items()}
    return {"counts": counts, "missing": fingerprint.missing}


def _arms(values: JsonObject) -> dict[Arm, tuple[float, ...]]:
    return {arm: values.get_floats(arm.value) for arm in _arms_of(values)}


def _arms_of(record: JsonObject) -> list[Arm]:
    """The arms in an object, which must have nothing else."""
    record.has_only(*(arm.value for arm in Arm))
    return [arm for arm in Arm if arm.value in record]


def _by_arm(values: Mapping[Arm, tuple[float, ...]]) -> dict[str, list[float]]:
    return {arm.value: _short(numbers) for arm, numbers in values.items()}


def _short(numbers: tuple[float, ...]) -> list[float]:
    return [round(number, 3) for number in numbers]
