"""A connection to libvirt as its own thread has it, and how it is closed.

A connection is closed with its last reference: by virConnectClose(), or by virDomainFree() of the last handle. libvirt
9.0 then waits for the daemon's answer with the connection half gone. If an event comes in at that moment, libvirt takes
a reference to the connection that is gone, and waits for a lock that it holds. The call never returns then, and
libvirt's event loop and every other connection stand still.

So a connection that listened is closed only when no event can be on its way. First the handles are dropped and the
registrations taken back. Then two round trips bring what the daemon had sent before, and two turns of the event loop
deliver it.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import libvirt

from pmuconf.errors import PmuconfError
from pmuconf.hypervisor import events

__all__ = ["Line", "fence"]

_kept: list[Any] = []  # connections that can't be closed


@dataclass
class Line:
    """A connection as its own thread has it: libvirt's object, and the handles of domains that it found so far.

    ``handles`` is None until somebody lists them; ``listening`` has the callbacks that are registered.
    """

    raw: libvirt.virConnect
    handles: dict[str, libvirt.virDomain] | None = None
    listening: list[int] = field(default_factory=list)
    listened: bool = False
    told_of_loss: bool = False

    def hear(self, kind: int, callback: Callable[..., None]) -> int:
        """Call back at each event of this kind (VIR_DOMAIN_EVENT_ID_*), of any domain; its number, for unhear()."""
        self.listened = True
        number = int(self.raw.domainEventRegisterAny(None, kind, callback, None))
        self.listening.append(number)
        return number

    def unhear(self, number: int) -> None:
        """Call back no more."""
        self.raw.domainEventDeregisterAny(number)
        self.listening.remove(number)

    def tell_of_loss(self, lost: Callable[[], None]) -> None:
        """Call this when the connection breaks; the embedded driver has no such thing, for it can't break."""
        self.listened = True
        with suppress(libvirt.libvirtError):
            self.raw.registerCloseCallback(lambda *_: lost(), None)
            self.told_of_loss = True

    def close(self) -> None:
        """Close it, with no event on its way; one that still listens, and can't be told not to, is kept for ever."""
        self.handles = None
        alive = bool(self.raw.isAlive())
        with suppress(libvirt.libvirtError):
            if self.told_of_loss:
                self.raw.unregisterCloseCallback()
        for number in list(self.listening):
            with suppress(libvirt.libvirtError):
                self.unhear(number)
        if self.listened and alive:
            try:
                fence(self.raw)
            except (libvirt.libvirtError, PmuconfError):
                alive = bool(self.raw.isAlive())  # what broke brings no event any more
                if alive:
                    self.listening.append(-1)
        if alive and self.listening:
            _kept.append(self.raw)
            return
        with suppress(libvirt.libvirtError):
            self.raw.close()


def fence(raw: libvirt.virConnect) -> None:
    """Return when every event that libvirt has queued by now was heard.

    The daemon sends events from the main loop that also takes requests in. Answers come behind them on the same
    connection, so after two round trips the events are here. This process calls back from its own event loop,
    in turn; so after two turns of that they were heard.

    :raises PmuconfError: libvirt-timeout.
    """
    for _ in range(2):
        raw.getLibVersion()
    for _ in range(2):
        events.await_turn()
