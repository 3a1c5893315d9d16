"""What 'pmuconf qemu prove' has seen on this host, kept by contents: the same binary does the same again.

By the SHA-256 of the whole file. A build-id is a note that anybody can write into a file of his own, so what was kept
by build-id, as 0.1.0 did, answers for no file.
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
    """Whether each QEMU that was proved, by "sha256:" and its contents', disables the PMU in KVM.

    Nothing from a file that others than root and we could have written, or that is no such file.
    """
    known = kept(root, FILE)
    if known is None:
        return {}
    return {key: known.get_bool(key) for key in sorted(known.keys()) if _KEY.fullmatch(key) and known.is_bool(key)}


def keep(root: Root, qemu: Qemu) -> None:
    """Remember what was proved of a QEMU.

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
    """The same QEMU with what was proved of its contents, which outranks what its binary looks like."""
    if qemu.sha256 is None or _key(qemu) not in known:
        return qemu
    return replace(qemu, disables=known[_key(qemu)], cause="proved", evidence=Evidence.INFERRED)


def _key(qemu: Qemu) -> str:
    return f"sha256:{qemu.sha256}"
