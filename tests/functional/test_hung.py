"""What hangs holds nobody: a QEMU that does not answer, a daemon that does not, and an interrupt meanwhile."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import libvirt
import pytest

from pmuconf.hypervisor import connection, exits
from pmuconf.hypervisor.hypervisor import Hypervisor
from tests.functional.host import OFF, Host, ended, journal_bytes, until
from tests.functional.served import Served, Threaded, service_settings
from tests.support.domains import plain_domain

INTERRUPTED = "(interrupted)"
_PIDS = (Path("/sys/fs/cgroup/pids"), Path("/sys/fs/cgroup"))


@contextlib.contextmanager
def stopped(pid: int) -> Iterator[None]:
    """The process does nothing meanwhile."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@pytest.fixture
def three(host: Host) -> Iterator[Host]:
    """A host with three guests that run."""
    for name in ("one", "hung", "two"):
        host.define(plain_domain(name, pmu="off"))[0].create()
    yield host
    for name in ("one", "hung", "two"):
        with contextlib.suppress(libvirt.libvirtError):
            host.domain(name).destroy()


# ---- a QEMU that does not answer -----------------------------------------------------------------------------------


def test_exits_of_the_others_are_counted_and_the_silent_one_is_named(
    three: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exits, "_SECONDS", 2.5)

    def stand_in(raw: libvirt.virConnect) -> exits.Exits:
        """TCG counts none, so all that have their figures stand for it."""
        answers = raw.getAllDomainStats(
            libvirt.VIR_DOMAIN_STATS_VCPU,
            libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_ACTIVE | libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT,
        )
        silent = exits._occupied(handle for handle, _ in answers)
        counted = {handle.UUIDString(): 1 for handle, _ in answers if handle.name() not in silent}
        return exits.Exits(counted, frozenset(silent))

    monkeypatch.setattr(exits, "_exits", stand_in)
    with Hypervisor.open(three.daemon.uri, read_only=True) as opened, stopped(three.guest_pid("hung")):
        found = opened.exits()
        uuids = {listed.name: listed.uuid for listed in opened.domains()}
    assert found.silent == {"hung"}
    assert found.counted == {uuids["one"]: 1, uuids["two"]: 1}
    until(lambda: not any(one.given_up for one in connection._all), "the call to come back")


@pytest.mark.parametrize("command", [["audit"], ["report", "-f", "json"], ["explain", "hung"]])
def test_a_sample_goes_on_without_it_and_says_so(three: Host, command: list[str]) -> None:
    """All of it as a process: neither the command nor its end waits for the call that hangs.

    From 11.0 on, libvirt hands out no XML of a domain while a question to its QEMU hangs. That is an error, in time.
    """
    with stopped(three.guest_pid("hung")):
        ran = ended(three.start(*command, "--sample", "0.1s"), seconds=60.0)
    assert "domain 'hung' were not counted: its QEMU does not answer (qemu-silent)" in ran.err
    assert "'one'" not in ran.err
    assert "hung" in ran.out
    if three.connection.getLibVersion() < 11_000_000:
        assert ran.status in (0, 1)
        assert "domain-timeout" not in ran.out
    else:
        assert ran.status == 2
        assert "domain-timeout" in ran.out


def test_nothing_else_asks_a_qemu(three: Host) -> None:
    """The whole of an audit and an apply, with a QEMU that is silent: they have no deadline to wait for."""
    three.define(plain_domain("three"))
    with stopped(three.guest_pid("hung")):
        assert three.process("audit").status == 2
        ran = three.process("apply")
        assert (ran.status, three.pmu("three")) == (0, "off")
        assert three.process("rollback", "--all").status == 0


# ---- a call that libvirt never ends --------------------------------------------------------------------------------


def block(monkeypatch: pytest.MonkeyPatch, method: str, name: str) -> threading.Event:
    """Let a method of virDomain never end for one domain, as where its storage hangs; until the event is set."""
    real, go_on = getattr(libvirt.virDomain, method), threading.Event()

    def blocked(self: libvirt.virDomain, *arguments: object) -> object:
        if self.name() == name:
            go_on.wait()
        return real(self, *arguments)

    monkeypatch.setattr(libvirt.virDomain, method, blocked)
    return go_on


