"""Changes of flavors in a cloud: each is journalled before it is made, and read back where the answer was an error."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from pmuconf.change.journal import ChangeKind, ChangeStatus, Entry, Intent, Journal, writer_lock
from pmuconf.change.retention import too_old
from pmuconf.conf import Settings
from pmuconf.domain.definition import PmuState
from pmuconf.errors import PmuconfError
from pmuconf.flavors.cloud import Cloud
from pmuconf.flavors.judge import Flavor, Judged, Standing, state_of
from pmuconf.hypervisor.driver import Driver
from pmuconf.policy import CHOICE_TEXTS, FLAVOR_CHOICE
from pmuconf.wording import counted

__all__ = ["FlavorOutcome", "FlavorResult", "revocable", "set_all", "take_back", "without_change", "writing"]


class FlavorOutcome(enum.Enum):
    """What became of a flavor. The first four are the standings of flavors that are left as they are."""

    EXPLICIT = "explicit"
    CONFLICT = "conflict"
    KEEP = "keep"
    UNDECIDED = "undecided"
    PLANNED = "planned"
    SET = "set"
    ALREADY = "already"
    TAKEN_BACK = "taken-back"
    CHANGED_SINCE = "changed-since"
    VANISHED = "vanished"
    NOT_REACHED = "not-reached"
    FAILED = "failed"


@dataclass(frozen=True)
class FlavorResult:
    """What became of one flavor.

    :param old: its PMU state before.
    :param new: its PMU state now, or the one that was planned.
    :param note: the reason, where there is one.
    :param change: the number of the change in the journal.
    """

    id: str
    name: str
    old: PmuState
    new: PmuState
    rule: str
    outcome: FlavorOutcome
    note: str = ""
    change: int | None = None

    def record(self) -> dict[str, Any]:
        """The result as a row of the command's table."""
        return {
            "name": self.name,
            "id": self.id,
            "old": self.old.value,
            "new": self.new.value,
            "rule": self.rule,
            "outcome": self.outcome.value,
            "note": self.note,
            "change": self.change,
        }


_NO_LONGER_OURS: Final = "it no longer says what pmuconf has set: it stays"
_LEFT: Final = {
    Standing.EXPLICIT: FlavorOutcome.EXPLICIT,
    Standing.CONFLICT: FlavorOutcome.CONFLICT,
    Standing.KEEP: FlavorOutcome.KEEP,
    Standing.UNDECIDED: FlavorOutcome.UNDECIDED,
    Standing.TO_SET: FlavorOutcome.PLANNED,
}


def without_change(judged: Judged) -> FlavorResult:
    """The result of a flavor that is not changed: what is planned for it, or why it is left as it is."""
    note = ""
    if judged.standing is Standing.CONFLICT:
        note = "with " + ", ".join(image.name for image in judged.conflicts)
    elif judged.standing is Standing.UNDECIDED:
        note = judged.ruling.reason
    return _result(judged, _LEFT[judged.standing], note)


def set_all(cloud: Cloud, journal: Journal, flavors: Sequence[Judged], limit: int) -> Iterator[FlavorResult]:
    """Set hw:pmu of each flavor that is to be set, until a change fails or the limit is reached.

    :param limit: of changes; 0: none.
    """
    changes, reason_to_stop = 0, ""
    for judged in flavors:
        if judged.standing is not Standing.TO_SET:
            yield without_change(judged)
            continue
        if limit and changes >= limit:
            reason_to_stop = reason_to_stop or f"the limit of {counted(limit, 'change')}"
        if reason_to_stop:
            yield _result(judged, FlavorOutcome.NOT_REACHED, reason_to_stop)
            continue
        result = _set(cloud, journal, judged)
        changes += result.outcome is FlavorOutcome.SET
        if result.outcome is FlavorOutcome.FAILED:
            reason_to_stop = "an earlier one failed"
        yield result


def revocable(cloud: Cloud, journal: Journal, names: Sequence[str] | None) -> list[Entry]:
    """The changes of flavors of this cloud that can be taken back, newest first.

    :param names: names or ids of flavors; None: all flavors.
    :raises PmuconfError: no-such-change, for a name without any.
    """
    entries = [
        entry
        for entry in journal.entries()
        if entry.uri == cloud.identity and entry.status is ChangeStatus.DONE
        if entry.kind is ChangeKind.APPLY and not entry.undone
        if names is None or entry.name in names or entry.uuid in names
    ]
    for name in names or ():
        if not any(name in (entry.name, entry.uuid) for entry in entries):
            raise PmuconfError(
                f"the journal has no change of flavor {name!r} that could be taken back", cause="no-such-change"
            )
    return entries


