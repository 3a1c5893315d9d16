"""Where the service's report goes: HTTP on loopback, the textfile of node_exporter, the HTML page.

All of it is made when the report changes, never for a reader: a scrape costs libvirt nothing.
"""

from __future__ import annotations

import http.server
import json
import socket
import threading
from collections.abc import Mapping
from contextlib import suppress
from http import HTTPStatus
from typing import Any, Final

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from pmuconf.conf import ServiceSettings
from pmuconf.errors import PmuconfError
from pmuconf.files import replace_file
from pmuconf.report.html import page
from pmuconf.report.prometheus import prometheus_text
from pmuconf.service.health import Health

__all__ = ["Outputs"]

_READERS: Final = 8  # at once; a local user can hold so many, and no more of our threads
_READER_SECONDS: Final = 5.0


class Outputs:
    """What was published last, and who serves it."""

    def __init__(self, health: Health) -> None:
        self._health = health
        self._report = b""
        self._document: Mapping[str, Any] | None = None
        self._server: _Server | None = None

    @property
    def address(self) -> tuple[str, int] | None:
        """Where HTTP is served, with the port that was given to us where 0 was asked for."""
        return None if self._server is None else self._server.server_address[:2]  # type: ignore[return-value]

    def listen(self, at: tuple[str, int] | None) -> None:
        """Serve there from now on, and no longer where it was before.

        :raises PmuconfError: listen-failed; what was before goes on.
        """
        before = self._server
        if before is not None and at == before.asked:
            return
        server = None
        if at is not None:
            try:
                server = _Server(at, self)
            except OSError as error:
                raise PmuconfError(
                    f"can't listen at {at[0]} port {at[1]}: {error.strerror}",
                    cause="listen-failed",
                    hint="Name another in [service] listen, or nothing for no HTTP",
                ) from None
            threading.Thread(target=server.serve_forever, name="http", daemon=True).start()
        self._server = server
        if before is not None:
            before.shutdown()
            before.server_close()

    def close(self) -> None:
        """Serve no more."""
        self.listen(None)

    def publish(self, document: Mapping[str, Any] | None, chosen: ServiceSettings) -> None:
        """This is the report from now on; the same one again, if only the service's own state is another.

        :raises PmuconfError: output-unwritable; what could be written is written.
        """
        anew = document is not None and document is not self._document
        if document is not None and anew:
            self._report = prometheus_text(document).encode()
            self._document = document
        trouble: PmuconfError | None = None
        if chosen.textfile is not None:
            try:
                replace_file(chosen.textfile, (self._report + generate_latest(self._health.registry)).decode())
            except PmuconfError as error:
                trouble = error
        if chosen.html is not None and document is not None and anew:
            try:
                replace_file(chosen.html, page(document))
            except PmuconfError as error:
                trouble = error
        if trouble is not None:
            raise trouble

    def metrics(self) -> bytes:
        """What /metrics says: the last report, and the service and its process as they are now."""
        now = generate_latest(self._health.registry) + generate_latest(self._health.process)
        return self._report + now

    def health(self) -> tuple[HTTPStatus, bytes]:
        """What /healthz says."""
        answer = self._health.answer()
        status = HTTPStatus.OK if answer["status"] == "ok" else HTTPStatus.SERVICE_UNAVAILABLE
        return status, json.dumps(answer, indent=1).encode() + b"\n"


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, at: tuple[str, int], outputs: Outputs) -> None:
        self.asked = at
        self.outputs = outputs
        self.address_family = socket.AF_INET6 if ":" in at[0] else socket.AF_INET
        self._places = threading.BoundedSemaphore(_READERS)
        super().__init__(at, _Handler)

    def server_bind(self) -> None:
        """Without the look-up of our own name that the standard library makes: it may hang for want of a DNS."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._places.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A reader that went away: not worth a line."""


class _Handler(http.server.BaseHTTPRequestHandler):
    server: _Server
    timeout = _READER_SECONDS
    server_version = "pmuconf"
    sys_version = ""

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        status, kind, body = HTTPStatus.NOT_FOUND, "text/plain; charset=utf-8", b"/metrics and /healthz are here\n"
        if path == "/metrics":
            status, kind, body = HTTPStatus.OK, CONTENT_TYPE_LATEST, self.server.outputs.metrics()
        elif path == "/healthz":
            (status, body), kind = self.server.outputs.health(), "application/json"
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        if self.command != "HEAD":
            with suppress(OSError):
                self.wfile.write(body)

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        """Nothing: who reads metrics every few seconds would fill the log."""
