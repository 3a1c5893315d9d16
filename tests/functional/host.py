"""A host to test on: a libvirt daemon that belongs to the test alone, and a pmuconf that is set up for it."""

from __future__ import annotations

import contextlib
import gc
import io
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import libvirt

from pmuconf.commands.main import main
from tests.functional import oracle
from tests.support.daemon import Daemon

__all__ = ["OFF", "ON", "Defines", "Host", "Ran", "ended", "journal_bytes", "run", "until"]

OFF = "[policy]\ndefault = off\n"
ON = "[policy]\ndefault = on\n"

_LIMIT_S = 30.0  # how long to wait for what must come; a test that waits longer is broken


@dataclass(frozen=True)
class Ran:
    """What a command said, and its exit status."""

    status: int
    out: str
    err: str

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The records of ``-f json``."""
        assert self.out, self.err
        rows: list[dict[str, Any]] = json.loads(self.out)
        return rows

    def by_name(self, column: str) -> dict[str, Any]:
        """One column of the records, by the domain's name."""
        return {row["name"]: row[column] for row in self.rows}


def run(*arguments: str) -> Ran:
    """Run the command line in this process, where a test can reach into it."""
    out, err = io.StringIO(), io.StringIO()
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = main(list(arguments))
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        gc.enable()
    return Ran(status, out.getvalue(), err.getvalue())


def ended(process: subprocess.Popen[str], seconds: float = _LIMIT_S) -> Ran:
    """What a process said, once it ends by itself; one that does not is killed, and the test fails."""
    try:
        out, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise AssertionError(f"it still ran after {seconds:.0f} s") from None
    return Ran(process.returncode, out, err)


def until(done: Callable[[], bool], what: str, *, every: float = 0.001) -> None:
    """Wait for something that must happen, looking so often (in seconds), and fail if it does not."""
    deadline = time.monotonic() + _LIMIT_S
    while not done():
        assert time.monotonic() < deadline, f"waited {_LIMIT_S:.0f} s in vain: {what}"
        time.sleep(every)


def journal_bytes(folder: Path) -> bytes:
    """All that lies in the journal's files, deleted but not overwritten parts of them included."""
    return b"".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


class Defines:
    """Hears of every define and undefine of the host, on a connection of its own."""

    def __init__(self, uri: str) -> None:
        self._heard = threading.Condition()
        self._names: list[str] = []
        self._undefined: list[str] = []
        self._connection = libvirt.open(uri)
        self._id = self._connection.domainEventRegisterAny(
            None, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, self._hear, None
        )

    def __enter__(self) -> Defines:
        return self

    def __exit__(self, *error: object) -> None:
        with contextlib.suppress(libvirt.libvirtError):  # a test may have ended the daemon
            self._connection.domainEventDeregisterAny(self._id)
        with contextlib.suppress(libvirt.libvirtError):
            self._connection.close()

    @property
    def names(self) -> list[str]:
        """The name of each domain that was defined, once for every define, in order."""
        with self._heard:
            return list(self._names)

    @property
    def undefined(self) -> list[str]:
        """The name of each domain that was undefined."""
        with self._heard:
            return list(self._undefined)

    def wait(self, number: int, seconds: float = _LIMIT_S) -> bool:
        """Wait until there were so many defines; False if the time is over first."""
        with self._heard:
            return self._heard.wait_for(lambda: len(self._names) >= number, seconds)

    def fence(self, fence: libvirt.virDomain) -> None:
        """Return when everything that happened before this call was heard: a domain of no other use is redefined."""
        connection = fence.connect()
        with self._heard:
            before = self._names.count(fence.name())
        connection.defineXML(fence.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE))
        until(lambda: self.names.count(fence.name()) > before, "the event of a define")

    def _hear(self, _connection: object, domain: libvirt.virDomain, event: int, _detail: int, _data: object) -> None:
        with self._heard:
            if event == libvirt.VIR_DOMAIN_EVENT_DEFINED:
                self._names.append(domain.name())
            elif event == libvirt.VIR_DOMAIN_EVENT_UNDEFINED:
                self._undefined.append(domain.name())
            self._heard.notify_all()


