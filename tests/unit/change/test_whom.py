"""UUIDs however they are written, and names of the past."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

import pytest

from pmuconf.change.entry import ChangeKind, ChangeStatus, Entry
from pmuconf.change.run import _newest_first
from pmuconf.change.whom import Whom, changes_of, whom
from pmuconf.domain.definition import PmuState
from pmuconf.domain.uuids import as_uuid

UUID = "6e1f12ab-2f16-44d2-8a4c-6c7d2f5c7a10"
OTHER = "6e1f12ab-2f16-44d2-8a4c-6c7d2f5c7a11"


@pytest.mark.parametrize(
    "text",
    [UUID, UUID.upper(), UUID.replace("-", ""), f"{{{UUID}}}", f"urn:uuid:{UUID}", UUID.replace("-", "").upper()],
)
def test_a_uuid_however_it_is_written(text: str) -> None:
    assert as_uuid(text) == UUID


@pytest.mark.parametrize("text", ["", "web", UUID[:-1], f"{UUID}0", None, b"x" * 16, 7])
def test_what_is_no_uuid(text: Any) -> None:
    assert as_uuid(text) is None


def entry(number: int, uuid: str, name: str, *, uri: str = "qemu://here/system", minute: int = 0) -> Entry:
    at = datetime(2031, 1, 1, 0, minute, tzinfo=timezone.utc)
    states = (PmuState.ON, PmuState.OFF)
    return Entry(
        number, at, "root", ChangeKind.APPLY, uri, uuid, name, *states, "default", ChangeStatus.DONE, "", False
    )


class Host:
    """A host with these domains, by name."""

    def __init__(self, **domains: str) -> None:
        self._domains = domains

    def named(self, name: str) -> Any:
        class Listed:
            uuid = self._domains.get(name)

        return Listed if name in self._domains else None


def host(**domains: str) -> Any:
    return Host(**domains)


def test_a_name_is_todays() -> None:
    entries = [entry(1, UUID, "web")]
    assert whom("web", entries, host(web=OTHER)) == Whom(OTHER, (UUID,))
    assert whom("web", entries, host(new=UUID)) == Whom(None, (UUID,))
    assert whom("new", entries, host(new=UUID)) == Whom(UUID, ())
    assert whom(UUID.upper(), entries, host()) == Whom(UUID, ())


def test_what_is_shown_of_names() -> None:
    entries = [
        entry(3, OTHER, "web"),
        entry(2, UUID, "new"),
        entry(1, UUID, "web"),
        entry(4, "42", "m1", uri="openstack:x"),
    ]

    def numbers(names: list[str], now: Any) -> list[int]:
        return [one.id for one in changes_of(names, entries, now)[0]]

    assert numbers(["web"], host(web=OTHER)) == [3]
    assert numbers(["web"], host(web=UUID)) == [2, 1]
    assert numbers(["web"], host()) == [3, 2, 1]
    assert numbers(["m1"], host()) == numbers(["42"], host()) == [4]
    assert changes_of(["web"], entries, host(web=OTHER))[1] == []
    (sentence,) = changes_of(["web"], entries, host())[1]
    assert sentence == f"no domain is called 'web' today; once it was the name of {UUID}, {OTHER}"


def test_changes_of_several_journals_go_by_their_numbers_within_each() -> None:
    """One of the hosts had a clock that ran backwards."""
    a = [entry(1, UUID, "w", uri="qemu://a/system", minute=30), entry(2, UUID, "w", uri="qemu://a/system", minute=10)]
    b = [entry(1, UUID, "w", uri="qemu://b/system", minute=40), entry(2, UUID, "w", uri="qemu://b/system", minute=50)]
    for given in ([*a, *b], [*b, *a], [*reversed(a), *reversed(b), *a]):
        assert [(one.uri[7], one.id) for one in _newest_first(given)] == [("b", 2), ("b", 1), ("a", 2), ("a", 1)]
