"""libvirt: open, list, read, define, and hear of other people's defines.

Everything that talks to libvirt is here, and libvirt's errors leave it as PmuconfError with a cause. Domain XML is
never put into an error. An audit opens read-only; only a change opens read-write, and only there may XML be read
with its secrets, without which a redefine would drop the VNC password.
"""

from __future__ import annotations

import errno
import re
import socket
import threading
import uuid as uuids
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit, urlunsplit

import libvirt

from pmuconf.errors import DomainVanished, PmuconfError

__all__ = ["DefineWatch", "Hypervisor", "Listed"]

_OPEN_SECONDS: Final = 30.0
_KEEPALIVE_SECONDS: Final = 5
_KEEPALIVE_COUNT: Final = 4
_WORTH_THREADS: Final = 8
_CHUNK: Final = 8
_EVENT_SECONDS: Final = 5.0
_LEISURE_SECONDS: Final = 0.05
_ANOTHER_SECONDS: Final = 1.0

# What makes a domain another one in a report.
_EVENTS: Final = {
    libvirt.VIR_DOMAIN_EVENT_DEFINED: "defined",
    libvirt.VIR_DOMAIN_EVENT_UNDEFINED: "undefined",
    libvirt.VIR_DOMAIN_EVENT_STARTED: "started",
    libvirt.VIR_DOMAIN_EVENT_STOPPED: "stopped",
    libvirt.VIR_DOMAIN_EVENT_CRASHED: "crashed",
}

_EXITS: Final = re.compile(r"vcpu\.\d+\.exits\.sum")

_Item = TypeVar("_Item")
_Answer = TypeVar("_Answer")


@dataclass(frozen=True)
class Listed:
    """One domain as the list of the host has it.

    ``persistent`` is false for a transient domain, which has no next boot; ``saved`` says that it has a managed
    save image, ``snapshots`` that it has at least one snapshot.
    """

    name: str
    uuid: str
    active: bool
    persistent: bool
    saved: bool
    snapshots: bool


