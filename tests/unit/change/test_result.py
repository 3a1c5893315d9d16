"""What a run says of each domain, and of all of them."""

from __future__ import annotations

import pytest

from pmuconf.change.aftermath import SENTENCES, with_findings
from pmuconf.change.result import Outcome, Result, tally


def result(outcome: Outcome, **more: object) -> Result:
    return Result("web", "u-1", outcome, **more)  # type: ignore[arg-type]


LOST = {"edit-overwritten": SENTENCES["edit-overwritten"]}
DIFFERS = {"differs-after": "it differs in memory too"}


@pytest.mark.parametrize(
    ("before", "findings", "cause", "notes"),
    [
        (result(Outcome.CHANGED), {}, "", ()),
        (result(Outcome.CHANGED, notes=("n",)), DIFFERS, "differs-after", ("it differs in memory too", "n")),
        (
            result(Outcome.CHANGED),
            {**DIFFERS, **LOST},
            "edit-overwritten",
            (SENTENCES["edit-overwritten"], "it differs in memory too"),
        ),
        (
            result(Outcome.CHANGED, cause="cpu-overridden"),
            {"": "libvirt itself"},
            "cpu-overridden",
            ("libvirt itself",),
        ),
        (result(Outcome.BUSY, cause="busy", notes=("b",)), DIFFERS, "busy", ("b",)),
        (result(Outcome.BUSY, cause="busy", notes=("b",)), LOST, "edit-overwritten", (SENTENCES["edit-overwritten"],)),
        (
            result(Outcome.FAILED, cause="verify-failed", notes=("f",)),
            LOST,
            "verify-failed",
            ("f", f"{SENTENCES['edit-overwritten']} (edit-overwritten)"),
        ),
    ],
)
def test_the_gravest_finding_is_the_cause_and_a_failure_is_graver(
    before: Result, findings: dict[str, str], cause: str, notes: tuple[str, ...]
) -> None:
    after = with_findings(before, findings)
    assert (after.cause, after.notes) == (cause, notes)


def test_notes_and_remedies_are_joined_where_they_are_shown() -> None:
    record = result(Outcome.CHANGED, cause="edit-overwritten", notes=("one", "two"), pending=True).record()
    assert record["note"] == "one; two"
    first, then = record["remedy"].split("; ")
    assert first == "repeat that edit if it is lost"
    assert then.startswith("stop and start it")


@pytest.mark.parametrize(
    ("results", "sentence"),
    [
        ([], "nothing to change: all as the policy wants"),
        ([result(Outcome.CHANGED), result(Outcome.CHANGED), result(Outcome.OBSERVED)], "2 changed, 1 observed"),
        (
            [result(Outcome.CHANGED, pending=True)],
            "1 changed; 1 VM keeps its old PMU state until it is stopped and started",
        ),
        (
            [result(Outcome.CHANGED, pending=True), result(Outcome.CHANGED, pending=True), result(Outcome.FAILED)],
            "2 changed, 1 failed; 2 VMs keep their old PMU state until they are stopped and started; "
            "the next run tries domains last that libvirt refused to define",
        ),
    ],
)
def test_a_run_ends_with_a_sentence(results: list[Result], sentence: str) -> None:
    assert tally(results) == sentence