def take_back(cloud: Cloud, journal: Journal, entry: Entry, *, dry_run: bool) -> FlavorResult:
    """Unset hw:pmu of a flavor, if it still has the value that the change set."""

    def result(outcome: FlavorOutcome, note: str = "", number: int | None = None) -> FlavorResult:
        return FlavorResult(entry.uuid, entry.name, entry.new, entry.old, "rollback", outcome, note, number)

    flavor = cloud.flavor(entry.uuid)
    if flavor is None:
        return result(FlavorOutcome.VANISHED, "the flavor is gone")
    if flavor.extra_specs.get(FLAVOR_CHOICE) != CHOICE_TEXTS[entry.new]:
        return result(FlavorOutcome.CHANGED_SINCE, _NO_LONGER_OURS)
    if dry_run:
        return result(FlavorOutcome.PLANNED)
    intent = Intent(
        ChangeKind.ROLLBACK, entry.uri, entry.uuid, entry.name, entry.new, entry.old, "rollback", "", (entry.id,)
    )
    number, status, note = _journalled(
        cloud, journal, intent, flavor, PmuState.DEFAULT, lambda: cloud.unset_pmu(entry.uuid)
    )
    return result(FlavorOutcome.TAKEN_BACK if status is ChangeStatus.DONE else FlavorOutcome.FAILED, note, number)


@contextmanager
def writing(cloud: Cloud, chosen: Settings, warn: Callable[[str], None]) -> Iterator[Journal]:
    """The journal for the only writer, once what earlier runs left in flight in this cloud is settled.

    :param warn: is given a sentence for each settled change, and for entries that are too old to be kept.
    """
    with writer_lock(chosen.journal), Journal.open(chosen.journal, create=True) as journal:
        dropped = journal.retire(chosen.retention_days)
        if dropped:
            warn(too_old(dropped, chosen.retention_days))
        for entry in journal.in_flight(Driver(cloud.identity)):
            flavor = cloud.flavor(entry.uuid)
            is_made = flavor is not None and state_of(flavor.extra_specs) is entry.new
            journal.settle([(entry.id, ChangeStatus.DONE if is_made else ChangeStatus.ABANDONED, "interrupted")])
            outcome = "made" if is_made else "not made"
            warn(f"an earlier run was interrupted: its change of flavor {entry.name!r} was {outcome}")
        yield journal


def _result(judged: Judged, outcome: FlavorOutcome, note: str = "", change: int | None = None) -> FlavorResult:
    new = judged.ruling.decision.state or judged.pmu
    return FlavorResult(
        judged.flavor.id, judged.flavor.name, judged.pmu, new, judged.ruling.rule, outcome, note, change
    )


def _set(cloud: Cloud, journal: Journal, judged: Judged) -> FlavorResult:
    """Set hw:pmu of one flavor. The API knows no condition on a change, so the flavor is read right before it."""
    wanted = judged.ruling.decision.state
    assert wanted is not None  # to-set says that the policy wants a state
    flavor = cloud.flavor(judged.flavor.id)
    if flavor is None:
        return _result(judged, FlavorOutcome.VANISHED, "it was deleted meanwhile")
    if state_of(flavor.extra_specs) is not PmuState.DEFAULT:
        return _result(judged, FlavorOutcome.ALREADY, "somebody has set it meanwhile")
    rule = judged.ruling.rule
    intent = Intent(ChangeKind.APPLY, cloud.identity, flavor.id, judged.flavor.name, PmuState.DEFAULT, wanted, rule, "")
    number, status, note = _journalled(
        cloud, journal, intent, flavor, wanted, lambda: cloud.set_pmu(flavor.id, CHOICE_TEXTS[wanted])
    )
    return _result(judged, FlavorOutcome.SET if status is ChangeStatus.DONE else FlavorOutcome.FAILED, note, number)


def _journalled(
    cloud: Cloud, journal: Journal, intent: Intent, flavor: Flavor, wanted: PmuState, change: Callable[[], None]
) -> tuple[int, ChangeStatus | None, str]:
    """Make a change between its two entries in the journal: its number, how it ended, and the error if there was one.

    The API's answer may be an error though the change was made, so the flavor is read again then. If that fails too,
    the status is None: the change stays in flight, and the next run settles it.
    """
    (number,) = journal.begin([intent])
    status: ChangeStatus | None = ChangeStatus.DONE
    note = ""
    try:
        change()
    except PmuconfError as error:
        status, note = _status_after_error(cloud, flavor, wanted), str(error)
    if status is not None:
        journal.settle([(number, status, "" if status is ChangeStatus.DONE else "openstack-error")])
    return number, status, note


def _status_after_error(cloud: Cloud, flavor: Flavor, wanted: PmuState) -> ChangeStatus | None:
    try:
        current = cloud.flavor(flavor.id)
    except PmuconfError:
        return None
    is_made = current is not None and state_of(current.extra_specs) is wanted
    return ChangeStatus.DONE if is_made else ChangeStatus.ABANDONED
