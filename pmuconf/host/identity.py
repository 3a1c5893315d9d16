"""Which kernel, KVM and livepatches a host runs: what its facts are about, and void without.

All of it can be read by anybody, in a container too, so that root who writes facts and a user who reads them see the
same. Read nowhere else: where two places told it differently, a host got a promise that it does not keep.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Final

from pmuconf.host.code.notes import build_id_of_notes
from pmuconf.host.root import Root

__all__ = [
    "boot_id",
    "kvm_build_id",
    "kvm_built_in",
    "livepatches",
    "loads",
    "module_build_id",
    "parameters",
    "running_build_id",
    "ticks",
    "uptime",
]

_MODULES: Final = "/sys/module"
_LIVEPATCHES: Final = "/sys/kernel/livepatch"
_NOTE: Final = "notes/.note.gnu.build-id"
# What sysfs has of a module that was loaded, and not of one that is part of the kernel (kernel/module/sysfs.c).
_OF_MODULES: Final = frozenset({"initstate", "notes", "coresize", "refcnt", "holders", "sections", "taint"})
_HIDDEN: Final = "?"


def boot_id(root: Root) -> str | None:
    """What tells this boot of the host from every other; None if the host does not say."""
    return root.text("/proc/sys/kernel/random/boot_id") or None


def uptime(root: Root) -> int | None:
    """Whole seconds since the host was booted, those that it slept included; None if a record does not say.

    By a clock that nobody can set.
    """
    if root.live:
        return int(time.clock_gettime(time.CLOCK_BOOTTIME))
    seconds = (root.text("/proc/uptime") or "").partition(".")[0]
    return int(seconds) if seconds.isascii() and seconds.isdigit() and len(seconds) < 16 else None


def ticks(root: Root) -> int | None:
    """The same in clock ticks, in which /proc/PID/stat has starts; for a record of whole seconds only."""
    if root.live:
        return int(time.clock_gettime(time.CLOCK_BOOTTIME) * os.sysconf("SC_CLK_TCK"))
    seconds = uptime(root)
    return None if seconds is None else seconds * os.sysconf("SC_CLK_TCK")


def kvm_built_in(root: Root) -> bool:
    """Whether KVM is there as a part of the kernel, and not as a module."""
    names = root.names(f"{_MODULES}/kvm")
    return bool(names) and _OF_MODULES.isdisjoint(names)


def running_build_id(root: Root, built_in: bool = False) -> str | None:
    """The build-id of the running KVM module, or of the kernel if KVM is built in."""
    return _build_id(root, "/sys/kernel/notes") if built_in else module_build_id(root, "kvm")


def module_build_id(root: Root, module: str) -> str | None:
    """The build-id of a module that is loaded; None if it does not tell it."""
    return _build_id(root, f"{_MODULES}/{module}/{_NOTE}")


def kvm_build_id(root: Root) -> str | None:
    """The build-id of the running KVM, module or built in; None for a module that does not tell its own.

    The kernel's answers only where KVM is a part of it: it says nothing about a module.
    """
    return running_build_id(root, kvm_built_in(root))


def loads(root: Root) -> Mapping[str, str]:
    """Each module of KVM and each livepatch, with what tells this load of it from any other.

    The number of its directory in sysfs, and the build-id of its code ("?" where it has none). Such a number is given
    once (kernfs_new_node(), idr_alloc_cyclic), and is the same in all mounts of sysfs: a module that was loaded anew
    has another one, whatever its name and build-id are. The addresses of its sections would tell it to root only.
    """
    found = {}
    for name in _modules(root):
        found[name] = (
            f"{_number(root, f'{_MODULES}/{name}')} {_build_id(root, f'{_MODULES}/{name}/{_NOTE}') or _HIDDEN}"
        )
    for name in root.names(_LIVEPATCHES):
        module = f"{_MODULES}/{name.replace('-', '_')}/{_NOTE}"
        found[f"livepatch {name}"] = f"{_number(root, f'{_LIVEPATCHES}/{name}')} {_build_id(root, module) or _HIDDEN}"
    return found


def parameters(root: Root) -> Mapping[str, str]:
    """All parameters of KVM's modules, as kvm.enable_pmu; "?" for one that can't be read."""
    found = {}
    for module in _modules(root):
        folder = f"{_MODULES}/{module}/parameters"
        for name in root.names(folder):
            text = root.text(f"{folder}/{name}")
            found[f"{module}.{name}"] = _HIDDEN if text is None else text
    return found


def livepatches(root: Root) -> tuple[str, ...]:
    """The livepatches that are in, each with whether it is enabled and in transition, as one text a patch; sorted."""
    return tuple(
        sorted(
            f"{name} {root.text(f'{_LIVEPATCHES}/{name}/enabled')} {root.text(f'{_LIVEPATCHES}/{name}/transition')}"
            for name in root.names(_LIVEPATCHES)
        )
    )


def _modules(root: Root) -> list[str]:
    """KVM and what is built upon it: kvm_amd, kvm_intel, and what others there are."""
    return [name for name in root.names(_MODULES) if name == "kvm" or name.startswith("kvm_")]


def _number(root: Root, name: str) -> str:
    try:
        return str(root.at(name).stat().st_ino)
    except OSError:
        return _HIDDEN


def _build_id(root: Root, name: str) -> str | None:
    try:
        return build_id_of_notes(root.read(name))
    except OSError:
        return None
