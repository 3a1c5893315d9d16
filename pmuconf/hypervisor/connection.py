"""One connection to libvirt, and the thread that talks over it: every call has a deadline, and so has every opening.

A call to libvirt can wait for ever. Keepalive notices a daemon that hangs, and not one that answers while the QEMU,
the disk or the lock that it waits for does not. Python can't take a thread out of such a call. So each connection has a
thread of its own, the caller waits for it as long as the deadline allows, and then gives both up: a call that returns
later is forgotten, and its thread closes the connection and ends.

**How a connection is closed.** The last reference to a connection closes it (virConnectClose(), or virDomainFree() of
the last handle), and libvirt 9.0 then waits for the daemon's answer with the connection half gone. An event that comes
in at that moment makes it take a reference to what is gone and wait for a lock that it holds: it never returns, and
with it stands libvirt's event loop, and every other connection. So a connection that listened is closed only when no
event can be on its way: the registrations are taken back, two round trips bring what the daemon had sent before, two
turns of the event loop deliver it, and the handles are let go of first.
"""

from __future__ import annotations

import errno
import queue
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypeVar

import libvirt

from pmuconf.errors import DomainVanished, PmuconfError
from pmuconf.hypervisor import events

__all__ = ["MOST", "Connection", "Line"]

MOST: Final = 48
"""How many connections a process has at most, those that were given up and still hang included."""

_OPEN_SECONDS: Final = 30.0
_KEEPALIVE_SECONDS: Final = 5
_KEEPALIVE_COUNT: Final = 4
_CALL_SECONDS: Final = 28.0  # keepalive needs 25, and knows more of what is the matter
_CLOSE_SECONDS: Final = 5.0
_SIGN_SECONDS: Final = 1.0
_HANGING: Final = 8  # calls that were given up, at most

_Answer = TypeVar("_Answer")

_lock = threading.Lock()
_all: set[Connection] = set()
_opening: dict[tuple[str, bool], list[Connection]] = {}  # attempts that nobody waits for any more
_kept: list[Any] = []


def _silent() -> None:
    """No sign of life is wanted."""


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


class _Call(Generic[_Answer]):
    """One call: what is to be done, and where the answer goes."""

    def __init__(self, function: Callable[[Line], _Answer], name: str, what: str) -> None:
        self.function = function
        self.name = name
        self.what = what
        self.since = time.monotonic()
        self.answers: queue.SimpleQueue[tuple[bool, Any]] = queue.SimpleQueue()

    def make(self, line: Line) -> None:
        """Make it. Errors become ours here, so that none holds on to a frame with handles of libvirt."""
        try:
            answer = self.function(line)
        except libvirt.libvirtError as error:
            self.answers.put((False, translate(error, self.name)))
        except PmuconfError as error:
            error.__traceback__ = error.__context__ = None
            self.answers.put((False, error))
        except BaseException as error:  # a defect, which is the caller's to tell
            self.answers.put((False, error))
        else:
            self.answers.put((True, answer))


