"""Let the service run for a while on a libvirtd of its own, and measure what it takes and how soon it acts.

    python -m tests.soak --minutes 10 --domains 1000 --restarts 20 --write docs/performance.md

Needs root, libvirtd and QEMU. In order: single defines, a burst, nothing at all, a stream of defines and undefines,
and libvirtd killed -9 and started again and again under a stream. Ends with status 1 if any domain is not on policy
then, was lost, or is another than was defined but for its PMU.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import libvirt

from pmuconf.hypervisor import events
from tests.bench.table import machine
from tests.functional import oracle
from tests.functional.host import OFF, Host
from tests.functional.served import Served, service_settings
from tests.support.daemon import Daemon
from tests.support.domains import nova_domain

__all__ = ["main"]

_TICKS: Final = os.sysconf("SC_CLK_TCK")
_INTERVAL: Final = 600  # [service] interval's default, which the idle share is reckoned with
_IDLE_SECONDS: Final = 120.0
_SAMPLE_SECONDS: Final = 2.0
_BEGIN, _END = "<!-- begin of what python -m tests.soak wrote -->", "<!-- end of what python -m tests.soak wrote -->"


class _Process:
    """What a process takes, from /proc."""

    def __init__(self, pid: int) -> None:
        self._folder = Path(f"/proc/{pid}")

    def cpu(self) -> float:
        """Seconds of processor time so far, of all its threads."""
        words = (self._folder / "stat").read_text().rpartition(")")[2].split()
        return (int(words[11]) + int(words[12])) / _TICKS

    def rss(self) -> float:
        """MiB of memory."""
        return int((self._folder / "statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / 2**20

    def descriptors(self) -> int:
        """Open file descriptors."""
        return len(list((self._folder / "fd").iterdir()))

    def threads(self) -> int:
        """Threads."""
        return len(list((self._folder / "task").iterdir()))


class _Times:
    """When each domain was defined, by whomever: libvirt's events, heard on a connection of our own."""

    def __init__(self, uri: str) -> None:
        self._heard = threading.Condition()
        self._times: dict[str, list[float]] = {}
        self._connection = libvirt.openReadOnly(uri)
        self._connection.domainEventRegisterAny(None, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, self._hear, None)

    def _hear(self, _connection: object, domain: libvirt.virDomain, event: int, _detail: int, _data: object) -> None:
        if event == libvirt.VIR_DOMAIN_EVENT_DEFINED:
            with self._heard:
                self._times.setdefault(domain.name(), []).append(time.monotonic())
                self._heard.notify_all()

    def reaction(self, name: str) -> float:
        """Seconds from the first define of this domain to the second, which is waited for."""
        with self._heard:
            if not self._heard.wait_for(lambda: len(self._times.get(name, ())) > 1, 60):
                raise SystemExit(f"{name} was not changed within a minute")
            first, second = self._times[name][:2]
            return second - first


