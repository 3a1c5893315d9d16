"""What the journal forgets: what is old by every sign there is, and never what could be taken back, within a floor."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pmuconf.change import retention
from pmuconf.change.retention import Aged, forgettable, nothing_old, older

NOW = datetime(2031, 6, 1, tzinfo=timezone.utc)


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "NEWEST", 2)
    monkeypatch.setattr(retention, "REVOCABLE", 4)


def changes(*days_ago: float | None, revocable: Sequence[int] = (), in_flight: Sequence[int] = ()) -> list[Aged]:
    """Changes 1, 2, ..., made so long ago by the clock that they had; None: with a time that can't be read."""
    return [
        Aged(number, None if ago is None else NOW - timedelta(days=ago), number in revocable, number in in_flight)
        for number, ago in enumerate(days_ago, 1)
    ]


@pytest.mark.parametrize(
    ("made", "forgotten"),
    [
        (changes(500, 400, 300, 2, 1), [1, 2]),
        (changes(500, 400), []),  # the newest stay
        (changes(500, 499, 498, 2, 1, revocable=[2]), [1, 3]),  # what could be taken back
        (changes(500, 499, 498, 497, 2, 1, revocable=[1, 2]), [1, 2, 3, 4]),  # unless many newer ones came
        (changes(500, 499, 498, 2, 1, in_flight=[1, 3]), [2]),
        ([], []),
    ],
)
def test_what_is_forgotten(made: list[Aged], forgotten: list[int]) -> None:
    assert forgettable(made, NOW, 365) == forgotten


def test_a_clock_that_is_ahead_makes_nothing_old() -> None:
    """The first run under it sees that the newest change is young beside the others."""
    made = changes(30, 20, 10, 2, 1)
    assert forgettable(made, NOW + timedelta(days=400), 365) == []


def test_after_a_change_from_the_future_what_was_old_goes_and_what_was_young_stays() -> None:
    made = changes(500, 30, 20, -400, 1, 0)
    assert forgettable(made, NOW, 365) == [1]


def test_a_change_written_by_a_clock_far_behind_is_as_young_as_those_before_it() -> None:
    made = changes(30, 3650, 3650, 20, 10)
    assert forgettable(made, NOW, 365) == []


def test_a_clock_that_is_behind_now_makes_nothing_old() -> None:
    made = changes(30, 20, 10, 2, 1)
    assert forgettable(made, NOW - timedelta(days=3650), 365) == []


def test_a_time_that_cannot_be_read_says_nothing() -> None:
    made = changes(30, None, None, 20, 10)
    assert forgettable(made, NOW, 365) == []
    assert forgettable(changes(None, None), NOW, 365) == []


@pytest.mark.parametrize("days", [100_000, 999_999_999, 10**12])
def test_nothing_is_older_than_time_itself(days: int) -> None:
    assert forgettable(changes(500, 400, 300, 2, 1), NOW, days) == []


def test_what_is_older_than_a_day_that_was_asked_for_goes_by_number_too() -> None:
    made = changes(40, 10, 50, 5)
    assert list(older(made, NOW - timedelta(days=30))) == [1]


@given(st.lists(st.none() | st.floats(-500, 4000), max_size=8), st.sampled_from([0, 1, 365]))
def test_where_first_and_newest_show_that_nothing_is_old_nothing_is_forgotten(
    days_ago: list[float | None], days: int
) -> None:
    made = changes(*days_ago)
    if made and nothing_old(made[0], made[-1], NOW, days):
        assert forgettable(made, NOW, days) == []


@pytest.mark.parametrize(
    ("made", "nothing"),
    [
        (changes(30, 20, 1), True),
        (changes(30, 3650, 3650), True),  # the newest's clock was behind: older still is what was old by it
        (changes(500, 20, 1), False),
        (changes(None, 20, 1), False),
        (changes(30, 20, None), False),
    ],
)
def test_whether_the_ends_alone_show_it(made: list[Aged], nothing: bool) -> None:
    assert nothing_old(made[0], made[-1], NOW, 365) is nothing
