"""A real Prometheus scrapes the service and evaluates the board's queries."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pmuconf.conf import load
from pmuconf.errors import PmuconfError
from pmuconf.service.health import Health
from pmuconf.service.outputs import Outputs
from tests.functional.host import OFF, Host
from tests.functional.served import Served, service_settings, until
from tests.support.board import queries
from tests.support.domains import nova_domain, plain_domain
from tests.support.sample import sample

pytestmark = pytest.mark.skipif(shutil.which("prometheus") is None, reason="needs prometheus")


class Prometheus:
    """A Prometheus of the test's own, on loopback, that scrapes these addresses every half second."""

    def __init__(self, folder: Path, port: int) -> None:
        self._folder = folder
        self._port = port

    @classmethod
    @contextmanager
    def of(cls, folder: Path, *addresses: str) -> Iterator[Prometheus]:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        config = {
            "global": {"scrape_interval": "500ms"},
            "scrape_configs": [{"job_name": "pmuconf", "static_configs": [{"targets": list(addresses)}]}],
        }
        (folder / "prometheus.yml").write_text(json.dumps(config))
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                [
                    "prometheus",
                    f"--config.file={folder}/prometheus.yml",
                    f"--storage.tsdb.path={folder}/data",
                    f"--web.listen-address=127.0.0.1:{port}",
                ],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                cwd=folder,
            )
        try:
            yield cls(folder, port)
        finally:
            process.kill()
            process.wait()

    def ask(self, query: str) -> list[dict[str, Any]]:
        """The result of a query; none as long as Prometheus is not there yet."""
        url = f"http://127.0.0.1:{self._port}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
        try:
            with urllib.request.urlopen(url, timeout=30) as answer:
                told = json.load(answer)
        except urllib.error.HTTPError as error:
            if error.code == 503:  # it is up, but not ready
                return []
            raise AssertionError(f"{query}: {error.read().decode()}") from None
        except OSError:
            return []
        assert told["status"] == "success"
        assert not told.get("warnings")
        found: list[dict[str, Any]] = told["data"]["result"]
        return found


def test_what_the_service_serves_is_scraped_whole_and_the_board_shows_it(host: Host, tmp_path: Path) -> None:
    host.configure(OFF + service_settings(mode="enforce"))
    hostile = 'a "b\\c'
    host.define(nova_domain("instance-1"), plain_domain(hostile))
    # Beside it, as another host, one with all that a report can have: this machine's kernel may say little.
    other = Outputs(Health())
    other.publish(sample(), load([os.devnull]).service)
    other._health.trouble("libvirt", PmuconfError("it broke", cause="libvirt-lost"))
    other._health.connected(yes=True)
    other.listen(("127.0.0.1", 0))
    assert other.address is not None
    address = f"{other.address[0]}:{other.address[1]}"
    with Served(host.policy) as served, Prometheus.of(tmp_path, served.address(), address) as prometheus:
        served.until_passes(1)
        host.define(plain_domain("web"))
        until(lambda: len(prometheus.ask("up == 1")) == 2, "both to be scraped")
        changed = f'pmuconf_service_changes_total{{outcome="changed",instance="{served.address()}"}}'
        until(lambda: [one["value"][1] for one in prometheus.ask(changed)] == ["3"], "the changes to be scraped")
        names = f'pmuconf_vm_info{{instance="{served.address()}"}}'
        until(lambda: len(prometheus.ask(names)) == 3, "all three VMs")
        assert {one["metric"]["name"] for one in prometheus.ask(names)} == {"instance-1", "web", hostile}
        for query in queries():
            until(lambda: prometheus.ask(query) != [], query)  # noqa: B023
        assert served.stop() == 0
    other.close()
