"""A Debian on a kernel of its own: the root of a container, booted by QEMU without KVM, with AMD SVM for KVM inside."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from tests.system.commanded import Commanded
from tests.system.machine import Machine

__all__ = ["VirtualMachine", "prepare"]

HERE: Final = Path(__file__).resolve().parent
_BOOT: Final = 1200.0
_COMMAND: Final = 900.0
_DISK: Final = 4 << 30
_MEMORY: Final = "2048"


def prepare(root: Machine) -> None:
    """Put a kernel into a root that is not booted, and what lets it be booted here."""
    folder = root.root / "srv/vm"
    folder.mkdir(parents=True)
    for name in ("agent", "agent.service", "initramfs", "prepare"):
        shutil.copy2(HERE / name, folder)
    root.prepare("/srv/vm/prepare")


class VirtualMachine(Commanded):
    """A machine that QEMU emulates. `with` boots it, and turns it off.

    Its root is a folder of this machine's, which stays as it is: the changes go to a disk in `folder`, and are there
    after a reboot.

    :param root: has been through prepare().
    :param forwards: ports of the machine that can be reached from here, at other_port().
    """

    def __init__(self, folder: Path, root: Path, forwards: Sequence[int] = ()) -> None:
        self.console = folder / "console.log"
        self._folder, self._root = folder, root
        self._ports = {port: _free_port() for port in forwards}
        self._qemu: subprocess.Popen[bytes] | None = None
        self._link = socket.socket(socket.AF_UNIX)
        self._waiting = b""
        self._number = 0

    def other_port(self, port: int) -> int:
        """The port of this machine's loopback address that leads to a port of the machine."""
        return self._ports[port]

    def __enter__(self) -> VirtualMachine:
        disk, link = self._folder / "disk", self._folder / "link"
        with disk.open("wb") as file:
            file.truncate(_DISK)
        subprocess.run(["mkfs.ext4", "-q", disk], check=True)
        (kernel,) = (self._root / "boot").glob("vmlinuz-*")
        (initramfs,) = (self._root / "boot").glob("initrd.img-*")
        forwarded = "".join(f",hostfwd=tcp:127.0.0.1:{here}-:{there}" for there, here in self._ports.items())
        devices = (
            *("-drive", f"file={disk},format=raw,if=virtio,cache=unsafe"),
            *("-fsdev", f"local,id=root,path={self._root},security_model=none,readonly=on"),
            *("-device", "virtio-9p-pci,fsdev=root,mount_tag=root"),
            *("-netdev", f"user,id=net{forwarded}", "-device", "virtio-net-pci,netdev=net"),
            *("-device", "virtio-serial-pci", "-chardev", f"socket,id=link,path={link},server=on,wait=off"),
            *("-device", "virtserialport,chardev=link,name=test"),
            *("-chardev", f"file,id=console,path={self.console}", "-serial", "chardev:console"),
        )
        self._qemu = subprocess.Popen(
            [
                *("qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "EPYC,+svm", "-smp", "2"),
                *("-m", _MEMORY, "-nodefaults", "-display", "none", "-kernel", str(kernel), "-initrd", str(initramfs)),
                *("-append", "console=ttyS0 boot=overlay quiet panic=-1 no_timer_check"),
                *devices,
            ]
        )
        end = time.monotonic() + _COMMAND
        while self._link.connect_ex(str(link)) != 0:
            assert self._qemu.poll() is None, "QEMU has ended"
            assert time.monotonic() < end, "QEMU does not listen"
            time.sleep(0.1)
        self.wait_for_boot("")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._qemu is not None
        self._link.close()
        self._qemu.kill()
        self._qemu.wait()

    def reboot(self) -> None:
        """Reboot it, and wait until it is up again."""
        before = self.run("cat /proc/sys/kernel/random/boot_id")
        self.run("systemctl --no-block reboot")
        self.wait_for_boot(before)

    def wait_for_boot(self, before: str) -> None:
        """Wait until systemd has started all that it starts, in another boot than the one with this ID."""
        end = time.monotonic() + _BOOT
        while True:
            ran = self._ask(["sh", "-c", "cat /proc/sys/kernel/random/boot_id; systemctl is-system-running"], "", 20)
            words = ran.stdout.split() if ran is not None else []
            if len(words) == 2 and words[0] != before and words[1] in ("running", "degraded"):
                return
            said = self.console.read_text(errors="replace")[-3000:] if self.console.exists() else ""
            assert self._qemu is not None
            assert self._qemu.poll() is None, f"QEMU has ended:\n{said}"
            assert time.monotonic() < end, f"it does not come up: {words}\n{said}"
            time.sleep(0.5)

    def result(self, *command: str, text: str = "") -> subprocess.CompletedProcess[str]:
        words = list(command) if len(command) > 1 else ["sh", "-c", command[0]]
        ran = self._ask(words, text, _COMMAND)
        assert ran is not None, f"{words}: no answer in {_COMMAND} s"
        return ran

    def _ask(self, words: list[str], text: str, seconds: float) -> subprocess.CompletedProcess[str] | None:
        """How a command ended; None if nothing is heard of it for so long."""
        self._number += 1
        question = {"number": self._number, "words": words, "text": text}
        self._link.sendall(json.dumps(question).encode() + b"\n")
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            line, found, rest = self._waiting.partition(b"\n")
            if not found:
                self._link.settimeout(left)
                try:
                    self._waiting += self._link.recv(65536)
                except TimeoutError:
                    break
                continue
            self._waiting = rest
            answer = _answer(line)
            if answer.get("number") == self._number:  # not of an earlier one that took too long
                return subprocess.CompletedProcess(words, answer["status"], answer["out"], answer["err"])
        return None


def _answer(line: bytes) -> dict[str, Any]:
    """An answer; empty for what a machine that was turned off has left half said."""
    try:
        answer: dict[str, Any] = json.loads(line)
    except ValueError:
        return {}
    return answer


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])
