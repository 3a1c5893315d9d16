"""Which kernel, KVM and livepatches a host runs: what its facts are about, and void without.

Anybody can read all of it, in a container too. So root, who writes facts, and a user, who reads them, see the same. It
is read nowhere else: where two places read it differently, a host got a promise that it does not keep.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from pmuconf.host.notes import build_id_of_notes
from pmuconf.host.root import Root

__all__ = [
    "Identity",
    "boot_id",
    "kernel_build_id",
    "kvm_build_id",
    "kvm_built_in",
    "livepatches",
    "loads",
    "module_build_id",
    "parameters",
    "read_identity",
    "ticks",
    "uptime",
]

_MODULES: Final = "/sys/module"
_LIVEPATCHES: Final = "/sys/kernel/livepatch"
_NOTE: Final = "notes/.note.gnu.build-id"
# What sysfs has of a module that was loaded, and not of one that is part of the kernel (kernel/module/sysfs.c).
_OF_MODULES: Final = frozenset({"initstate", "notes", "coresize", "refcnt", "holders", "sections", "taint"})
_HIDDEN: Final = "?"
_MAX_DIGITS: Final = 15


@dataclass(frozen=True)
class Identity:
    """The identity of what runs: facts about one identity say nothing about another."""

    boot_id: str | None
    kvm_build_id: str | None
    livepatches: tuple[str, ...]
    parameters: Mapping[str, str]
    loads: Mapping[str, str]


def read_identity(root: Root) -> Identity:
    """The identity of what the host below ``root`` runs now."""
    return Identity(boot_id(root), kvm_build_id(root), livepatches(root), parameters(root), loads(root))


def boot_id(root: Root) -> str | None:
    """The id of this boot of the host, which no other boot has; None if the host does not say."""
    return root.text("/proc/sys/kernel/random/boot_id") or None


def uptime(root: Root) -> int | None:
    """The whole seconds since the host was booted, by a clock that nobody can set; None if a record does not say.

    Seconds while the host was suspended count, too.
    """
    if root.live:
        return int(time.clock_gettime(time.CLOCK_BOOTTIME))
    seconds = (root.text("/proc/uptime") or "").partition(".")[0]
    return int(seconds) if seconds.isascii() and seconds.isdigit() and len(seconds) <= _MAX_DIGITS else None


def ticks(root: Root) -> int | None:
    """The same in clock ticks, in which /proc/PID/stat has starts. A record has whole seconds only."""
    if root.live:
        return int(time.clock_gettime(time.CLOCK_BOOTTIME) * os.sysconf("SC_CLK_TCK"))
    seconds = uptime(root)
    return None if seconds is None else seconds * os.sysconf("SC_CLK_TCK")


def kvm_built_in(root: Root) -> bool:
    """Whether KVM is there as a part of the kernel, and not as a module."""
    names = root.names(f"{_MODULES}/kvm")
    return bool(names) and _OF_MODULES.isdisjoint(names)


def kernel_build_id(root: Root) -> str | None:
    """The build-id of the running kernel; None if it does not tell it."""
    return _build_id(root, "/sys/kernel/notes")


def module_build_id(root: Root, module: str) -> str | None:
    """The build-id of a module that is loaded; None if it does not tell it."""
    return _build_id(root, f"{_MODULES}/{module}/{_NOTE}")


def kvm_build_id(root: Root) -> str | None:
    """The build-id of the running KVM, module or built in; None for a module that does not tell its own.

    The kernel's build-id counts only if KVM is a part of it: it says nothing about a module.
    """
    return kernel_build_id(root) if kvm_built_in(root) else module_build_id(root, "kvm")


def loads(root: Root) -> Mapping[str, str]:
    """The loads of KVM's modules and of livepatches, by name: each has an identity that no other load has.

    It is the number of a directory in sysfs, and the build-id of the code ("?" if it has none). Such a number is given
    once (kernfs_new_node(), idr_alloc_cyclic), and is the same in all mounts of sysfs. So a module that was
    loaded anew has another number, even with the same name and build-id. (Only root could tell it by the addresses of
    its sections.)
    """
    modules = {name: _load(root, f"{_MODULES}/{name}", module_build_id(root, name)) for name in _modules(root)}
    patches = {
        f"livepatch {name}": _load(root, f"{_LIVEPATCHES}/{name}", module_build_id(root, name.replace("-", "_")))
        for name in root.names(_LIVEPATCHES)
    }
    return {**modules, **patches}


def parameters(root: Root) -> Mapping[str, str]:
    """All parameters of KVM's modules, as kvm.enable_pmu; "?" for one that can't be read."""
    values = {}
    for module in _modules(root):
        folder = f"{_MODULES}/{module}/parameters"
        for name in root.names(folder):
            text = root.text(f"{folder}/{name}")
            values[f"{module}.{name}"] = _HIDDEN if text is None else text
    return values


def livepatches(root: Root) -> tuple[str, ...]:
    """The livepatches that are loaded, sorted: one text each, with its name, whether it is enabled, and in transition.

    The texts are only compared, as wholes.
    """
    return tuple(
        sorted(
            f"{name} {root.text(f'{_LIVEPATCHES}/{name}/enabled')} {root.text(f'{_LIVEPATCHES}/{name}/transition')}"
            for name in root.names(_LIVEPATCHES)
        )
    )


def _modules(root: Root) -> list[str]:
    """KVM, and the modules that are built upon it: kvm_amd, kvm_intel, and others by that name."""
    return [name for name in root.names(_MODULES) if name == "kvm" or name.startswith("kvm_")]


def _load(root: Root, folder: str, build_id: str | None) -> str:
    try:
        number = str(root.at(folder).stat().st_ino)
    except OSError:
        number = _HIDDEN
    return f"{number} {build_id or _HIDDEN}"


def _build_id(root: Root, name: str) -> str | None:
    try:
        return build_id_of_notes(root.read(name))
    except OSError:
        return None
