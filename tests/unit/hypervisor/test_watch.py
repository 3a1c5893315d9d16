"""DefineWatch: what is heard of a domain since a mark, and a watch that is deaf, which is never taken for silence."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import libvirt
import pytest

from pmuconf.hypervisor import watch
from pmuconf.hypervisor.connection import Connection
from pmuconf.hypervisor.watch import DefineWatch

LIFECYCLE, METADATA = libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, libvirt.VIR_DOMAIN_EVENT_ID_METADATA_CHANGE
UPDATED, ADDED = libvirt.VIR_DOMAIN_EVENT_DEFINED_UPDATED, libvirt.VIR_DOMAIN_EVENT_DEFINED_ADDED


class Libvirt:
    """A connection and its line, that tell of what the test lets happen; ``deaf`` delivers nothing."""

    def __init__(self) -> None:
        self.callbacks: dict[int, tuple[int, Callable[..., None]]] = {}
        self.registered = 0
        self.deaf = False
        self.raw = None

    def ask(self, function: Callable[[Any], Any]) -> Any:
        return function(self)

    def hear(self, kind: int, callback: Callable[..., None]) -> int:
        self.registered += 1
        self.callbacks[self.registered] = kind, callback
        return self.registered

    def unhear(self, number: int) -> None:
        del self.callbacks[number]
        if not self.callbacks:
            self.deaf = False  # as libvirt: its queue is emptied when nobody listens

    def define(self, uuid: str = "u", detail: int = UPDATED) -> None:
        self._tell(LIFECYCLE, uuid, libvirt.VIR_DOMAIN_EVENT_DEFINED, detail)

    def undefine(self, uuid: str = "u") -> None:
        self._tell(LIFECYCLE, uuid, libvirt.VIR_DOMAIN_EVENT_UNDEFINED, 0)

    def start(self, uuid: str = "u") -> None:
        self._tell(LIFECYCLE, uuid, libvirt.VIR_DOMAIN_EVENT_STARTED, 0)

    def title(self, uuid: str = "u") -> None:
        self._tell(METADATA, uuid, libvirt.VIR_DOMAIN_METADATA_TITLE, None)

    def _tell(self, kind: int, uuid: str, *what: Any) -> None:
        domain = SimpleNamespace(UUIDString=lambda: uuid)
        for listening, callback in list(self.callbacks.values()):
            if listening == kind and not self.deaf:
                callback(None, domain, *what, None)


@pytest.fixture
def daemon(monkeypatch: pytest.MonkeyPatch) -> Libvirt:
    monkeypatch.setattr(watch, "fence", lambda _raw: None)
    monkeypatch.setattr(watch, "_EVENT_SECONDS", 0.02)
    monkeypatch.setattr(watch, "_ANOTHER_SECONDS", 0.01)
    return Libvirt()


@pytest.fixture
def listening(daemon: Libvirt) -> DefineWatch:
    return DefineWatch(cast(Connection, daemon))


def test_what_is_heard_of_a_domain_in_order(daemon: Libvirt, listening: DefineWatch) -> None:
    mark = listening.mark("u")
    daemon.define()
    daemon.title()
    daemon.undefine()
    daemon.start()
    daemon.define(detail=ADDED)
    daemon.define("another")
    assert listening.wait("u", mark) == ("defined", "metadata", "undefined", "added")


def test_only_what_came_behind_the_mark(daemon: Libvirt, listening: DefineWatch) -> None:
    daemon.define()
    mark = listening.mark("u")
    daemon.title()
    assert listening.since("u", mark) == ("metadata",)


def test_another_than_our_own_is_waited_for(daemon: Libvirt, listening: DefineWatch) -> None:
    mark = listening.mark("u")
    daemon.define()
    threading.Timer(0.002, daemon.title).start()
    assert listening.wait_for_another("u", mark) in (("defined", "metadata"), ("defined",))


def test_our_own_define_that_is_not_heard_of_is_a_gap(daemon: Libvirt, listening: DefineWatch) -> None:
    daemon.deaf = True
    mark = listening.mark("u")
    daemon.define()
    assert listening.wait("u", mark) == ("gap",)


def test_a_deaf_watch_registers_anew_and_hears(daemon: Libvirt, listening: DefineWatch) -> None:
    daemon.deaf = True
    listening.wait("u", listening.mark("u"))
    mark = listening.mark("u")
    daemon.define()
    assert listening.wait("u", mark) == ("defined",)
    assert len(daemon.callbacks) == 2


def test_a_gap_is_in_the_history_of_every_domain_whose_mark_is_older(daemon: Libvirt, listening: DefineWatch) -> None:
    """Its own define is heard of, but what came before it may not have been."""
    daemon.deaf = True
    older = listening.mark("other")
    listening.wait("u", listening.mark("u"))
    daemon.define("other")
    assert listening.wait("other", older) == ("gap", "defined")


def test_of_several_that_wait_one_registers_anew(daemon: Libvirt, listening: DefineWatch) -> None:
    daemon.deaf = True
    marks = [listening.mark(uuid) for uuid in ("a", "b")]
    registered = daemon.registered
    for uuid, mark in zip(("a", "b"), marks):
        listening.wait(uuid, mark)
    assert daemon.registered == registered + 2


def test_it_stops_listening(daemon: Libvirt, listening: DefineWatch) -> None:
    listening.close()
    assert daemon.callbacks == {}
