"""Where the service's report goes: HTTP on loopback, the textfile of node_exporter, the HTML page.

No reader makes the service ask libvirt: all answers are made of the report that was published last.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from pmuconf.conf import ServiceSettings
from pmuconf.errors import PmuconfError
from pmuconf.files.replacing import replace_file
from pmuconf.report.prometheus import prometheus_text
from pmuconf.service.health import Health
from pmuconf.service.reportpage import ReportPage
from pmuconf.service.web import Response, Server

__all__ = ["Outputs"]


class Outputs:
    """The report that was published last, and the server that answers with it."""

    def __init__(self, health: Health) -> None:
        self._health = health
        self._report = b""
        self._document: Mapping[str, Any] | None = None
        self._page = ReportPage(lambda: [problem["message"] for problem in health.answer()["problems"]])
        self._server: Server | None = None

    @property
    def address(self) -> tuple[str, int] | None:
        """Where HTTP is served, with the port that was given to us where 0 was asked for."""
        return None if self._server is None else self._server.address

    def listen(self, at: tuple[str, int] | None, names: Iterable[str] = ()) -> None:
        """Serve there from now on, and no longer where it was before.

        :param names: what readers call this host, beside its addresses, localhost and its own name.
        :raises PmuconfError: listen-failed, threads-exhausted; what was before goes on.
        """
        before = self._server
        if before is not None and at == before.asked:
            before.names = frozenset(names)
            return
        server = None
        if at is not None:
            try:
                server = Server(at, self.answer, names)
            except OSError as error:
                raise PmuconfError(
                    f"can't listen at {at[0]} port {at[1]}: {error.strerror}",
                    cause="listen-failed",
                    hint="Name another in [service] listen, or nothing for no HTTP",
                ) from None
            server.start()
        self._server = server
        if before is not None:
            before.close()

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
            self._page.show(document)
        trouble: PmuconfError | None = None
        if chosen.textfile is not None:
            try:
                replace_file(chosen.textfile, (self._report + generate_latest(self._health.registry)).decode())
            except PmuconfError as error:
                trouble = error
        if chosen.html is not None and document is not None and anew:
            try:
                replace_file(chosen.html, self._page.text(document))
            except PmuconfError as error:
                trouble = error
        if trouble is not None:
            raise trouble

    def metrics(self) -> bytes:
        """The answer of /metrics: the last report, and the service and its process as they are now."""
        now = generate_latest(self._health.registry) + generate_latest(self._health.process)
        return self._report + now

    def health(self) -> tuple[HTTPStatus, bytes]:
        """The answer of /healthz, with its status."""
        answer = self._health.answer()
        status = HTTPStatus.OK if answer["status"] == "ok" else HTTPStatus.SERVICE_UNAVAILABLE
        return status, json.dumps(answer, indent=1).encode() + b"\n"

    def answer(self, path: str) -> Response:
        """The answer for a path."""
        if path == "/":
            return self._page.answer()
        if path == "/metrics":
            return Response(HTTPStatus.OK, self.metrics(), CONTENT_TYPE_LATEST)
        if path == "/healthz":
            status, body = self.health()
            return Response(status, body, "application/json")
        return Response(HTTPStatus.NOT_FOUND, b"/, /metrics and /healthz are here\n")
