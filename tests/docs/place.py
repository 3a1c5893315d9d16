"""A place in which the commands of a document are typed: root's, private, and gone afterwards.

It sees /etc, /var, /opt and the like of this machine, and what it writes there goes nowhere: each has a layer above it
in memory. So does the folder in which the commands are run, a view of this tree. What is not to happen for real is in
``bin``, in front of PATH.
"""

from __future__ import annotations

import contextlib
import os
import select
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final

from tests.docs.blocks import ROOT, Block, Command, differing, succeeded

__all__ = ["Place", "Ran"]

_LAYERED: Final = ("/etc", "/opt", "/run", "/srv", "/var")
_LIMIT: Final = 60.0
# $1 is the folder of the place, $2 this tree, $3 where it is seen; then pairs of folders to be bound, and folders to be
# layered behind "--".
_ENTER: Final = """\
folder=$1 tree=$2 seen=$3
shift 3
mount -t tmpfs -o mode=755 tmpfs "$folder/layers"
layer() {
    mkdir -p "$folder/layers/$3/upper" "$folder/layers/$3/work"
    chmod --reference="$1" "$folder/layers/$3/upper"
    mount -t overlay overlay -o "lowerdir=$1,upperdir=$folder/layers/$3/upper,workdir=$folder/layers/$3/work" "$2"
}
layer "$tree" "$seen" tree
while [ "$1" != -- ]; do
    binds="${binds:-} $1 $2"
    shift 2
done
shift
for each; do
    layer "$each" "$each" "${each#/}"
done
set -- ${binds:-}
while [ "$#" -gt 0 ]; do
    mkdir -p "$2"
    mount --bind "$1" "$2"
    shift 2
done
"$PYTHON" -c "$LOOPBACK"
cd "$seen"
exec bash --noprofile --norc
"""
# A network of its own has a loopback that is down: SIOCSIFFLAGS with IFF_UP.
_LOOPBACK: Final = (
    "import fcntl, socket, struct\nfcntl.ioctl(socket.socket(), 0x8914, struct.pack('16sh14x', b'lo', 1))\n"
)


@dataclass(frozen=True)
class Ran:
    """What a command said, both outputs as a terminal shows them, and its exit status."""

    status: int
    text: str


