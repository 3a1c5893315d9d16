"""What started a VM's process, and how it calls the VM, by the process's command line.

Pure; nothing in a command line is trusted to be well formed, or to be true: it names the steps that may help, and no
verdict stands on it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import Final

__all__ = ["is_monitor", "manager_of", "name_by_option"]

_PROXMOX: Final = re.compile(r"(.*=)?/(var/)?run/qemu-server/[1-9][0-9]*\.pid")
_KATA: Final = "/run/vc/vm/"
_LIBVIRT: Final = "masterKey0"

_NAMED_BY: Final = {"firecracker": "--id", "crosvm": "--name", "cloud-hypervisor": None, "lkvm": "--name"}
"""The monitors beside QEMU that are known by their executable, and the option that names the VM."""
_COMM: Final = 15
"""The length at which the kernel cuts the name of a process, without the zero behind it."""
_MONITORS: Final = {name[:_COMM]: option for name, option in _NAMED_BY.items()}


def manager_of(words: Sequence[str]) -> str:
    """The manager that gave QEMU or another monitor this command line: libvirt, proxmox or kata; empty if unknown.

    libvirt gives each QEMU an object masterKey0. Proxmox (qemu-server) names a pid file after the VM's number. Kata
    keeps the sockets of a VM in a folder of its own.
    """
    if any(_LIBVIRT in word for word in words):
        return "libvirt"
    if any(option == "-pidfile" and _PROXMOX.fullmatch(value) for option, value in zip(words, words[1:])):
        return "proxmox"
    return "kata" if any(_KATA in word for word in words) else ""


def is_monitor(command: str, words: Sequence[str]) -> bool:
    """Whether a process of this name runs a VM of KVM, as far as that shows without its open files.

    crosvm's executable has other uses than to run a VM.
    """
    return command in _MONITORS and (command != "crosvm" or "run" in words[1:2])


def name_by_option(words: Sequence[str]) -> str | None:
    """The name that a monitor beside QEMU was given for its VM; None if it was given none."""
    option = _NAMED_BY.get(os.path.basename(words[0])) if words else None
    if option is None:
        return None
    for word, value in zip(words[1:], (*words[2:], "")):
        name, equals, behind = word.partition("=")
        if name == option:
            text = behind if equals else value
            return text if text and not text.startswith("-") else None
    return None
