"""What stands between pmuconf and libvirt: each is one sentence, a cause and exit status 255, in bounded time."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.functional import moments, oracle
from tests.functional.host import Host, Ran, run
from tests.support.domains import plain_domain
from tests.support.embedded import destroy_all, prepare

NOBODY = 65534


def refused(ran: Ran, cause: str) -> bool:
    """Whether the command ended with 255, nothing on standard output, and one line that ends in cause and hint."""
    (line,) = ran.err.splitlines()
    return ran.status == 255 and ran.out == "" and f" ({cause})" in line


class TestAudit:
    """Nothing is told about a host that can't be read."""

    def test_no_daemon_at_all(self, tmp_path: Path) -> None:
        ran = run("audit", "--connect", f"qemu+unix:///system?socket={tmp_path}/libvirt-sock")
        assert refused(ran, "libvirt-unreachable")
        assert "Is that the socket of a libvirtd or virtqemud" in ran.err

    def test_a_daemon_that_was_stopped(self, host: Host) -> None:
        host.daemon.stop()
        assert refused(host.pmuconf("audit"), "libvirt-unreachable")

    @pytest.mark.parametrize("uri", ["test:///default", "test:///default?x=1"])
    def test_another_driver_than_qemu(self, uri: str) -> None:
        ran = run("audit", "--connect", uri)
        assert refused(ran, "not-qemu")
        assert "qemu:///system" in ran.err

    @pytest.mark.parametrize("uri", ["nonsense", "///", "no\x1bthing"])
    def test_a_uri_that_is_none(self, uri: str) -> None:
        assert refused(run("audit", "--connect", uri), "libvirt-error")

    def test_a_daemon_that_hangs(self, host: Host) -> None:
        """It takes the connection and never answers: libvirt itself would wait for ever."""
        assert refused(host.hanging("open", 1, "audit"), "libvirt-timeout")

    def test_a_daemon_that_begins_to_hang(self, host: Host) -> None:
        host.define(*(plain_domain(f"vm-{number}") for number in range(40)))
        assert refused(host.hanging("next_boot_xml", 20, "audit"), "libvirt-lost")

    @pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
    def test_a_daemon_that_goes_away(self, host: Host, monkeypatch: pytest.MonkeyPatch, number: signal.Signals) -> None:
        """A host that was half read is no report."""
        host.define(*(plain_domain(f"vm-{number}") for number in range(40)))
        end = host.daemon.kill if number == signal.SIGKILL else host.daemon.stop
        moments.before(monkeypatch, "next_boot_xml", end, call=10)

        said = host.pmuconf("audit")
        assert refused(said, "libvirt-lost") or refused(said, "libvirt-unreachable")  # of a thread that only connects


class TestPermission:
    """The read-only socket is open to all, the other one is root's."""

    @pytest.fixture
    def as_nobody(self, host: Host) -> str:
        """A program that runs a command as root, and then once more as nobody.

        As root first, for what is still to be imported then may be out of nobody's reach.
        """
        policy = host.daemon.root / "pmuconf.conf"
        shutil.copy(host.policy, policy)
        return (
            "import logging, os, sys\n"
            "from pmuconf.commands.main import main\n"
            f"command = ['--config-file', {str(policy)!r}, *sys.argv[1:]]\n"
            "assert main(command) == 0\n"
            "logging.getLogger().handlers.clear()\n"
            f"os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})\n"
            "print('as nobody:', flush=True); print('as nobody:', file=sys.stderr, flush=True)\n"
            "sys.exit(main(command))\n"
        )

    def test_the_socket_of_root_alone(self, host: Host, as_nobody: str) -> None:
        host.define(plain_domain("web", pmu="off"))
        ran = _python(as_nobody, "audit", "-f", "json")
        assert refused(ran, "libvirt-permission")
        assert "as root" in ran.err

    def test_the_socket_for_all(self, host: Host, as_nobody: str) -> None:
        host.define(plain_domain("web", pmu="off"))
        ran = _python(as_nobody, "audit", "-f", "json", "--connect", host.daemon.uri_ro)
        assert ran.status == 0
        assert ran.by_name("status") == {"web": "ok"}

    def test_to_apply_takes_the_right_to_write(self, host: Host) -> None:
        """On the read-only socket even a read-write connection is none."""
        host.define(plain_domain("web"))
        ran = host.json("apply", "--connect", host.daemon.uri_ro)
        assert ran.status == 255
        assert "(libvirt-permission)" in ran.err or ran.by_name("cause") == {"web": "libvirt-permission"}
        assert host.pmu("web") == "default"


