"""A real Prometheus and real node_exporters of a test's own, on addresses of the loopback network."""

from __future__ import annotations

import json
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["Prometheus", "node_exporter"]


class Prometheus:
    """A Prometheus on loopback that scrapes its targets every half second."""

    def __init__(self, port: int) -> None:
        self._port = port

    @classmethod
    @contextmanager
    def of(cls, folder: Path, jobs: Mapping[str, Sequence[str]]) -> Iterator[Prometheus]:
        """Start one that scrapes these jobs, each with its targets; it keeps its files in the folder."""
        port = _free_port("127.0.0.1")
        config = {
            "global": {"scrape_interval": "500ms"},
            "scrape_configs": [
                {"job_name": job, "static_configs": [{"targets": list(targets)}]} for job, targets in jobs.items()
            ],
        }
        (folder / "prometheus.yml").write_text(json.dumps(config))
        command = [
            "prometheus",
            f"--config.file={folder}/prometheus.yml",
            f"--storage.tsdb.path={folder}/data",
            f"--web.listen-address=127.0.0.1:{port}",
        ]
        with _running(command, folder):
            yield cls(port)

    def ask(self, query: str) -> list[dict[str, Any]]:
        """The result of a query; none as long as Prometheus is not there yet."""
        url = f"http://127.0.0.1:{self._port}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
        try:
            with urllib.request.urlopen(url, timeout=30) as response:
                answer = json.load(response)
        except urllib.error.HTTPError as error:
            if error.code == 503:  # it is up, but not ready
                return []
            raise AssertionError(f"{query}: {error.read().decode()}") from None
        except OSError:
            return []
        assert answer["status"] == "success"
        assert not answer.get("warnings")
        result: list[dict[str, Any]] = answer["data"]["result"]
        return result

    def wait_for(self, query: str, number: int) -> None:
        """Return as soon as the query has so many values."""
        end = time.monotonic() + 60
        while len(self.ask(query)) != number:
            assert time.monotonic() < end, f"{query} has {self.ask(query)}, not {number} values"
            time.sleep(0.1)

    def values(self, query: str, *labels: str) -> dict[tuple[str, ...], float]:
        """The values of a query, by these labels."""
        result = self.ask(query)
        values = {tuple(row["metric"].get(label, "") for label in labels): float(row["value"][1]) for row in result}
        assert len(values) == len(result), f"{query}: not one value for each {labels}"
        return values


@contextmanager
def node_exporter(folder: Path, address: str) -> Iterator[str]:
    """A node_exporter that serves the textfiles of a folder; gives the target to scrape."""
    target = f"{address}:{_free_port(address)}"
    command = [
        "prometheus-node-exporter",
        "--collector.disable-defaults",
        "--collector.textfile",
        f"--collector.textfile.directory={folder}",
        f"--web.listen-address={target}",
    ]
    with _running(command, folder):
        yield target


def _free_port(address: str) -> int:
    with socket.create_server((address, 0)) as free:
        port: int = free.getsockname()[1]
        return port


@contextmanager
def _running(command: Sequence[str], folder: Path) -> Iterator[None]:
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=folder)
    try:
        yield
    finally:
        process.kill()
        process.wait()