@pytest.mark.parametrize("parallel", [1, 4])
def test_one_domain_whose_call_hangs_is_named_and_the_others_are_judged(
    host: Host, monkeypatch: pytest.MonkeyPatch, parallel: int
) -> None:
    monkeypatch.setattr(connection, "_CALL_SECONDS", 0.5)
    host.policy.write_text(host.policy.read_text().replace("[libvirt]\n", f"[libvirt]\nparallel = {parallel}\n"))
    host.define(*(plain_domain(f"vm-{number:02}", pmu="off") for number in range(20)))
    go_on = block(monkeypatch, "XMLDesc", "vm-07")
    try:
        ran = host.json("audit")
        causes = {row["name"]: row["cause"] for row in ran.rows if row["status"] != "ok"}
    finally:
        go_on.set()
    assert set(causes) == {"vm-07"}
    assert "domain-timeout" in str(ran.rows)
    assert ran.status == 2


def test_the_service_goes_on_and_is_well_when_the_call_comes_back(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "_CALL_SECONDS", 0.5)
    host.configure(OFF + service_settings(mode="enforce", interval=1))
    host.define(plain_domain("hung"), plain_domain("web"))
    go_on = block(monkeypatch, "XMLDesc", "hung")
    try:
        with Threaded(host.policy) as served:
            served.until_passes(4)
            assert host.pmu("web") == "off"
            assert sum(one.given_up for one in connection._all) <= 2  # one to look, one to change
            go_on.set()
            until(lambda: host.pmu("hung") == "off", "the other to be changed")
            until(lambda: served.causes() == set(), "all to be well")
    finally:
        go_on.set()


@pytest.fixture
def threads(tmp_path: Path) -> Iterator[Callable[[int, int], None]]:
    """Allows a process so many threads, as TasksMax= does."""
    above = next((path for path in _PIDS if (path / "cgroup.procs").exists()), None)
    group = None if above is None else above / f"pmuconf-test-{os.getpid()}"
    try:
        if group is None:
            raise OSError("no controller pids")
        group.mkdir()
        (group / "pids.max").write_text("max")
    except OSError as error:
        pytest.skip(f"needs a cgroup of its own: {error}")

    def allow(pid: int, number: int) -> None:
        (group / "pids.max").write_text(str(number))
        (group / "cgroup.procs").write_text(str(pid))

    yield allow
    until(lambda: (group / "cgroup.procs").read_text() == "", "the process to be gone", every=0.02)
    group.rmdir()


def test_a_service_that_gets_no_more_threads_says_so_and_goes_on(
    host: Host, threads: Callable[[int, int], None]
) -> None:
    host.configure(OFF + service_settings(mode="enforce"))
    host.policy.write_text(host.policy.read_text().replace("[libvirt]\n", "[libvirt]\nparallel = 32\n"))
    with Served(host.policy) as served:
        served.until_passes(1)
        threads(served.process.pid, 20)
        host.define(*(plain_domain(f"vm-{number:02}") for number in range(80)))
        until(lambda: served.causes() == {"threads-exhausted"}, "the lack of threads to be told")
        threads(served.process.pid, 128)
        served.hang_up()
        until(lambda: set(host.pmus().values()) == {"off"}, "all to be off")
        assert served.stop() == 0


# ---- closing -------------------------------------------------------------------------------------------------------