class TestEmbedded:
    """The driver without a daemon, from the first audit to the roll back, each in a process of its own."""

    @pytest.fixture
    def root(self) -> Iterator[Path]:
        """The driver's directory; the path of a socket may not be long, as pytest's directories are."""
        with tempfile.TemporaryDirectory(prefix="pmuconf-", dir="/tmp") as folder:
            yield Path(folder)
            destroy_all(Path(folder))

    def test_from_end_to_end(self, root: Path, tmp_path: Path, capabilities: Path) -> None:
        uri = prepare(root, cache=capabilities)
        policy = tmp_path / "pmuconf.conf"
        policy.write_text(f"[libvirt]\nuri = {uri}\n[journal]\npath = {tmp_path}/journal.sqlite\n")
        _define_elsewhere(uri, plain_domain("web", vnc_password="geheim"))
        file = root / "etc/qemu/web.xml"
        before = file.read_text()

        def pmuconf(*arguments: str) -> Ran:
            command = [sys.executable, "-m", "pmuconf.commands.main", "--config-file", str(policy), *arguments]
            done = subprocess.run(command, capture_output=True, text=True, timeout=60)
            return Ran(done.returncode, done.stdout, done.stderr)

        assert pmuconf("audit", "-f", "json").by_name("status") == {"web": "drift"}
        applied = pmuconf("apply", "-f", "json")
        assert (applied.status, applied.by_name("outcome")) == (0, {"web": "changed"})
        assert oracle.pmu(file.read_text()) == "off"
        assert oracle.rest(file.read_text()) == oracle.rest(before)
        assert "geheim" in file.read_text()
        assert pmuconf("audit").status == 0
        assert pmuconf("rollback", "--all").status == 0
        assert oracle.pmu(file.read_text()) == "default"
        assert oracle.rest(file.read_text()) == oracle.rest(before)

    def test_another_process_has_the_driver(self, root: Path, capabilities: Path) -> None:
        uri = prepare(root, cache=capabilities)
        program = f"{_EVENTS}connection = libvirt.open(sys.argv[1])\nprint(flush=True)\nsys.stdin.read()\n"
        holder = subprocess.Popen(
            [sys.executable, "-c", program, uri], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "\n"
            command = [sys.executable, "-m", "pmuconf.commands.main", "audit", "--connect", uri]
            said = subprocess.run(command, capture_output=True, text=True, timeout=60)
        finally:
            holder.communicate(timeout=60)
        assert said.returncode == 255
        assert f"{uri} is in use by another process" in said.stderr
        assert "(libvirt-busy). An embedded driver serves one process at a time" in said.stderr


_EVENTS = """
import libvirt, sys, threading
libvirt.virEventRegisterDefaultImpl()
def loop():
    while True: libvirt.virEventRunDefaultImpl()
threading.Thread(target=loop, daemon=True).start()
"""


def _define_elsewhere(uri: str, xml: str) -> None:
    """Define a domain in a process that then ends: as long as it lives, it has the embedded driver for itself."""
    program = f"{_EVENTS}libvirt.open(sys.argv[1]).defineXML(sys.argv[2])\n"
    subprocess.run([sys.executable, "-c", program, uri, xml], check=True, timeout=60)


def _python(program: str, *arguments: str) -> Ran:
    """What a Python program said after it became nobody."""
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, timeout=60)
    assert "as nobody:\n" in done.stdout, done.stderr
    return Ran(done.returncode, done.stdout.split("as nobody:\n")[1], done.stderr.split("as nobody:\n")[1])
