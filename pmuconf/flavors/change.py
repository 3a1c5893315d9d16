"""Changes of flavors in a cloud: one after the other, journalled before they are made, and read back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from pmuconf.change.journal import Entry, Intent, Journal, Kind, Status, writer_lock
from pmuconf.conf import Settings
from pmuconf.domain.definition import PmuState
from pmuconf.errors import PmuconfError
from pmuconf.flavors.cloud import Cloud
from pmuconf.flavors.judge import Flavor, Standing, Verdict, spec_text, state_of
from pmuconf.hypervisor.driver import Driver

__all__ = ["left", "result", "set_all", "take_back", "writing"]


def result(verdict: Verdict, outcome: str, note: str = "", change: int | None = None) -> dict[str, Any]:
    """What became of a flavor, as a row of the command."""
    if outcome == Standing.CONFLICT.value:
        note = "with " + ", ".join(image.name for image in verdict.conflicts)
    elif outcome == Standing.UNDECIDED.value:
        note = verdict.ruling.reason
    new = verdict.ruling.decision.state
    return {
        "name": verdict.flavor.name,
        "id": verdict.flavor.id,
        "old": verdict.pmu.value,
        "new": new.value if new else verdict.pmu.value,
        "rule": verdict.ruling.rule,
        "outcome": outcome,
        "note": note,
        "change": change,
    }


def left(verdict: Verdict) -> str:
    """Why a flavor is left as it is."""
    return verdict.standing.value


def set_all(cloud: Cloud, journal: Journal, verdicts: Sequence[Verdict], limit: int) -> Iterator[dict[str, Any]]:
    """Set one after the other; what can't be reached any more after a failure is said to be so."""
    done, stopped = 0, ""
    for verdict in verdicts:
        if verdict.standing is not Standing.TO_SET:
            yield result(verdict, left(verdict))
        elif stopped or (limit and done >= limit):
            yield result(verdict, "not-reached", stopped or f"the limit of {limit} changes")
        else:
            row = _set_one(cloud, journal, verdict)
            done += row["outcome"] == "set"
            stopped = "an earlier one failed" if row["outcome"] == "failed" else ""
            yield row


def _set_one(cloud: Cloud, journal: Journal, verdict: Verdict) -> dict[str, Any]:
    wanted = verdict.ruling.decision.state
    assert wanted is not None  # to-set says that the policy wants a state
    flavor = verdict.flavor
    # The API knows no condition on a change: look again right before it.
    fresh = cloud.flavor(flavor.id)
    if fresh is None:
        return result(verdict, "vanished", "it was deleted meanwhile")
    if state_of(fresh.extra_specs) is not PmuState.DEFAULT:
        return result(verdict, "already", "somebody has set it meanwhile")
    intent = Intent(
        Kind.APPLY, cloud.identity, flavor.id, flavor.name, PmuState.DEFAULT, wanted, verdict.ruling.rule, ""
    )
    (number,) = journal.begin([intent])
    status: Status | None
    try:
        cloud.set_pmu(flavor.id, spec_text(wanted))
        status, outcome, note = Status.DONE, "set", ""
    except PmuconfError as error:
        status, outcome, note = _after_failure(cloud, flavor, wanted), "failed", str(error)
        outcome = "set" if status is Status.DONE else outcome
    if status is not None:
        journal.settle([(number, status, "" if status is Status.DONE else "openstack-error")])
    return result(verdict, outcome, note, number)


def _after_failure(cloud: Cloud, flavor: Flavor, wanted: PmuState) -> Status | None:
    """What became of a change whose answer was an error: look. None if that fails too; the next run settles it."""
    try:
        now = cloud.flavor(flavor.id)
    except PmuconfError:
        return None
    return Status.DONE if now is not None and state_of(now.extra_specs) is wanted else Status.ABANDONED


def take_back(cloud: Cloud, journal: Journal, entry: Entry, *, dry_run: bool) -> dict[str, Any]:
    """Undo one change of a flavor, where the flavor still has the value that the change set."""
    row: dict[str, Any] = {
        "name": entry.name,
        "id": entry.uuid,
        "old": entry.new.value,
        "new": entry.old.value,
        "rule": "rollback",
        "note": "",
        "change": None,
    }
    now = cloud.flavor(entry.uuid)
    if now is None:
        return {**row, "outcome": "vanished", "note": "the flavor is gone"}
    if now.extra_specs.get("hw:pmu") != spec_text(entry.new):
        return {**row, "outcome": "changed-since", "note": "it no longer says what pmuconf has set: it stays"}
    if dry_run:
        return {**row, "outcome": "planned"}
    intent = Intent(Kind.ROLLBACK, entry.uri, entry.uuid, entry.name, entry.new, entry.old, "rollback", "", (entry.id,))
    (row["change"],) = journal.begin([intent])
    try:
        cloud.unset_pmu(entry.uuid)
        status: Status | None = Status.DONE
    except PmuconfError as error:
        status, row["note"] = _after_failure(cloud, now, PmuState.DEFAULT), str(error)
    if status is not None:
        journal.settle([(row["change"], status, "" if status is Status.DONE else "openstack-error")])
    return {**row, "outcome": "taken-back" if status is Status.DONE else "failed"}


@contextmanager
def writing(cloud: Cloud, chosen: Settings, warn: Callable[..., None]) -> Iterator[Journal]:
    """The journal, held by us alone, with nothing of this cloud left in flight."""
    with writer_lock(chosen.journal), Journal.open(chosen.journal, create=True) as journal:
        dropped = journal.retire(chosen.retention_days)
        if dropped:
            warn("the journal dropped %d changes older than %d days", dropped, chosen.retention_days)
        for entry in journal.in_flight(Driver(cloud.identity)):
            flavor = cloud.flavor(entry.uuid)
            made = flavor is not None and state_of(flavor.extra_specs) is entry.new
            journal.settle([(entry.id, Status.DONE if made else Status.ABANDONED, "interrupted")])
            warn(
                "an earlier run was interrupted: its change of flavor %r was %smade", entry.name, "" if made else "not "
            )
        yield journal
