"""A change as the journal has it, before it is made and after, and as data for other programs and hosts."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, Final
from uuid import UUID

from pmuconf.domain.definition import PmuState
from pmuconf.errors import PmuconfError
from pmuconf.hypervisor.driver import Driver

__all__ = ["CLOUD", "COLUMNS", "ChangeKind", "ChangeStatus", "Entry", "Intent", "moment"]

# What the identity of a cloud begins with, where that of a libvirt connection has its URI.
CLOUD: Final = "openstack:"


class ChangeKind(enum.Enum):
    """The kind of a change: of the policy, of its canary, or of a roll back."""

    APPLY = "apply"
    CANARY = "canary"
    ROLLBACK = "rollback"


class ChangeStatus(enum.Enum):
    """How a change ended: ``ABANDONED`` left the domain as it was.

    ``RESTORED`` put it back after a define that did more: what pmuconf 0.1.0 did, and no longer does.
    """

    IN_FLIGHT = "in-flight"
    DONE = "done"
    ABANDONED = "abandoned"
    RESTORED = "restored"


@dataclass(frozen=True)
class Intent:
    """A change that is about to be made; ``undoes`` are the ids of the changes that it rolls back."""

    kind: ChangeKind
    uri: str
    uuid: str
    name: str
    old: PmuState
    new: PmuState
    rule: str
    preimage: str
    undoes: tuple[int, ...] = ()
    machine: str = ""
    host_uuid: str = ""


@dataclass(frozen=True)
class Entry:
    """A change as the journal has it; ``undone`` says that a roll back took it away again.

    ``uri``, ``machine`` and ``host_uuid`` say where it was made (see Driver).
    """

    id: int
    at: datetime
    who: str
    kind: ChangeKind
    uri: str
    uuid: str
    name: str
    old: PmuState
    new: PmuState
    rule: str
    status: ChangeStatus
    cause: str
    undone: bool
    machine: str = ""
    host_uuid: str = ""

    @property
    def revocable(self) -> bool:
        """Whether there is something in it to be taken back."""
        return self.status is ChangeStatus.DONE and self.kind is not ChangeKind.ROLLBACK and not self.undone

    @property
    def of_flavor(self) -> bool:
        """Whether it is one of a cloud's flavor; otherwise it is one of a domain."""
        return self.uri.startswith(CLOUD)

    @property
    def driver(self) -> Driver:
        """Where it was made."""
        return Driver(self.uri, self.machine, self.host_uuid)

    def record(self) -> dict[str, Any]:
        """The same as data, for tables, programs and other hosts."""
        return {
            "change": self.id,
            "time": self.at.isoformat(timespec="microseconds"),
            "name": self.name,
            "uuid": self.uuid,
            "old": self.old.value,
            "new": self.new.value,
            "rule": self.rule,
            "kind": self.kind.value,
            "status": "undone" if self.undone else self.status.value,
            "cause": self.cause,
            "who": self.who,
            "uri": self.uri,
            "machine": self.machine,
            "host_uuid": self.host_uuid,
        }

    @classmethod
    def of_record(cls, record: Mapping[str, Any]) -> Entry:
        """The entry of which another host's journal gave this record; pmuconf 0.1 gave none of the host's ids.

        :raises PmuconfError: change-invalid.
        """
        try:
            at = moment(record["time"])
            undone = record["status"] == "undone"
            if str(UUID(record["uuid"])) != record["uuid"]:
                raise ValueError("a UUID that is none")
            number = int(record["change"])
            if abs(number) >= 1 << 63:
                raise ValueError("a number that no journal has")
            return cls(
                id=number,
                at=at,
                who=str(record["who"]),
                kind=ChangeKind(record["kind"]),
                uri=str(record["uri"]),
                uuid=record["uuid"],
                name=str(record["name"]),
                old=PmuState(record["old"]),
                new=PmuState(record["new"]),
                rule=str(record["rule"]),
                status=ChangeStatus.DONE if undone else ChangeStatus(record["status"]),
                cause=str(record["cause"]),
                undone=undone,
                machine=str(record.get("machine", "")),
                host_uuid=str(record.get("host_uuid", "")),
            )
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            what = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else str(error)
            raise PmuconfError(
                f"this is no change of a journal: {what}",
                cause="change-invalid",
                hint="Take changes as pmuconf.kvm.journal_info returns them",
            ) from None

    @classmethod
    def of_row(cls, row: Sequence[Any]) -> Entry:
        """The entry of a row that has COLUMNS.

        :raises ValueError: a word in it is none of ours.
        """
        number, at, who, kind, uri, uuid, name, old, new, rule, status, cause, machine, host_uuid, undone = row
        texts = {"time": at, "who": who, "uri": uri, "uuid": uuid, "name": name, "rule": rule, "cause": cause}
        for what, text in texts.items():
            if not isinstance(text, str):
                raise ValueError(f"its {what} is no text")
        return cls(
            id=number,
            at=moment(at),
            who=who,
            kind=ChangeKind(kind),
            uri=uri,
            uuid=uuid,
            name=name,
            old=PmuState(old),
            new=PmuState(new),
            rule=rule,
            status=ChangeStatus(status),
            cause=cause,
            undone=bool(undone),
            machine=str(machine),
            host_uuid=str(host_uuid),
        )


def moment(text: str) -> datetime:
    """The time that a text in ISO 8601 says, in UTC.

    :raises ValueError: it says none, or none with its zone, or one before the year 1 or after 9999.
    """
    at = datetime.fromisoformat(text)
    if at.tzinfo is None:
        raise ValueError(f"the time {text!r:.40} has no zone")
    try:
        return at.astimezone(timezone.utc)
    except OverflowError:
        raise ValueError(f"the time {text!r:.40} is outside of all years") from None


COLUMNS: Final = (
    "id, at, who, kind, uri, uuid, name, old, new, rule, status, cause, machine, host_uuid, "
    "EXISTS (SELECT 1 FROM change AS undoing WHERE undoing.id = change.undone_by AND undoing.status = 'done')"
)