class Place:
    """A shell in a place of its own, within a ``with`` block.

    :param binds: folders of this machine, and where the place sees them.
    :param network: whether it has this machine's network. Otherwise it has a loopback alone.
    :param pmuconf: the words that run pmuconf.
    """

    def __init__(
        self,
        *,
        binds: Mapping[Path, str] | None = None,
        network: bool = False,
        pmuconf: tuple[str, ...] = ("-m", "pmuconf.commands.main"),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="pmuconf-docs-", dir="/tmp"))
        self.bin = self.folder / "bin"
        self.seen = self.folder / "pmuconf"
        self._binds, self._network = dict(binds or {}), network
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("OS_", "PMUCONF", "COV"))},
            "HOME": str(self.folder / "home"),
            "LC_ALL": "C.UTF-8",
            "NO_COLOR": "1",
            "PATH": f"{self.bin}:{os.environ['PATH']}:/usr/sbin:/sbin",
            "PYTHON": sys.executable,
            "PYTHONPATH": f"{ROOT}:{ROOT / 'nova_hooks'}",
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONWARNINGS": "ignore",
            "LOOPBACK": "" if network else _LOOPBACK,
            **(environment or {}),
        }
        for folder in (self.bin, self.seen, self.folder / "home", self.folder / "layers"):
            folder.mkdir()
        self.folder.chmod(0o755)
        self.program("pmuconf", f'exec {shlex.join([sys.executable, *pmuconf])} "$@"')
        self._shell: subprocess.Popen[bytes] | None = None
        self._count = 0

    def program(self, name: str, script: str) -> None:
        """Put a program in front of PATH."""
        path = self.bin / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def recorder(self, name: str) -> Path:
        """Put a program in front of PATH that only writes down what it is asked, one call a line, into this file."""
        asked = self.folder / f"{name}.asked"
        self.program(name, f'echo "$@" >>{asked}')
        return asked

    def __enter__(self) -> Place:
        net = () if self._network else ("--net",)
        binds = [str(word) for pair in self._binds.items() for word in pair]
        layered = [folder for folder in _LAYERED if Path(folder).is_dir() and not Path(folder).is_symlink()]
        words = ["unshare", "--mount", "--propagation", "private", *net, "--", "sh", "-euc", _ENTER, "sh"]
        self._shell = subprocess.Popen(
            [*words, str(self.folder), str(ROOT), str(self.seen), *binds, "--", *layered],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=(self.folder / "errors").open("wb"),
            env=self._environment,
            start_new_session=True,
        )
        try:
            self.run("true")
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the shell and what it started; nothing of the place is left."""
        if self._shell is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._shell.pid, signal.SIGKILL)
            self._shell.communicate()
            self._shell = None
        shutil.rmtree(self.folder)

    def run(self, command: str) -> Ran:
        """Type a command, and wait until it ends."""
        output = self._begin(command)
        return Ran(int(self._heard(command, output)), output.read_text(errors="replace"))

    def run_until(self, command: str, text: str) -> Ran:
        """Type a command that runs until Ctrl-C; that is pressed as soon as the command has written this text."""
        pids = self.folder / "pid"
        # By a shell of its own, which deafens nobody to SIGINT as a background job of ours would be.
        hears = "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execvp('sh', sys.argv[1:])"
        words = [sys.executable, "-c", hears, "sh", "-c", f"exec {command}"]
        output = self._begin(f"{shlex.join(words)} & echo $! >{pids}; wait $!")
        end = time.monotonic() + _LIMIT
        while not (output.exists() and text in output.read_text(errors="replace") and pids.exists()):
            assert time.monotonic() < end, f"{command}: it does not say {text!r}"
            time.sleep(0.02)
        os.kill(int(pids.read_text()), signal.SIGINT)
        return Ran(int(self._heard(command, output)), output.read_text(errors="replace"))

    def _begin(self, command: str) -> Path:
        assert self._shell is not None
        assert self._shell.stdin is not None
        self._count += 1
        output = self.folder / f"output-{self._count}"
        line = f"eval {shlex.quote(command)} >{output} 2>&1 </dev/null; echo $?\n"
        self._shell.stdin.write(line.encode())
        self._shell.stdin.flush()
        return output

    def _heard(self, command: str, output: Path) -> str:
        assert self._shell is not None
        assert self._shell.stdout is not None
        ready, _, _ = select.select([self._shell.stdout], [], [], _LIMIT)
        said = output.read_text(errors="replace") if output.exists() else (self.folder / "errors").read_text()
        assert ready, f"{command}: it still runs after {_LIMIT:.0f} s\n{said}"
        status = self._shell.stdout.readline().decode().strip()
        assert status, f"{command}: the shell has ended\n{said}"
        return status

    def type(self, block: Block, *, until: str = "") -> list[Ran]:
        """Type a block, command by command; each must succeed, and say what the document shows.

        A pmuconf that gives an answer succeeds, whatever the answer: its exit status is 0, 1 or 2.

        :param until: what a command that runs until Ctrl-C writes before that is pressed.
        """
        return [self._typed(block, command, until) for command in block.commands()]

    def _typed(self, block: Block, command: Command, until: str) -> Ran:
        serves = command.text.startswith("pmuconf serve")
        ran = self.run_until(command.text.partition("#")[0], until) if serves else self.run(command.text)
        assert succeeded(command.text, ran.status), (
            f"{block.place}: {command.text}\nexit status {ran.status}\n{ran.text}"
        )
        difference = differing(command.output, ran.text)
        assert not difference, f"{block.place}: {command.text}\n{difference}"
        return ran
