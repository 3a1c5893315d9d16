"""The history of domains while changes are made, to see other tools' defines: libvirt has no compare-and-swap."""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import Final, NamedTuple

import libvirt

from pmuconf.errors import PmuconfError
from pmuconf.hypervisor import events
from pmuconf.hypervisor.connection import Connection
from pmuconf.hypervisor.history import Happening
from pmuconf.hypervisor.line import Line, fence

__all__ = ["DefineWatch", "Mark"]

_EVENT_SECONDS: Final = 5.0
_ANOTHER_SECONDS: Final = 1.0


class Mark(NamedTuple):
    """A point in a domain's history: so many events were heard of it, and so often was the watch deaf."""

    heard: int
    gaps: int


class DefineWatch:
    """Remembers every define, undefine and change of metadata of the host, whoever makes it, in order.

    A define overwrites whatever was edited since we last read. Each define gives one lifecycle event, and ours too: two
    of them where we made one show that somebody else edited the domain. A changed title, description or metadata gives
    an event of its own. ``attach-device --config``, ``setmem --config`` and the like give none (seen on libvirt 9.0)
    and are not seen here.

    Events come some time after the call that caused them. So each answer is given behind a fence: every event that
    libvirt had queued before is in it.

    A watch may be deaf from its beginning. If the last other client stops listening in the very moment of an event,
    libvirt keeps that event in its queue with no timer set. Only the first event of a queue sets the timer, so none is
    delivered any more until nobody listens. (virObjectEventStateQueueRemote() looks at the timer without the lock; seen
    on 9.0, in 1 of 100 registrations under load.) Our own define shows it, if its event does not come. Then the watch
    registers anew, which empties the queue if nobody else listens, and the history gets a GAP.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._seen: dict[str, list[Happening]] = {}
        self._changed = threading.Condition()
        self._fencing = threading.Lock()
        self._begun = self._done = 0
        self._mending = threading.Lock()
        self._patience = _EVENT_SECONDS
        self._gaps = 0
        self._ids: list[int] = []
        events.be_prompt()
        try:
            connection.ask(self._listen)
        except PmuconfError:
            self.close()
            raise

    def mark(self, uuid: str) -> Mark:
        """This point in the domain's history, to be given to wait(); call fence() first.

        Without fence(), a late event of an earlier edit counts as made after the mark. So an edit may be reported that
        was not overwritten, but one that was overwritten is never missed.
        """
        return Mark(len(self._seen.get(uuid, ())), self._gaps)

    def wait(self, uuid: str, mark: Mark) -> tuple[Happening, ...]:
        """The domain's history from the mark up to now, our own define in it.

        Without a define in it, or with a GAP, libvirt did not report everything. The first such wait takes 5 seconds,
        those after it one, so that a watch that stays deaf does not hold up a whole run.
        """
        self.fence()
        with self._changed:
            heard = self._changed.wait_for(lambda: self._defines(uuid, mark) > 0, self._patience)
        if not heard:
            self._mend(mark)
        return self.since(uuid, mark)

    def wait_for_another(self, uuid: str, mark: Mark) -> tuple[Happening, ...]:
        """As wait(), but until there is an event that is not ours; what there is when a while is over.

        libvirt unlocks a domain before it queues the event of a define. So a define may be seen before its event, and
        no fence helps.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._others(uuid, mark) > 0, _ANOTHER_SECONDS)
        return self.since(uuid, mark)

    def since(self, uuid: str, mark: Mark) -> tuple[Happening, ...]:
        """The domain's history from the mark up to now, without waiting; call fence() first."""
        with self._changed:
            gap = (Happening.GAP,) if self._gaps > mark.gaps else ()
            return (*gap, *self._seen.get(uuid, ())[mark.heard :])

    def close(self) -> None:
        """Stop listening."""
        for number in self._ids:
            with suppress(PmuconfError):  # the connection is gone, and the registration with it
                self._connection.ask(lambda line, number=number: line.unhear(number))  # type: ignore[misc]

    def fence(self) -> None:
        """Return when every event that libvirt has queued by now was heard; one thread's serves those that wait."""
        enough = self._begun + 1
        with self._fencing:
            if self._done >= enough:
                return
            self._begun += 1
            self._connection.ask(lambda line: fence(line.raw))
            self._done = self._begun

    def _listen(self, line: Line) -> None:
        self._ids.append(line.hear(libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, self._heard))
        self._ids.append(line.hear(libvirt.VIR_DOMAIN_EVENT_ID_METADATA_CHANGE, self._heard_metadata))

    def _mend(self, mark: Mark) -> None:
        """Register anew; one thread's serves those whose mark is as old."""
        with self._mending:
            if self._gaps > mark.gaps:
                return

            def anew(line: Line) -> None:
                while self._ids:
                    line.unhear(self._ids.pop())
                self._listen(line)

            with suppress(PmuconfError):  # whoever asks next is told
                self._connection.ask(anew)
            with self._changed:
                self._gaps += 1
                self._patience = _ANOTHER_SECONDS

    def _heard(self, _connection: object, domain: libvirt.virDomain, event: int, detail: int, _data: object) -> None:
        if event == libvirt.VIR_DOMAIN_EVENT_DEFINED:
            self._note(
                domain, Happening.ADDED if detail == libvirt.VIR_DOMAIN_EVENT_DEFINED_ADDED else Happening.DEFINED
            )
        elif event == libvirt.VIR_DOMAIN_EVENT_UNDEFINED:
            self._note(domain, Happening.UNDEFINED)

    def _heard_metadata(self, _connection: object, domain: libvirt.virDomain, *_data: object) -> None:
        self._note(domain, Happening.METADATA)

    def _note(self, domain: libvirt.virDomain, what: Happening) -> None:
        with self._changed:
            self._patience = _EVENT_SECONDS
            self._seen.setdefault(domain.UUIDString(), []).append(what)
            self._changed.notify_all()

    def _defines(self, uuid: str, mark: Mark) -> int:
        return sum(what in (Happening.DEFINED, Happening.ADDED) for what in self._seen.get(uuid, ())[mark.heard :])

    def _others(self, uuid: str, mark: Mark) -> int:
        metadata = sum(what == Happening.METADATA for what in self._seen.get(uuid, ())[mark.heard :])
        return metadata + max(0, self._defines(uuid, mark) - 1)
