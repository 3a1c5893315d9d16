"""One connection to libvirt, and the thread that talks over it: every call has a deadline, and so has every opening.

A call to libvirt can wait for ever. Keepalive notices a daemon that hangs. It does not notice a daemon that answers
while a QEMU, a disk or a lock does not. Python can't take a thread out of such a call. So each connection has a thread
of its own. The caller waits for it as long as the deadline allows, and then gives both up. If the call returns later,
its answer is forgotten, and its thread closes the connection (see Line) and ends.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final, Generic, TypeVar

import libvirt

from pmuconf.errors import PmuconfError
from pmuconf.hypervisor.errors import HANGING, no_threads, timed_out, translate, translate_open
from pmuconf.hypervisor.line import Line

__all__ = ["MOST", "Connection"]

MOST: Final = 48
"""How many connections a process has at most, those that were given up and still hang included."""

_OPEN_SECONDS: Final = 30.0
_KEEPALIVE_SECONDS: Final = 5
_KEEPALIVE_COUNT: Final = 4
_CALL_SECONDS: Final = 28.0  # keepalive needs 25, and knows more of what is the matter
_SIGN_SECONDS: Final = 1.0
_HANGING: Final = 8  # calls that were given up, at most

_Item = TypeVar("_Item")
_Answer = TypeVar("_Answer")

_lock = threading.Lock()
_all: set[Connection] = set()
_opening: dict[tuple[str, bool], list[Connection]] = {}  # attempts that nobody waits for any more
_own = threading.local()


def _silent() -> None:
    """No sign of life is wanted."""


class _Question:
    """A question to libvirt: about which domain, since when, and for how long at most."""

    __slots__ = ("name", "seconds", "since", "what")

    def __init__(self, name: str, what: str, seconds: float) -> None:
        self.name = name
        self.what = what
        self.seconds = seconds
        self.since = time.monotonic()

    @property
    def left(self) -> float:
        """Seconds until the deadline."""
        return self.since + self.seconds - time.monotonic()


class _Call(Generic[_Answer]):
    """A task of a connection's thread, and where the answer goes.

    ``question`` is None if the function asks libvirt by ask() itself, each time with a deadline of its own.
    """

    def __init__(self, function: Callable[[Line], _Answer], question: _Question | None) -> None:
        self.function = function
        self.question = question
        self.answers: queue.SimpleQueue[tuple[bool, Any]] = queue.SimpleQueue()

    def make(self, line: Line) -> None:
        """Make it. Errors become ours here, so that none holds on to a frame with handles of libvirt."""
        try:
            answer = self.function(line)
        except libvirt.libvirtError as error:
            self.answers.put((False, translate(error, self.question.name if self.question else "")))
        except PmuconfError as error:
            error.__traceback__ = error.__context__ = None
            self.answers.put((False, error))
        except BaseException as error:  # a defect, which is the caller's to tell
            self.answers.put((False, error))
        else:
            self.answers.put((True, answer))


class Connection:
    """An open connection. Calls are made one after the other; several threads may ask.

    ``given_up`` says that a call hangs in it: nothing is asked there any more. ``ended`` is set when it is closed.
    """

    def __init__(self, uri: str, *, read_only: bool) -> None:
        self._uri = uri
        self._read_only = read_only
        self._calls: queue.SimpleQueue[_Call[Any] | None] = queue.SimpleQueue()
        self._opened = threading.Event()
        self._error: PmuconfError | None = None
        self._line: Line | None = None
        self._question: _Question | None = None  # what libvirt is asked at the moment
        self.given_up = False
        self.ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="libvirt-connection", daemon=True)

    @classmethod
    def open(cls, uri: str, *, read_only: bool, alive: Callable[[], None] = _silent) -> Connection:
        """Open within a bounded time: keepalive guards only what comes after the handshake.

        If an earlier attempt still hangs, it is waited for again instead of starting another. So retrying for hours
        leaves as many threads as there were callers at once, not thousands.

        :param alive: is called every second of the wait.
        :raises PmuconfError: libvirt-unreachable, libvirt-permission, libvirt-timeout, libvirt-lost, libvirt-error,
            threads-exhausted.
        """
        connection = _left_over(uri, read_only=read_only) or cls._started(uri, read_only=read_only)
        if not _waited(connection._opened.wait, _OPEN_SECONDS, alive):
            with _lock:
                _opening.setdefault((uri, read_only), []).append(connection)
            raise PmuconfError(
                f"{uri} did not answer within {_OPEN_SECONDS:.0f} seconds", cause="libvirt-timeout", hint=HANGING
            )
        if connection._error is not None:
            raise connection._error
        return connection

    @classmethod
    def _started(cls, uri: str, *, read_only: bool) -> Connection:
        """A new connection, whose thread is opening it."""
        with _lock:
            hanging = sum(connection.given_up for connection in _all)
            if hanging >= _HANGING or len(_all) >= MOST:
                raise PmuconfError(
                    f"{hanging or len(_all)} calls to libvirt hang, and no more are begun",
                    cause="libvirt-timeout",
                    hint=HANGING,
                )
            connection = cls(uri, read_only=read_only)
            _all.add(connection)
        try:
            connection._thread.start()
        except RuntimeError as error:
            with _lock:
                _all.discard(connection)
            raise no_threads() from error
        return connection

    @staticmethod
    def of_this_thread() -> Connection | None:
        """The connection whose thread this is; None if it is no connection's."""
        return getattr(_own, "connection", None)

    def ask(
        self,
        function: Callable[[Line], _Answer],
        *,
        name: str = "",
        what: str = "",
        seconds: float | None = None,
        alive: Callable[[], None] = _silent,
    ) -> _Answer:
        """The function's answer; it is called with the connection, in the connection's thread.

        :param name: the domain that it is about, if it is about one.
        :param what: the domain's UUID, or what else tells this call from others: while one hangs, another that would
            hang in the same place is refused.
        :param alive: is called after the answer, and every second of the wait for it.
        :raises PmuconfError: libvirt-timeout, domain-timeout if it is about one domain, or what libvirt says.
        """
        question = _Question(name, what, _CALL_SECONDS if seconds is None else seconds)
        if self.given_up:
            raise timed_out(name, 0)
        if what:
            self._refuse(question)
        if Connection.of_this_thread() is self:
            return self._ask_here(function, question)
        answer = self._await(_Call(function, question), alive)
        if answer is None:
            raise timed_out(name, question.seconds)
        good, value = answer
        if not good:
            raise value
        return value  # type: ignore[no-any-return]

    def each(
        self,
        function: Callable[[_Item], _Answer],
        items: Sequence[_Item],
        *,
        enough: Callable[[], bool],
        alive: Callable[[], None] = _silent,
    ) -> list[_Answer]:
        """The function's answers, item by item, in the connection's thread.

        The function may call ask(), which needs no way to another thread and back then: that costs 40 to 50
        microseconds. Each question has its own deadline all the same. If one hangs, the connection is given up, and
        only the answers for the items before are returned.

        :param enough: whether no more answers are wanted.
        """
        answers: list[_Answer] = []

        def make(_line: Line) -> None:
            for item in items:
                if self.given_up or enough():
                    return
                answers.append(function(item))

        answer = self._await(_Call(make, None), alive)
        if answer is not None and not answer[0]:
            raise answer[1]
        return list(answers)

    def close(self) -> None:
        """Begin to close, once the calls that are under way are over; ``ended`` is set when it is closed.

        If that does not come, the connection is given up: its thread closes it when it can.
        """
        self._calls.put(None)

    def await_end(self, until: float) -> None:
        """Wait for the end of close(), as long as until then."""
        if not self.ended.wait(max(0.0, until - time.monotonic())):
            self._give_up()

    def _await(self, call: _Call[Any], alive: Callable[[], None]) -> tuple[bool, Any] | None:
        """Let the thread make the call: whether it succeeded, with its answer or error; None: no answer will come.

        Either it hangs, and the connection is given up; or the connection has ended before the call was its turn.
        """
        self._calls.put(call)
        while True:
            question = call.question or self._question
            left = _SIGN_SECONDS if question is None else question.left
            ended = question is None and self.ended.is_set()  # asked first: what it had answered by then is there
            try:
                answer = call.answers.get(timeout=max(0.0, min(left, _SIGN_SECONDS)))
            except queue.Empty:
                if ended:
                    return None
                # A call that asks several questions may have gone on to the next one meanwhile.
                question = call.question or self._question
                if question is not None and question.left <= 0:
                    self._give_up()
                    return None
                alive()
            else:
                alive()
                return answer

    def _give_up(self) -> None:
        with _lock:
            self.given_up = True
        self._calls.put(None)

    def _refuse(self, question: _Question) -> None:
        """Refuse a question that would hang as well, because the same one hangs in a connection that was given up."""
        with _lock:
            hanging = [other._question for other in _all if other.given_up and other._uri == self._uri]
        for earlier in hanging:
            if earlier is not None and earlier.what == question.what:
                raise timed_out(question.name, time.monotonic() - earlier.since)

    # ---- in the connection's thread

    def _run(self) -> None:
        _own.connection = self
        try:
            self._line = self._open()
        except libvirt.libvirtError as error:
            self._error = translate_open(error, self._uri)
        except PmuconfError as error:
            self._error = error.bare()
        except ValueError:  # a text that can't be given to C
            self._error = PmuconfError(
                f"can't open {self._uri!r}: it has characters that no URI has", cause="libvirt-error"
            )
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
                raise translate(error, "") from None  # it was opened: what fails now is the connection
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
            self._question = call.question
            call.make(line)
            self._question = call = None

    def _ask_here(self, function: Callable[[Line], _Answer], question: _Question) -> _Answer:
        """Ask from within each(); whoever waits for that sees by the question how long this one takes."""
        if self._line is None:
            raise timed_out(question.name, 0)
        before, self._question = self._question, question
        try:
            return function(self._line)
        except libvirt.libvirtError as error:
            translated = translate(error, question.name)
        finally:
            self._question = before
        raise translated  # here, where it takes no frame with handles of libvirt along


def _left_over(uri: str, *, read_only: bool) -> Connection | None:
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
    """Whether what is waited for came within so many seconds."""
    end = time.monotonic() + seconds
    while True:
        left = end - time.monotonic()
        if wait(max(0.0, min(left, _SIGN_SECONDS))):
            return True
        if left <= 0:
            return False
        alive()
