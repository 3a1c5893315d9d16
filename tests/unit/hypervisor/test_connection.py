"""A connection to libvirt: every call and every opening ends in time, and it is closed when no event is on its way."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import libvirt
import pytest

from pmuconf.errors import PmuconfError
from pmuconf.hypervisor import connection, events
from pmuconf.hypervisor.connection import Connection
from pmuconf.hypervisor.errors import translate_open
from pmuconf.hypervisor.line import Line
from pmuconf.hypervisor.workers import Workers

URI = "test:///default"
SHORT = 0.01


@pytest.fixture(autouse=True)
def go_on(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """What hangs in a test waits for this, and is let go at the end; each test has a process's books to itself."""
    monkeypatch.setattr(connection, "_all", set())
    monkeypatch.setattr(connection, "_opening", {})
    events.start()
    let_go = threading.Event()
    yield let_go
    let_go.set()
    for one in list(connection._all):
        one.close()
        assert one.ended.wait(30)


@pytest.fixture
def opened() -> Iterator[Connection]:
    made = Connection.open(URI, read_only=True)
    yield made
    made.close()


def cause(function: Callable[[], object]) -> str:
    with pytest.raises(PmuconfError) as caught:
        function()
    return caught.value.cause


def hangs(go_on: threading.Event) -> Callable[[Line], None]:
    def function(_: Line) -> None:
        go_on.wait()

    return function


def hanging(go_on: threading.Event, *, name: str = "", what: str = "") -> Connection:
    """A connection that was given up in the middle of a call: on a busy machine a call may not even have begun."""
    while True:
        made = Connection.open(URI, read_only=True)
        begun = threading.Event()

        def function(_: Line, begun: threading.Event = begun) -> None:
            begun.set()
            go_on.wait()

        expected = "domain-timeout" if name else "libvirt-timeout"
        assert cause(lambda: made.ask(function, name=name, what=what, seconds=SHORT)) == expected  # noqa: B023
        while not begun.is_set():
            if made.ended.wait(SHORT):
                break
        else:
            return made


# ---- calls


def test_an_answer(opened: Connection) -> None:
    assert opened.ask(lambda line: line.raw.getType()) == "TEST"


def test_an_error_of_libvirts_is_one_of_ours(opened: Connection) -> None:
    assert cause(lambda: opened.ask(lambda line: line.raw.lookupByName("none"))) == "domain-vanished"


def test_an_error_keeps_no_handle_of_libvirts_alive(opened: Connection) -> None:
    """By way of a traceback's frames it would, and close the connection whenever it is let go of."""
    with pytest.raises(PmuconfError) as caught:
        opened.ask(lambda line: line.raw.lookupByName("test").metadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, "urn:none"))
    error: BaseException | None = caught.value
    while error is not None:
        traceback = error.__traceback__
        while traceback is not None:
            assert not any(isinstance(one, libvirt.virDomain) for one in traceback.tb_frame.f_locals.values())
            traceback = traceback.tb_next
        error = error.__context__


def test_a_call_that_hangs_is_given_up_and_says_about_what(opened: Connection, go_on: threading.Event) -> None:
    with pytest.raises(PmuconfError) as caught:
        opened.ask(hangs(go_on), name="web", seconds=SHORT)
    assert caught.value.cause == "domain-timeout"
    assert "'web'" in caught.value.message
    assert opened.given_up
    assert cause(lambda: opened.ask(lambda line: line.raw.getType())) == "libvirt-timeout"


def test_signs_of_life_are_given_while_a_call_is_waited_for(
    opened: Connection, go_on: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "_SIGN_SECONDS", SHORT)
    signs: list[int] = []

    def alive() -> None:
        signs.append(1)
        if len(signs) == 3:
            go_on.set()

    opened.ask(hangs(go_on), alive=alive)
    assert len(signs) >= 3


