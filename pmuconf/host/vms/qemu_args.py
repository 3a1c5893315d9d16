"""The command line of a QEMU: what it says of its VM. Pure; no part of it is trusted to be well formed.

pmuconf.domain.cpu reads the options and what they make of the CPU, for a domain's definition as well.
"""

from __future__ import annotations

import os
import re
import uuid
from dataclasses import dataclass
from typing import Final

from pmuconf.domain.cpu import accelerator, has_pmu, last, options, properties, split, values
from pmuconf.host.confidential import is_tdx
from pmuconf.host.vms.starter import manager_of

__all__ = ["MAX_PATH", "QemuArgs", "parse_args", "words_of"]

_UUID: Final = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\Z")
MAX_PATH: Final = 4096
"""The length from which a text is no path, in bytes (PATH_MAX)."""
_RECREATING: Final = frozenset({"confidential-guest-support", "memory-encryption", "x-change-vmfd-on-reset"})


@dataclass(frozen=True)
class QemuArgs:
    """The facts about a VM in a command line.

    :param pmu: whether the CPU that the guest gets has a PMU; None: unknown.
    :param kvm: whether KVM was asked for, before any other accelerator.
    :param incoming: whether it was started to take a migration or a saved state in.
    :param tdx: whether it is a TDX guest; None: it may be one.
    :param may_be_emulated: whether another accelerator than KVM may run it: QEMU tries them in turn.
    :param binary: the first word: the path that it was started by. libvirt takes it from the definition. Empty if it
        is too long for a path.
    :param manager: as manager_of() has it.
    :param may_be_recreated: whether a reset may give it another VM of KVM. Since QEMU 11.0 those of
        confidential guests do.
    """

    uuid: str | None = None
    name: str | None = None
    pmu: bool | None = None
    kvm: bool = False
    incoming: bool = False
    may_be_recreated: bool = False
    tdx: bool | None = False
    binary: str = ""
    may_be_emulated: bool = True
    manager: str = ""


def words_of(cmdline: bytes) -> list[str]:
    """The words of /proc/PID/cmdline."""
    words = [word.decode("utf-8", "replace") for word in cmdline.split(b"\0")]
    return words if words[-1] else words[:-1]


def parse_args(cmdline: bytes, exe: str = "") -> QemuArgs | None:
    """The facts in /proc/PID/cmdline; None if neither that nor the path of the binary looks like a QEMU's."""
    words = words_of(cmdline)
    names = [os.path.basename(path.partition(" (deleted)")[0]) for path in (exe, *words[:1])]
    if not any("qemu" in name or name == "kvm" for name in names):
        return None
    if not cmdline.endswith(b"\0"):  # cut short, or written over by the process itself
        return QemuArgs()
    manager = manager_of(words)
    return QemuArgs(
        uuid=_uuid(_smbios_uuid(words) if manager == "proxmox" else last(words, "uuid")),
        name=_name(last(words, "name")),
        pmu=has_pmu(words, names),
        kvm=accelerator(words) == "kvm",
        incoming=any(option in ("incoming", "loadvm") for option, _ in options(words)),
        tdx=is_tdx(words),
        may_be_recreated=any(
            key in _RECREATING for value in values(words, "machine", "M") for key, _, _ in properties(value)
        ),
        binary=words[0] if len(words[0]) < MAX_PATH else "",
        may_be_emulated=_names_emulation(words),
        manager=manager,
    )


def _names_emulation(words: list[str]) -> bool:
    """Whether the words name an accelerator beside KVM, in any of the forms that there are."""
    named = [value.removeprefix("accel=") for value in values(words, "accel")]
    named += [text for value in values(words, "machine", "M") for key, _, text in properties(value) if key == "accel"]
    return any(split(text)[0] != "kvm" for text in named)


def _smbios_uuid(words: list[str]) -> str | None:
    """The VM's UUID where Proxmox writes it; None if it is not there once."""
    uuids = {text for value in values(words, "smbios") for key, _, text in properties(value) if key == "uuid"}
    return uuids.pop() if len(uuids) == 1 else None


def _uuid(text: str | None) -> str | None:
    try:
        return str(uuid.UUID(text)) if text is not None and _UUID.match(text) else None
    except ValueError:
        return None


def _name(text: str | None) -> str | None:
    """The guest's name, from the option -name. A name without a key comes first."""
    if text is None:
        return None
    pieces = properties(text)
    names = [value for key, equals, value in pieces if key == "guest" and equals]
    if names:
        return names[-1]
    first, equals, _ = pieces[0]
    return first if first and not equals else None
