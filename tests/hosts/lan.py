"""A network of its own for booted machines: a bridge in a network namespace, and a cable to each machine."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from tests.system.machine import Machine

__all__ = ["Lan"]

_PREFIX: Final = "10.213.7."
_LIMIT: Final = 900


class Lan:
    """The network, which ends with close(). What joins it gets the next address.

    :param folder: has the SSH key with which each machine lets root in, as id and id.pub.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.key = folder / "id"
        self.machines: dict[str, Machine] = {}
        self.addresses: dict[str, str] = {}
        self._space = f"pmuconf-{os.getpid()}"
        with ExitStack() as undo:
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.key], check=True)
            _ip("netns", "add", self._space)
            undo.callback(_ip, "netns", "delete", self._space)
            self._ip("link", "add", "lan", "type", "bridge")
            self._ip("address", "add", f"{_PREFIX}1/24", "dev", "lan")
            for device in ("lo", "lan"):
                self._ip("link", "set", device, "up")
            self._undo = undo.pop_all()

    def close(self) -> None:
        """Turn off the machines, and remove the network. What can't be removed keeps nothing else."""
        self._undo.close()

    def join(self, name: str, lower: Sequence[Path]) -> Machine:
        """Boot a machine of this name on these layers, and connect it."""
        machine = Machine(self.folder / name, lower)
        self._undo.callback(machine.close)
        self._undo.callback(machine.power_off)
        number = len(self.machines) + 2
        self.machines[name], self.addresses[name] = machine, f"{_PREFIX}{number}"
        (machine.root / "etc/hostname").write_text(f"{name}\n")
        (machine.root / "etc/machine-id").write_text(f"{number:032x}\n")  # by which the journal knows a host
        trusted = machine.root / "root/.ssh"
        trusted.mkdir(mode=0o700, exist_ok=True)
        shutil.copy(self.key, trusted / "id_ed25519")  # libvirtd goes from one machine to another with it
        shutil.copy(self.key.with_suffix(".pub"), trusted / "authorized_keys")
        (trusted / "config").write_text("StrictHostKeyChecking no\nLogLevel ERROR\n")
        # Else all have the identity of the machine below, and no guest may come from one to another.
        with (machine.root / "etc/libvirt/libvirtd.conf").open("a") as configuration:
            configuration.write(f'host_uuid = "00000000-0000-4000-8000-0000000000{number:02x}"\n')
        machine.boot()
        _ip(
            "-n", self._space, "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", str(machine.leader)
        )
        self._ip("link", "set", name, "master", "lan", "up")
        machine.ip("address", "add", f"{self.addresses[name]}/24", "dev", "eth0")
        for device in ("lo", "eth0"):
            machine.ip("link", "set", device, "up")
        machine.run("systemctl start ssh")
        everybody = "".join(f"{address} {host}\n" for host, address in self.addresses.items())
        for each in self.machines.values():
            each.write("/etc/hosts", f"127.0.0.1 localhost\n{everybody}")
        return machine

    def run(self, *command: str | Path, environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
        """A command of this machine that has this network, and no other."""
        words = ["ip", "netns", "exec", self._space, *map(str, command)]
        return subprocess.run(
            words,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_LIMIT,
            env={**os.environ, **environment},
            cwd=self.folder,
        )

    def _ip(self, *words: str) -> None:
        _ip("-n", self._space, *words)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)
