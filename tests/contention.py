"""Another tool at the same domains, as fast as it can, beside one run of pmuconf after the other: what gets lost?

    python -m tests.contention edits --count 8000
    python -m tests.contention reboots --count 10000

``edits``: edits without a define: ``virsh setmem --config``, ``attach-device --config``, ``metadata`` and ``desc
--title``. ``reboots``: undefine and define, as Nova's hard reboot does; now and then undefine for good. ``--pmuconf
DIR`` names another source of pmuconf, to measure one against the other. Needs root, libvirtd and QEMU; all of it
happens on a libvirtd of its own. Ends with status 1 if something was lost or told wrongly.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

import libvirt

from tests.support.daemon import Daemon
from tests.support.domains import domain_uuid, plain_domain
from tests.support.forked import Forked, Forks

__all__ = ["Figures", "edits", "main", "reboots"]

_DOMAINS: Final = 6
_NEXT_BOOT: Final = libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_SECURE
_CONFIG: Final = libvirt.VIR_DOMAIN_AFFECT_CONFIG
_NAMESPACE: Final = "urn:contention"
_DISK: Final = (
    "<disk type='file'><driver name='qemu' type='raw'/><source file='/var/lib/{0}.img'/>"
    "<target dev='vda' bus='virtio'/><serial>{0}</serial></disk>"
)
_FORMS: Final = {
    "memory": r"<currentMemory unit='KiB'>(\d+)<",
    "disk": r"<serial>(\d+)<",
    "metadata": rf"xmlns:c=\"{_NAMESPACE}\" v=\"(\d+)\"",
    "title": r"<title>(\d+)<",
}
_REST_SECONDS: Final = 0.005  # between two edits
_FOR_GOOD: Final = 40  # every so many cycles a domain is undefined for good
_TOLD: Final = frozenset({"edit-overwritten", "defined-anew", "not-confirmed", "verify-failed"})


@dataclass
class Figures:
    """What a load gave.

    :param made: edits, or cycles of undefine and define, that the other tool made.
    :param lost: edits that were gone at the other tool's next look; domains that were gone.
    :param silently: those of them about which no run said a word.
    :param overwritten: definitions of the other tool's that a run replaced by an older one.
    :param too_many: domains that were there again after they had been undefined for good.
    :param unnamed: those of them that no run named.
    :param false_entries: journal entries that tell another story than the domains.
    :param failed: runs that ended with 255, by cause; ``hung`` are those that had to be killed.
    :param causes: what the runs said of domains.
    """

    made: int = 0
    lost: int = 0
    silently: int = 0
    lost_by_kind: dict[str, int] = field(default_factory=dict)
    overwritten: int = 0
    overwritten_silently: int = 0
    removed: int = 0
    too_many: int = 0
    unnamed: int = 0
    runs: int = 0
    changes: int = 0
    false_entries: int = 0
    failed: int = 0
    hung: int = 0
    slow: int = 0
    causes: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def right(self) -> bool:
        """Whether nothing was told wrongly, and no domain is gone or back without a word."""
        return not (self.false_entries or self.hung or self.unnamed or self.overwritten_silently)


class _Runs:
    """One run of pmuconf after the other, until the other tool is done."""

    def __init__(self, daemon: Daemon, home: Path, forks: Forks, figures: Figures) -> None:
        self._forks = forks
        self._figures = figures
        self._policy = home / "pmuconf.conf"
        self._place = f"[libvirt]\nuri = {daemon.uri}\n[journal]\npath = {home}/journal/journal.sqlite\n"
        self._known = 0
        self._ended = threading.Condition()
        self.made: list[Forked] = []

    def until(self, done: Callable[[], bool], states: Callable[[], dict[str, str]] | None) -> None:
        """Off, on and back, again and again; with ``states`` the journal is held against the domains each time."""
        turns = [("off", "apply"), ("on", "apply"), ("on", "rollback", "--all")]
        before = states() if states else {}
        while not done():
            state, *command = turns[len(self.made) % len(turns)]
            self._policy.write_text(f"[policy]\ndefault = {state}\n{self._place}", encoding="utf-8")
            ran = self._run(*command)
            self._take_in(ran)
            if states:
                after = states()
                self._check_journal(before, after)
                before = after
            with self._ended:
                self.made.append(ran)
                self._ended.notify_all()

    def wait(self) -> None:
        """Return when a run is over that began after this call."""
        now = time.monotonic()
        with self._ended:
            self._ended.wait_for(lambda: bool(self.made) and self.made[-1].begin > now, 150)

    def told(self, name: str, begin: float, end: float) -> bool:
        """Whether a run that went on at that time said that something happened to this domain."""
        self.wait()
        return any(
            row["name"] == name and (row["cause"] in _TOLD or any(word in row["note"] for word in _TOLD))
            for ran in self.made
            if ran.begin <= end and begin <= ran.end
            for row in ran.rows
        )

    def _run(self, *command: str) -> Forked:
        return self._forks.run("--config-file", str(self._policy), *command, "-f", "json")

    def _take_in(self, ran: Forked) -> None:
        figures = self._figures
        figures.runs += 1
        figures.hung += ran.status is None
        figures.slow += ran.end - ran.begin > 25
        if ran.status == 255:
            figures.failed += 1
            _count(figures.causes, [f"run: {word}" for word in re.findall(r"\(([a-z-]+)\)", ran.err)])
        rows = ran.rows
        figures.changes += sum(row["outcome"] == "changed" for row in rows)
        _count(figures.causes, (f"{row['outcome']}: {row['cause']}" for row in rows if row["cause"]))

    def _check_journal(self, before: dict[str, str], after: dict[str, str]) -> None:
        rows = [row for row in self._run("journal").rows if row["change"] > self._known]
        for row in rows:
            self._known = max(self._known, row["change"])
            made = row["status"] in ("done", "undone")
            self._figures.false_entries += after[row["name"]] != (row["new"] if made else before[row["name"]])


class _Load:
    """A libvirtd, domains on it, and the other tool's own connection."""

    def __init__(self, daemon: Daemon, seed: int) -> None:
        self.chance = random.Random(seed)
        self.connection = libvirt.open(daemon.uri)
        self.looking = libvirt.open(daemon.uri)
        self.names = [f"vm-{number}" for number in range(_DOMAINS)]
        for name in self.names:
            self.connection.defineXML(plain_domain(name))
            # libvirt's own text comes back as it is from now on.
            self.connection.defineXML(self.connection.lookupByName(name).XMLDesc(_NEXT_BOOT))

    def pmus(self) -> dict[str, str]:
        """The PMU state of each next boot."""
        states = {}
        for name in self.names:
            found = re.search(r"<pmu state='(\w+)'/>", self.looking.lookupByName(name).XMLDesc(_NEXT_BOOT))
            states[name] = found.group(1) if found else "default"
        return states


