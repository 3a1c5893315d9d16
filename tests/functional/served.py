"""A running ``pmuconf serve``, in a process or in a thread of the test's, and what it says."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from pmuconf import conf
from pmuconf.access import surveyor
from pmuconf.hostfacts import HostFacts
from pmuconf.service.log import Log
from pmuconf.service.loop import Service
from pmuconf.service.systemd import Systemd
from tests.functional import host

__all__ = ["Served", "Threaded", "service_settings", "until"]

_SETTINGS = {
    "interval": "3600",
    "debounce": "0.05",
    "changes_per_minute": "0",
    "listen": "127.0.0.1:0",
    "host_facts": "",
    "log_format": "json",
}


def service_settings(**settings: object) -> str:
    """The group [service] of a test: no pass but where the test asks for one, and any port."""
    given = {**_SETTINGS, **{key: str(value) for key, value in settings.items()}}
    return "[service]\n" + "".join(f"{key} = {value}\n" for key, value in given.items())


def until(done: Callable[[], bool], what: str) -> None:
    """As host.until(), but looks seldom enough to leave the service the processor."""
    host.until(done, what, every=0.05)


class _Reader:
    """Asks over HTTP, as Prometheus and a load balancer do."""

    def address(self) -> str:
        raise NotImplementedError

    def get(self, path: str) -> tuple[int, str]:
        """Status and text."""
        try:
            with urllib.request.urlopen(f"http://{self.address()}{path}", timeout=30) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def metric(self, name: str) -> float:
        """The sum of a metric's series whose names and labels begin so."""
        found = re.findall(rf"^{re.escape(name)}[^ ]* (\S+)$", self.get("/metrics")[1], re.MULTILINE)
        assert found, name
        return sum(map(float, found))

    def causes(self) -> set[str]:
        """What /healthz complains of; its status agrees."""
        status, text = self.get("/healthz")
        answer = json.loads(text)
        assert (status, answer["status"]) in ((200, "ok"), (503, "trouble"))
        return {problem["cause"] for problem in answer["problems"] if problem["area"] != "host-facts"}

    def until_passes(self, number: int) -> None:
        """Wait until so many looks at all domains are complete."""
        until(lambda: self.metric("pmuconf_service_passes_total") >= number, f"pass {number}")


class Served(_Reader):
    """The command in a process of its own. ``lines`` are those of its log, parsed."""

    def __init__(self, policy: Path, *arguments: str, environment: dict[str, str] | None = None) -> None:
        command = [sys.executable, "-m", "pmuconf.commands.main", "--config-file", str(policy), "serve", *arguments]
        self.lines: list[dict[str, Any]] = []
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **(environment or {})},
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Served:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.kill()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            try:
                self.lines.append(json.loads(line))
            except ValueError:
                self.lines.append({"event": "not-json", "message": line})

    def events(self, event: str) -> list[dict[str, Any]]:
        """The lines of one kind."""
        return [line for line in list(self.lines) if line["event"] == event]

    def until(self, event: str, number: int = 1) -> dict[str, Any]:
        """Wait for a line of this kind, and return it."""
        until(
            lambda: len(self.events(event)) >= number or self.process.poll() is not None,
            f"{event} in {self.lines[-9:]}",
        )
        assert len(self.events(event)) >= number, self.lines[-9:]
        return self.events(event)[number - 1]

    def address(self) -> str:
        return str(self.until("started")["address"])

    def hang_up(self) -> None:
        """Ask it to reload."""
        self.process.send_signal(signal.SIGHUP)

    def stop(self) -> int:
        """Ask it to end; its exit status."""
        self.process.terminate()
        try:
            return self.process.wait(30)
        finally:
            self.kill()

    def kill(self) -> None:
        """End it as a crash would."""
        self.process.kill()
        self.process.wait()
        self._reader.join()
        assert self.process.stderr is not None
        self.process.stderr.close()


class Threaded(_Reader):
    """The service in a thread of the test's process, where the test can reach into it."""

    def __init__(self, policy: Path, change: Callable[[conf.Settings], conf.Settings] = lambda chosen: chosen) -> None:
        def load() -> conf.Settings:
            return change(conf.load([str(policy)]))

        self.service = Service(load, _survey, Log("json"), Systemd())
        self._thread = threading.Thread(target=self._run)
        self.error: BaseException | None = None

    def __enter__(self) -> Threaded:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.service.stop()
        self._thread.join(60)
        assert not self._thread.is_alive()
        assert self.error is None

    def _run(self) -> None:
        try:
            self.service.run()
        except BaseException as error:
            self.error = error

    def address(self) -> str:
        address = self.service.outputs.address
        assert address is not None
        return f"{address[0]}:{address[1]}"


def _survey(file: Path | None) -> HostFacts:
    return surveyor(file)()