def test_no_handle_outlives_a_connection(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """virConnectClose() tells how many references are left: the last of them would close it, whenever that is."""
    left: list[int] = []
    real: Callable[[libvirt.virConnect], int] = libvirt.virConnect.close

    def close(self: libvirt.virConnect) -> int:
        left.append(real(self))
        return left[-1]

    host.define(*(plain_domain(f"vm-{number:02}") for number in range(20)))
    monkeypatch.setattr(libvirt.virConnect, "close", close)
    assert host.pmuconf("audit").status == 2
    assert host.pmuconf("apply").status == 0
    assert len(left) > 2
    assert set(left) == {0}


# ---- an interrupt --------------------------------------------------------------------------------------------------


def interrupted(process: subprocess.Popen[str]) -> str:
    """Interrupt it; what it said. It ends with 255, by itself."""
    process.send_signal(signal.SIGINT)
    ran = ended(process)
    assert ran.status == 255
    assert "Traceback" not in ran.err
    assert ran.out == ""
    return ran.err


@pytest.mark.parametrize(
    "command",
    [
        ["audit"],
        ["report"],
        ["explain", "web"],
        ["apply"],
        ["rollback", "--all"],
        ["apply", "--dry-run"],
        ["policy", "explain", "web"],
    ],
)
def test_while_a_daemon_hangs(host: Host, command: list[str]) -> None:
    """libvirt itself would wait half a minute, and say so."""
    host.define(plain_domain("web"))
    with stopped(host.daemon.pid):
        process = host.start(*command)
        until(lambda: _connects(process.pid), "the command to connect", every=0.02)
        assert "libvirt" not in interrupted(process)


_HANGS = """\
import itertools, os, signal, sys
from pmuconf.hypervisor import connection
from pmuconf.hypervisor import hypervisor
from pmuconf.commands.main import main
number, daemon = int(sys.argv[1]), int(sys.argv[2])
real, calls = hypervisor.Hypervisor.next_boot_xml, itertools.count(1)
def hangs(self, *arguments, **named):
    if next(calls) == number:
        os.kill(daemon, signal.SIGSTOP)
    return real(self, *arguments, **named)
hypervisor.Hypervisor.next_boot_xml = hangs
connection._KEEPALIVE_SECONDS = 600  # so that nothing but the interrupt ends it
connection._CALL_SECONDS = 600
sys.argv[1:] = sys.argv[3:]
sys.exit(main())
"""


@pytest.mark.parametrize(
    ("command", "number"), [(["audit"], 20), (["report"], 1), (["explain", "vm-1"], 1), (["apply"], 60)]
)
def test_while_a_daemon_hangs_in_the_middle(host: Host, command: list[str], number: int) -> None:
    """In threads of a pool or without one: nothing waits for the calls that are under way."""
    host.define(*(plain_domain(f"vm-{at}") for at in range(40)))
    program = [sys.executable, "-c", _HANGS, str(number), str(host.daemon.pid), "--config-file", str(host.policy)]
    process = subprocess.Popen(
        [*program, *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        until(lambda: _is_stopped(host.daemon.pid) or process.poll() is not None, "the daemon to be stopped")
        assert INTERRUPTED in interrupted(process)
    finally:
        os.kill(host.daemon.pid, signal.SIGCONT)
    assert host.pmuconf("apply").status == 0
    assert set(host.pmus().values()) == {"off"}


def test_while_a_qemu_is_asked_that_does_not_answer(three: Host) -> None:
    with stopped(three.guest_pid("hung")):
        process = three.start("audit", "--sample", "1s")
        until(lambda: _asks(three, "hung"), "the QEMU to be asked", every=0.02)
        assert "qemu-silent" not in interrupted(process)


def test_while_the_journal_is_locked(host: Host) -> None:
    """SQLite waits in C; the next run finds all as it was."""
    host.define(plain_domain("web"))
    assert host.pmuconf("apply").status == 0
    host.define(plain_domain("other", vnc_password="geheim"))
    before = host.xmls()
    with contextlib.closing(sqlite3.connect(host.journal)) as other:
        other.execute("BEGIN EXCLUSIVE")
        process = host.start("apply")
        until(lambda: _has_open(process.pid, str(host.journal)), "the journal to be opened", every=0.02)
        interrupted(process)
        other.rollback()
    assert host.xmls() == before
    assert host.pmuconf("apply").status == 0
    assert host.pmu("other") == "off"


def test_a_define_that_was_under_way_is_settled_by_the_next_run(host: Host) -> None:
    host.define(*(plain_domain(f"vm-{number}", vnc_password="geheim") for number in range(200)))
    process = host.start("apply", "--max-changes", "0")
    left = 0
    while left == 0 and process.poll() is None:
        with stopped(host.daemon.pid):
            left = _in_flight(host)
            if left:
                interrupted(process)
    assert left == _in_flight(host)
    assert left > 0
    assert host.pmuconf("apply", "--max-changes", "0").status == 0
    assert set(host.pmus().values()) == {"off"}
    assert b"geheim" not in journal_bytes(host.journal_dir)


def _in_flight(host: Host) -> int:
    with contextlib.suppress(sqlite3.Error), contextlib.closing(sqlite3.connect(host.journal)) as journal:
        return int(journal.execute("SELECT count(*) FROM change WHERE status = 'in-flight'").fetchone()[0])
    return 0


def _has_open(pid: int, what: str) -> bool:
    folder = f"/proc/{pid}/fd"
    with contextlib.suppress(OSError):
        for name in os.listdir(folder):
            with contextlib.suppress(OSError):
                if what in os.readlink(f"{folder}/{name}"):
                    return True
    return False


def _is_stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def _connects(pid: int) -> bool:
    """Whether the process has a socket: it talks to libvirt."""
    return _has_open(pid, "socket:")


def _asks(host: Host, name: str) -> bool:
    return bool(host.domain(name).controlInfo()[0] == libvirt.VIR_DOMAIN_CONTROL_OCCUPIED)