def test_what_hangs_is_closed_by_its_own_thread_when_it_comes_back(go_on: threading.Event) -> None:
    opened = hanging(go_on)
    assert not opened.ended.is_set()
    go_on.set()
    assert opened.ended.wait(30)
    assert opened not in connection._all


def test_another_call_about_the_same_domain_is_refused_while_one_hangs(go_on: threading.Event) -> None:
    one, other = hanging(go_on, name="web", what="uuid"), Connection.open(URI, read_only=True)
    assert cause(lambda: other.ask(lambda line: 1, name="web", what="uuid")) == "domain-timeout"
    assert other.ask(lambda line: 1, name="other", what="another") == 1
    go_on.set()
    assert one.ended.wait(30)
    assert other.ask(lambda line: 1, name="web", what="uuid") == 1
    other.close()


def test_no_more_than_a_few_hang_at_once(go_on: threading.Event) -> None:
    for _ in range(connection._HANGING):
        hanging(go_on)
    assert cause(lambda: Connection.open(URI, read_only=True)) == "libvirt-timeout"
    go_on.set()
    for one in list(connection._all):
        assert one.ended.wait(30)
    Connection.open(URI, read_only=True).close()


# ---- openings


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch, go_on: threading.Event) -> list[str]:
    """Openings hang; those that were begun."""
    begun: list[str] = []
    real = libvirt.openReadOnly

    def hang(uri: str) -> libvirt.virConnect:
        begun.append(uri)
        go_on.wait()
        return real(uri)

    monkeypatch.setattr(libvirt, "openReadOnly", hang)
    monkeypatch.setattr(connection, "_OPEN_SECONDS", SHORT)
    return begun


