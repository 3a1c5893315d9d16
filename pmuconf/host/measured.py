"""What the guard was measured to save on this host, kept for the report: for as long as nothing of it changes.

A measurement belongs to one kernel, one KVM, one CPU with its microcode, and the mitigations that were in force; where
any of these is another now, or can't be told, it is stale and nobody gets it.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from pmuconf.errors import PmuconfError
from pmuconf.files.replacing import replace_file
from pmuconf.host.cpu import read_cpu
from pmuconf.host.identity import kvm_build_id, running_build_id
from pmuconf.host.kept import kept
from pmuconf.host.root import Root
from pmuconf.typed import JsonObject, TypedError

__all__ = ["STATE", "HostKey", "Saving", "host_key", "measured_cycles", "measured_saving", "read_key", "store"]

STATE: Final = "/var/lib/pmuconf/bench.json"
"""Where the measured saving is kept."""

_FORMAT: Final = "pmuconf-bench-saving"
_VERSION: Final = 1


@dataclass(frozen=True)
class HostKey:
    """What a measurement belongs to.

    :param kernel: the build-id of the kernel.
    :param kvm: that of the KVM module, or of the kernel again where KVM is built in.
    :param microcode: its revision, as /proc/cpuinfo has it.
    :param mitigations: the kernel's sentences by vulnerability.
    """

    kernel: str | None
    kvm: str | None
    cpu: str
    microcode: str | None
    mitigations: tuple[tuple[str, str], ...]

    @property
    def known(self) -> bool:
        """Whether it tells this host from any other: two unknowns are not the same."""
        return None not in (self.kernel, self.kvm, self.microcode) and bool(self.cpu)


@dataclass(frozen=True)
class Saving:
    """What the guard saves per exit here, with the PMU off, in TSC cycles.

    :param lower: of the interval, as ``upper``; both are about ``cycles``.
    :param quantity: how it was measured: pmu-on-against-off or kernel-before-against-after.
    :param exit: the kind of exit.
    """

    cycles: float
    lower: float
    upper: float
    confidence: float
    quantity: str
    exit: str


def host_key(root: Root) -> HostKey:
    """The key of the host below ``root`` as it is now."""
    cpu = read_cpu(root)
    microcode = re.search(r"^microcode\s*: (\S+)$", root.text("/proc/cpuinfo") or "", re.MULTILINE)
    return HostKey(
        kernel=running_build_id(root, built_in=True),
        kvm=kvm_build_id(root),
        cpu=cpu.name,
        microcode=microcode.group(1) if microcode else None,
        mitigations=cpu.mitigations,
    )


def store(saving: Saving, key: HostKey, path: Path = Path(STATE)) -> None:
    """Keep the saving, in the place of an older one.

    :raises PmuconfError: the host can't be told from others (host-unknown), or the file can't be written
        (output-unwritable).
    """
    if not key.known:
        raise PmuconfError(
            "the measurement can't be kept: this host shows no build-ids or no microcode revision, so nobody could "
            "tell when it is stale",
            cause="host-unknown",
        )
    document = {"format": _FORMAT, "version": _VERSION, "host": asdict(key), "saving": asdict(saving)}
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    except OSError as error:
        raise PmuconfError(f"{path.parent}: {error.strerror}", cause="output-unwritable") from None
    replace_file(path, json.dumps(document, indent=1) + "\n", ours=True)


def measured_saving(root: Root) -> Saving | None:
    """The saving that was measured on the host below ``root``; None if there is none, or it is stale or not trusted."""
    document = kept(root, STATE)
    key = host_key(root)
    if document is None or not key.known:
        return None
    try:
        if (document.get_str("format"), document.get_int("version")) != (_FORMAT, _VERSION):
            return None
        return _saving(document.get_object("saving")) if read_key(document.get_object("host")) == key else None
    except TypedError:
        return None


def read_key(host: JsonObject) -> HostKey:
    """The key that a file has.

    :raises TypedError: it is none.
    """
    return HostKey(
        kernel=host.opt_str("kernel"),
        kvm=host.opt_str("kvm"),
        cpu=host.get_str("cpu"),
        microcode=host.opt_str("microcode"),
        mitigations=host.get_pairs("mitigations"),
    )


def _saving(saving: JsonObject) -> Saving:
    return Saving(
        cycles=saving.get_float("cycles"),
        lower=saving.get_float("lower"),
        upper=saving.get_float("upper"),
        confidence=saving.get_float("confidence"),
        quantity=saving.get_str("quantity"),
        exit=saving.get_str("exit"),
    )


def measured_cycles(root: Root) -> int | None:
    """The same as a whole number of cycles per exit, for HostFacts.cycles; never less than 0."""
    saving = measured_saving(root)
    return None if saving is None else max(0, round(saving.cycles))
