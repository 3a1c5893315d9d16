"""Items in the connection's own thread: no way there and back for each question, and each has its deadline."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import libvirt
import pytest

from pmuconf.errors import PmuconfError
from pmuconf.hypervisor import connection, events
from pmuconf.hypervisor.connection import Connection
from pmuconf.hypervisor.hypervisor import Hypervisor

URI = "test:///default"
SHORT = 0.05


@pytest.fixture(autouse=True)
def go_on(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    monkeypatch.setattr(connection, "_all", set())
    events.start()
    let_go = threading.Event()
    yield let_go
    let_go.set()
    for one in list(connection._all):
        one.close()
        assert one.ended.wait(30)


@pytest.fixture
def hypervisor(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hypervisor]:
    """One that takes libvirt's test driver for QEMU's."""
    monkeypatch.setattr("pmuconf.hypervisor.hypervisor._described", lambda _: ("QEMU", URI, "here", True))
    with Hypervisor.open(URI, read_only=True) as opened:
        yield opened


def never() -> bool:
    return False


def test_each_question_is_asked_in_the_thread_that_has_the_connection() -> None:
    opened = Connection.open(URI, read_only=True)

    def double(number: int) -> tuple[int, bool, bool]:
        here = Connection.of_this_thread() is opened
        there = opened.ask(lambda _: threading.current_thread() is opened._thread)
        return 2 * number, here, there

    assert opened.each(double, [1, 2, 3], enough=never) == [(2, True, True), (4, True, True), (6, True, True)]
    assert Connection.of_this_thread() is None


def test_an_error_about_one_question_is_ours_and_keeps_no_handle() -> None:
    opened = Connection.open(URI, read_only=True)
    errors = []

    def wrong(_: int) -> str:
        try:
            opened.ask(
                lambda line: line.raw.lookupByName("test").metadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, "urn:none")
            )
        except PmuconfError as error:
            errors.append(error)
            return error.cause
        return ""

    (cause,) = opened.each(wrong, [1], enough=never)
    assert cause
    error: BaseException | None = errors[0]
    while error is not None:
        traceback = error.__traceback__
        while traceback is not None:
            assert not any(isinstance(one, libvirt.virDomain) for one in traceback.tb_frame.f_locals.values())
            traceback = traceback.tb_next
        error = error.__context__


def test_only_the_question_that_hangs_is_given_up_and_the_answers_before_it_count(go_on: threading.Event) -> None:
    opened = Connection.open(URI, read_only=True)

    def ask(number: int) -> int:
        if number == 3:
            opened.ask(lambda _: go_on.wait(), name="web", what="uuid-3", seconds=SHORT)
        return opened.ask(lambda _: number)

    assert opened.each(ask, [1, 2, 3, 4], enough=never) == [1, 2]
    assert opened.given_up


def test_the_deadline_is_that_of_each_question_and_not_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "_SIGN_SECONDS", 0.01)
    opened = Connection.open(URI, read_only=True)
    pause = threading.Event()
    slow = [0.15] * 6

    def ask(seconds: float) -> float:
        opened.ask(lambda _: pause.wait(seconds), name="web", what="uuid", seconds=0.6)
        return seconds

    assert opened.each(ask, slow, enough=never) == slow
    assert not opened.given_up


def test_a_domain_that_hangs_has_its_own_error_and_the_others_their_answers(
    hypervisor: Hypervisor, go_on: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "_CALL_SECONDS", 0.3)

    def ask(name: str) -> str:
        def answer(_: object) -> str:
            if name == "hung":
                go_on.wait()
            return name

        try:
            return hypervisor._ask(answer, name=name, what=f"uuid of {name}")
        except PmuconfError as error:
            return error.cause

    names = ["a", "b", "hung", "c"]
    assert list(hypervisor.map(ask, names)) == ["a", "b", "domain-timeout", "c"]


def test_a_look_at_many_domains_costs_one_hand_over_a_chunk(
    hypervisor: Hypervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, hand_overs = Connection._await, []

    def count(
        self: Connection, call: connection._Call[object], alive: Callable[[], None]
    ) -> tuple[bool, object] | None:
        hand_overs.append(call)
        return real(self, call, alive)

    monkeypatch.setattr(Connection, "_await", count)

    def look(number: int) -> int:
        return hypervisor._ask(lambda _: number) + hypervisor._ask(lambda _: number)

    assert list(hypervisor.map(look, range(64))) == [2 * number for number in range(64)]
    assert len(hand_overs) == 4


def test_a_function_that_changes_something_is_called_once_and_not_there(hypervisor: Hypervisor) -> None:
    calls: list[int] = []

    def change(number: int) -> bool:
        calls.append(number)
        return Connection.of_this_thread() is None

    assert list(hypervisor.map_once(change, [1, 2, 3])) == [True] * 3
    assert calls == [1, 2, 3]


def test_an_error_that_concerns_all_ends_it(hypervisor: Hypervisor) -> None:
    def fail(number: int) -> int:
        if number == 2:
            raise PmuconfError("it broke", cause="libvirt-lost")
        return number

    with pytest.raises(PmuconfError) as caught:
        list(hypervisor.map(fail, [1, 2, 3]))
    assert caught.value.cause == "libvirt-lost"


def test_items_for_a_connection_that_has_ended_meanwhile_are_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was given up behind another thread's call, which came back late: nobody is left to answer."""
    monkeypatch.setattr(connection, "_SIGN_SECONDS", 0.01)
    opened = Connection.open(URI, read_only=True)
    opened.close()
    assert opened.ended.wait(30)
    answers: list[list[int]] = []
    asking = threading.Thread(target=lambda: answers.append(opened.each(int, [1, 2], enough=never)), daemon=True)
    asking.start()
    asking.join(10)
    assert answers == [[]]