class Host:
    """One host.

    daemon      its libvirt, of which nobody else knows
    home        the directory of its policy file (``policy``) and its journal's directory (``journal_dir``)
    connection  the test's own read-write connection
    """

    def __init__(self, daemon: Daemon, home: Path) -> None:
        self.daemon = daemon
        self.home = home
        self.policy = home / "pmuconf.conf"
        self.journal_dir = home / "journal"
        self.connection: libvirt.virConnect = libvirt.open(daemon.uri)
        self.configure(OFF)

    def close(self) -> None:
        """Let go of the daemon, whether or not it still lives."""
        with contextlib.suppress(libvirt.libvirtError):
            self.connection.close()

    def reconnect(self) -> None:
        """A new connection after the daemon was away."""
        self.close()
        self.connection = libvirt.open(self.daemon.uri)

    @property
    def journal(self) -> Path:
        """The journal's path."""
        return self.journal_dir / "journal.sqlite"

    def configure(self, text: str) -> None:
        """Write the policy file: this text, and where the connection and the journal are."""
        self.policy.write_text(
            f"{text}\n[libvirt]\nuri = {self.daemon.uri}\n[journal]\npath = {self.journal}\n", encoding="utf-8"
        )

    def pmuconf(self, *arguments: str) -> Ran:
        """Run a command on this host, in this process."""
        return run("--config-file", str(self.policy), *arguments)

    def json(self, *arguments: str) -> Ran:
        """As pmuconf(), with the answer as records."""
        return self.pmuconf(*arguments, "-f", "json")

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start a command in a process of its own, that can be stopped and killed."""
        command = [sys.executable, "-m", "pmuconf.commands.main", "--config-file", str(self.policy), *arguments]
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # tests in the background are deaf to it
        )

    def hanging(self, method: str, call: int, *arguments: str) -> Ran:
        """Run a command in a process of its own, whose libvirt stops answering right before a call.

        It is the call with that number of a method of Hypervisor. The daemon goes on once the command has ended,
        which waits for libvirt a second or two.
        """
        program = (
            "import itertools, os, signal, sys\n"
            "from pmuconf.hypervisor import connection, hypervisor\n"
            "from pmuconf.commands.main import main\n"
            "method, call, daemon = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])\n"
            "real, calls = getattr(hypervisor.Hypervisor, method), itertools.count(1)\n"
            "def hangs(self, *arguments, **named):\n"
            "    if next(calls) == call:\n"
            "        os.kill(daemon, signal.SIGSTOP)\n"
            "    return real(self, *arguments, **named)\n"
            "setattr(hypervisor.Hypervisor, method, hangs)\n"
            "connection._OPEN_SECONDS = connection._KEEPALIVE_SECONDS = connection._KEEPALIVE_COUNT = 1\n"
            "sys.exit(main(sys.argv[4:]))\n"
        )
        values = [method, str(call), str(self.daemon.pid), "--config-file", str(self.policy), *arguments]
        command = [sys.executable, "-c", program, *values]
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        try:
            return ended(process)
        finally:
            os.kill(self.daemon.pid, signal.SIGCONT)

    def process(self, *arguments: str) -> Ran:
        """Run a command in a process of its own."""
        return ended(self.start(*arguments))

    def define(self, *xmls: str) -> list[libvirt.virDomain]:
        """Define domains."""
        return [self.connection.defineXML(xml) for xml in xmls]

    def spoil(self, name: str) -> None:
        """Let every define of this domain fail: libvirt first writes a file of this name, and can't."""
        (self.daemon.config_dir / f"{name}.xml.new").mkdir()

    def mend(self, name: str) -> None:
        """Let it be defined again."""
        (self.daemon.config_dir / f"{name}.xml.new").rmdir()

    def domain(self, name: str) -> libvirt.virDomain:
        """The domain of this name."""
        return self.connection.lookupByName(name)

    def xml(self, name: str) -> str:
        """Its next boot, with the secrets."""
        flags = libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_SECURE
        return str(self.domain(name).XMLDesc(flags))

    def live_xml(self, name: str) -> str:
        """What its running guest has, with the secrets."""
        return str(self.domain(name).XMLDesc(libvirt.VIR_DOMAIN_XML_SECURE))

    def names(self) -> list[str]:
        """All domains."""
        return sorted(domain.name() for domain in self.connection.listAllDomains())

    def pmu(self, name: str) -> str:
        """The PMU state of its next boot."""
        return oracle.pmu(self.xml(name))

    def xmls(self) -> dict[str, str]:
        """The next boots of all domains, with their secrets, by name."""
        flags = libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_SECURE
        domains = sorted(self.connection.listAllDomains(), key=lambda domain: str(domain.name()))
        return {domain.name(): str(domain.XMLDesc(flags)) for domain in domains}

    def pmus(self) -> dict[str, str]:
        """The PMU states of all next boots."""
        return {name: oracle.pmu(xml) for name, xml in self.xmls().items()}

    def guest_pid(self, name: str) -> int:
        """The process that runs the guest."""
        found = [
            int(entry.name)
            for entry in Path("/proc").iterdir()
            if entry.name.isdigit() and self._runs(int(entry.name), name)
        ]
        assert len(found) == 1, f"{len(found)} QEMU processes of guest {name}"
        return found[0]

    def _runs(self, pid: int, name: str) -> bool:
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
            theirs = os.stat(f"/proc/{pid}/root/run/libvirt")
        except OSError:
            return False
        ours = (self.daemon.root / "run").stat()
        return f"guest={name},".encode() in command and os.path.samestat(theirs, ours)
