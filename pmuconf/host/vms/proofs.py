"""The proofs of 'pmuconf qemu prove' on this host, kept by a QEMU's contents: the same binary does the same again.

A proof belongs to the SHA-256 of the whole file. Anybody can write a build-id into a file, so proofs that 0.1.0 kept by
build-id are not used.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from pmuconf.errors import PmuconfError
from pmuconf.files.replacing import replace_file
from pmuconf.host.kept import kept
from pmuconf.host.root import Root
from pmuconf.hostfacts import Evidence, Qemu

__all__ = ["FILE", "keep", "proofs", "with_proof"]

FILE: Final = "/var/lib/pmuconf/qemu-proofs.json"
_KEY: Final = re.compile("sha256:[0-9a-f]{64}")


def proofs(root: Root) -> Mapping[str, bool]:
    """The proofs: by "sha256:" and the SHA-256 of a QEMU, whether it disables the PMU in KVM.

    Empty if there is no such file, or if another user than root and this one could have written it.
    """
    known = kept(root, FILE)
    if known is None:
        return {}
    return {key: known.get_bool(key) for key in sorted(known.keys()) if _KEY.fullmatch(key) and known.is_bool(key)}


def keep(root: Root, qemu: Qemu) -> None:
    """Keep the proof of a QEMU, if it is one.

    :raises PmuconfError: it can't be written; cause output-unwritable.
    """
    if qemu.sha256 is None or qemu.disables is None:
        return
    path = root.at(FILE)
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    except OSError as error:
        raise PmuconfError(f"{path.parent}: {error.strerror}", cause="output-unwritable") from None
    known = {**proofs(root), _key(qemu): qemu.disables}
    replace_file(path, json.dumps(known, indent=1, sort_keys=True) + "\n", ours=True)


def with_proof(qemu: Qemu, known: Mapping[str, bool]) -> Qemu:
    """The same QEMU with the proof of its contents, which outranks what its binary shows."""
    if qemu.sha256 is None or _key(qemu) not in known:
        return qemu
    return replace(qemu, disables=known[_key(qemu)], cause="proved", evidence=Evidence.INFERRED)


def _key(qemu: Qemu) -> str:
    return f"sha256:{qemu.sha256}"
