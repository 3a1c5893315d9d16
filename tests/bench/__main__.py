"""Measure pmuconf against the barest programs that do the same work, on a real libvirtd of its own.

Each comparison alternates: pmuconf, peer, pmuconf, peer, ... and takes the ratio pair by pair, so that what else the
machine does meanwhile hits both sides. Needs root, libvirtd, QEMU and, for the rows that compare with it, virt-xml.
"""

from __future__ import annotations

import argparse
import ctypes.util
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

import libvirt

from tests.bench.table import Memory, Row, machine, markdown, write
from tests.support.daemon import Daemon
from tests.support.domains import nova_domain

__all__ = ["main"]

_TREE: Final = Path(__file__).resolve().parents[2]
_SECONDS: Final = 60.0  # more than any of the work takes for so few domains, or as one process
_SECONDS_PER_DOMAIN: Final = 0.1
_BIG: Final = 10_000
_REWRITES: Final = 3000
_PROCESSES: Final = 3
_VIRT_XML_DOMAINS: Final = 4
_CONNECTIONS: Final = (1, 2, 3, 4, 6, 8)
_NO_FSYNC: Final = "libeatmydata.so"
_BARE_APPLY: Final = "a loop of XMLDesc, edit with lxml and defineXML, which verifies nothing"


class _Bench:
    """The measurements on one daemon; each gives rows of the table."""

    def __init__(self, daemon: Daemon, pmuconf: Path, runs: int) -> None:
        self._uri = daemon.uri
        self._pmuconf = str(pmuconf)
        self._runs = runs
        self._names: list[str] = []
        self._config = daemon.root / "pmuconf.conf"
        self._config.write_text(f"[journal]\npath = {daemon.root}/journal/journal.sqlite\n", encoding="utf-8")
        self._xml = daemon.root / "domain.xml"

    @property
    def _count(self) -> int:
        return len(self._names)

    @property
    def _limit(self) -> float:
        return _SECONDS + self._count * _SECONDS_PER_DOMAIN

    def define(self, number: int) -> None:
        """Define domains until there are so many, none of them with a PMU element."""
        connection = libvirt.open(self._uri)
        connection.getCapabilities()  # for which a new daemon starts every QEMU, once: not a part of anybody's work
        while self._count < number:
            name = f"instance-{self._count:08x}"
            connection.defineXML(nova_domain(name))
            self._names.append(name)
            if self._count % 1000 == 0 or self._count == number:
                _say(f"{self._count} of {number} domains are defined")
        text = connection.lookupByName(self._names[0]).XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
        self._xml.write_text(text, encoding="utf-8")
        connection.close()

    def machine(self) -> str:
        """The machine, for the table."""
        connection = libvirt.openReadOnly(self._uri)
        try:
            return machine(connection)
        finally:
            connection.close()

    def audit(self) -> Iterable[Row]:
        """One pass over all domains, beside what no audit can do without and beside a bare loop."""

        def ours() -> float:
            return self._work("pmuconf-audit", self._count, self._config, self._uri)

        def floor(connections: int) -> float:
            return self._work("floor-audit", self._count, str(connections), self._uri)

        tried = {number: min(floor(number) for _ in range(3)) for number in _CONNECTIONS}
        best = min(tried, key=lambda number: tried[number])
        _say("XMLDesc alone: " + ", ".join(f"{seconds:.3f} s over {number}" for number, seconds in tried.items()))
        yield self._compare(
            f"audit of {self._count:,} domains",
            f"the floor: XMLDesc alone, over {best} connection{'s' * (best > 1)}, the fastest number",
            ours,
            lambda: floor(best),
            aim=1.2,
        )
        yield self._compare(
            "the same",
            "a loop of XMLDesc and lxml.etree.fromstring, over one connection",
            ours,
            lambda: self._work("bare-audit", self._count, self._uri),
        )

    def apply(self, virt_xml: str | None) -> Iterable[Row]:
        """The change of all domains: from no element to off by pmuconf, and back by the peer."""
        edit = ["--edit", "--features", "pmu.state=on"]
        if virt_xml is not None:
            self._process([virt_xml, "--connect", self._uri, self._names[0], *edit, "--print-xml"])  # for caches
        ours, bare, one_by_one = [], [], []
        for run in range(self._runs):
            ours.append(self._work("pmuconf-apply", self._count, self._config, self._uri))
            if virt_xml is not None:
                some = self._names[:_VIRT_XML_DOMAINS]
                commands = [[virt_xml, "--connect", self._uri, name, *edit, "--define"] for name in some]
                one_by_one.append(sum(map(self._process, commands)) / len(some))
            bare.append(self._work("bare-apply", self._count, self._uri))
            _say(f"apply, run {run + 1} of {self._runs}: {ours[-1]:.2f} s, the bare loop {bare[-1]:.2f} s")
        yield Row(
            f"apply to {self._count:,} domains",
            _BARE_APPLY,
            ours,
            bare,
            aim=1.25,
        )
        if virt_xml is not None:
            each = [seconds / self._count for seconds in ours]
            yield Row("the same, one domain of it", "`virt-xml --edit --define`", each, one_by_one, aim=1 / 20)

    def unsynced_apply(self, what: str, *, peer_too: bool) -> Row:
        """The change of all domains, where the fsyncs of the two clients do nothing: of pmuconf, its journal's.

        :param peer_too: those of the daemon do nothing either, so that the bare loop is another one than with them.
        """
        pairs = []
        for run in range(self._runs):
            ours = self._work("pmuconf-apply", self._count, self._config, self._uri, preload=_NO_FSYNC)
            pairs.append((ours, self._work("bare-apply", self._count, self._uri)))
            _say(f"{what}, run {run + 1} of {self._runs}: {pairs[-1][0]:.2f} s, the bare loop {pairs[-1][1]:.2f} s")
        peer = "the same loop, without any too" if peer_too else "the same loop, which has none of its own"
        return Row(what, peer, [one for one, _ in pairs], [other for _, other in pairs])

    def rewrite(self) -> Row:
        """The rewrite of one domain's XML."""
        count = _REWRITES
        row = self._compare(
            f"rewrite of {self._xml.stat().st_size / 1000:.1f} KB of XML",
            "lxml reads and writes it, which keeps no bytes and verifies nothing",
            lambda: self._work("pmuconf-rewrite", count, str(count), self._xml),
            lambda: self._work("bare-rewrite", count, str(count), self._xml),
        )
        ours, theirs = ([seconds / count for seconds in side] for side in (row.ours, row.theirs))
        return Row(row.what, row.peer, ours, theirs, row.aim)

    def start(self, virt_xml: str) -> Iterable[Row]:
        """The time until a command has done next to nothing."""
        peer = [virt_xml, "--version"]
        audit = self._command("audit", self._names[0])
        commands = (("--version", [self._pmuconf, "--version"], None), ("audit` of one domain", audit, 1.0))
        for what, command, aim in commands:
            yield self._compare(
                f"`pmuconf {what}{'' if '`' in what else '`'}, a process",
                "`virt-xml --version`",
                lambda command=command: self._processes(command),  # type: ignore[misc]
                lambda: self._processes(peer),
                aim=aim,
            )

    def memory(self) -> Iterable[Memory]:
        """Peak memory of the two commands over all domains, whose PMU element is gone again after it."""
        for command in (self._command("audit"), self._command("apply", "--max-changes", "0")):
            peak = [sys.executable, "-I", "-S", str(Path(__file__).with_name("peak.py")), str(int(self._limit))]
            kib = int(self._output([*peak, *command]))
            verb = command[command.index("--connect") - 1]
            _say(f"pmuconf {verb} of {self._count} domains: {kib} KiB")
            yield Memory(f"`pmuconf {verb}`", self._count, kib)
        self._work("bare-apply", self._count, self._uri)

    def _command(self, verb: str, *arguments: str) -> list[str]:
        return [self._pmuconf, "--config-file", str(self._config), verb, "--connect", self._uri, *arguments]

    def _compare(
        self, what: str, peer: str, ours: Callable[[], float], theirs: Callable[[], float], *, aim: float | None = None
    ) -> Row:
        ours(), theirs()  # once in vain, for caches
        pairs = []
        for run in range(self._runs):
            pairs.append((ours(), theirs()))
            _say(f"{what}, run {run + 1} of {self._runs}: {pairs[-1][0]:.3f} s, peer {pairs[-1][1]:.3f} s")
        return Row(what, peer, [one for one, _ in pairs], [other for _, other in pairs], aim)

    def _work(self, job: str, count: int, *arguments: str | Path, preload: str = "") -> float:
        command = [sys.executable, "-m", "tests.bench.work", job, str(count), *map(str, arguments)]
        return float(self._output([*(["env", f"LD_PRELOAD={preload}"] if preload else []), *command]))

    def _processes(self, command: list[str]) -> float:
        return sum(self._process(command) for _ in range(_PROCESSES)) / _PROCESSES

    def _process(self, command: list[str]) -> float:
        begin = time.perf_counter()
        self._output(command)
        return time.perf_counter() - begin

    def _output(self, command: list[str]) -> str:
        done = subprocess.run(command, capture_output=True, text=True, cwd=_TREE, timeout=self._limit)
        if done.returncode not in (0, 1, 2) or (done.returncode and command[0] != self._pmuconf):
            raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr}")
        return done.stdout