class Connection:
    """An open connection. Calls are made one after the other; several threads may ask.

    :param alive: is called now and then while somebody waits for libvirt: the wait is bounded.
    """

    def __init__(self, uri: str, read_only: bool) -> None:
        self._uri = uri
        self._read_only = read_only
        self._calls: queue.SimpleQueue[_Call[Any] | None] = queue.SimpleQueue()
        self._opened = threading.Event()
        self._error: PmuconfError | None = None
        self._line: Line | None = None
        self._current: _Call[Any] | None = None
        self.given_up = False
        self.ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="libvirt-connection", daemon=True)

    @classmethod
    def open(cls, uri: str, *, read_only: bool, alive: Callable[[], None] = _silent) -> Connection:
        """Open within a bounded time: keepalive guards only what comes after the handshake.

        If an earlier attempt still hangs, it is waited for again instead of starting another: retrying for hours
        leaves as many threads as there were callers at once, not thousands.

        :raises PmuconfError: libvirt-unreachable, libvirt-permission, libvirt-timeout, libvirt-error,
            threads-exhausted.
        """
        connection = _left_over(uri, read_only)
        if connection is None:
            with _lock:
                hanging = sum(one.given_up for one in _all)
                if hanging >= _HANGING or len(_all) >= MOST:
                    raise PmuconfError(
                        f"{hanging or len(_all)} calls to libvirt hang, and no more are begun",
                        cause="libvirt-timeout",
                        hint=_HINT_HANGING,
                    )
                connection = cls(uri, read_only)
                _all.add(connection)
            try:
                connection._thread.start()
            except RuntimeError as error:
                with _lock:
                    _all.discard(connection)
                raise events.no_threads() from error
        if not _waited(connection._opened.wait, _OPEN_SECONDS, alive):
            with _lock:
                _opening.setdefault((uri, read_only), []).append(connection)
            raise PmuconfError(
                f"{uri} did not answer within {_OPEN_SECONDS:.0f} seconds", cause="libvirt-timeout", hint=_HINT_HANGING
            )
        if connection._error is not None:
            raise connection._error
        return connection

    def ask(
        self,
        function: Callable[[Line], _Answer],
        *,
        name: str = "",
        what: str = "",
        seconds: float | None = None,
        alive: Callable[[], None] = _silent,
    ) -> _Answer:
        """What the function makes of the connection, in the connection's thread.

        :param name: the domain that it is about, if it is about one.
        :param what: the domain's UUID, or what else tells this call from others: while one hangs, another that would
            hang in the same place is refused.
        :raises PmuconfError: libvirt-timeout, domain-timeout if it is about one domain, or what libvirt says.
        """
        seconds = _CALL_SECONDS if seconds is None else seconds
        if self.given_up:
            raise _timed_out(name, 0)
        call = _Call(function, name, what)
        if what:
            self._refuse(call)
        self._calls.put(call)
        end = call.since + seconds
        while True:
            left = end - time.monotonic()
            try:
                good, answer = call.answers.get(timeout=max(0.0, min(left, _SIGN_SECONDS)))
            except queue.Empty:
                if left <= 0:
                    self._give_up()
                    raise _timed_out(name, seconds) from None
                alive()
                continue
            alive()
            if not good:
                raise answer
            return answer  # type: ignore[no-any-return]

    def close(self) -> None:
        """Begin to close, once the calls that are under way are over; ``ended`` is set when it is closed.

        If that does not come, the connection is given up: its thread closes it when it can.
        """
        self._calls.put(None)

    def await_end(self, until: float) -> None:
        """Wait for the end of close(), as long as until then."""
        if not self.ended.wait(max(0.0, until - time.monotonic())):
            self._give_up()

    def _give_up(self) -> None:
        with _lock:
            self.given_up = True
        self._calls.put(None)

    def _refuse(self, call: _Call[Any]) -> None:
        """Refuse a call for which an earlier one still waits: it would only hang as well."""
        with _lock:
            earlier = [one._current for one in _all if one.given_up and one._uri == self._uri]
        for other in earlier:
            if other is not None and other.what == call.what:
                raise _timed_out(call.name, time.monotonic() - other.since)

    # ---- in the connection's thread

    def _run(self) -> None:
        try:
            self._line = self._open()
        except libvirt.libvirtError as error:
            self._error = _translate_open(error, self._uri)
        except ValueError as error:  # a text that can't be given to C
            self._error = PmuconfError(f"can't open {self._uri!r}: {error}", cause="libvirt-error")
        finally:
            self._opened.set()
        if self._line is not None and not self._superfluous():
            self._serve(self._line)
        if self._line is not None:
            with suppress(libvirt.libvirtError):
                self._line.close()
        self._line = None
        with _lock:
            _all.discard(self)
        self.ended.set()

    def _open(self) -> Line:
        connection = libvirt.openReadOnly(self._uri) if self._read_only else libvirt.open(self._uri)
        try:
            connection.setKeepAlive(_KEEPALIVE_SECONDS, _KEEPALIVE_COUNT)
        except libvirt.libvirtError as error:
            if error.get_error_code() != libvirt.VIR_ERR_NO_SUPPORT:  # the embedded driver has none
                raise
        return Line(connection)

    def _superfluous(self) -> bool:
        """Whether nobody waits for this attempt any more, and another one is kept already."""
        with _lock:
            parked = _opening.get((self._uri, self._read_only), [])
            if self in parked and len(parked) > 1:
                parked.remove(self)
                return True
        return False

    def _serve(self, line: Line) -> None:
        while True:
            call = self._calls.get()
            if call is None or self.given_up:
                return
            self._current = call
            call.make(line)
            self._current = call = None


def fence(raw: libvirt.virConnect) -> None:
    """Return when every event that libvirt has queued by now was heard.

    The daemon sends events from the main loop that also takes requests in, and answers come behind them on the
    same connection; so after two round trips they are here. This process calls back from its own event loop,
    in turn; so after two turns of that they were heard.

    :raises PmuconfError: libvirt-timeout.
    """
    for _ in range(2):
        raw.getLibVersion()
    for _ in range(2):
        events.await_turn()


_HINT_HANGING: Final = "Is libvirtd, virtqemud or a QEMU hanging? Their logs tell; 'virsh domcontrol VM' shows which VM"


def _left_over(uri: str, read_only: bool) -> Connection | None:
    """An attempt that nobody waits for, if there is one that may still be of use."""
    with _lock:
        parked = _opening.get((uri, read_only), [])
        while parked:
            connection = parked.pop()
            if connection.ended.is_set():
                continue
            line = connection._line
            if line is not None and not line.raw.isAlive():
                connection._calls.put(None)
                continue
            return connection
    return None


def _waited(wait: Callable[[float], bool], seconds: float, alive: Callable[[], None]) -> bool:
    end = time.monotonic() + seconds
    while True:
        left = end - time.monotonic()
        if wait(max(0.0, min(left, _SIGN_SECONDS))):
            return True
        if left <= 0:
            return False
        alive()


def _timed_out(name: str, seconds: float) -> PmuconfError:
    after = f" within {seconds:.0f} seconds" if seconds else ""
    if name:
        return PmuconfError(
            f"domain {name!r}: libvirt did not answer{after}",
            cause="domain-timeout",
            hint=f"Is its QEMU or its storage hanging? 'virsh domcontrol {name}' tells",
        )
    return PmuconfError(f"libvirt did not answer{after}", cause="libvirt-timeout", hint=_HINT_HANGING)


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


def translate(error: libvirt.libvirtError, name: str) -> PmuconfError:
    """What libvirt says, as an error of ours, about the domain of this name if there is one."""
    code = error.get_error_code()
    about = f"domain {name!r}: " if name else ""
    # A define that meets an undefine half way is refused so (libvirt's virDomainObjListAdd).
    being_removed = code == libvirt.VIR_ERR_OPERATION_FAILED and "already being removed" in str(error)
    if code == libvirt.VIR_ERR_NO_DOMAIN or being_removed:
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
