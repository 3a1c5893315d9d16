"""pmuconf bench on the command line: the answer, the record, the exit status, the files."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from lxml import etree

from pmuconf.bench.conditions import Spoil
from pmuconf.bench.counters import Counts, Fingerprint
from pmuconf.bench.loops import Exit
from pmuconf.bench.measure import Arm, Effort
from pmuconf.bench.measurement import Measurement, load, save
from pmuconf.bench.on_host import Request
from pmuconf.host import measured
from pmuconf.host.measured import Saving
from pmuconf.hostfacts import Verdict
from tests.unit.bench.fake import KEY, measurement_of
from tests.unit.conftest import Run

NESTED = Spoil("nested", "this host is itself a virtual machine")


class Takes:
    """Stands in for taking a measurement: gives this one, and keeps the request."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, measurement: Measurement) -> None:
        self.request: Request | None = None
        self.measurement = measurement
        monkeypatch.setattr("pmuconf.bench.on_host.take", self)

    def __call__(self, request: Request, *, progress: Callable[[], object]) -> Measurement:
        progress()
        self.request = request
        return self.measurement


def test_the_answer_comes_first(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    Takes(monkeypatch, measurement_of(2157, 2100))
    said = run("bench", "cpuid")
    assert (said.status, said.err) == (0, "")
    assert said.out.startswith("on this kernel PMU off saves 57 +- ")
    assert "mitigations" not in said.out  # of the plain table


def test_the_record(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = {Arm.ON: Counts(2776, 500, 2.25), Arm.OFF: Counts(2549, 460, 1)}
    Takes(monkeypatch, replace(measurement_of(2157, 2100), fingerprint=Fingerprint(counts)))
    said = json.loads(run("bench", "cpuid", "-f", "json").out)
    assert (said["quantity"], said["conclusion"], said["spoilt_by"]) == ("pmu-on-against-off", "saves", {})
    assert said["difference"]["lower"] <= said["difference"]["cycles"] <= said["difference"]["upper"]
    assert said["difference"]["confidence"] == 0.999
    assert said["control_difference"]["percent"] == pytest.approx(0, abs=0.1)
    assert said["cycles_per_exit"]["off"]["median"] == pytest.approx(2100, abs=1)
    assert (said["cycles_per_exit"]["on"]["pairs"], said["cycles_per_exit"]["on"]["rounds"]) == (24, 120)
    assert said["fingerprint"]["counts_per_exit"]["on"] == {
        **{"instructions": 2776, "branches": 500, "branch_misses": 2.25}
    }
    assert (said["guard"], said["kvm_build_id"], said["mitigations"]) == (
        "guarded",
        KEY.kvm,
        {"retbleed": "Mitigation"},
    )


def test_the_fingerprint_in_words(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    takes = Takes(
        monkeypatch, replace(measurement_of(2157, 2100), fingerprint=Fingerprint({Arm.ON: Counts(2776, 500, 2.25)}))
    )
    out = run("bench", "cpuid").out
    assert "PMU on: 2776 instructions, 500 branches, 2.25 branch misses per exit in the host kernel\n" in out
    assert "mitigations: retbleed: Mitigation\n" in out
    takes.measurement = replace(
        takes.measurement, fingerprint=Fingerprint({}, "this host gives no hardware counters (counters-missing)")
    )
    out = run("bench", "cpuid").out
    assert (
        "instructions and branches per exit are not known: this host gives no hardware counters (counters-missing)\n"
        in out
    )


@pytest.mark.parametrize("pairs", [0, 24])
def test_no_conclusion(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, pairs: int) -> None:
    taken = replace(measurement_of(2157, 2100, pairs=pairs), spoils=(NESTED,))
    Takes(monkeypatch, taken)
    said = run("bench", "cpuid", "--plot", tmp_path / "plot", "--save", tmp_path / "run")
    assert said.status == 1
    assert said.out.startswith("no conclusion: this host is itself a virtual machine\n")
    assert ("measured was 57." in said.out or "measured was 56." in said.out) is bool(pairs)
    assert (tmp_path / "plot").exists() is (tmp_path / "run").exists() is bool(pairs)
    record = json.loads(run("bench", "cpuid", "-f", "json").out)
    assert (record["conclusion"], record["spoilt_by"]) == (None, {"nested": NESTED.message})
    assert (record["difference"] is None) is not bool(pairs)


def test_dearer_is_a_finding(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    Takes(monkeypatch, measurement_of(2000, 2100))
    assert run("bench", "cpuid").status == 2


@pytest.mark.parametrize("kind", Exit)
def test_what_is_asked_for(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: Exit) -> None:
    takes = Takes(monkeypatch, replace(measurement_of(2157, 2100), exit=kind))
    assert run("bench", kind.value).status == 0
    assert takes.request == Request(kind, Effort(seconds=40, pairs=60, rounds=None, turns=None))
    numbers = {"seconds": 2, "pairs": 30, "rounds": 5, "exits": 9, "counters": 4, "cpu": 1, "confidence": 0.9}
    options = [word for name, value in numbers.items() for word in (f"--{name}", value)]
    said = run("bench", kind.value, *options, "--anyway", "--save", tmp_path / "x", "-f", "json")
    effort = Effort(seconds=2, pairs=30, rounds=5, turns=9)
    assert takes.request == Request(kind, effort, counters=4, cpu=1, keep=True, anyway=True)
    assert json.loads(said.out)["difference"]["confidence"] == 0.9
    assert load(tmp_path / "x").exit is kind


@pytest.mark.parametrize(
    "options",
    ["--seconds 0", "--seconds nan", "--pairs 0", "--rounds x", "--confidence 1", "--confidence 0.4", "--exits -1"],
)
def test_usage(run: Run, monkeypatch: pytest.MonkeyPatch, options: str) -> None:
    takes = Takes(monkeypatch, measurement_of(1, 1))
    assert run("bench", "cpuid", *options.split()).status == 255
    assert takes.request is None


def test_compare(run: Run, tmp_path: Path) -> None:
    old, new, plot = (tmp_path / name for name in ("old", "new", "plot.svg"))
    save(measurement_of(None, 2776, guard=Verdict.UNGUARDED, host=replace(KEY, kvm="o" * 40)), old)
    save(measurement_of(None, 2549), new)
    said = run("bench", "compare", old, new, "--plot", plot)
    assert said.status == 0
    assert said.out.startswith("with the PMU off, the new kernel saves 227 +- ")
    assert "same kernel" not in said.out
    assert etree.QName(etree.parse(str(plot)).getroot()).localname == "svg"
    record = json.loads(run("bench", "compare", old, new, "-f", "json").out)
    assert (record["quantity"], record["conclusion"]) == ("kernel-before-against-after", "saves")
    assert (record["old"]["guard"], record["new"]["guard"]) == ("unguarded", "guarded")
    assert round(record["cycles_per_exit"]["old"]["off"]["median"]) == 2776
    assert run("bench", "compare", new, old).status == 2
    assert "both measurements are of the same kernel" in run("bench", "compare", new, new).out
    assert run("bench", "compare", old, tmp_path / "none").status == 255


@pytest.fixture
def state(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Saving]:
    """What was stored for the report, on a host with the key of the fakes."""
    stored: list[Saving] = []
    monkeypatch.setattr(measured, "host_key", lambda root: KEY)
    monkeypatch.setattr(measured, "store", lambda saving, key: stored.append(saving))
    return stored


def test_store_one_kernel(run: Run, monkeypatch: pytest.MonkeyPatch, state: list[Saving]) -> None:
    takes = Takes(monkeypatch, measurement_of(2157, 2100))
    assert run("bench", "cpuid").status == 0
    assert state == []
    assert "the report takes 57 cycles per exit from now on" in run("bench", "cpuid", "--store").out
    assert [round(saving.cycles) for saving in state] == [57]
    for unfit in (measurement_of(2157, 2100, guard=Verdict.UNGUARDED), replace(takes.measurement, spoils=(NESTED,))):
        takes.measurement = unfit
        assert "nothing is kept for the report: that requires a conclusion" in run("bench", "cpuid", "--store").out
    assert len(state) == 1


def test_store_two_kernels(run: Run, tmp_path: Path, state: list[Saving]) -> None:
    old, new, elsewhere = (tmp_path / name for name in ("old", "new", "elsewhere"))
    save(measurement_of(None, 2776, guard=Verdict.UNGUARDED), old)
    save(measurement_of(None, 2549), new)
    save(measurement_of(None, 2549, host=replace(KEY, kvm="x" * 40)), elsewhere)
    assert "not of this host as it is now" in run("bench", "compare", old, elsewhere, "--store").out
    assert state == []
    assert "the report takes 227 cycles" in run("bench", "compare", old, new, "--store").out
    assert [saving.quantity for saving in state] == ["kernel-before-against-after"]


@pytest.mark.parametrize("command", ["cpuid", "msr", "port", "compare"])
def test_the_help_tells_the_statuses(run: Run, command: str) -> None:
    said = run("bench", command, "--help")
    assert said.status == 0
    assert "Exit status: 0 a conclusion, 1 no conclusion, 2 " in said.out
