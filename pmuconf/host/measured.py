"""The saving of the guard that was measured on this host, kept for the report as long as nothing of the host changes.

A measurement belongs to one kernel, one KVM, one CPU with its microcode, and the mitigations that were in force. If any
of these is another now, or can't be read, the measurement is stale and is not used.
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
from pmuconf.host.identity import kernel_build_id, kvm_build_id
from pmuconf.host.kept import kept
from pmuconf.host.root import Root
from pmuconf.typed import JsonObject, TypedError

__all__ = ["STATE", "HostKey", "Saving", "host_key", "measured_cycles", "measured_saving", "read_key", "store"]

STATE: Final = "/var/lib/pmuconf/bench.json"
"""The file with the measured saving."""

_FORMAT: Final = "pmuconf-bench-saving"
_VERSION: Final = 1


@dataclass(frozen=True)
class HostKey:
    """The part of a host that a measurement belongs to.

    :param kernel: the build-id of the kernel.
    :param kvm: the build-id of the KVM module, or of the kernel again if KVM is built in.
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
        """Whether all of it is known: two hosts with something unknown are not the same."""
        return None not in (self.kernel, self.kvm, self.microcode) and bool(self.cpu)


@dataclass(frozen=True)
class Saving:
    """The saving of the guard per exit on this host, with the PMU off, in TSC cycles.

    :param lower: the lower end of the interval about ``cycles``; ``upper`` is the other.
    :param quantity: the way it was measured: pmu-on-against-off or kernel-before-against-after.
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
        kernel=kernel_build_id(root),
        kvm=kvm_build_id(root),
        cpu=cpu.name,
        microcode=microcode.group(1) if microcode else None,
        mitigations=cpu.mitigations,
    )


def store(saving: Saving, key: HostKey, path: Path = Path(STATE)) -> None:
    """Keep the saving, in the place of an older one.

    :raises PmuconfError: something of the host is unknown (host-unknown), or the file can't be written
        (output-unwritable).
    """
    if not key.known:
        raise PmuconfError(
            "the measurement can't be kept: this host shows no build-ids or no microcode revision, so pmuconf could "
            "not see when it is stale",
            cause="host-unknown",
        )
    document = {"format": _FORMAT, "version": _VERSION, "host": asdict(key), "saving": asdict(saving)}
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    except OSError as error:
        raise PmuconfError(f"{path.parent}: {error.strerror}", cause="output-unwritable") from None
    replace_file(path, json.dumps(document, indent=1) + "\n", ours=True)


def measured_saving(root: Root) -> Saving | None:
    """The saving that was measured on the host below ``root``; None if it is absent, stale or not trusted."""
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
    """The key in a file.

    :raises TypedError: this is no such key.
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
    """The measured saving as a whole number of cycles per exit, for HostFacts.cycles; never less than 0."""
    saving = measured_saving(root)
    return None if saving is None else max(0, round(saving.cycles))