def test_an_opening_that_hangs_is_waited_for_again_and_not_begun_anew(
    slow: list[str], go_on: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(20):
        assert cause(lambda: Connection.open(URI, read_only=True)) == "libvirt-timeout"
    assert len(slow) == 1
    monkeypatch.setattr(connection, "_OPEN_SECONDS", 30.0)
    go_on.set()
    opened = Connection.open(URI, read_only=True)
    assert opened.ask(lambda line: line.raw.getType()) == "TEST"
    assert len(slow) == 1
    opened.close()


def test_many_threads_that_try_again_and_again_leave_no_more_threads_than_they_are(slow: list[str]) -> None:
    for _ in range(5):
        threads = [
            threading.Thread(target=lambda: cause(lambda: Connection.open(URI, read_only=True))) for _ in range(32)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(connection._all) <= connection.MOST
    assert len(slow) <= 32 + 1  # one may come just before another is left


def test_of_those_that_come_back_when_nobody_waits_one_stays(slow: list[str], go_on: threading.Event) -> None:
    waiting = [connection.Connection(URI, read_only=True) for _ in range(3)]
    connection._all.update(waiting)
    connection._opening[URI, True] = list(waiting)
    for one in waiting:
        one._thread.start()
    go_on.set()
    for one in waiting:
        assert one._opened.wait(30)
    (kept,) = connection._opening[URI, True]
    for one in waiting:
        assert one is kept or one.ended.wait(30)
    kept.close()


def test_no_thread_left_is_an_error_with_a_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("threading.Thread.start", refused)
    assert cause(lambda: Connection.open(URI, read_only=True)) == "threads-exhausted"
    assert connection._all == set()


def test_no_thread_left_for_a_pool_is_an_error_with_a_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("threading.Thread.start", refused)
    assert cause(lambda: list(Workers(4).map(lambda chunk, _: list(chunk), range(100)))) == "threads-exhausted"


# ---- closing


class Raw:
    """libvirt's connection, of which the order of calls counts."""

    def __init__(self, *, alive: bool = True, deaf: bool = False) -> None:
        self.calls: list[str] = []
        self._alive = alive
        self._deaf = deaf

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*_: object) -> Any:
            if name == "isAlive":
                return self._alive
            if self._deaf and name == "domainEventDeregisterAny":
                raise libvirt.libvirtError("it does not want to")
            self.calls.append(name)
            return len(self.calls)

        return call


@pytest.fixture
def turns(monkeypatch: pytest.MonkeyPatch) -> list[Raw]:
    raws: list[Raw] = []

    def turn() -> None:
        raws[0].calls.append("turn")

    monkeypatch.setattr(events, "await_turn", turn)
    return raws


def test_what_listened_is_closed_behind_its_last_event_and_without_a_handle(turns: list[Raw]) -> None:
    turns.append(Raw())
    line = Line(turns[0], handles={"uuid": object()})
    line.hear(0, print)
    line.tell_of_loss(lambda: None)
    line.close()
    assert line.handles is None
    assert turns[0].calls == [
        *("domainEventRegisterAny", "registerCloseCallback", "unregisterCloseCallback", "domainEventDeregisterAny"),
        *("getLibVersion", "getLibVersion", "turn", "turn", "close"),
    ]


def test_events_may_still_come_when_it_was_told_before_to_listen_no_more(turns: list[Raw]) -> None:
    turns.append(Raw())
    line = Line(turns[0])
    line.unhear(line.hear(0, print))
    line.close()
    assert turns[0].calls[-5:] == ["getLibVersion", "getLibVersion", "turn", "turn", "close"]


def test_what_never_listened_is_closed_at_once(turns: list[Raw]) -> None:
    turns.append(Raw())
    Line(turns[0]).close()
    assert turns[0].calls == ["close"]


def test_what_broke_brings_no_event_and_is_closed_without_a_question(turns: list[Raw]) -> None:
    turns.append(Raw(alive=False))
    line = Line(turns[0])
    line.hear(0, print)
    line.close()
    assert turns[0].calls[-1] == "close"
    assert "getLibVersion" not in turns[0].calls


def test_what_goes_on_listening_is_never_closed(turns: list[Raw], monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[Raw] = []
    monkeypatch.setattr("pmuconf.hypervisor.line._kept", kept)
    turns.append(Raw(deaf=True))
    line = Line(turns[0])
    line.hear(0, print)
    line.close()
    assert "close" not in turns[0].calls
    assert kept == [turns[0]]


def test_an_event_loop_that_stands_still_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    events.start()
    monkeypatch.setattr(events, "_TURN_SECONDS", SHORT)
    monkeypatch.setattr(libvirt, "virEventUpdateTimeout", lambda *_: None)
    assert cause(events.await_turn) == "libvirt-timeout"


def test_a_daemon_that_ends_right_behind_the_opening_is_a_connection_that_was_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """libvirt then says of keepalive that the caller lacks an event loop (remoteConnectSetKeepAlive)."""

    def ended(*_: object) -> None:
        error = libvirt.libvirtError("the caller doesn't support keepalive protocol")
        code, domain = libvirt.VIR_ERR_INTERNAL_ERROR, libvirt.VIR_FROM_REMOTE
        error.err = (code, domain, str(error), libvirt.VIR_ERR_ERROR, "", "", "", -1, -1)
        raise error

    monkeypatch.setattr(libvirt.virConnect, "setKeepAlive", ended)
    assert cause(lambda: Connection.open(URI, read_only=True)) == "libvirt-lost"


def test_what_libvirt_s_own_access_control_refuses_at_the_opening_is_a_permission() -> None:
    """With access_drivers = ["polkit"], a daemon opens no driver for a user who lacks connect.getattr."""
    for code in (libvirt.VIR_ERR_ACCESS_DENIED, libvirt.VIR_ERR_OPERATION_DENIED):
        error = libvirt.libvirtError("access denied: 'QEMU' denied access")
        error.err = (code, libvirt.VIR_FROM_ACCESS, str(error), libvirt.VIR_ERR_ERROR, "", "", "", -1, -1)
        assert translate_open(error, "qemu:///system").cause == "libvirt-permission"
