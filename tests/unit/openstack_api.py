"""As much of Keystone, Nova and Glance, over HTTP, as the commands about flavors ask for."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

PAGE = 10


class FakeCloud:
    """Flavors and images by name, with their extra specs and properties; pages of ten."""

    def __init__(self) -> None:
        self.flavors: dict[str, dict[str, str]] = {}
        self.images: dict[str, dict[str, str]] = {}
        self.servers: list[dict[str, Any]] = []
        self.refuse: dict[str, list[int]] = {}
        """Statuses with which the next changes of a flavor are refused."""
        self.done_but_500: set[str] = set()
        """Flavors of which the next change is made and answered with 500."""
        self.busy = 0
        """How many requests to Nova are answered with 503 first."""
        cloud = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args: object) -> None:
                pass

            def handle_any(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                body = json.loads(self.rfile.read(length)) if length else {}
                status, answer, headers = cloud.answer(self.command, self.path, body)
                data = b"" if answer is None else json.dumps(answer).encode()
                self.send_response(status)
                for name, value in {**headers, "Content-Type": "application/json"}.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = do_DELETE = handle_any

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    def __enter__(self) -> FakeCloud:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def environment(self) -> Mapping[str, str]:
        """What clients read of it."""
        return {
            "OS_AUTH_URL": f"{self._url}/v3",
            "OS_USERNAME": "admin",
            "OS_PASSWORD": "right",
            "OS_PROJECT_NAME": "admin",
            "OS_USER_DOMAIN_ID": "default",
            "OS_PROJECT_DOMAIN_ID": "default",
            "OS_REGION_NAME": "here",
            "OS_CLIENT_CONFIG_FILE": "/dev/null",
        }

    def answer(self, method: str, path: str, body: Any) -> tuple[int, Any, dict[str, str]]:
        """Status, body and headers for a request."""
        parts = urlsplit(path)
        words = [word for word in parts.path.split("/") if word]
        query = parse_qs(parts.query)
        if words[:1] == ["v3"]:
            return self._identity(words, body)
        if words[:1] == ["image"]:
            return self._image(words, query)
        if self.busy and len(words) > 2:
            self.busy -= 1
            return 503, {"busy": {"message": "later"}}, {"Retry-After": "0"}
        return self._compute(method, words[2:], query, body)

    def _identity(self, words: list[str], body: Any) -> tuple[int, Any, dict[str, str]]:
        if words == ["v3"]:
            links = [{"rel": "self", "href": f"{self._url}/v3/"}]
            return 200, {"version": {"id": "v3.14", "status": "stable", "links": links}}, {}
        if body["auth"]["identity"]["password"]["user"]["password"] != "right":
            return 401, {"error": {"code": 401, "message": "no", "title": "Unauthorized"}}, {}
        urls = {"compute": f"{self._url}/compute/v2.1", "image": f"{self._url}/image"}
        catalog = [
            {
                "type": kind,
                "name": kind,
                "endpoints": [{"interface": "public", "region": "here", "region_id": "here", "url": url}],
            }
            for kind, url in urls.items()
        ]
        token = {"catalog": catalog, "expires_at": "2100-01-01T00:00:00.000000Z", "methods": ["password"], "roles": []}
        return 201, {"token": token}, {"X-Subject-Token": "token"}

    def _image(self, words: list[str], query: Mapping[str, list[str]]) -> tuple[int, Any, dict[str, str]]:
        if words == ["image"]:
            links = [{"rel": "self", "href": f"{self._url}/image/v2/"}]
            return 300, {"versions": [{"id": "v2.15", "status": "CURRENT", "links": links}]}, {}
        if words != ["image", "v2", "images"]:
            return 404, {"message": "no such resource"}, {}
        images = [{"id": name, "name": name, "visibility": "public", **more} for name, more in self.images.items()]
        return 200, {"images": _page(images, query)}, {}

    def _compute(
        self, method: str, words: list[str], query: Mapping[str, list[str]], body: Any
    ) -> tuple[int, Any, dict[str, str]]:
        if not words:
            links = [{"rel": "self", "href": f"{self._url}/compute/v2.1/"}]
            version = {"id": "v2.1", "status": "CURRENT", "version": "2.93", "min_version": "2.1", "links": links}
            return 200, {"version": version}, {}
        if words[0] == "servers":
            return 200, {"servers": _page(self.servers, query)}, {}
        if words[1:] == ["detail"]:
            return 200, {"flavors": _page([self._flavor(name) for name in sorted(self.flavors)], query)}, {}
        name = words[1]
        if name not in self.flavors:
            return 404, {"itemNotFound": {"message": "gone"}}, {}
        if method == "GET":
            return 200, {"flavor": self._flavor(name)}, {}
        if self.refuse.get(name):
            return self.refuse[name].pop(), {"fault": {"message": "refused"}}, {}
        if method == "POST":
            self.flavors[name].update(body["extra_specs"])
        else:
            self.flavors[name].pop(words[3])
        if name in self.done_but_500:
            self.done_but_500.remove(name)
            return 500, {"fault": {"message": "lost"}}, {}
        return 200, body if method == "POST" else None, {}

    def _flavor(self, name: str) -> dict[str, Any]:
        return {"id": name, "name": name, "os-flavor-access:is_public": True, "extra_specs": dict(self.flavors[name])}


def _page(entries: list[dict[str, Any]], query: Mapping[str, list[str]]) -> list[dict[str, Any]]:
    ids = [entry["id"] for entry in entries]
    start = ids.index(query["marker"][0]) + 1 if "marker" in query else 0
    return entries[start : start + PAGE]
