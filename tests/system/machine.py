"""A Debian that runs systemd as its first process, in a container of systemd-nspawn, and what is done in it.

The root itself stays as it is: each machine has a layer of its own above it, which goes with the machine. Its network
is private and has no way out; packages are fetched before it boots.
"""

from __future__ import annotations

import os
import pty
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Final

from tests.support.keyboard import Terminal
from tests.system.commanded import Commanded

__all__ = ["ENVIRONMENT", "TOOLS", "Machine", "Terminal", "root", "why_none"]

TOOLS: Final = Path(__file__).resolve().parents[2] / "tools"
ENVIRONMENT: Final = {
    "DEBIAN_FRONTEND": "noninteractive",
    "HOME": "/root",
    "LANG": "C.UTF-8",
    "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
    "TERM": "dumb",
}
_BOOT: Final = 60.0


def root(kind: str, suite: str) -> Path:
    """The folder of a root that tools/root makes, if it is not there yet."""
    ran = subprocess.run([TOOLS / "root", kind, suite], check=True, stdout=subprocess.PIPE, text=True)
    return Path(ran.stdout.strip())


def why_none(folder: Path) -> str:
    """Why no machine can be booted here, as far as it can be told before; empty if nothing stands in the way."""
    if os.geteuid() != 0:
        return "needs root"
    missing = [
        name for name in ("systemd-nspawn", "debootstrap", "ip", "nsenter", "unshare") if shutil.which(name) is None
    ]
    if missing:
        return f"needs {', '.join(missing)}: .ci/packages system installs them"
    parts = [folder / name for name in ("lower", "upper", "work", "root")]
    for part in parts:
        part.mkdir()
    options = f"lowerdir={parts[0]},upperdir={parts[1]},workdir={parts[2]}"
    mount = 'mount -t overlay overlay -o "$1" "$2"'
    words = ["unshare", "--mount", "--pid", "--fork", "--", "sh", "-euc", mount, "sh", options, str(parts[3])]
    ran = subprocess.run(words, capture_output=True, text=True)
    return "" if ran.returncode == 0 else f"needs overlayfs and new namespaces: {ran.stderr.strip()}"


class Machine(Commanded):
    """A machine above a root, in `folder`. It is not booted yet; `with` boots it, and turns it off.

    :param lower: the folders that it stands on, the upper one first.
    """

    def __init__(self, folder: Path, lower: Sequence[Path]) -> None:
        self.upper = folder / "upper"
        self.root = folder / "root"
        work = folder / "work"
        for path in (self.upper, self.root, work):
            path.mkdir(parents=True)
        layers = ":".join(map(str, lower))
        options = f"lowerdir={layers},upperdir={self.upper},workdir={work}"
        subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, self.root], check=True)
        self._nspawn: subprocess.Popen[bytes] | None = None
        self.leader = 0
        """The process id of its first process, as this machine sees it; 0: it is not booted."""
        self._said = folder / "nspawn.log"

    def prepare(self, *command: str) -> str:
        """What a command prints that runs in the root before it is booted, with this machine's network."""
        ran = subprocess.run([TOOLS / "enter", self.root, *command], capture_output=True, text=True)
        assert ran.returncode == 0, ran.stdout + ran.stderr
        return ran.stdout

    def close(self) -> None:
        """Take the layer out of the way. Its files stay in the folder."""
        subprocess.run(["umount", "--lazy", self.root], check=True)

    def __enter__(self) -> Machine:
        self.boot()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.power_off()
        self.close()

    def boot(self) -> None:
        """Boot it, and wait until systemd has started all that it starts."""
        Path("/run/systemd/inaccessible").mkdir(parents=True, exist_ok=True)  # nspawn's, where no systemd runs
        ours, console = pty.openpty()  # nspawn boots on a terminal only
        words = ["systemd-nspawn", "--quiet", "--directory", str(self.root), "--boot", "--register=no", "--keep-unit"]
        with self._said.open("wb") as log:
            self._nspawn = subprocess.Popen([*words, "--private-network"], stdin=console, stdout=log, stderr=log)
        os.close(console)
        self._terminal = ours
        end = time.monotonic() + _BOOT
        while not (self.leader and self.run("systemctl", "is-system-running", check=False) in ("running", "degraded")):
            said = self._said.read_text(errors="replace")[-2000:]
            assert self._nspawn.poll() is None, f"systemd-nspawn has ended:\n{said}"
            assert time.monotonic() < end, f"it does not come up:\n{said}"
            time.sleep(0.1)
            self.leader = self.leader or _first_process(self._nspawn.pid)

    def power_off(self) -> None:
        """Turn it off, at once, as far as it still runs."""
        if self._nspawn is None:
            return
        if self._nspawn.poll() is None:
            self.run("systemctl", "poweroff", "-ff", check=False)
        try:
            self._nspawn.wait(20)
        except subprocess.TimeoutExpired:
            self._nspawn.kill()
            self._nspawn.wait()
        os.close(self._terminal)
        self._nspawn, self.leader = None, 0

    def result(self, *command: str, text: str = "") -> subprocess.CompletedProcess[str]:
        words = command if len(command) > 1 else ("sh", "-c", command[0])
        return subprocess.run(
            [*self._enter(), *words], input=text, capture_output=True, text=True, timeout=600, env=ENVIRONMENT
        )

    def terminal(self, command: str) -> Terminal:
        """A command that runs on a terminal of its own, until the block ends."""
        return Terminal(
            [*self._enter(), "script", "--quiet", "--return", "--command", command, "/dev/null"], ENVIRONMENT
        )

    def _enter(self) -> list[str]:
        return ["nsenter", "--all", "--target", str(self.leader), "--wdns=/root", "--"]

    def ip(self, *words: str) -> None:
        """Change its network with this machine's ip: it has none of its own."""
        subprocess.run(["nsenter", "--net", "--target", str(self.leader), "--", "ip", *words], check=True)


def _first_process(nspawn: int) -> int:
    """The process that is the first one inside; 0 while there is none."""
    waiting = [nspawn]
    while waiting:
        pid = waiting.pop()
        try:
            status = Path(f"/proc/{pid}/status").read_text()
            numbers = next(line.split() for line in status.splitlines() if line.startswith("NSpid:"))
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        except (OSError, StopIteration):
            continue
        if len(numbers) > 2 and numbers[-1] == "1":
            return pid
        waiting += map(int, children)
    return 0
