"""When the service looks at what, and how much it may change: by a clock of the test's."""

from __future__ import annotations

import random
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pmuconf.service.agenda import Agenda, Allowance, Backoff


class TestAgenda:
    def test_a_domain_is_due_so_long_after_its_first_event(self) -> None:
        agenda = Agenda(2)
        agenda.heard("a", 10)
        agenda.heard("a", 11.5)
        assert agenda.next() == 12
        assert agenda.take(11.9) == {}
        assert agenda.take(12) == {"a": 10}
        assert (agenda.take(99), agenda.next(), len(agenda)) == ({}, None, 0)

    def test_a_stream_of_events_does_not_put_it_off(self) -> None:
        agenda = Agenda(1)
        taken = 0
        for tenth in range(100):
            agenda.heard("a", tenth / 10)
            taken += len(agenda.take(tenth / 10))
        assert taken >= 8

    @pytest.mark.parametrize("first", ["event", "change"])
    def test_our_own_define_is_no_reason_to_look(self, first: str) -> None:
        agenda = Agenda(1)
        for what in ("event", "change") if first == "event" else ("change", "event"):
            if what == "event":
                agenda.heard("a", 0)
            else:
                agenda.ours("a", 0)
        assert (agenda.take(99), agenda.next(), len(agenda)) == ({}, None, 0)

    @given(st.permutations(["theirs", "event", "ours"]))
    def test_somebody_elses_next_to_ours_is_never_missed(self, order: list[str]) -> None:
        agenda = Agenda(0)
        for now, what in enumerate(order):
            if what == "ours":
                agenda.ours("a", now)
            else:
                agenda.heard("a", now)
        assert agenda.take(99).keys() == {"a"}

    def test_an_event_behind_a_look_makes_another(self) -> None:
        agenda = Agenda(0)
        agenda.heard("a", 1)
        assert agenda.take(1) == {"a": 1}
        agenda.heard("a", 2)
        assert agenda.take(2) == {"a": 2}

    def test_later_is_then_and_no_earlier_unless_something_is_heard(self) -> None:
        agenda = Agenda(1)
        agenda.later(["a", "b"], 50)
        agenda.heard("b", 10)
        assert (agenda.next(), len(agenda)) == (11, 2)
        assert agenda.take(11) == {"b": 10}
        assert agenda.take(49) == {}
        assert agenda.take(50) == {"a": None}

    def test_a_look_at_all_forgets_all(self) -> None:
        agenda = Agenda(0)
        agenda.heard("a", 1)
        agenda.ours("b", 1)
        agenda.later(["c"], 1)
        agenda.clear()
        assert (agenda.take(99), agenda.next()) == ({}, None)
        agenda.heard("b", 2)
        assert agenda.take(2) == {"b": 2}


class TestAllowance:
    def test_so_many_at_once_and_then_so_many_a_minute(self) -> None:
        allowance = Allowance(100, 60, 0)
        assert allowance.left(0) == 100
        allowance.use(100)
        assert (allowance.left(0), allowance.left(0.5), allowance.left(10)) == (0, 0, 10)
        assert allowance.left(100_000) == 100

    @pytest.mark.parametrize(("number", "at"), [(1, 1), (10, 10), (500, 100)])
    def test_when_there_will_be_some(self, number: int, at: float) -> None:
        allowance = Allowance(100, 60, 0)
        allowance.use(100)
        assert allowance.when(number, 0) == pytest.approx(at)
        assert allowance.left(allowance.when(number, 0) + 1e-6) == min(number, 100)

    def test_no_limit_a_minute(self) -> None:
        allowance = Allowance(100, 0, 0)
        allowance.use(10**6)
        assert (allowance.left(0), allowance.when(5, 7)) == (sys.maxsize, 7)

    def test_no_limit_at_once_is_what_a_minute_brings(self) -> None:
        assert Allowance(0, 30, 0).left(0) == 30

    @given(st.lists(st.tuples(st.floats(0, 100), st.integers(0, 50)), max_size=50))
    def test_never_more_than_both_together_allow(self, uses: list[tuple[float, int]]) -> None:
        allowance, now, made = Allowance(20, 60, 0), 0.0, 0
        for seconds, wanted in uses:
            now += seconds
            number = min(wanted, allowance.left(now))
            allowance.use(number)
            made += number
            assert made <= 20 + now + 1e-6


class TestBackoff:
    def test_longer_each_time_within_bounds_and_anew_when_it_worked(self) -> None:
        backoff = Backoff(random.Random(1))
        waits = [backoff.next() for _ in range(200)]
        assert 0.125 <= waits[0] <= 0.25
        assert all(5 <= wait <= 10 for wait in waits[7:])
        backoff.reset()
        assert backoff.next() <= 0.25

    def test_two_hosts_are_not_in_step(self) -> None:
        one, other = Backoff(random.Random(1)), Backoff(random.Random(2))
        assert [one.next() for _ in range(5)] != [other.next() for _ in range(5)]