def main() -> int:
    """Measure, show, and write where --write says so."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--domains", type=int, default=1000, metavar="N", help="How many domains (1000).")
    parser.add_argument("--runs", type=int, default=5, metavar="N", help="How many pairs of each comparison (5).")
    parser.add_argument("--quick", action="store_true", help="100 domains and 2 runs: to see that it works.")
    parser.add_argument("--big", action="store_true", help=f"Measure the memory at {_BIG:,} domains too; minutes.")
    parser.add_argument(
        "--pmuconf",
        type=Path,
        default=Path(sys.executable).with_name("pmuconf"),
        metavar="FILE",
        help="The command to be measured, of an installation that is not editable: an editable one starts slower. "
        "The default is that beside this Python.",
    )
    parser.add_argument("--write", type=Path, metavar="FILE", help="Put the tables into this Markdown file.")
    args = parser.parse_args()
    if args.quick:
        args.domains, args.runs = 100, 2
    if shutil.which(args.pmuconf) is None:
        parser.error(f"there is no {args.pmuconf}: pip install '.[host]', or name another with --pmuconf")
    virt_xml = shutil.which("virt-xml")
    if virt_xml is None:
        _say("virt-xml is not installed (package virtinst or virt-install): the rows that compare with it are left out")
    can_unsync = ctypes.util.find_library("eatmydata") is not None
    if not can_unsync:
        _say("libeatmydata1 is not installed: the rows without fsync are left out")
    load = os.getloadavg()[0]
    with Daemon() as daemon:
        bench = _Bench(daemon, args.pmuconf.absolute(), args.runs)
        bench.define(args.domains)
        rows = [*bench.audit(), *bench.apply(virt_xml)]
        if can_unsync:
            rows.append(bench.unsynced_apply("apply, without the journal's fsyncs", peer_too=False))
            with Daemon(preload=_NO_FSYNC) as careless:
                other = _Bench(careless, args.pmuconf.absolute(), args.runs)
                other.define(args.domains)
                rows.append(other.unsynced_apply("apply, without any fsync, libvirt's included", peer_too=True))
        rows.append(bench.rewrite())
        if virt_xml is not None:
            rows += bench.start(virt_xml)
        memory = [*bench.memory()]
        if args.big:
            bench.define(_BIG)
            memory += bench.memory()
        command = f"python -m tests.bench --domains {args.domains} --runs {args.runs}{' --big' * args.big}"
        text = markdown(rows, memory, command=command, machine=bench.machine(), load=load)
    print(text, end="")
    if args.write is not None:
        write(args.write, text)
    return 0


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