class _Editor:
    """Makes edits without a define, and looks before each whether those before are still there."""

    def __init__(self, load: _Load, runs: _Runs, figures: Figures) -> None:
        self._load, self._runs, self._figures = load, runs, figures
        self._domains = {name: load.connection.lookupByName(name) for name in load.names}
        self._wanted: dict[str, dict[str, tuple[str, float]]] = {name: {} for name in load.names}
        self._lost: list[tuple[str, float, float]] = []
        self.done = False

    def run(self, count: int) -> None:
        try:
            for number in range(count):
                name = self._load.chance.choice(self._load.names)
                self._look(name)
                self._edit(name, number)
                self._figures.made += 1
                time.sleep(_REST_SECONDS)
            for name in self._load.names:
                self._look(name)
            self._figures.silently = sum(not self._runs.told(*lost) for lost in self._lost)
        finally:
            self.done = True

    def _edit(self, name: str, number: int) -> None:
        domain = self._domains[name]
        kind = self._load.chance.choice(["memory", "disk", "metadata", "title"])
        value = str(number)
        if kind == "memory":
            value = str(4096 + number % 12288)
            domain.setMemoryFlags(int(value), _CONFIG)
        elif kind == "disk":
            try:
                if "disk" in self._wanted[name]:
                    domain.detachDeviceFlags(_DISK.format(self._wanted[name].pop("disk")[0]), _CONFIG)
                domain.attachDeviceFlags(_DISK.format(value), _CONFIG)
            except libvirt.libvirtError:  # the disk that was detached is there again, or that to be detached is gone
                self._gone(name, kind, time.monotonic())
                found = re.search(_FORMS[kind], domain.XMLDesc(_NEXT_BOOT))
                if found is not None:
                    self._wanted[name][kind] = (found.group(1), time.monotonic())
                return
        elif kind == "metadata":
            domain.setMetadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, f"<n v='{value}'/>", "c", _NAMESPACE, _CONFIG)
        else:
            domain.setMetadata(libvirt.VIR_DOMAIN_METADATA_TITLE, value, None, None, _CONFIG)
        self._wanted[name][kind] = (value, time.monotonic())

    def _look(self, name: str) -> None:
        xml = self._domains[name].XMLDesc(_NEXT_BOOT)
        for kind, (value, at) in list(self._wanted[name].items()):
            found = re.search(_FORMS[kind], xml)
            if found is None or found.group(1) != value:
                self._gone(name, kind, at)
                del self._wanted[name][kind]
                if kind == "disk" and found is not None:  # an older one came back
                    self._wanted[name][kind] = (found.group(1), time.monotonic())

    def _gone(self, name: str, kind: str, at: float) -> None:
        self._figures.lost += 1
        _count(self._figures.lost_by_kind, [kind])
        self._lost.append((name, at, time.monotonic()))


