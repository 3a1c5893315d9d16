"""Whether this host delivers the fast path, by the facts that root has written: 'pmuconf host facts --output FILE'.

A reader of that JSON of its own, for nothing that probes a host may load inside nova-compute. Whatever is wrong with
the file, or makes it void, means no: a trait that is missing costs a choice of hosts, a false one a slow server.
"""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any, Final

__all__ = ["FACTS", "TRAIT", "delivers"]

TRAIT: Final = "CUSTOM_PMU_FASTPATH"
# On a file system that ends with the boot, as the facts do.
FACTS: Final = Path("/run/pmuconf/host-facts.json")

# Kernels that spare a VM whose PMU is disabled in KVM the PMU's work, and the one that has no such work at all.
_SPARING: Final = frozenset({"guarded", "early-out"})
_NO_WORK: Final = "no-call"
_MAX: Final = 64 << 20


def delivers(path: Path = FACTS, root: Path = Path("/")) -> bool:
    """Whether a VM whose PMU is off has the fast path here: the kernel spares it, and QEMU disables the PMU in KVM.

    QEMU's part stands on the binaries that libvirt might start a new VM with when the file was written: at least one,
    all of them known to, and those that can be seen from here the same since. Or KVM's own parameter disables it for
    all. The file must be root's, and about this boot, KVM, its parameter and set of livepatches.
    """
    try:
        text, written = _text(path)
        facts = json.loads(text)
        if facts["format"] != "pmuconf-host-facts" or facts["version"] != 1:
            return False
        facts = facts["facts"]
        return _holds(facts, root) and _fast(facts, root, written)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return False


def _text(path: Path) -> tuple[str, int]:
    """What the file says, and when it was written."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        ours = stat.S_ISREG(status.st_mode) and status.st_uid == 0
        if not ours or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise ValueError("others than root could have written it")
        data = file.read(_MAX + 1)
    if len(data) > _MAX:
        raise ValueError("it is larger than any such file")
    return data.decode("utf-8"), status.st_mtime_ns


def _holds(facts: Any, root: Path) -> bool:
    boot = (root / "proc/sys/kernel/random/boot_id").read_text().strip()
    patches = root / "sys/kernel/livepatch"
    names = os.listdir(patches) if patches.is_dir() else []
    states = [f"{name} {_word(patches / name / 'enabled')} {_word(patches / name / 'transition')}" for name in names]
    same = boot == facts["boot_id"] and _build_id(root) == facts["kvm_build_id"]
    # It is given when KVM is loaded: by the build-id alone, one that was loaded anew is the same.
    disabled = _word(root / "sys/module/kvm/parameters/enable_pmu") in ("N", "0")
    return same and sorted(states) == sorted(facts["livepatches"]) and disabled == (facts["enable_pmu"] is False)


def _fast(facts: Any, root: Path, written: int) -> bool:
    verdict, evidence = facts["guard"]["verdict"], facts["guard"]["evidence"]
    if evidence not in ("observed", "inferred") or verdict not in (*_SPARING, _NO_WORK):
        return False
    # A mediated PMU is work of its own, but for a VM whose PMU is disabled in KVM.
    if facts["enable_pmu"] is False or (verdict == _NO_WORK and facts["mediated_pmu"] is False):
        return True
    qemus = facts["qemus"]
    if not qemus or not all(qemu["disables"] is True for qemu in qemus):
        return False
    return not any(_replaced(root / qemu["path"].lstrip("/"), written) for qemu in qemus)


def _replaced(binary: Path, written: int) -> bool:
    """Whether the file was put there since; by the time of its change, for packages bring their own other times."""
    try:
        return binary.stat().st_ctime_ns > written
    except OSError:  # of a container
        return False


def _word(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None


def _build_id(root: Path) -> str:
    """The build-id of the running KVM, module or built in, from its ELF notes (type 3 of owner GNU, elf(5))."""
    module = root / "sys/module/kvm/notes/.note.gnu.build-id"
    data = (module if module.exists() else root / "sys/kernel/notes").read_bytes()
    at = 0
    while at + 12 <= len(data):
        owner, content, kind = (int.from_bytes(data[at + i : at + i + 4], "little") for i in (0, 4, 8))
        start = at + 12 + (owner + 3) // 4 * 4
        if kind == 3 and data[at + 12 : at + 12 + owner] == b"GNU\0":
            return data[start : start + content].hex()
        at = start + (content + 3) // 4 * 4
    raise ValueError("KVM's notes have no build-id")
