"""The livepatches that replace functions of KVM, as /sys/kernel/livepatch lists them: which, and not by what."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Final

from pmuconf.errors import PmuconfError
from pmuconf.host.names import FUNCTION, KERNEL, KVM, bare, is_callee, is_vendor
from pmuconf.host.root import Root

__all__ = ["Livepatch", "livepatches_of_kvm", "replacement"]

_BASE: Final = "/sys/kernel/livepatch"


@dataclass(frozen=True)
class Livepatch:
    """One that is in, or on its way, and the functions that it replaces, as their symbols are called.

    :param moving: some tasks run the old code, others the new; or it can't be said.
    """

    name: str
    moving: bool
    functions: frozenset[str]


def livepatches_of_kvm(root: Root, *, built_in: bool) -> tuple[Livepatch, ...]:
    """All that replace functions of KVM or of its vendor modules.

    :param built_in: KVM is part of the kernel: what is replaced in vmlinux may be KVM's.
    :raises PmuconfError: they can't be listed; cause livepatch-unreadable.
    """
    found = []
    for name in _listed(root, _BASE):
        moves = root.text(f"{_BASE}/{name}/transition")
        if root.text(f"{_BASE}/{name}/enabled") == "0" and moves != "1":
            continue
        functions: set[str] = set()
        for part in _listed(root, f"{_BASE}/{name}"):
            kvms = part == KVM or is_vendor(part) or (built_in and part == KERNEL)
            replaced = map(_function, _listed(root, f"{_BASE}/{name}/{part}"))
            # Elsewhere only what can't be anybody else's.
            functions.update(function for function in replaced if kvms or _decides(function))
        if functions:
            found.append(Livepatch(name, moves != "0", frozenset(functions)))
    return tuple(found)


def replacement(patches: tuple[Livepatch, ...]) -> str | None:
    """The name of the livepatch that replaces the function which is judged; None if none does.

    :raises PmuconfError: one is in transition, replaces what counts or a part of the function, or several replace it;
        cause livepatch-transition, livepatch-callee or livepatch-several.
    """
    deciding = [patch for patch in patches if any(map(_decides, patch.functions))]
    for patch in deciding:
        if patch.moving:
            raise PmuconfError(
                f"livepatch {patch.name} is in transition: some tasks still run the old code",
                cause="livepatch-transition",
                hint=f"Wait until {_BASE}/{patch.name}/transition is 0",
            )
        if is_callee(patch.functions):
            raise PmuconfError(f"livepatch {patch.name} replaces KVM's PMU code itself", cause="livepatch-callee")
        if FUNCTION not in patch.functions:
            raise PmuconfError(f"livepatch {patch.name} replaces a part of {FUNCTION}", cause="livepatch-callee")
    if len(deciding) > 1:
        names = ", ".join(patch.name for patch in deciding)
        raise PmuconfError(f"several livepatches replace {FUNCTION}: {names}", cause="livepatch-several")
    return deciding[0].name if deciding else None


def _function(entry: str) -> str:
    """The function of an entry, which is called FUNCTION,SYMPOS."""
    return entry.partition(",")[0]


def _decides(function: str) -> bool:
    return bare(function) == FUNCTION or is_callee([function])


def _listed(root: Root, folder: str) -> list[str]:
    try:
        return sorted(os.listdir(root.at(folder)))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise PmuconfError(f"{folder} can't be listed: {error.strerror}", cause="livepatch-unreadable") from None