class _Rebooter:
    """Undefines domains and defines them anew, now and then for good, and looks what is there before."""

    def __init__(self, load: _Load, runs: _Runs, figures: Figures) -> None:
        self._load, self._runs, self._figures = load, runs, figures
        self._last: dict[str, tuple[int, float]] = {}
        self._overwritten: list[tuple[str, float, float]] = []
        self.done = False

    def run(self, count: int) -> None:
        try:
            for number in range(1, count + 1):
                name = self._load.chance.choice(self._load.names)
                xml = self._xml(name)
                self._look(name, xml)
                if xml is not None:
                    self._undefine(name)
                if number % _FOR_GOOD == 0:
                    self._for_good(name)
                self._define(name, number)
                self._figures.made += 1
            for name in self._load.names:
                self._look(name, self._xml(name))
            self._figures.overwritten_silently = sum(not self._runs.told(*one) for one in self._overwritten)
        finally:
            self.done = True

    def _xml(self, name: str) -> str | None:
        try:
            return str(self._load.connection.lookupByUUIDString(domain_uuid(name)).XMLDesc(_NEXT_BOOT))
        except libvirt.libvirtError as error:
            if error.get_error_code() != libvirt.VIR_ERR_NO_DOMAIN:
                raise
            return None

    def _look(self, name: str, xml: str | None) -> None:
        if name not in self._last:
            return
        number, at = self._last[name]
        if xml is None:
            self._figures.lost += 1
        elif f"<title>{number}</title>" not in xml:
            self._figures.overwritten += 1
            self._overwritten.append((name, at, time.monotonic()))

    def _undefine(self, name: str) -> None:
        try:
            self._load.connection.lookupByUUIDString(domain_uuid(name)).undefine()
        except libvirt.libvirtError as error:
            if error.get_error_code() != libvirt.VIR_ERR_NO_DOMAIN:
                raise

    def _for_good(self, name: str) -> None:
        begin = time.monotonic()
        self._figures.removed += 1
        self._runs.wait()
        if self._xml(name) is not None:
            self._figures.too_many += 1
            self._figures.unnamed += not self._runs.told(name, begin, time.monotonic())
            self._undefine(name)

    def _define(self, name: str, number: int) -> None:
        text = plain_domain(name).replace("</uuid>\n", f"</uuid>\n  <title>{number}</title>\n", 1)
        while True:
            try:
                self._load.connection.defineXML(text)
                break
            except libvirt.libvirtError as error:
                if "already being removed" not in str(error):
                    raise
        self._last[name] = (number, time.monotonic())


def _count(counts: dict[str, int], words: Iterable[str]) -> None:
    for word in words:
        counts[word] = counts.get(word, 0) + 1


def edits(daemon: Daemon, home: Path, tree: Path, count: int, seed: int) -> Figures:
    """So many edits without a define, beside runs of pmuconf."""
    return _beside(_Editor, daemon, home, tree, count, seed, journal=True)


def reboots(daemon: Daemon, home: Path, tree: Path, count: int, seed: int) -> Figures:
    """So many cycles of undefine and define, beside runs of pmuconf."""
    return _beside(_Rebooter, daemon, home, tree, count, seed, journal=False)


def _beside(
    tool: type[_Editor] | type[_Rebooter],
    daemon: Daemon,
    home: Path,
    tree: Path,
    count: int,
    seed: int,
    *,
    journal: bool,
) -> Figures:
    libvirt.registerErrorHandler(lambda _data, _error: None, None)  # it would print what we raise
    figures = Figures()
    begin = time.monotonic()
    with Forks.of(tree) as forks:
        load = _Load(daemon, seed)
        runs = _Runs(daemon, home, forks, figures)
        other = tool(load, runs, figures)
        thread = threading.Thread(target=other.run, args=(count,))
        thread.start()
        runs.until(lambda: other.done, load.pmus if journal else None)
        thread.join()
    assert figures.made == count, "the other tool came to grief"
    figures.seconds = round(time.monotonic() - begin, 1)
    return figures


def main(arguments: list[str]) -> int:
    """Run a load and print its figures."""
    parser = argparse.ArgumentParser(prog="python -m tests.contention", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("load", choices=["edits", "reboots"])
    parser.add_argument("--count", type=int, default=1000, help="edits, or cycles; about 50 to 100 a second")
    parser.add_argument("--pmuconf", type=Path, default=Path(__file__).parents[1], metavar="DIR")
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args(arguments)
    load = edits if asked.load == "edits" else reboots
    with Daemon() as daemon, tempfile.TemporaryDirectory() as home:
        figures = load(daemon, Path(home), asked.pmuconf.resolve(), asked.count, asked.seed)
    print(json.dumps(asdict(figures), indent=2))
    return 0 if figures.right else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
