"""A real libvirtd or virtqemud that belongs to the test alone.

The daemon sees directories of ours in place of /etc/libvirt, /run/libvirt and the like, in a mount
namespace of its own; the machine's libvirt, its guests and its sockets are out of its reach, and
several such daemons run side by side. Clients stay outside and come in by the socket's real path.
The namespace lives as long as a process is in it, so there is nothing to unmount: once the daemon
and its guests are dead, which `close()` sees to, it is gone.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from types import TracebackType

import libvirt

from tests.support.embedded import QEMU_CONF, check_socket_length, end_process

__all__ = ["Daemon", "available_daemons"]

# What libvirt has compiled in, and our directory (below the root) that it shall see there.
_PLACES = {
    "/etc/libvirt": "etc",
    "/var/lib/libvirt": "lib",
    "/var/cache/libvirt": "cache",
    "/run/libvirt": "run",
    "/var/log/libvirt": "log",
}

_UNSHARE = ("unshare", "--mount", "--propagation", "private", "--")

# $1.. are pairs of directories up to "--", then the daemon's command. The shell execs the daemon,
# so the process that we started is the daemon.
_ENTER = """\
while [ "$1" != -- ]; do
    mount --bind "$1" "$2"
    shift 2
done
shift
exec "$@"
"""

# Limits high enough that a test meets pmuconf's, not the daemon's. stderr goes to our file; without
# log_outputs libvirt would prefer the machine's journal.
_DAEMON_CONF = """\
auth_unix_rw = "none"
auth_unix_ro = "none"
unix_sock_group = "root"
unix_sock_ro_perms = "0777"
unix_sock_rw_perms = "0700"
max_clients = 2000
max_queued_clients = 2000
max_anonymous_clients = 2000
min_workers = 5
max_workers = 50
prio_workers = 5
max_client_requests = 100
log_level = 3
log_outputs = "3:stderr"
"""

_SEARCH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])

_POLL_S = 0.02


def available_daemons() -> list[str]:
    """Return which of the daemons that serve QEMU guests are installed here."""
    return [name for name in ("libvirtd", "virtqemud") if shutil.which(name, path=_SEARCH)]


class Daemon:
    """A daemon on private directories; as a context manager it runs inside the `with` block.

    `root` is a new temporary directory unless given; a root that is given stays when we are done.
    `cache` is a directory for QEMU's capabilities that several daemons may share: to probe them
    takes seconds, so a test session wants to do it once. `preload` is a library that the daemon is
    started with (LD_PRELOAD).

    uri, uri_ro  the libvirt URIs of the two sockets; see `uri_ro` for when that one is needed
    config_dir   where the guests' NAME.xml are, seen from outside
    log          what the daemon wrote to stderr, over all its starts
    """

    def __init__(
        self,
        binary: str = "libvirtd",
        *,
        root: Path | None = None,
        cache: Path | None = None,
        timeout: float = 30.0,
        preload: str | None = None,
    ) -> None:
        self.binary = binary
        self._preload = preload
        self.timeout = timeout
        self._own_root = root is None
        # Below /tmp and not $TMPDIR, which may be too long for a socket's path.
        self.root = (root or Path(tempfile.mkdtemp(prefix="pmuconf-", dir="/tmp"))).resolve()
        # As on a real machine, anyone may come as far as the read-only socket.
        self.root.mkdir(mode=0o755, parents=True, exist_ok=True)
        self.root.chmod(0o755)
        self._directories = {place: self.root / name for place, name in _PLACES.items()}
        if cache is not None:
            self._directories["/var/cache/libvirt"] = cache.resolve()
        self.config_dir = self.root / "etc/qemu"
        self.log = self.root / "daemon.log"
        # libvirtd's sockets carry the project's name, those of the modular daemons their own.
        stem = "libvirt" if binary == "libvirtd" else binary
        self._socket = self.root / "run" / f"{stem}-sock"
        check_socket_length(self._socket.with_name(f"{stem}-sock-ro"))
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        """The URI for clients."""
        return f"qemu+unix:///system?socket={self._socket}"

    @property
    def uri_ro(self) -> str:
        """The URI of the socket that read-only clients without privileges would use.

        `libvirt.openReadOnly(uri)` is read-only as well: libvirt does not change the socket that
        it is given, but the daemon honours the flag. Here even `libvirt.open` is read-only.
        """
        return f"{self.uri}-ro"

    @property
    def pid(self) -> int:
        """The daemon's own pid. Raises RuntimeError when none runs."""
        if self._process is None:
            raise RuntimeError(f"{self.binary} was not started")
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether there is a daemon; False also after it died by itself."""
        return self._process is not None and self._process.poll() is None

    def __enter__(self) -> Daemon:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def start(self) -> None:
        """Start the daemon and return when it serves clients. Guests left running come back.

        Raises RuntimeError if that cannot be, with the end of the daemon's log.
        """
        if self.running:
            raise RuntimeError(f"{self.binary} runs already, as process {self.pid}")
        if os.geteuid() != 0:
            raise RuntimeError(f"only root can give {self.binary} a mount namespace of its own")
        program = shutil.which(self.binary, path=_SEARCH)
        if program is None:
            raise RuntimeError(f"{self.binary} is not installed")
        configuration = self._write_configuration()
        mounts = []
        for place, directory in self._directories.items():
            directory.mkdir(parents=True, exist_ok=True)
            # Never removed again: another daemon of ours may have a mount on it, and removing the
            # directory would take that away.
            Path(place).mkdir(parents=True, exist_ok=True)
            mounts += [str(directory), place]
        command = [program, "--config", str(configuration), "--pid-file", str(self.root / "pid")]
        atexit.register(self.close)
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*_UNSHARE, "sh", "-euc", _ENTER, "sh", *mounts, "--", *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                env=_environment() | ({"LD_PRELOAD": self._preload} if self._preload else {}),
                # A Ctrl-C at the terminal is for the tests, which then stop us in order.
                start_new_session=True,
            )
        try:
            self.wait_ready(self.timeout)
        except BaseException:
            self.kill()
            raise

    def wait_ready(self, timeout: float) -> None:
        """Return when a client gets answers, also about the guests that ran before the start.

        The daemon is killed if that takes longer than `timeout` seconds: libvirt's own call to
        connect knows no limit, and this ends it. Raises RuntimeError then.
        """
        process = self._process
        if process is None:
            raise RuntimeError(f"{self.binary} was not started")
        deadline = time.monotonic() + timeout
        watchdog = threading.Timer(timeout, process.kill)
        watchdog.daemon = True
        watchdog.start()
        try:
            # By hand until somebody listens: libvirt would print each failure to stderr.
            while not _listens(self._socket):
                if process.poll() is not None:
                    raise self._not_ready(f"it ended with status {process.returncode}")
                if time.monotonic() > deadline:
                    raise self._not_ready(f"no answer in {timeout} s")
                time.sleep(_POLL_S)
            connection = libvirt.open(self.uri)
            for domain in connection.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE):
                # Guests count as running while the daemon still makes contact with their QEMU, and
                # to destroy one then fails with "domain is not running" though it does die. This
                # call waits for that to be over; it fails where the guest is gone meanwhile.
                with contextlib.suppress(libvirt.libvirtError):
                    domain.memoryStats()
            connection.close()
        except libvirt.libvirtError as error:
            raise self._not_ready(str(error)) from error
        finally:
            watchdog.cancel()

    def stop(self) -> None:
        """Ask the daemon to end (SIGTERM) and wait until it has; guests go on.

        Raises RuntimeError if it had to be killed in the end.
        """
        if self._process is None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(self.timeout)
        except subprocess.TimeoutExpired as error:
            self.kill()
            raise RuntimeError(f"{self.binary} ignored SIGTERM for {self.timeout} s") from error

    def kill(self) -> None:
        """End the daemon as a crash would (SIGKILL); guests go on."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(self.timeout)

    def restart(self) -> None:
        """Stop and start again, as a package update does."""
        self.stop()
        self.start()

    def destroy_guests(self) -> list[int]:
        """Kill the QEMU process of each guest and return the pids, whether or not a daemon runs.

        A daemon that runs notices by itself, shortly after; the guests stay defined.
        """
        return self._end_processes(guests_only=True)

    def close(self) -> None:
        """End the daemon and everything it left, and remove a root directory that we made."""
        atexit.unregister(self.close)
        try:
            self.stop()
        finally:
            # All of them, as a daemon that was killed may leave more than guests.
            self._end_processes(guests_only=False)
            if self._own_root:
                shutil.rmtree(self.root, ignore_errors=True)

    def _write_configuration(self) -> Path:
        directory = self._directories["/etc/libvirt"]
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "qemu.conf").write_text(QEMU_CONF, encoding="utf-8")
        path = directory / f"{self.binary}.conf"
        path.write_text(_DAEMON_CONF, encoding="utf-8")
        return path

    def _end_processes(self, *, guests_only: bool) -> list[int]:
        ended = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            pid = int(entry.name)
            if self._is_ours(pid, guests_only) and end_process(
                pid, lambda pid: self._is_ours(pid, guests_only), self.timeout
            ):
                ended.append(pid)
        return ended

    def _is_ours(self, pid: int, guests_only: bool) -> bool:
        """Whether the process sees our directory at /run/libvirt: nothing else on earth does.

        That also tells our guests from the machine's, which may have the same names and paths.
        """
        try:
            theirs = os.stat(f"/proc/{pid}/root/run/libvirt")
            command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            return False
        ours = self._directories["/run/libvirt"]
        if not (ours.exists() and os.path.samestat(theirs, ours.stat())):
            return False
        return not guests_only or any(word.startswith(b"guest=") for word in command)

    def _not_ready(self, reason: str) -> RuntimeError:
        log = self.log.read_text(encoding="utf-8", errors="replace")
        tail = "\n".join(log.splitlines()[-15:])
        return RuntimeError(f"{self.binary} is not ready: {reason}; the end of its log:\n{tail}")


def _environment() -> dict[str, str]:
    """Our environment, less what would tie the daemon to the machine's services or our settings."""
    environment = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("LIBVIRT_", "VIR_", "LISTEN_", "DBUS_"))
        and key not in ("NOTIFY_SOCKET", "XDG_RUNTIME_DIR")
    }
    # Without the system bus, libvirt cannot register guests with systemd-machined.
    environment["DBUS_SYSTEM_BUS_ADDRESS"] = "unix:path=/nonexistent"
    environment["LC_ALL"] = "C"
    environment["PATH"] = _SEARCH
    return environment


def _listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        try:
            client.connect(str(path))
        except OSError:
            return False
    return True