class _Soak:
    def __init__(self, host: Host, served: Served) -> None:
        self._host = host
        self._served = served
        self._process = _Process(served.process.pid)
        self._numbers = itertools.count()
        self.rows: list[tuple[str, str]] = []

    def define(self) -> str:
        """One more domain."""
        name = f"instance-{next(self._numbers):08x}"
        self._host.connection.defineXML(nova_domain(name))
        return name

    def single(self, count: int) -> None:
        """Defines one by one: how soon each is on policy."""
        times = _Times(self._host.daemon.uri)
        seconds = sorted(times.reaction(self.define()) for _ in range(count))
        self._say(
            f"from somebody else's define to ours, {count} one by one",
            f"median {statistics.median(seconds):.2f} s, longest {seconds[-1]:.2f} s",
        )

    def burst(self, count: int) -> None:
        """Many at once."""
        begin = time.monotonic()
        for _ in range(count):
            self.define()
        defined = time.monotonic()
        self.all_off(300)
        text = f"all off {time.monotonic() - defined:.1f} s after the last define"
        self._say(f"{count:,} defined in a burst of {defined - begin:.1f} s", text)

    def idle(self) -> None:
        """Nothing happens; and what one look at all domains costs, which is taken once in the interval."""
        self._served.until("pass")
        time.sleep(_SAMPLE_SECONDS)
        begin = self._process.cpu()
        time.sleep(_IDLE_SECONDS)
        share = (self._process.cpu() - begin) / _IDLE_SECONDS
        before, passes = self._process.cpu(), len(self._served.events("pass"))
        self._served.hang_up()
        self._served.until("pass", passes + 1)
        time.sleep(_SAMPLE_SECONDS)
        look = self._process.cpu() - before
        domains, all_in_all = len(self._host.names()), share + look / _INTERVAL
        self._say(
            f"processor time while nothing happens, {domains:,} domains",
            f"{share:.2%} of a core; {all_in_all:.2%} with a look at all ({look:.2f} s) every {_INTERVAL} s",
        )

    def stream(self, minutes: float, rate: float) -> None:
        """Domains come and go, each undefined some time after."""
        born: list[str] = []
        made = 0
        samples: list[tuple[float, int, int]] = []
        begin, cpu = time.monotonic(), self._process.cpu()
        next_sample = begin
        while time.monotonic() < begin + minutes * 60:
            born.append(self.define())
            made += 1
            if len(born) > 50:
                self._host.domain(born.pop(0)).undefine()
            if time.monotonic() >= next_sample:
                samples.append((self._process.rss(), self._process.descriptors(), self._process.threads()))
                next_sample += _SAMPLE_SECONDS
            time.sleep(1 / rate)
        elapsed = time.monotonic() - begin
        share = (self._process.cpu() - cpu) / elapsed
        self.all_off(60)
        third = max(1, len(samples) // 3)

        def both(column: int) -> str:
            one, other = samples[:third], samples[-third:]
            return " and ".join(f"{statistics.median(row[column] for row in part):.0f}" for part in (one, other))

        about = f"{elapsed / 60:.0f} minutes, {made:,} domains defined and undefined"
        self._say(f"{about}: memory, median of the first and the last third", f"{both(0)} MiB")
        self._say("the same: file descriptors", both(1))
        self._say("the same: threads", both(2))
        self._say("the same: processor time", f"{share:.1%} of a core at {made / elapsed:.1f} a second")

    def restarts(self, count: int) -> bool:
        """libvirtd is killed again and again while somebody defines; whether all ends right."""
        texts: dict[str, str] = {}
        end = threading.Event()

        def define() -> None:
            connection = None
            for number in itertools.count():
                if end.wait(0.02):
                    return
                name, text = f"killed-{number:05}", nova_domain(f"killed-{number:05}", vnc_password="geheim")
                try:
                    connection = connection or libvirt.open(self._host.daemon.uri)
                    connection.defineXML(text)
                    texts[name] = text
                except libvirt.libvirtError:
                    connection = None

        before = {name: oracle.rest(xml) for name, xml in self._host.xmls().items()}
        thread = threading.Thread(target=define)
        thread.start()
        for _ in range(count):
            before_kill = len(texts)
            while len(texts) < before_kill + 20:
                time.sleep(0.02)
            self._host.daemon.kill()
            self._host.daemon.start()
        end.set()
        thread.join()
        self._host.reconnect()
        begin = time.monotonic()
        self.all_off(120)
        seconds = time.monotonic() - begin
        found = self._host.xmls()
        lost = (before.keys() | texts.keys()) - found.keys()
        other = [name for name, rest in before.items() if name in found and oracle.rest(found[name]) != rest]
        for name, text in texts.items():
            self._host.connection.defineXML(text)
            other += [name] if oracle.rest(self._host.xml(name)) != oracle.rest(found[name]) else []
        self._say(
            f"libvirtd killed -9 and started {count} times, {len(texts):,} domains defined meanwhile",
            f"all off {seconds:.1f} s after the last; {len(lost)} lost, {len(other)} changed otherwise",
        )
        return not lost and not other

    def all_off(self, seconds: float) -> None:
        """Wait until every domain is on policy."""
        _until(lambda: set(self._host.pmus().values()) <= {"off"}, seconds)

    def _say(self, what: str, value: str) -> None:
        self.rows.append((what, value))
        print(f"{what}: {value}", flush=True)


def main() -> int:
    """Run the soak; 0 if every domain ended right."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.soak", description=__doc__.splitlines()[0] if __doc__ else ""
    )
    parser.add_argument("--minutes", type=float, default=10, help="How long the stream lasts.")
    parser.add_argument("--domains", type=int, default=1000, help="How many are defined in the burst, and stay.")
    parser.add_argument("--restarts", type=int, default=20, help="How often libvirtd is killed.")
    parser.add_argument("--rate", type=float, default=5, help="Domains a second in the stream.")
    parser.add_argument("--write", type=Path, metavar="FILE", help="Put the figures into this file, between its marks.")
    args = parser.parse_args()
    events.start()
    with Daemon() as daemon, tempfile.TemporaryDirectory(prefix="pmuconf-soak-") as folder:
        host = Host(daemon, Path(folder))
        files = {"textfile": f"{folder}/pmuconf.prom", "html": f"{folder}/report.html"}
        host.configure(OFF + service_settings(mode="enforce", debounce=0.2, interval=_INTERVAL, **files))
        with Served(host.policy) as served:
            soak = _Soak(host, served)
            served.until_passes(1)
            soak.single(100)
            soak.burst(args.domains)
            soak.idle()
            soak.stream(args.minutes, args.rate)
            right = soak.restarts(args.restarts)
            ended = served.stop()
        about = machine(host.connection)
        host.close()
    if args.write:
        command = (
            f"python -m tests.soak --minutes {args.minutes:.0f} --domains {args.domains} --restarts {args.restarts}"
        )
        _write(args.write, f"`{command}` on {about}, load {os.getloadavg()[2]:.1f}.", soak.rows)
    return 0 if right and ended == 0 else 1


def _until(done: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        if time.monotonic() > deadline:
            raise SystemExit(f"waited {seconds:.0f} s in vain")
        time.sleep(0.2)


def _write(path: Path, about: str, rows: list[tuple[str, str]]) -> None:
    lines = [about, "", "| what | figure |", "|---|---|", *(f"| {what} | {value} |" for what, value in rows)]
    before, _, rest = path.read_text(encoding="utf-8").partition(_BEGIN)
    _, _, after = rest.partition(_END)
    path.write_text("\n".join([f"{before}{_BEGIN}", *lines, f"{_END}{after}"]), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
