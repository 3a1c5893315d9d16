"""The livepatches that replace functions of KVM. /sys/kernel/livepatch lists the functions, and not their new code."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from pmuconf.errors import PmuconfError
from pmuconf.host.names import FUNCTION, KERNEL, KVM, bare, is_callee, is_vendor
from pmuconf.host.root import Root

__all__ = ["Livepatch", "livepatches_of_kvm", "replacement"]

_BASE: Final = "/sys/kernel/livepatch"


@dataclass(frozen=True)
class Livepatch:
    """A livepatch that is loaded.

    :param moving: some tasks run the old code, others the new; also if that is not known.
    :param functions: the functions that it replaces, by the names of their symbols.
    """

    name: str
    moving: bool
    functions: frozenset[str]


def livepatches_of_kvm(root: Root, *, built_in: bool) -> tuple[Livepatch, ...]:
    """All livepatches that replace functions of KVM or of its vendor modules.

    :param built_in: KVM is part of the kernel: functions that are replaced in vmlinux may be KVM's.
    :raises PmuconfError: they can't be listed; cause livepatch-unreadable.
    """
    patches = []
    for name in _listed(root, _BASE):
        moves = root.text(f"{_BASE}/{name}/transition")
        if root.text(f"{_BASE}/{name}/enabled") == "0" and moves != "1":
            continue
        functions = frozenset(_functions_of_kvm(root, f"{_BASE}/{name}", built_in=built_in))
        if functions:
            patches.append(Livepatch(name, moves != "0", functions))
    return tuple(patches)


def replacement(patches: tuple[Livepatch, ...]) -> str | None:
    """The name of the livepatch that replaces the function which is judged; None if none does.

    :raises PmuconfError: that livepatch is in transition, or replaces a function that counts or only a part of the
        function; or several replace the function. Cause livepatch-transition, livepatch-callee or livepatch-several.
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


def _functions_of_kvm(root: Root, folder: str, *, built_in: bool) -> Iterator[str]:
    """The functions of KVM that one livepatch replaces.

    A livepatch has a folder for each module that it patches, and there an entry FUNCTION,SYMPOS for each function. In
    modules that are not KVM's, only the functions count that can be no other module's.
    """
    for module in _listed(root, folder):
        is_kvms = module == KVM or is_vendor(module) or (built_in and module == KERNEL)
        for entry in _listed(root, f"{folder}/{module}"):
            function = entry.partition(",")[0]
            if is_kvms or _decides(function):
                yield function


def _decides(function: str) -> bool:
    """Whether the name is that of the function, of one that counts, or of a clone of either."""
    return bare(function) == FUNCTION or is_callee([function])


def _listed(root: Root, folder: str) -> list[str]:
    """The names in a folder; none if there is no such folder."""
    try:
        return sorted(os.listdir(root.at(folder)))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise PmuconfError(f"{folder} can't be listed: {error.strerror}", cause="livepatch-unreadable") from None
