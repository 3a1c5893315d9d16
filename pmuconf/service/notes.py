"""Notes that other threads leave for the loop, of signals, events and a lost connection. Each wakes the loop."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from typing import Final

from pmuconf.service.agenda import Agenda

__all__ = ["SIGN_SECONDS", "Notes"]

SIGN_SECONDS: Final = 5.0
"""How long the loop sleeps at most before it gives a sign of life."""


class Notes:
    """Its methods may be called from any thread.

    ``stopping``: the service is to end. ``lost``: the connection to libvirt broke. ``deaf``: libvirt does not report
    events on this connection.
    """

    def __init__(self) -> None:
        self._noted = threading.Condition()
        self._agenda = Agenda(0)
        self._reloading = False
        self._events = self._events_before = self._events_at_begin = 0
        self.stopping = self.lost = self.deaf = False

    def stop(self) -> None:
        """The service is to end."""
        with self._noted:
            self.stopping = True
            self._noted.notify_all()

    def reload(self) -> None:
        """The configuration is to be read anew."""
        with self._noted:
            self._reloading = True
            self._noted.notify_all()

    def take_reload(self) -> bool:
        """Whether the configuration is to be read anew; says so once."""
        with self._noted:
            asked, self._reloading = self._reloading, False
        return asked

    def event(self, uuid: str) -> None:
        """Something happened to this domain."""
        with self._noted:
            self._events += 1
            self._agenda.heard(uuid, time.monotonic())
            self._noted.notify_all()

    def lose(self) -> None:
        """The connection broke."""
        with self._noted:
            self.lost = True
            self._noted.notify_all()

    # ---- for the loop

    def connected(self) -> None:
        """A new connection: nothing is known of it yet."""
        self.lost = self.deaf = False

    def debounce(self, seconds: float) -> None:
        """A domain is due so long after its first event."""
        self._agenda.debounce = seconds

    def ours(self, uuid: str) -> None:
        """One event of this domain is of our own making."""
        with self._noted:
            self._agenda.ours(uuid, time.monotonic())

    def later(self, uuids: Iterable[str], at: float) -> None:
        """These domains are to be looked at again at that time."""
        with self._noted:
            self._agenda.later(uuids, at)

    def due(self) -> dict[str, float | None]:
        """The domains that are to be looked at now (see Agenda.take())."""
        with self._noted:
            return self._agenda.take(time.monotonic())

    def begin_pass(self) -> None:
        """All domains are about to be looked at."""
        with self._noted:
            self._agenda.clear()
            self._events_at_begin = self._events

    def end_pass(self) -> bool:
        """All were looked at; whether an event was heard since the pass before this one began."""
        heard = self._events != self._events_before
        self._events_before = self._events_at_begin
        return heard

    def wait(self, until: float, sign: Callable[[int], None], *, events: bool) -> None:
        """Sleep until then, or until there is something to do.

        :param sign: is called every few seconds, with the number of domains that wait for their turn.
        :param events: whether events, and the loss of the connection, can be followed up now.
        """
        while True:
            sign(len(self._agenda))
            with self._noted:
                if self.stopping or self._reloading or (events and self.lost):
                    return
                due = self._agenda.next() if events else None
                left = min(until, until if due is None else due) - time.monotonic()
                if left <= 0:
                    return
                self._noted.wait(min(left, SIGN_SECONDS))
