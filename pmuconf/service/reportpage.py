"""The report page as it is served: made when somebody asks for it, once for each report."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Any

from pmuconf.report.html import page, waiting_page
from pmuconf.report.template import content_policy
from pmuconf.service.web import Response

__all__ = ["ReportPage"]

_KIND = "text/html; charset=utf-8"
_HEADERS = (
    ("Content-Security-Policy", f"{content_policy()}; frame-ancestors 'none'"),
    ("Referrer-Policy", "no-referrer"),
)
_AGAIN_SECONDS = 5


class ReportPage:
    """The page of the report that was published last. May be used by several threads.

    The loop only hands over the report. The page is made by the thread of HTTP, so that a host with thousands of VMs
    costs the loop nothing. Two threads that need it at once both make it: neither waits for the other.

    :param problems: what is wrong with the service now, in sentences.
    """

    def __init__(self, problems: Callable[[], Sequence[str]]) -> None:
        self._problems = problems
        self._document: Mapping[str, Any] | None = None
        self._last: tuple[Mapping[str, Any], str] | None = None

    def show(self, document: Mapping[str, Any]) -> None:
        """This is the report from now on."""
        self._document = document

    def text(self, document: Mapping[str, Any]) -> str:
        """The page of this report."""
        last = self._last
        if last is None or last[0] is not document:
            last = self._last = (document, page(document))
        return last[1]

    def answer(self) -> Response:
        """The page, or 503 and a page that loads itself again while there is no report yet."""
        document = self._document
        if document is not None:
            return Response(HTTPStatus.OK, self.text(document).encode("ascii"), _KIND, _HEADERS)
        text = waiting_page(socket.gethostname(), self._problems())
        again = str(_AGAIN_SECONDS)
        headers = (*_HEADERS, ("Refresh", again), ("Retry-After", again))
        return Response(HTTPStatus.SERVICE_UNAVAILABLE, text.encode("ascii"), _KIND, headers)