class DefineWatch:
    """Remembers every define and undefine of the host, whoever makes it, in the order in which they happen.

    libvirt has no compare-and-swap: a define overwrites whatever was defined since we last read. Each define gives
    one lifecycle event, and ours too; so two of them where we made one tell that somebody else was at it.
    ``attach-device --config`` and the like give no event (seen on libvirt 9.0) and are not seen here.

    Events come some time after the call that caused them, so each answer is given behind a fence: every event that
    libvirt had queued before is in it.
    """

    DEFINED: Final = "defined"
    ADDED: Final = "added"
    UNDEFINED: Final = "undefined"

    def __init__(self, connection: libvirt.virConnect) -> None:
        self._connection = connection
        self._seen: dict[str, list[str]] = {}
        self._changed = threading.Condition()
        self._fencing = threading.Lock()
        self._begun = self._done = 0
        _prompt.set()
        self._id = connection.domainEventRegisterAny(None, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, self._heard, None)

    def mark(self, uuid: str) -> int:
        """This point in the domain's history, to be given to wait(); call fence() first.

        What happened before and is heard after it would look like somebody else's edit: a false alarm, no silence.
        """
        return len(self._seen.get(uuid, ()))

    def wait(self, uuid: str, mark: int) -> tuple[str, ...]:
        """What happened to the domain from the mark up to now; the define of ours in it is waited for, in bounds."""
        self.fence()
        with self._changed:
            self._changed.wait_for(lambda: self._defines(uuid, mark) > 0, _EVENT_SECONDS)
            return tuple(self._seen.get(uuid, ())[mark:])

    def wait_for_another(self, uuid: str, mark: int) -> tuple[str, ...]:
        """As wait(), but until there is a define that is not ours; what there is when a while is over.

        libvirt lets go of a domain before it queues the event of a define, so that one may be seen before it is
        told of, and no fence helps.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._defines(uuid, mark) > 1, _ANOTHER_SECONDS)
            return tuple(self._seen.get(uuid, ())[mark:])

    def close(self) -> None:
        """Stop listening."""
        with suppress(libvirt.libvirtError):  # the connection is gone, and the registration with it
            self._connection.domainEventDeregisterAny(self._id)

    def fence(self) -> None:
        """Return when every event that libvirt has queued by now was heard.

        The daemon sends events from the main loop that also takes requests in, and answers come behind them on the
        same connection; so after two round trips they are here. This process calls back from its own event loop,
        in turn; so after two turns of that they were heard. One thread's fence serves those that wait for it.
        """
        enough = self._begun + 1
        with self._fencing:
            if self._done >= enough:
                return
            self._begun += 1
            with _translated():
                for _ in range(2):
                    self._connection.getLibVersion()
                for _ in range(2):
                    _await_turn()
            self._done = self._begun

    def _heard(self, _connection: object, domain: libvirt.virDomain, event: int, detail: int, _data: object) -> None:
        if event == libvirt.VIR_DOMAIN_EVENT_DEFINED:
            what = self.ADDED if detail == libvirt.VIR_DOMAIN_EVENT_DEFINED_ADDED else self.DEFINED
        elif event == libvirt.VIR_DOMAIN_EVENT_UNDEFINED:
            what = self.UNDEFINED
        else:
            return
        with self._changed:
            self._seen.setdefault(domain.UUIDString(), []).append(what)
            self._changed.notify_all()

    def _defines(self, uuid: str, mark: int) -> int:
        return sum(what != self.UNDEFINED for what in self._seen.get(uuid, ())[mark:])


class Hypervisor:
    """One host's QEMU driver. Its methods may be called from several threads at once.

    ``uri`` is libvirt's name of the connection, ``identity`` that of the driver behind it, the same by whatever
    transport or socket it is reached. ``local`` says that its guests run under the kernel that this process runs
    under, as far as the URI and libvirt's name of its host tell: a socket may be forwarded from another one.

    Each thread has a connection of its own, opened when it first needs one. Not only for speed: where several
    threads share a connection and its daemon hangs, libvirt 9.0 wakes only one of them when the keepalive runs out.
    """

    def __init__(self, uri: str, read_only: bool, parallel: int) -> None:
        self._open_uri = uri
        self._read_only = read_only
        self._parallel = parallel
        self._own = threading.local()
        self._opened: list[libvirt.virConnect] = []
        self._pool: ThreadPoolExecutor | None = None
        with _translated():
            kind = self._connection.getType()
            self.uri: str = self._connection.getURI()
            host = self._connection.getHostname()
            self.local = urlsplit(self.uri).hostname is None and _is_this_host(host)
            self.identity = _identity(self.uri, host)
        self._own.handles = {}  # this thread looks domains up as it needs them; those of map() list them all at once
        if kind != "QEMU":
            self._close()
            raise PmuconfError(
                f"{uri} is libvirt's {kind} driver, and pmuconf serves the QEMU driver only",
                cause="not-qemu",
                hint="Name another with --connect, such as qemu:///system",
            )

    @classmethod
    @contextmanager
    def open(cls, uri: str, *, read_only: bool, parallel: int = 1) -> Iterator[Hypervisor]:
        """Connect; parallel is the number of requests that map() keeps under way.

        :raises PmuconfError: libvirt-unreachable, libvirt-permission, libvirt-timeout, not-qemu, libvirt-error.
        """
        _start_events()
        hypervisor = cls(uri, read_only, parallel)
        try:
            yield hypervisor
        finally:
            hypervisor._close()

    def domains(self, names: Sequence[str] = ()) -> list[Listed]:
        """The domains of the host, by name; or those named, each by name or UUID.

        Four requests for a whole host, whatever its size.

        :raises PmuconfError: no-such-domain, or as open().
        """
        with _translated():
            if names:
                handles = list({handle.UUIDString(): handle for handle in map(self._lookup, names)}.values())
            else:
                handles = self._connection.listAllDomains()
            return self._listed(handles)

    def find(self, uuid: str) -> Listed | None:
        """The domain with this UUID, None if there is none; never one that merely is named so."""
        with _translated():
            try:
                handle = self._connection.lookupByUUIDString(uuid)
            except libvirt.libvirtError as error:
                if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
                    return None
                raise
            return self._listed([handle])[0]

    def live_xml(self, listed: Listed) -> str:
        """What the running guest has; of a domain that is not running, its next boot."""
        return self._xml(listed, 0)

    def next_boot_xml(self, listed: Listed, *, secrets: bool = False) -> str:
        """What the next boot will have; with its secrets on a read-write connection only."""
        flags: int = libvirt.VIR_DOMAIN_XML_INACTIVE
        return self._xml(listed, flags | libvirt.VIR_DOMAIN_XML_SECURE if secrets else flags)

    def saved_xml(self, listed: Listed) -> str | None:
        """What the managed save image brings back at the next start; None if the image is gone by now."""
        with _translated(listed.name):
            try:
                return str(self._handle(listed).managedSaveGetXMLDesc(0))
            except libvirt.libvirtError as error:
                if error.get_error_code() == libvirt.VIR_ERR_OPERATION_INVALID:
                    return None
                raise

    def snapshot_xmls(self, listed: Listed) -> list[str]:
        """The definition of each snapshot; one that goes away meanwhile is left out."""
        xmls = []
        with _translated(listed.name):
            for snapshot in self._handle(listed).listAllSnapshots():
                try:
                    xmls.append(str(snapshot.getXMLDesc(0)))
                except libvirt.libvirtError as error:
                    if error.get_error_code() != libvirt.VIR_ERR_NO_DOMAIN_SNAPSHOT:
                        raise
        return xmls

    def exits(self) -> dict[str, int]:
        """How often each running domain has left its guest since it was started, by UUID.

        All exits of all its vCPUs, as KVM counts them; without those of which libvirt (before 8.x), QEMU (before 7.1)
        or the kernel tells nothing. One request for the whole host.
        """
        active = libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_ACTIVE | libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT
        counted = {}
        with _translated():
            for handle, stats in self._connection.getAllDomainStats(libvirt.VIR_DOMAIN_STATS_VCPU, active):
                exits = [stats[key] for key in stats if _EXITS.fullmatch(key)]
                if exits:
                    counted[handle.UUIDString()] = sum(exits)
        return counted

    def is_persistent(self, listed: Listed) -> bool:
        """Whether the domain has a next boot now: a define would give one to a transient domain."""
        with _translated(listed.name):
            return bool(self._handle(listed).isPersistent())

    def define(self, listed: Listed, xml: str) -> None:
        """Make the XML the domain's next boot. A running guest is not touched.

        Without VIR_DOMAIN_DEFINE_VALIDATE: what is defined is libvirt's own output but for one element, the caller
        verifies afterwards that nothing else changed, which finds what validation would, and validation costs
        about twice the define itself and refuses domains that were odd before.
        """
        with _translated(listed.name):
            self._connection.defineXML(xml)

    def undefine(self, listed: Listed) -> None:
        """Take a next boot away again, and nothing else: NVRAM, TPM state, saved image and metadata stay."""
        flags = (
            libvirt.VIR_DOMAIN_UNDEFINE_KEEP_NVRAM
            | getattr(libvirt, "VIR_DOMAIN_UNDEFINE_KEEP_TPM", 0)
            | libvirt.VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA
            | libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
        )
        with _translated(listed.name):
            self._handle(listed).undefineFlags(flags)

    @contextmanager
    def watch(self) -> Iterator[DefineWatch]:
        """Listen for defines while the context lasts."""
        with _translated():
            watch = DefineWatch(self._connection)
        try:
            yield watch
        finally:
            watch.close()

    @contextmanager
    def listen(self, heard: Callable[[str, str], None], lost: Callable[[], None]) -> Iterator[None]:
        """While the context lasts, call ``heard`` with a domain's UUID and what happened to it, ``lost`` at its end.

        What happened is a word: defined, undefined, started, stopped, crashed, metadata. ``lost`` is called when the
        connection breaks, also if nobody uses it at the moment. Both are called from libvirt's event loop and must
        not keep it waiting. A read-only connection hears the same.
        """
        connection = self._connection

        def lifecycle(_connection: object, domain: libvirt.virDomain, event: int, _detail: int, _data: object) -> None:
            if event in _EVENTS:
                heard(domain.UUIDString(), _EVENTS[event])

        def metadata(_connection: object, domain: libvirt.virDomain, *_data: object) -> None:
            heard(domain.UUIDString(), "metadata")

        _prompt.set()
        listening = []
        try:
            with _translated():
                for kind, callback in (
                    (libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, lifecycle),
                    (libvirt.VIR_DOMAIN_EVENT_ID_METADATA_CHANGE, metadata),
                ):
                    listening.append(connection.domainEventRegisterAny(None, kind, callback, None))
                with suppress(libvirt.libvirtError):  # the embedded driver has none: it can't break
                    connection.registerCloseCallback(lambda *_: lost(), None)
            yield
        finally:
            for number in listening:
                with suppress(libvirt.libvirtError):  # the connection is gone, and the registration with it
                    connection.domainEventDeregisterAny(number)
            with suppress(libvirt.libvirtError):
                connection.unregisterCloseCallback()

    def map(self, function: Callable[[_Item], _Answer], items: Sequence[_Item]) -> Iterator[_Answer]:
        """The function's answers in order, with several requests under way; the first error ends it."""
        if self._parallel == 1 or len(items) < _WORTH_THREADS:
            yield from map(function, items)
            return
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._parallel, thread_name_prefix="libvirt")
        size = max(1, min(_CHUNK, len(items) // (4 * self._parallel)))
        chunks = [items[at : at + size] for at in range(0, len(items), size)]
        futures = [self._pool.submit(lambda chunk: list(map(function, chunk)), chunk) for chunk in chunks]
        try:
            for future in futures:
                yield from future.result()
        finally:
            for future in futures:
                future.cancel()
            wait(futures)

    @property
    def _connection(self) -> libvirt.virConnect:
        """The connection of this thread."""
        connection = getattr(self._own, "connection", None)
        if connection is None:
            connection = self._own.connection = _open(self._open_uri, self._read_only)
            self._own.handles = None
            self._opened.append(connection)
        return connection

    def _handle(self, listed: Listed) -> libvirt.virDomain:
        """The domain, on the connection of this thread."""
        connection = self._connection
        if self._own.handles is None:
            self._own.handles = {handle.UUIDString(): handle for handle in connection.listAllDomains()}
        handles: dict[str, libvirt.virDomain] = self._own.handles
        if listed.uuid not in handles:
            handles[listed.uuid] = connection.lookupByUUIDString(listed.uuid)
        return handles[listed.uuid]

    def _close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown()
        for connection in self._opened:
            with suppress(libvirt.libvirtError):  # it may be gone already
                connection.close()

    def _xml(self, listed: Listed, flags: int) -> str:
        with _translated(listed.name):
            return str(self._handle(listed).XMLDesc(flags))

    def _uuids(self, flag: int) -> frozenset[str]:
        return frozenset(handle.UUIDString() for handle in self._connection.listAllDomains(flag))

    def _listed(self, handles: Sequence[libvirt.virDomain]) -> list[Listed]:
        self._own.handles = {handle.UUIDString(): handle for handle in handles}
        transient = self._uuids(libvirt.VIR_CONNECT_LIST_DOMAINS_TRANSIENT)
        saved = self._uuids(libvirt.VIR_CONNECT_LIST_DOMAINS_MANAGEDSAVE)
        snapshots = self._uuids(libvirt.VIR_CONNECT_LIST_DOMAINS_HAS_SNAPSHOT)
        listed = [
            Listed(
                name=handle.name(),
                uuid=uuid,
                active=handle.ID() != -1,
                persistent=uuid not in transient,
                saved=uuid in saved,
                snapshots=uuid in snapshots,
            )
            for uuid, handle in self._own.handles.items()
        ]
        return sorted(listed, key=lambda one: one.name)

    def _lookup(self, name: str) -> libvirt.virDomain:
        try:
            return self._connection.lookupByName(name)
        except libvirt.libvirtError as error:
            if error.get_error_code() != libvirt.VIR_ERR_NO_DOMAIN:
                raise
        try:
            return self._connection.lookupByUUIDString(str(uuids.UUID(name)))
        except ValueError:
            pass
        except libvirt.libvirtError as error:
            if error.get_error_code() != libvirt.VIR_ERR_NO_DOMAIN:
                raise
        raise PmuconfError(
            f"there is no domain with the name or UUID {name!r} on {self.uri}",
            cause="no-such-domain",
            hint="'virsh list --all' shows those that there are",
        )


_starting = threading.Lock()
_started = False
_prompt = threading.Event()
_awaiting = threading.Lock()
_turned = threading.Event()
_timer: int | None = None


def _start_events() -> None:
    """Run libvirt's event loop in a thread of this process, once.

    Keepalive and events need it, and the embedded driver does not work without. It can't be registered after a
    connection was opened (https://libvirt.org/html/libvirt-libvirt-event.html).
    """
    global _started
    with _starting:
        if _started:
            return
        libvirt.registerErrorHandler(lambda _data, _error: None, None)  # it would print what we raise
        libvirt.virEventRegisterDefaultImpl()
        threading.Thread(target=_run_events, name="libvirt-events", daemon=True).start()
        _started = True


def _await_turn() -> None:
    """Return when the event loop has come by once more.

    By one timer that stays: libvirt-python 12.8 never lets go of what is given to one that is added.
    """
    global _timer
    with _awaiting:
        if _timer is None:
            _timer = libvirt.virEventAddTimeout(-1, _turn, None)
        _turned.clear()
        libvirt.virEventUpdateTimeout(_timer, 0)
        _turned.wait()


def _turn(timer: int, _data: object) -> None:
    libvirt.virEventUpdateTimeout(timer, -1)  # once for each time that it is asked for
    _turned.set()


def _run_events() -> None:
    """Turn the event loop; at leisure where only keepalive needs it.

    Each request of any thread makes the loop turn twice, and each turn wants the interpreter's lock: a quarter of
    the time of an audit.
    """
    while True:
        libvirt.virEventRunDefaultImpl()
        _prompt.wait(_LEISURE_SECONDS)


_opening: dict[tuple[str, bool], _Opening] = {}
_openings = threading.Lock()


class _Opening:
    """A connection that is being opened, in a thread: the handshake with a daemon that hangs has no limit."""

    def __init__(self, uri: str, read_only: bool) -> None:
        self._uri = uri
        self._read_only = read_only
        self.answer: list[Any] = []
        self.thread = threading.Thread(target=self._run, name="libvirt-open", daemon=True)

    def _run(self) -> None:
        try:
            connection = libvirt.openReadOnly(self._uri) if self._read_only else libvirt.open(self._uri)
        except libvirt.libvirtError as error:
            self.answer.append(error)
            return
        try:
            connection.setKeepAlive(_KEEPALIVE_SECONDS, _KEEPALIVE_COUNT)
        except libvirt.libvirtError as error:
            if error.get_error_code() != libvirt.VIR_ERR_NO_SUPPORT:  # the embedded driver has none
                self.answer.append(error)
                return
        self.answer.append(connection)


def _open(uri: str, read_only: bool) -> libvirt.virConnect:
    """Open within a bounded time: keepalive guards only what comes after the handshake.

    A try that still hangs from before is waited for again, so that who tries for ever has one of them, not many.
    """
    with _openings:
        opening = _opening.pop((uri, read_only), None)
    if opening is None:
        opening = _Opening(uri, read_only)
        opening.thread.start()
    opening.thread.join(_OPEN_SECONDS)
    if opening.thread.is_alive():
        with _openings:
            _opening[uri, read_only] = opening
        raise PmuconfError(
            f"{uri} did not answer within {_OPEN_SECONDS:.0f} seconds",
            cause="libvirt-timeout",
            hint="Is libvirtd or virtqemud hanging? Its log tells",
        )
    (answer,) = opening.answer
    if isinstance(answer, libvirt.libvirtError):
        raise _translate_open(answer, uri)
    return answer


def _is_this_host(name: str) -> bool:
    """Whether libvirt's name of its host is one of ours, the domain left out.

    libvirt's is what the resolver makes of the host's name, which is asked here only if the names differ.
    """
    short = name.partition(".")[0].lower()
    return any(short == own().partition(".")[0].lower() for own in (socket.gethostname, socket.getfqdn))


def _identity(uri: str, host: str) -> str:
    """The driver that a URI leads to: qemu+unix:///system?socket=S on host H is qemu://H/system."""
    parts = urlsplit(uri)
    roots = [field for field in parts.query.split("&") if field.startswith("root=")]  # of embedded drivers
    return urlunsplit((parts.scheme.partition("+")[0], host, parts.path, "&".join(roots), ""))


def _translate_open(error: libvirt.libvirtError, uri: str) -> PmuconfError:
    code, number = error.get_error_code(), error.get_int1()
    text = _one_line(error)
    denied = (libvirt.VIR_ERR_AUTH_FAILED, libvirt.VIR_ERR_AUTH_CANCELLED, libvirt.VIR_ERR_AUTH_UNAVAILABLE)
    if code in denied or (code == libvirt.VIR_ERR_SYSTEM_ERROR and number in (errno.EACCES, errno.EPERM)):
        return PmuconfError(
            f"no permission to use {uri}: {text}",
            cause="libvirt-permission",
            hint="Run it as root, or as a member of the group libvirt",
        )
    if code == libvirt.VIR_ERR_SYSTEM_ERROR and number == errno.EAGAIN:  # the pid file of an embedded driver
        return PmuconfError(
            f"{uri} is in use by another process: {text}",
            cause="libvirt-busy",
            hint="An embedded driver serves one process at a time",
        )
    if code == libvirt.VIR_ERR_SYSTEM_ERROR:
        return PmuconfError(
            f"can't reach {uri}: {text}",
            cause="libvirt-unreachable",
            hint="Is libvirtd or virtqemud running? 'systemctl status libvirtd' tells; --connect names another URI",
        )
    return PmuconfError(f"can't open {uri}: {text}", cause="libvirt-error")


@contextmanager
def _translated(name: str = "") -> Iterator[None]:
    """Turn libvirt's errors into ours."""
    try:
        yield
    except libvirt.libvirtError as error:
        raise _translate(error, name) from None


def _translate(error: libvirt.libvirtError, name: str) -> PmuconfError:
    code = error.get_error_code()
    about = f"domain {name!r}: " if name else ""
    if code == libvirt.VIR_ERR_NO_DOMAIN:
        return DomainVanished(name)
    if code in (libvirt.VIR_ERR_OPERATION_DENIED, libvirt.VIR_ERR_ACCESS_DENIED, libvirt.VIR_ERR_AUTH_FAILED):
        return PmuconfError(
            f"{about}libvirt denies it: {_one_line(error)}",
            cause="libvirt-permission",
            hint="Run it as root, or give this user the right in libvirt's polkit rules",
        )
    # What the daemon answers carries the domain of its driver: an error of these two is the client's own.
    if error.get_error_domain() in (libvirt.VIR_FROM_RPC, libvirt.VIR_FROM_REMOTE):
        return PmuconfError(
            f"{about}the connection to libvirt broke: {_one_line(error)}",
            cause="libvirt-lost",
            hint="Run it again when libvirt is back: what was under way is settled then",
        )
    return PmuconfError(f"{about}{_one_line(error)}", cause="libvirt-error")


def _one_line(error: libvirt.libvirtError) -> str:
    return " ".join(str(error).split())
