"""HTTP for the report page and metrics, in one thread that no reader can keep: whatever they do, the next is answered.

Nothing here waits for one reader. Each has a time limit for its whole request and answer, however it spreads them.
Where too many are there, the one that has been there longest and has not sent its request yet is closed. So a reader
that sends its request at once is answered at once.

The Host header is checked against DNS rebinding: a page in a browser may let its own name resolve to this machine's
address, and read what is served here. But it can't make the browser send another Host than that name.
"""

from __future__ import annotations

import ipaddress
import selectors
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final

from pmuconf.errors import PmuconfError

__all__ = ["Response", "Server"]

_READERS: Final = 64
_READERS_OF_ONE: Final = 32  # from one address
_SECONDS: Final = 10.0  # for a request and its answer, all in all
_REQUEST_BYTES: Final = 8192
_ACCEPTED: Final = 16  # at once, before the others have their turn
_PAUSE_SECONDS: Final = 0.1
_PLAIN: Final = "text/plain; charset=utf-8"


@dataclass(frozen=True)
class Response:
    """The answer for a path."""

    status: HTTPStatus
    body: bytes
    kind: str = _PLAIN
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(eq=False)
class _Reader:
    socket: socket.socket
    client: str
    until: float
    request: bytearray = field(default_factory=bytearray)
    answer: memoryview | None = None


