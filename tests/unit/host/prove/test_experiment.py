"""The verdict beside the experiment, which is made once for each boot, load of KVM and verdict: both must agree."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pmuconf.errors import PmuconfError
from pmuconf.host.identity import Identity
from pmuconf.host.prove import experiment
from pmuconf.host.prove.experiment import FILE, with_experiment
from pmuconf.host.prove.guard import EXITS, Proof
from pmuconf.host.root import Root
from pmuconf.hostfacts import Evidence, GuardFinding, Verdict

GUARDED = GuardFinding(Verdict.GUARDED, "guard-in-caller", "it asks", Evidence.OBSERVED, "live text")
HOST = Identity("boot", "cafe", ("lp 1 0",), {"kvm.enable_pmu": "Y"}, {"kvm": "77 cafe"})
OTHERS = (
    replace(HOST, boot_id="another"),
    replace(HOST, kvm_build_id="beef"),
    replace(HOST, livepatches=("lp 0 0",)),
    replace(HOST, parameters={"kvm.enable_pmu": "N"}),
    replace(HOST, loads={"kvm": "78 cafe"}),
)


class Made:
    """How often the experiment was made, and how it ends."""

    def __init__(self, outcome: Callable[[], int]) -> None:
        self.times = 0
        self.outcome = outcome

    def prove(self, finding: GuardFinding) -> Proof:
        self.times += 1
        return Proof(EXITS, self.outcome(), "kvm_pmu_trigger_event", None)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], int]], Made]:
    def ending(outcome: Callable[[], int]) -> Made:
        one = Made(outcome)
        monkeypatch.setattr(experiment, "prove", one.prove)
        return one

    return ending


def impossible() -> int:
    raise PmuconfError("the calls can't be counted: no kprobes", cause="prove-impossible")


Making = Callable[[Callable[[], int]], Made]


def test_where_both_agree_the_verdict_stands_and_says_so(tmp_path: Path, made: Making) -> None:
    made(lambda: 0)
    found = with_experiment(Root(tmp_path), HOST, GUARDED, make=True)
    assert replace(found, notes=()) == GUARDED
    (note,) = found.notes
    assert note.startswith("an experiment: kvm_pmu_trigger_event was called 0 times")
    assert note.endswith("as the code says")


def test_where_they_do_not_the_verdict_is_unknown_and_names_both(tmp_path: Path, made: Making) -> None:
    made(lambda: 201)
    found = with_experiment(Root(tmp_path), HOST, GUARDED, make=True)
    assert (found.verdict, found.cause, found.evidence) == (Verdict.UNKNOWN, "proof-disagrees", Evidence.NONE)
    assert found.message == (
        "the code says guarded (guard-in-caller), but kvm_pmu_trigger_event was called 201 times in 200 CPUID "
        "exits and one HLT"
    )
    assert "pmuconf host record" in found.remedy


def test_it_is_made_once_and_all_others_give_the_same_answer(tmp_path: Path, made: Making) -> None:
    one = made(lambda: 201)
    first = with_experiment(Root(tmp_path), HOST, GUARDED, make=True)
    assert [with_experiment(Root(tmp_path), HOST, GUARDED, make=make) for make in (True, False)] == [first, first]
    assert one.times == 1
    assert (tmp_path / FILE[1:]).stat().st_mode & 0o777 == 0o644


def test_it_is_not_made_unasked(tmp_path: Path, made: Making) -> None:
    one = made(lambda: 201)
    assert with_experiment(Root(tmp_path), HOST, GUARDED) == GUARDED
    assert (one.times, list(tmp_path.iterdir())) == (0, [])


@pytest.mark.parametrize("host", OTHERS)
def test_of_another_kernel_it_says_nothing(tmp_path: Path, made: Making, host: Identity) -> None:
    one = made(lambda: 201)
    with_experiment(Root(tmp_path), HOST, GUARDED, make=True)
    assert with_experiment(Root(tmp_path), host, GUARDED) == GUARDED
    one.outcome = lambda: 0
    assert with_experiment(Root(tmp_path), host, GUARDED, make=True).verdict is Verdict.GUARDED
    assert one.times == 2


def test_of_another_verdict_it_says_nothing_either(tmp_path: Path, made: Making) -> None:
    """A static key that is switched changes the code, and no identity."""
    one = made(lambda: 0)
    with_experiment(Root(tmp_path), HOST, GUARDED, make=True)
    unguarded = GuardFinding(Verdict.UNGUARDED, "no-test", "it does not", Evidence.OBSERVED)
    assert with_experiment(Root(tmp_path), HOST, unguarded) == unguarded
    one.outcome = lambda: 201
    assert with_experiment(Root(tmp_path), HOST, unguarded, make=True).verdict is Verdict.UNGUARDED


def test_where_it_is_impossible_the_verdict_stands_and_it_is_not_tried_again(tmp_path: Path, made: Making) -> None:
    one = made(impossible)
    found = with_experiment(Root(tmp_path), HOST, GUARDED, make=True)
    assert replace(found, notes=()) == GUARDED
    assert found.notes == ("the experiment could not be made: the calls can't be counted: no kprobes",)
    assert with_experiment(Root(tmp_path), HOST, GUARDED, make=True) == found
    assert one.times == 1


def test_one_that_killed_its_process_is_not_made_again(tmp_path: Path, made: Making) -> None:
    one = made(lambda: os._exit(9))
    child = os.fork()
    if child == 0:
        with_experiment(Root(tmp_path), HOST, GUARDED, make=True)
    os.waitpid(child, 0)
    found = with_experiment(Root(tmp_path), HOST, GUARDED, make=True)
    assert found.notes == ("the experiment could not be made: it was begun, and did not end",)
    assert (found.verdict, one.times) == (Verdict.GUARDED, 0)


def test_it_has_a_deadline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def hanging() -> None:
        time.sleep(60)

    monkeypatch.setattr(experiment, "SECONDS", 1)
    monkeypatch.setattr("pmuconf.host.prove.guard.remove_left_overs", hanging)
    found = with_experiment(Root(tmp_path), HOST, GUARDED, make=True)
    assert found.notes == ("the experiment could not be made: the calls can't be counted: it took more than 1 s",)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"subject": 7}', json.dumps({"subject": "x", "calls": 0})])
def test_a_file_that_holds_something_else_is_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / FILE[1:]
    path.parent.mkdir(parents=True)
    path.write_text(text)
    assert with_experiment(Root(tmp_path), HOST, GUARDED) == GUARDED


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_a_file_of_somebody_else_is_none(tmp_path: Path, made: Making) -> None:
    made(lambda: 201)
    with_experiment(Root(tmp_path), HOST, GUARDED, make=True)
    os.chown(tmp_path / FILE[1:], 4711, 4711)
    assert with_experiment(Root(tmp_path), HOST, GUARDED) == GUARDED


def test_nothing_is_tried_where_nothing_can_be_kept(tmp_path: Path, made: Making) -> None:
    """Otherwise it would be made every five minutes."""
    one = made(lambda: 0)
    (tmp_path / "run").write_text("no folder")
    found = with_experiment(Root(tmp_path), HOST, GUARDED, make=True)
    assert (found.verdict, one.times) == (Verdict.GUARDED, 0)
    assert found.notes[0].startswith("the experiment could not be made: ")


@pytest.mark.parametrize(
    ("host", "finding"),
    [
        (HOST, GuardFinding(Verdict.UNKNOWN, "hooked", "a hook")),
        (replace(HOST, boot_id=None), GUARDED),
    ],
)
def test_there_is_nothing_to_compare(tmp_path: Path, made: Making, host: Identity, finding: GuardFinding) -> None:
    one = made(lambda: 201)
    assert with_experiment(Root(tmp_path), host, finding, make=True) == finding
    assert one.times == 0
