"""HTTP of the service: a reader that asks at once is answered at once, whatever the others do."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from http import HTTPStatus

import pytest

from pmuconf.errors import PmuconfError
from pmuconf.service import web
from pmuconf.service.web import Response, Server

BIG = b"x" * (32 << 20)


class Site:
    """A server whose turns the test takes, with a clock of the test's own."""

    def __init__(self) -> None:
        self.now = 0.0
        self.server = Server(("127.0.0.1", 0), self.answer, ["compute1.example.org"], lambda: self.now)
        self.clients: list[socket.socket] = []

    @staticmethod
    def answer(path: str) -> Response:
        if path == "/defect":
            raise ValueError("what it should not")
        return Response(HTTPStatus.OK, BIG if path == "/big" else path.encode())

    def connect(self, address: str = "127.0.0.1") -> socket.socket:
        client = socket.socket()
        client.settimeout(30)
        client.bind((address, 0))
        client.connect(self.server.address)
        self.clients.append(client)
        self.turn()
        return client

    def turn(self) -> None:
        for _ in range(4):
            self.server.turn()

    def ask(self, text: str, address: str = "127.0.0.1") -> str:
        """The answer to this request; empty if there is none."""
        client = self.connect(address)
        client.sendall(text.encode())
        self.turn()
        return self.rest(client)

    def rest(self, client: socket.socket) -> str:
        client.setblocking(False)
        found = b""
        try:
            while data := client.recv(1 << 16):
                found += data
        except (BlockingIOError, ConnectionResetError):
            pass
        return found.decode()

    def closed(self, client: socket.socket) -> bool:
        client.setblocking(False)
        try:
            return client.recv(1) == b""
        except BlockingIOError:
            return False
        except ConnectionResetError:
            return True


@pytest.fixture
def site() -> Iterator[Site]:
    made = Site()
    yield made
    for client in made.clients:
        client.close()
    made.server._end()


def get(host: str = "127.0.0.1:9754", path: str = "/healthz") -> str:
    return f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n"


def test_an_answer(site: Site) -> None:
    head, _, body = site.ask(get()).partition("\r\n\r\n")
    assert head.startswith("HTTP/1.0 200 OK\r\n")
    assert "Content-Length: 8" in head
    assert body == "/healthz"


def test_a_head_has_no_body(site: Site) -> None:
    head, _, body = site.ask("HEAD /healthz HTTP/1.0\r\n\r\n").partition("\r\n\r\n")
    assert ("Content-Length: 8" in head, body) == (True, "")


@pytest.mark.parametrize("number", [8, 31, 63, 200])
def test_readers_that_say_nothing_keep_nobody_from_an_answer(site: Site, number: int) -> None:
    for _ in range(number):
        site.connect()
    assert site.ask(get()).endswith("/healthz")
    assert len(site.server._readers) <= web._READERS_OF_ONE


def test_many_clients_together_keep_nobody_from_an_answer(site: Site) -> None:
    for number in range(100):
        site.connect(f"127.0.1.{1 + number % 50}")
    assert site.ask(get()).endswith("/healthz")
    assert len(site.server._readers) <= web._READERS


def test_one_client_with_many_connections_costs_itself(site: Site) -> None:
    early = site.connect("127.0.1.1")
    for _ in range(200):
        site.connect("127.0.1.2")
    assert not site.closed(early)


def test_a_request_that_drips_is_ended_when_its_whole_time_is_over(site: Site) -> None:
    """However often a byte comes."""
    client = site.connect()
    for sign in get()[:9]:
        site.now += 1.0
        client.sendall(sign.encode())
        site.turn()
    assert not site.closed(client)
    site.now += 1.0
    site.turn()
    assert site.closed(client)


def test_an_answer_that_nobody_takes_is_ended_too_and_meanwhile_others_are_answered(site: Site) -> None:
    slow = site.connect()
    slow.sendall(get(path="/big").encode())
    site.turn()
    assert site.ask(get()).endswith("/healthz")
    site.now += 10.0
    site.turn()
    assert site.server._readers == []
    assert len(site.rest(slow)) < len(BIG)


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1:9754",
        "127.0.0.1",
        "[::1]:9754",
        "[::1]",
        "192.0.2.7:80",
        "localhost:9754",
        "LOCALHOST.",
        "compute1.example.org:9754",
        "Compute1.Example.org",
        socket.gethostname(),
    ],
)
def test_a_host_header_with_an_address_or_a_name_that_is_known(site: Site, host: str) -> None:
    assert site.ask(get(host)).startswith("HTTP/1.0 200 ")


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:9754",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "compute1.example.com",
        "127.0.0.1:9754\r\nHost: evil.example",
        "",
        ":9754",
        "127.0.0.1:x",
        "evil.example:127.0.0.1",
        "[evil]",
    ],
)
def test_a_host_header_with_another_name_is_refused_with_what_to_do(site: Site, host: str) -> None:
    answer = site.ask(get(host))
    assert answer.startswith("HTTP/1.0 421 ")
    assert "[service] host_names" in answer


def test_without_a_host_header_no_browser_asks(site: Site) -> None:
    assert site.ask("GET /healthz HTTP/1.0\n\n").startswith("HTTP/1.0 200 ")


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        ("POST / HTTP/1.1\r\n\r\n", 405),
        ("GET /\r\n\r\n", 400),
        ("\0\xff\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nX: " + "x" * 9000 + "\r\n\r\n", 431),
        (get(path="/defect"), 500),
    ],
)
def test_what_is_no_request_is_told_so(site: Site, request_: str, status: int) -> None:
    assert site.ask(request_).startswith(f"HTTP/1.0 {status} ")
    assert site.ask(get()).endswith("/healthz")


def test_no_descriptor_left_closes_one_that_waits(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    held = site.connect()

    def full() -> None:
        raise OSError(24, "Too many open files")

    class Full:
        accept = staticmethod(full)

    pauses: list[float] = []
    monkeypatch.setattr("pmuconf.service.web.time.sleep", pauses.append)
    real, site.server._listener = site.server._listener, Full()  # type: ignore[assignment]
    site.server._accept()
    site.server._listener = real
    assert site.closed(held)
    assert pauses


def test_no_thread_left_is_an_error_with_a_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(_: object) -> None:
        raise RuntimeError("can't start new thread")

    server = Server(("127.0.0.1", 0), Site.answer)
    monkeypatch.setattr("threading.Thread.start", refused)
    with pytest.raises(PmuconfError) as caught:
        server.start()
    assert caught.value.cause == "threads-exhausted"


def test_it_starts_and_ends() -> None:
    served: Callable[[str], Response] = Site.answer
    server = Server(("127.0.0.1", 0), served)
    server.start()
    with socket.create_connection(server.address, timeout=30) as client:
        client.sendall(get().encode())
        assert client.recv(1 << 16).startswith(b"HTTP/1.0 200 OK")
    server.close()
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(server.address, timeout=30)


def test_a_server_that_is_busy_while_it_is_closed_is_closed() -> None:
    """Its thread closes the sockets as soon as it may know that it is to end, in the middle of close()."""
    server = Server(("127.0.0.1", 0), Site.answer)
    waker, ended = server._waker, []

    class Slow:
        def send(self, data: bytes) -> int:
            server._thread.join(0.2)
            ended.append(not server._thread.is_alive())
            return waker.send(data)

        def close(self) -> None:
            waker.close()

    server._waker = Slow()  # type: ignore[assignment]
    server.turn = lambda seconds=None: time.sleep(0.001)  # type: ignore[method-assign]  # busy with others
    server.start()
    server.close()
    assert ended == [False]
    assert not server._thread.is_alive()