class Server:
    """Serves what ``answer`` makes of a path, from start() to close().

    :param at: address and port; port 0 for any.
    :param names: what this host is called, beside its addresses, localhost and its own name, in lower case.
    :param clock: the time in seconds; only differences count.
    :raises OSError: the address can't be had.
    """

    def __init__(
        self,
        at: tuple[str, int],
        answer: Callable[[str], Response],
        names: Iterable[str] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.asked = at
        self.names = frozenset(names)
        self._answer = answer
        self._clock = clock
        self._readers: list[_Reader] = []  # the one that has been there longest first
        self._selector = selectors.DefaultSelector()
        self._listener = socket.socket(socket.AF_INET6 if ":" in at[0] else socket.AF_INET, socket.SOCK_STREAM)
        try:
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._listener.bind(at)
            self._listener.listen(128)
        except OSError:
            self._listener.close()
            raise
        self._listener.settimeout(0.0)
        self.address: tuple[str, int] = self._listener.getsockname()[:2]
        self._waker, self._woken = socket.socketpair()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._ending = False
        self._thread = threading.Thread(target=self._run, name="http", daemon=True)

    def start(self) -> None:
        """Serve in a thread of its own.

        :raises PmuconfError: threads-exhausted.
        """
        try:
            self._thread.start()
        except RuntimeError:
            self._end()
            raise PmuconfError(
                "no thread can be started for HTTP",
                cause="threads-exhausted",
                hint="Allow more: TasksMax= of the unit, ulimit -u",
            ) from None

    def close(self) -> None:
        """Serve no more."""
        self._waker.send(b"x")  # first: once it knows that it is to end, its thread closes the sockets
        self._ending = True
        self._thread.join()

    def _run(self) -> None:
        while not self._ending:
            self.turn(self._left())
        self._end()

    def _end(self) -> None:
        for reader in list(self._readers):
            self._let_go(reader)
        for end in (self._listener, self._waker, self._woken):
            end.close()
        self._selector.close()

    def _left(self) -> float | None:
        """Seconds until somebody's time is over, None if nobody is there."""
        return max(0.0, self._readers[0].until - self._clock()) if self._readers else None

    def turn(self, seconds: float | None = 0.0) -> None:
        """Do what there is to do, waiting so long for it; None: until there is something."""
        for key, _ in self._selector.select(seconds):
            if key.fileobj is self._listener:
                self._accept()
            elif key.data is not None and key.data in self._readers:
                self._serve(key.data)
        now = self._clock()
        for reader in [reader for reader in self._readers if reader.until <= now]:
            self._let_go(reader)

    def _accept(self) -> None:
        for _ in range(_ACCEPTED):
            try:
                connection, peer = self._listener.accept()
            except BlockingIOError:
                return
            except OSError:  # no descriptor is left, or the reader is gone already
                self._make_room(None)
                time.sleep(_PAUSE_SECONDS)
                return
            connection.settimeout(0.0)
            reader = _Reader(connection, str(peer[0]), self._clock() + _SECONDS)
            self._make_room(reader.client)
            self._readers.append(reader)
            self._selector.register(connection, selectors.EVENT_READ, reader)
            self._serve(reader)  # its request is mostly there

    def _make_room(self, client: str | None) -> None:
        """Close one reader if there are too many, of all or of this client; in any case where client is None."""
        counts = Counter(reader.client for reader in self._readers)
        if client is not None and counts[client] >= _READERS_OF_ONE:
            most = client
        elif counts and (client is None or len(self._readers) >= _READERS):
            ((most, _),) = counts.most_common(1)
        else:
            return
        theirs = [reader for reader in self._readers if reader.client == most]
        idle = [reader for reader in theirs if reader.answer is None]
        self._let_go((idle or theirs)[0])

    def _serve(self, reader: _Reader) -> None:
        try:
            if reader.answer is None and not self._heard(reader):
                return
            while reader.answer:
                reader.answer = reader.answer[reader.socket.send(reader.answer) :]
        except (BlockingIOError, InterruptedError):
            return
        except OSError:  # it went away: not worth a line
            pass
        self._let_go(reader)

    def _heard(self, reader: _Reader) -> bool:
        """Read on; whether the request is complete and the answer stands ready, or there will be none."""
        data = reader.socket.recv(_REQUEST_BYTES)
        if not data:
            reader.answer = memoryview(b"")
            return True
        reader.request += data
        head, end, _ = bytes(reader.request).replace(b"\r\n", b"\n").partition(b"\n\n")
        fits = len(reader.request) <= _REQUEST_BYTES
        if fits and not end:
            return False
        method, answer = self._answered(head if fits else None)
        lines = [
            f"HTTP/1.0 {answer.status.value} {answer.status.phrase}",
            "Server: pmuconf",
            f"Content-Type: {answer.kind}",
            f"Content-Length: {len(answer.body)}",
            "X-Content-Type-Options: nosniff",
            "Cache-Control: no-store",
            *(f"{name}: {value}" for name, value in answer.headers),
            "Connection: close",
            *(["Allow: GET, HEAD"] if answer.status is HTTPStatus.METHOD_NOT_ALLOWED else []),
        ]
        text = "\r\n".join([*lines, "", ""]).encode("ascii")
        reader.answer = memoryview(text if method == "HEAD" else text + answer.body)
        self._selector.modify(reader.socket, selectors.EVENT_WRITE, reader)
        return True

    def _answered(self, head: bytes | None) -> tuple[str, Response]:
        if head is None:
            return "", Response(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, b"the request is too long\n")
        first, *rest = head.decode("latin-1").split("\n")
        words = first.split(" ")
        if len(words) != 3 or not words[2].startswith("HTTP/1."):
            return "", Response(HTTPStatus.BAD_REQUEST, b"no request of HTTP/1.0 or 1.1\n")
        method, target, _ = words
        if method not in ("GET", "HEAD"):
            return method, Response(HTTPStatus.METHOD_NOT_ALLOWED, b"GET and HEAD are allowed\n")
        hosts = [line.partition(":")[2].strip() for line in rest if line.lower().startswith("host:")]
        if len(hosts) > 1 or not all(map(self._ours, hosts)):
            return method, Response(
                HTTPStatus.MISDIRECTED_REQUEST,
                b"this host is not known by the name that the Host header has: use its address, or add the name to "
                b"[service] host_names\n",
            )
        try:
            return method, self._answer(target.partition("?")[0])
        except Exception as error:  # a defect, which must not end the thread that answers for health
            text = f"a defect of pmuconf: {type(error).__name__}: {error}\n"
            return method, Response(HTTPStatus.INTERNAL_SERVER_ERROR, text.encode(errors="replace"))

    def _ours(self, host: str) -> bool:
        """Whether a Host header names this host: by an address, which no name leads to, or by a name that is known."""
        name, _, port = host.rpartition(":") if not host.endswith("]") else (host, "", "")
        if not name:
            name, port = host, ""
        if port and not port.isdigit():
            return False
        name = name.lower().rstrip(".")
        if name in {"localhost", socket.gethostname().lower(), *self.names}:
            return True
        with suppress(ValueError):
            ipaddress.ip_address(name[1:-1] if name[:1] + name[-1:] == "[]" else name)
            return True
        return False

    def _let_go(self, reader: _Reader) -> None:
        self._readers.remove(reader)
        self._selector.unregister(reader.socket)
        reader.socket.close()
