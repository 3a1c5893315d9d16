"""libvirt: open, list, read, define, and hear of other people's defines.

All calls to libvirt are in this room, and libvirt's errors leave it as PmuconfError with a cause. Domain XML is never
put into an error. An audit opens read-only. Only a change opens read-write, and only there XML may be read with its
secrets: a redefine without them would drop the VNC password.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from typing import Final, TypeVar
from urllib.parse import urlsplit

import libvirt

from pmuconf.errors import DefineRefused, PmuconfError
from pmuconf.hypervisor import events
from pmuconf.hypervisor.connection import Connection
from pmuconf.hypervisor.driver import Driver, driver_uri, host_uuid, machine_id, named_like_us, same_kernel
from pmuconf.hypervisor.exits import Exits, exits_of
from pmuconf.hypervisor.line import Line
from pmuconf.hypervisor.listing import Listed, handle_of, listed_of, look_up
from pmuconf.hypervisor.watch import DefineWatch
from pmuconf.hypervisor.workers import Workers

__all__ = ["DefineWatch", "Exits", "Hypervisor", "Listed"]

_CLOSE_SECONDS: Final = 5.0
_CAPABILITIES_SECONDS: Final = 90.0  # a daemon that was just installed first starts each QEMU

# What makes a domain another one in a report.
_EVENTS: Final = {
    libvirt.VIR_DOMAIN_EVENT_DEFINED: "defined",
    libvirt.VIR_DOMAIN_EVENT_UNDEFINED: "undefined",
    libvirt.VIR_DOMAIN_EVENT_STARTED: "started",
    libvirt.VIR_DOMAIN_EVENT_STOPPED: "stopped",
    libvirt.VIR_DOMAIN_EVENT_CRASHED: "crashed",
}

_Item = TypeVar("_Item")
_Answer = TypeVar("_Answer")


class Hypervisor:
    """One host's QEMU driver. Its methods may be called from several threads at once.

    ``uri`` is libvirt's name of the connection. ``local`` says whether its guests run under this process's kernel: then
    libvirt counts the same processor time. (A socket may be forwarded from another host.)

    Each thread has a connection of its own, opened when it first needs one. Not only for speed: where several
    threads share a connection and its daemon hangs, libvirt 9.0 wakes only one of them when the keepalive runs out.
    Whatever is asked has a deadline (see Connection): domain-timeout if it is about one domain, else libvirt-timeout.
    """

    def __init__(self, uri: str, *, read_only: bool, parallel: int, alive: Callable[[], None]) -> None:
        self._open_uri = uri
        self._read_only = read_only
        self._alive = alive
        self._own = threading.local()
        self._opened: list[Connection] = []
        self._workers = Workers(parallel)
        try:
            kind, self.uri, self._host, self.local = self._ask(_described)
            if kind != "QEMU":
                raise PmuconfError(
                    f"{uri} is libvirt's {kind} driver, and pmuconf serves the QEMU driver only",
                    cause="not-qemu",
                    hint="Name another with --connect, such as qemu:///system",
                )
        except BaseException:
            self._close()
            raise

    @classmethod
    @contextmanager
    def open(
        cls, uri: str, *, read_only: bool, parallel: int = 1, alive: Callable[[], None] = lambda: None
    ) -> Iterator[Hypervisor]:
        """Connect; parallel is the number of requests that map() keeps under way.

        :param alive: is called, from any thread, after each answer (in map(), after each chunk), and every second of a
            wait for one.
        :raises PmuconfError: libvirt-unreachable, libvirt-permission, libvirt-timeout, not-qemu, libvirt-error,
            threads-exhausted.
        """
        events.start()
        hypervisor = cls(uri, read_only=read_only, parallel=parallel, alive=alive)
        try:
            yield hypervisor
        finally:
            hypervisor._close()

    @cached_property
    def driver(self) -> Driver:
        """The driver behind the connection, by its host: the same by whatever transport or socket it is reached."""
        uri = driver_uri(self.uri, self._host)
        return Driver(uri, machine_id() if self.local else "", self._ask(_host_uuid, seconds=_CAPABILITIES_SECONDS))

    def domains(self, names: Sequence[str] = ()) -> list[Listed]:
        """The domains of the host, by name; or those named, each by name or UUID.

        Four requests for a whole host, whatever its size.

        :raises PmuconfError: no-such-domain, ambiguous-domain, or as open().
        """

        def listed(line: Line) -> list[Listed]:
            if not names:
                return listed_of(line, line.raw.listAllDomains())
            handles = [self._found(line, name) for name in names]
            return listed_of(line, list({handle.UUIDString(): handle for handle in handles}.values()))

        return self._ask(listed)

    def named(self, name: str) -> Listed | None:
        """The domain that has this name today or this UUID, however that is written; None if there is none.

        :raises PmuconfError: ambiguous-domain: two domains have it, one as its name and one as its UUID.
        """

        def listed(line: Line) -> Listed | None:
            handle = look_up(line.raw, name)
            return None if handle is None else listed_of(line, [handle])[0]

        return self._ask(listed)

    def find(self, uuid: str) -> Listed | None:
        """The domain with this UUID, None if there is none; never one that merely is named so."""

        def found(line: Line) -> Listed | None:
            try:
                handle = line.raw.lookupByUUIDString(uuid)
            except libvirt.libvirtError as error:
                if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
                    return None
                raise
            return listed_of(line, [handle])[0]

        return self._ask(found, what=uuid)

    def live_xml(self, listed: Listed) -> str:
        """The definition of the running guest; of a domain that does not run, that of its next boot."""
        return self._xml(listed, 0)

    def next_boot_xml(self, listed: Listed, *, secrets: bool = False) -> str:
        """The definition of the next boot; with its secrets on a read-write connection only."""
        flags: int = libvirt.VIR_DOMAIN_XML_INACTIVE
        return self._xml(listed, flags | libvirt.VIR_DOMAIN_XML_SECURE if secrets else flags)

    def saved_xml(self, listed: Listed) -> str | None:
        """The definition that the managed save image brings back; None if the image is gone by now."""

        def read(handle: libvirt.virDomain) -> str | None:
            try:
                return str(handle.managedSaveGetXMLDesc(0))
            except libvirt.libvirtError as error:
                if error.get_error_code() == libvirt.VIR_ERR_OPERATION_INVALID:
                    return None
                raise

        return self._of(listed, read)

    def snapshot_xmls(self, listed: Listed) -> list[str]:
        """The definition of each snapshot; one that goes away meanwhile is left out."""

        def read(handle: libvirt.virDomain) -> list[str]:
            xmls = []
            for snapshot in handle.listAllSnapshots():
                try:
                    xmls.append(str(snapshot.getXMLDesc(0)))
                except libvirt.libvirtError as error:
                    if error.get_error_code() != libvirt.VIR_ERR_NO_DOMAIN_SNAPSHOT:
                        raise
            return xmls

        return self._of(listed, read)

    def exits(self) -> Exits:
        """How often each running domain has left its guest since it was started: all exits of all its vCPUs."""
        return exits_of(self._ask)

    def is_persistent(self, listed: Listed) -> bool:
        """Whether the domain has a next boot now: a define would give one to a transient domain."""
        return self._of(listed, lambda handle: bool(handle.isPersistent()))

    def is_active(self, listed: Listed) -> bool:
        """Whether its guest runs now."""
        return self._of(listed, lambda handle: bool(handle.isActive()))

    def is_saved(self, listed: Listed) -> bool:
        """Whether it has a managed save image now."""
        return self._of(listed, lambda handle: bool(handle.hasManagedSaveImage()))

    def define(self, listed: Listed, xml: str) -> None:
        """Make the XML the domain's next boot. A running guest is not touched.

        Without VIR_DOMAIN_DEFINE_VALIDATE: the text is libvirt's own output but for one element, and the caller
        verifies the result, which finds as much. Validation costs about twice the define itself, and refuses domains
        that were odd before.

        :raises DefineRefused: libvirt answered no; nothing was changed.
        """
        try:
            self._ask(lambda line: _drop(line.raw.defineXML(xml)), name=listed.name, what=listed.uuid)
        except PmuconfError as error:
            if error.cause == "libvirt-error":
                raise DefineRefused(error.message, cause="refused-by-libvirt") from None
            if error.cause == "libvirt-permission":
                raise DefineRefused(error.message, cause=error.cause, hint=error.hint) from None
            raise

    @contextmanager
    def watch(self) -> Iterator[DefineWatch]:
        """Listen for defines while the context lasts."""
        watch = DefineWatch(self._connection)
        try:
            yield watch
        finally:
            watch.close()

    @contextmanager
    def listen(self, heard: Callable[[str, str], None], lost: Callable[[], None]) -> Iterator[None]:
        """While the context lasts, call ``heard`` with a domain's UUID and what happened to it, ``lost`` at its end.

        The event is a word: defined, undefined, started, stopped, crashed, metadata. ``lost`` is called when the
        connection breaks, also if nobody uses it at the moment. Both are called from libvirt's event loop and must
        not keep it waiting. A read-only connection hears the same.
        """
        connection = self._connection

        def lifecycle(_connection: object, domain: libvirt.virDomain, event: int, _detail: int, _data: object) -> None:
            if event in _EVENTS:
                heard(domain.UUIDString(), _EVENTS[event])

        def metadata(_connection: object, domain: libvirt.virDomain, *_data: object) -> None:
            heard(domain.UUIDString(), "metadata")

        def begin(line: Line) -> None:
            listening.append(line.hear(libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, lifecycle))
            listening.append(line.hear(libvirt.VIR_DOMAIN_EVENT_ID_METADATA_CHANGE, metadata))
            line.tell_of_loss(lost)

        events.be_prompt()
        listening: list[int] = []
        try:
            connection.ask(begin, alive=self._alive)
            yield
        finally:
            for number in listening:
                with suppress(PmuconfError):  # the connection is gone, and the registration with it
                    connection.ask(lambda line, number=number: line.unhear(number), alive=self._alive)  # type: ignore[misc]

    def map(self, function: Callable[[_Item], _Answer], items: Sequence[_Item]) -> Iterator[_Answer]:
        """The answers of a function that only reads, in order; the first error ends it.

        Several requests are under way. The function runs in the threads of the connections, chunk by chunk. For an item
        at which libvirt hangs it is called once more, and then gets the error that says so.
        """

        def answers(chunk: Sequence[_Item], enough: Callable[[], bool]) -> list[_Answer]:
            known: list[_Answer] = []
            while len(known) < len(chunk) and not enough():
                known += self._connection.each(function, chunk[len(known) :], enough=enough, alive=self._alive)
                if len(known) < len(chunk) and not enough():
                    known.append(function(chunk[len(known)]))
            return known

        return self._workers.map(answers, items)

    def map_once(self, function: Callable[[_Item], _Answer], items: Sequence[_Item]) -> Iterator[_Answer]:
        """As map(), for a function that does more than to read: it is called once for each item."""

        def answers(chunk: Sequence[_Item], enough: Callable[[], bool]) -> list[_Answer]:
            return [function(item) for item in chunk if not enough()]

        return self._workers.map(answers, items)

    @property
    def _connection(self) -> Connection:
        """The connection of this thread; another one, if the one that it had was given up."""
        own = Connection.of_this_thread()
        if own is not None and own in self._opened:
            return own
        connection: Connection | None = getattr(self._own, "connection", None)
        if connection is None or connection.given_up:
            connection = self._own.connection = Connection.open(
                self._open_uri, read_only=self._read_only, alive=self._alive
            )
            self._opened.append(connection)
        return connection

    def _ask(
        self, function: Callable[[Line], _Answer], *, name: str = "", what: str = "", seconds: float | None = None
    ) -> _Answer:
        return self._connection.ask(function, name=name, what=what, seconds=seconds, alive=self._alive)

    def _of(self, listed: Listed, function: Callable[[libvirt.virDomain], _Answer]) -> _Answer:
        """The function's answer; it is called with this domain's handle."""
        return self._ask(lambda line: function(handle_of(line, listed.uuid)), name=listed.name, what=listed.uuid)

    def _found(self, line: Line, name: str) -> libvirt.virDomain:
        handle = look_up(line.raw, name)
        if handle is None:
            raise PmuconfError(
                f"there is no domain with the name or UUID {name!r} on {self.uri}",
                cause="no-such-domain",
                hint="'virsh list --all' shows those that there are",
            )
        return handle

    def _xml(self, listed: Listed, flags: int) -> str:
        return self._of(listed, lambda handle: str(handle.XMLDesc(flags)))

    def _close(self) -> None:
        self._workers.close()
        open_ones = [connection for connection in self._opened if not connection.given_up]
        for connection in open_ones:
            connection.close()
        until = time.monotonic() + _CLOSE_SECONDS
        for connection in open_ones:
            connection.await_end(until)


def _described(line: Line) -> tuple[str, str, str, bool]:
    """The kind of driver, its URI, the name of its host, and whether its guests run under our kernel."""
    line.handles = {}  # the first thread looks domains up as it needs them; those of map() list them all at once
    uri, host = str(line.raw.getURI()), str(line.raw.getHostname())
    return str(line.raw.getType()), uri, host, urlsplit(uri).hostname is None and _here(line.raw, host)


def _here(connection: libvirt.virConnect, host: str) -> bool:
    """Whether libvirt's host runs under our kernel; by its name where it tells nothing better."""
    try:
        same = same_kernel(connection)
    except libvirt.libvirtError:
        same = None
    return named_like_us(host) if same is None else same


def _host_uuid(line: Line) -> str:
    try:
        return host_uuid(line.raw)
    except libvirt.libvirtError:
        return ""


def _drop(_handle: object) -> None:
    """Drops libvirt's handle at once."""
