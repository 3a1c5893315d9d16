"""What 'pmuconf host --prove-qemu' has seen on this host, kept by build-id: the same binary does the same again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from pmuconf.errors import PmuconfError
from pmuconf.facts import Evidence, Qemu
from pmuconf.files import replace_file, trusted
from pmuconf.host.root import Root

__all__ = ["FILE", "keep", "proofs", "with_proof"]

FILE: Final = "/var/lib/pmuconf/qemu-proofs.json"
_MAX: Final = 1 << 20


def proofs(root: Root) -> Mapping[str, bool]:
    """Whether each QEMU that was proved, by its build-id, disables the PMU in KVM.

    Nothing from a file that others than root and we could have written, or that is no such file.
    """
    try:
        with root.open(FILE) as file:
            if not trusted(file.fileno()):
                return {}
            document = json.loads(file.read(_MAX))
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(document, dict):
        return {}
    return {build_id: does for build_id, does in document.items() if isinstance(does, bool)}


def keep(root: Root, qemu: Qemu) -> None:
    """Remember what was proved of a QEMU.

    :raises PmuconfError: it can't be written; cause output-unwritable.
    """
    if qemu.build_id is None or qemu.disables is None:
        return
    path = root.at(FILE)
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    except OSError as error:
        raise PmuconfError(f"{path.parent}: {error.strerror}", cause="output-unwritable") from None
    replace_file(
        path, json.dumps({**proofs(root), qemu.build_id: qemu.disables}, indent=1, sort_keys=True) + "\n", ours=True
    )


def with_proof(qemu: Qemu, known: Mapping[str, bool]) -> Qemu:
    """The same QEMU with what was proved of its build-id, which outranks what its binary looks like."""
    if qemu.build_id is None or qemu.build_id not in known:
        return qemu
    return replace(qemu, disables=known[qemu.build_id], cause="proved", evidence=Evidence.INFERRED)
