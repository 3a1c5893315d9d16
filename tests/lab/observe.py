"""A record of a host with its VMs, made inside the lab: python -m tests.lab.observe DIR, as root.

'pmuconf host record' writes what the verdict on the kernel takes. This adds what the verdicts on the VMs take: the
kernel memory in which KVM keeps them, their processes and libvirt's daemon as /proc shows them, and the domains'
definitions. A QEMU has 20 MB and is replaced by a stand-in: the strings that tell it, and what was known of its
contents.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final
from unittest import mock

from pmuconf.host.code.kcore import Kcore
from pmuconf.host.record import record
from pmuconf.host.root import Root
from pmuconf.host.survey import survey
from pmuconf.hostfacts import HostFacts, LiveVm, Qemu
from tests.lab.core import read_core, write_core
from tests.support.records import DOMAINS

__all__ = ["observe"]

_PROOFS: Final = "var/lib/pmuconf/qemu-proofs.json"
_QEMU: Final = b"QEMU emulator version (a stand-in)\n"
_MESSAGE: Final = b"KVM_PMU_CAP_DISABLE\n"
_VIRSH: Final = ("virsh", "-q", "-c", "qemu:///system")


def observe(target: Path) -> HostFacts:
    """Record the running host into the new directory ``target``; what pmuconf says of it there and then."""
    record(Root(), target)
    seen: dict[int, bytes] = {}
    read = Kcore.read

    def watched(memory: Kcore, address: int, size: int) -> bytes:
        data = read(memory, address, size)
        seen[address] = max(data, seen.get(address, b""), key=len)
        return data

    with mock.patch.object(Kcore, "read", watched):
        facts = survey(Root())
    core = target / "proc/kcore"
    core.write_bytes(write_core([*read_core(core.read_bytes()), *seen.items()]))
    (target / "proc/uptime").write_bytes(Path("/proc/uptime").read_bytes())
    _link(target, "/proc/1/ns/pid", os.readlink("/proc/1/ns/pid"))
    for vm in facts.vms:
        _process(target, vm.pid or 0)
    for search in facts.searches:
        _process(target, search.pid)
    known = {}
    for path, qemu in _qemus(facts):
        stand_in = _QEMU + (_MESSAGE if qemu.disables else b"") + path.encode()
        file = target / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(stand_in)
        file.chmod(0o755)
        known.update({f"sha256:{hashlib.sha256(stand_in).hexdigest()}": False} if qemu.disables is False else {})
    (target / _PROOFS).parent.mkdir(parents=True)
    (target / _PROOFS).write_text(json.dumps(known))
    _domains(target)
    return facts


def _process(target: Path, pid: int) -> None:
    """What of a process's directory of /proc tells which VM it runs, and with which program."""
    source, folder = Path(f"/proc/{pid}"), target / f"proc/{pid}"
    for name in ("stat", "cmdline", "comm", *(f"task/{task.name}/stat" for task in (source / "task").iterdir())):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes((source / name).read_bytes())
    lines = (source / "status").read_text().splitlines(keepends=True)
    (folder / "status").write_text("".join(line for line in lines if line.startswith("Uid:")))
    # Of the environment only what is read: the rest may say anything.
    words = (source / "environ").read_bytes().split(b"\0")
    (folder / "environ").write_bytes(b"".join(word + b"\0" for word in words if word.startswith(b"PATH=")))
    _link(target, f"/proc/{pid}/exe", os.readlink(source / "exe"))
    _link(target, f"/proc/{pid}/root", os.path.relpath(os.readlink(source / "root"), f"/proc/{pid}"))
    for file in (source / "fd").iterdir():
        if os.readlink(file).startswith("anon_inode:kvm"):
            _link(target, str(file), os.readlink(file))


def _link(target: Path, name: str, where: str) -> None:
    link = target / name.lstrip("/")
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(where)


def _qemus(facts: HostFacts) -> Iterator[tuple[str, Qemu]]:
    """Every QEMU that runs a VM or that libvirt would start, by where its file really is."""
    for qemu in facts.qemus:
        yield qemu.file.real if qemu.file else qemu.path, qemu
    for vm in facts.vms:
        if vm.qemu is not None:
            yield vm.qemu.path, vm.qemu


def _domains(target: Path) -> None:
    """What libvirt says of each domain: as it runs, and as it starts next."""
    (target / DOMAINS).mkdir()
    names = subprocess.run([*_VIRSH, "list", "--all", "--name"], check=True, capture_output=True, text=True).stdout
    for name in names.split():
        for state, words in {"live": [], "inactive": ["--inactive"]}.items():
            command = [*_VIRSH, "dumpxml", *words, name]
            text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            (target / DOMAINS / f"{name}.{state}.xml").write_text(text)


def main() -> None:
    """Record, and say in one line a VM what was found."""
    facts = observe(Path(sys.argv[1]))
    vms: tuple[LiveVm, ...] = facts.vms
    for vm in vms:
        sys.stdout.write(f"LAB {vm.name}: {vm.kernel_pmu.value} {vm.cause} {vm.qemu.cause if vm.qemu else ''}\n")


if __name__ == "__main__":
    main()
