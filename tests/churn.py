"""Let the service run while others undefine and redefine a few domains as fast as they can, and see whether it stalls.

    python -m tests.churn --seconds 600

Needs root, libvirtd and QEMU; starts a libvirtd and a service of its own, and ends by itself. A stall is half a
minute in which the others' changes go on and the service hears of none, changes none and completes no look at all
domains. After a stall (whose backtrace is printed if gdb is installed) the service is killed and started again.
Ends with status 1 if there was one, or if a domain is not on policy at the end.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Final

import libvirt

from pmuconf.hypervisor import events
from tests.functional.host import OFF, Host
from tests.functional.served import Served, service_settings
from tests.soak import _Process, _until
from tests.support.daemon import Daemon
from tests.support.domains import plain_domain

__all__ = ["main"]

_STALL_SECONDS: Final = 30.0
_SAMPLE_SECONDS: Final = 2.0
_KEPT_LINES: Final = 200


class _Writer(threading.Thread):
    """Somebody else: undefines and defines its domains in turn, so many changes a second at most."""

    def __init__(self, uri: str, names: list[str], rate: float) -> None:
        super().__init__(daemon=True)
        self._uri = uri
        self._names = names
        self._pause = 1 / rate
        self.changes = 0
        self.refused = 0
        self.end = threading.Event()

    def run(self) -> None:
        """Until ``end`` is set; every domain is defined then."""
        connection = libvirt.open(self._uri)
        texts = {name: plain_domain(name) for name in self._names}
        due = time.monotonic()
        for name in itertools.cycle(self._names):
            if self.end.is_set():
                break
            for change in (self._undefine, self._define):
                due = max(due + self._pause * random.uniform(0.5, 1.5), time.monotonic())
                time.sleep(max(0.0, due - time.monotonic()))
                try:
                    change(connection, name, texts[name])
                    self.changes += 1
                except libvirt.libvirtError:
                    self.refused += 1
        connection.close()

    @staticmethod
    def _undefine(connection: libvirt.virConnect, name: str, _text: str) -> None:
        connection.lookupByName(name).undefine()

    @staticmethod
    def _define(connection: libvirt.virConnect, _name: str, text: str) -> None:
        connection.defineXML(text)


class _Service(Served):
    """The service, of whose log only the end is kept; ``counts`` says what became of changes in it."""

    def begin(self) -> None:
        """Wait until it serves."""
        self._place = str(self.until("started")["address"])

    def address(self) -> str:
        """Where it listens."""
        return self._place

    def trim(self) -> None:
        """Forget the older lines."""
        del self.lines[:-_KEPT_LINES]

    def numbers(self) -> dict[str, float]:
        """Its metrics; empty if it does not answer."""
        try:
            with urllib.request.urlopen(f"http://{self.address()}/metrics", timeout=10) as answer:
                text = answer.read().decode()
        except (OSError, urllib.error.URLError):
            return {}
        found = re.findall(r"^(pmuconf_service_\S+) (\S+)$", text, re.MULTILINE)
        return {name: float(value) for name, value in found}

    def healthz(self) -> str:
        """What /healthz says, in short."""
        try:
            status, text = self.get("/healthz")
        except (OSError, urllib.error.URLError) as error:
            return str(error)
        problems = [f"{one['area']}: {one['cause']}" for one in json.loads(text)["problems"]]
        return " ".join([str(status), *problems])


def _sum(numbers: dict[str, float], name: str) -> int:
    return int(sum(value for key, value in numbers.items() if key.startswith(name)))


class _Churn:
    def __init__(self, host: Host, writers: list[_Writer]) -> None:
        self._host = host
        self._writers = writers
        self.stalls: list[str] = []
        self.totals: dict[str, int] = {}
        self.samples: list[tuple[float, int, int]] = []
        self.wrong: list[str] = []

    def run(self, seconds: float) -> None:
        """Watch services, one after the other, until the time is over."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self._one(deadline)

    def _one(self, deadline: float) -> None:
        """One service, until it stalls or ends or the time is over."""
        service = _Service(self._host.policy)
        with service:
            service.begin()
            process = _Process(service.process.pid)
            numbers: dict[str, float] = {}
            progress, since, others, told = -1, time.monotonic(), self._others(), time.monotonic()
            while time.monotonic() < deadline:
                time.sleep(_SAMPLE_SECONDS)
                if service.process.poll() is not None:
                    self.wrong.append(f"the service ended with {service.process.returncode}: {service.lines[-3:]}")
                    break
                numbers = service.numbers() or numbers
                now = sum(_sum(numbers, f"pmuconf_service_{name}_total") for name in ("events", "changes", "passes"))
                if now != progress:
                    progress, since, others = now, time.monotonic(), self._others()
                elif time.monotonic() - since > _STALL_SECONDS and self._others() - others > 100:
                    self._stalled(service, self._others() - others, time.monotonic() - since)
                    break
                self.samples.append((process.rss(), process.descriptors(), process.threads()))
                service.trim()
                if time.monotonic() - told > 60:
                    told = time.monotonic()
                    self._say(numbers, process, service)
            else:
                self._end(service)
                numbers = service.numbers() or numbers
                ended = service.stop()
                if ended != 0:
                    self.wrong.append(f"the service ended with {ended}")
            for key, value in numbers.items():
                if "_total" in key:
                    self.totals[key] = self.totals.get(key, 0) + int(value)

    def _end(self, service: _Service) -> None:
        """Nothing is changed any more; the service makes all right."""
        for writer in self._writers:
            writer.end.set()
        for writer in self._writers:
            writer.join(60)
        try:
            _until(lambda: set(self._host.pmus().values()) <= {"off"}, 120)
        except SystemExit:
            self.wrong.append(f"at the end: {self._host.pmus()}, health {service.healthz()}")

    def _others(self) -> int:
        return sum(writer.changes for writer in self._writers)

    def _stalled(self, service: _Service, changes: int, seconds: float) -> None:
        text = f"STALL: {changes} changes of others in {seconds:.0f} s unseen; health says {service.healthz()}"
        self.stalls.append(text)
        print(text, flush=True)
        print("its last lines:", *(str(line) for line in service.lines[-5:]), sep="\n  ", flush=True)
        if shutil.which("gdb"):
            command = ["gdb", "-p", str(service.process.pid), "-batch", "-ex", "thread apply all bt"]
            print(subprocess.run(command, capture_output=True, text=True, check=False).stdout, flush=True)

    def _say(self, numbers: dict[str, float], process: _Process, service: _Service) -> None:
        print(
            f"{time.strftime('%H:%M:%S')} others {self._others():,}, "
            f"changed {_sum(numbers, 'pmuconf_service_changes_total{outcome=' + chr(34) + 'changed'):,}, "
            f"connections {_sum(numbers, 'pmuconf_service_connections_total')}, "
            f"{process.rss():.0f} MiB, {process.descriptors()} descriptors, {process.threads()} threads, "
            f"health {service.healthz()}",
            flush=True,
        )

    def report(self, elapsed: float) -> None:
        """All of it in figures."""
        others, refused = self._others(), sum(writer.refused for writer in self._writers)
        print(f"{elapsed:.0f} s, {others:,} changes by others ({others / elapsed:.1f} a second), {refused:,} refused")
        for key, value in sorted(self.totals.items()):
            print(f"  {key} {value:,}")
        third = max(1, len(self.samples) // 3)
        for column, what in enumerate(("MiB of memory", "descriptors", "threads")):
            parts = self.samples[:third], self.samples[-third:]
            one, other = (statistics.median(row[column] for row in part) for part in parts)
            most = max(row[column] for row in self.samples)
            print(f"  {what}: median of the first third {one:.0f}, of the last {other:.0f}, most {most:.0f}")
        print(f"stalls: {len(self.stalls)}; wrong: {self.wrong or 'nothing'}", flush=True)


def main() -> int:
    """Run the churn; 0 if the service never stalled and every domain ended on policy."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.churn", description=__doc__.splitlines()[0] if __doc__ else ""
    )
    parser.add_argument("--seconds", type=float, default=600, help="How long it lasts.")
    parser.add_argument("--domains", type=int, default=6, help="How many are undefined and defined again.")
    parser.add_argument("--writers", type=int, default=2, help="How many do that, each with domains of its own.")
    parser.add_argument("--rate", type=float, default=70, help="Changes a second at most, of all of them together.")
    args = parser.parse_args()
    events.start()
    begin = time.monotonic()
    with Daemon() as daemon, tempfile.TemporaryDirectory(prefix="pmuconf-churn-") as folder:
        host = Host(daemon, Path(folder))
        host.configure(OFF + service_settings(mode="enforce", debounce=0.05, interval=5, max_failures=1000000))
        names = [f"churn-{number}" for number in range(args.domains)]
        host.define(*map(plain_domain, names))
        writers = [
            _Writer(daemon.uri, names[at :: args.writers], args.rate / args.writers) for at in range(args.writers)
        ]
        for writer in writers:
            writer.start()
        churn = _Churn(host, writers)
        churn.run(args.seconds)
        churn.report(time.monotonic() - begin)
        host.close()
    print(f"load {os.getloadavg()[2]:.1f}, {os.cpu_count()} processors", flush=True)
    return 1 if churn.stalls or churn.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
