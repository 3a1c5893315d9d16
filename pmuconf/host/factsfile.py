"""Host facts in a file, so that one who may not read kernel memory can use what root has found.

JSON. The kernel's part holds for as long as the host runs the same kernel, KVM with its parameters, and livepatches;
that of a VM for as long as its process lives: KVM's flag never changes under a VM that has vCPUs
(kvm_vm_ioctl_enable_cap()). Of a guest whose VM is made anew at a reset, it does not. Which QEMUs are installed is as
of when it was written.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields, replace
from enum import Enum
from pathlib import Path
from typing import Any, Final

from pmuconf.errors import PmuconfError
from pmuconf.facts import Copies, Evidence, GuardFinding, HostFacts, KernelPmu, LiveVm, Qemu, Verdict
from pmuconf.files import trusted
from pmuconf.host.kvm import nmi_watchdog, read_kvm
from pmuconf.host.root import Root
from pmuconf.host.survey import boot_id, kvm_build_id, livepatches

__all__ = ["FORMAT", "VERSION", "dump", "load"]

FORMAT: Final = "pmuconf-host-facts"
VERSION: Final = 1
_MAX: Final = 64 << 20


def dump(facts: HostFacts) -> str:
    """The facts as the text of such a file."""
    document = {"format": FORMAT, "version": VERSION, "facts": asdict(facts)}
    return json.dumps(document, indent=1, default=_plain) + "\n"


def load(path: Path, root: Root) -> HostFacts:
    """The facts in the file, as far as they still hold for the host below ``root``.

    What was in use when they were written may be no longer, so it is left out; VMs whose process is gone too. Of a QEMU
    that was installed since, nothing is known.

    :raises PmuconfError: it can't be read (facts-unreadable), others than root and we could have written it
        (facts-untrusted), it is no such file (facts-broken), or it is about another boot, KVM, set of livepatches or
        parameters of KVM (facts-stale).
    """
    text, written = _text(path)
    facts = _parsed(path, text)
    now = {"boot": boot_id(root), "KVM": kvm_build_id(root), "set of livepatches": livepatches(root)}
    then = {"boot": facts.boot_id, "KVM": facts.kvm_build_id, "set of livepatches": facts.livepatches}
    for what, value in now.items():
        if value is None or then[what] != value:
            raise _stale(path, what)
    # They are given when KVM is loaded: by the build-id alone, one that was loaded anew is the same.
    settings = read_kvm(root)
    if (settings.enable_pmu, settings.mediated_pmu) != (facts.enable_pmu, facts.mediated_pmu):
        raise _stale(path, "setting of KVM's parameters")
    alive = (vm for vm in facts.vms if vm.pid is not None and _started(root, vm.pid) == vm.started is not None)
    qemus = tuple(_as_installed(root, qemu, written) for qemu in facts.qemus)
    return replace(facts, nmi_watchdog=nmi_watchdog(root), vms=tuple(map(_lasting, alive)), qemus=qemus)


def _as_installed(root: Root, qemu: Qemu, written: int) -> Qemu:
    """What was said of a QEMU, unless its file was put there since: by its change, for packages bring other times."""
    try:
        replaced = root.at(qemu.path).stat().st_ctime_ns > written
    except OSError:  # of a container
        replaced = False
    return replace(qemu, disables=None, cause="replaced", evidence=Evidence.NONE) if replaced else qemu


def _lasting(vm: LiveVm) -> LiveVm:
    """What was said of a VM, without what may be otherwise by now."""
    vm = replace(vm, in_use=None)
    return replace(vm, kernel_pmu=KernelPmu.UNKNOWN, cause="vm-remade") if vm.remade else vm


def _stale(path: Path, what: str) -> PmuconfError:
    return PmuconfError(
        f"{path} is about another {what} than this host has now",
        cause="facts-stale",
        hint="Write it anew, as root: pmuconf host facts --output FILE",
    )


def _text(path: Path) -> tuple[str, int]:
    """What the file says, and when it was written, in nanoseconds."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise PmuconfError(f"{path} is not a regular file", cause="facts-unreadable")
            if not trusted(descriptor):
                raise PmuconfError(
                    f"{path} could have been written by others than root",
                    cause="facts-untrusted",
                    hint="It must belong to root, and nobody else may write it",
                )
            data = file.read(_MAX + 1)
    except OSError as error:
        raise PmuconfError(
            f"{path}: {error.strerror}",
            cause="facts-unreadable",
            hint="As root: pmuconf host facts --output FILE",
        ) from None
    if len(data) > _MAX:
        raise PmuconfError(f"{path} is larger than any such file", cause="facts-broken")
    return data.decode("utf-8", "replace"), status.st_mtime_ns


def _parsed(path: Path, text: str) -> HostFacts:
    try:
        document = json.loads(text)
        if not isinstance(document, dict) or document.get("format") != FORMAT:
            raise ValueError(f"it is no {FORMAT} file")
        if document.get("version") != VERSION:
            raise ValueError(f"its version is {document.get('version')!r}, and {VERSION} is read")
        facts = _decoded(HostFacts, document.get("facts"))
    except (ValueError, RecursionError) as error:
        raise PmuconfError(
            f"{path}: {error}", cause="facts-broken", hint="As root: pmuconf host facts --output FILE"
        ) from None
    assert isinstance(facts, HostFacts)
    return facts


def _started(root: Root, pid: int) -> int | None:
    """When a process was started, in clock ticks after boot; None if there is none (proc(5), /proc/PID/stat)."""
    words = (root.text(f"/proc/{pid}/stat") or "").rpartition(")")[2].split()
    return int(words[19]) if len(words) > 19 and words[19].isdecimal() else None


def _plain(value: object) -> object:
    if isinstance(value, Enum):
        return value.value
    raise TypeError(type(value).__name__)


def _decoded(kind: type, value: object) -> Any:
    """A dataclass of facts from what asdict() made of it; its annotations say how."""
    if not isinstance(value, dict):
        raise ValueError(f"{kind.__name__} is no object")
    known = {field.name: field.type for field in fields(kind)}
    if unknown := set(value) - set(known):
        raise ValueError(f"{kind.__name__} has an unknown {min(unknown)!r}")
    decoded = {}
    for name, given in value.items():
        try:
            decoded[name] = _DECODERS[str(known[name])](given)
        except (ValueError, TypeError) as error:
            raise ValueError(f"{kind.__name__}.{name}: {error}") from None
    try:
        return kind(**decoded)
    except TypeError as error:  # one that has no default is missing
        raise ValueError(str(error)) from None


def _scalar(kind: type) -> Callable[[object], Any]:
    def decode(value: object) -> object:
        if type(value) is not kind:
            raise ValueError(f"{value!r} is no {kind.__name__}")
        return value

    return decode


def _optional(inner: Callable[[object], Any]) -> Callable[[object], Any]:
    return lambda value: None if value is None else inner(value)


def _many(inner: Callable[[object], Any]) -> Callable[[object], Any]:
    def decode(value: object) -> tuple[Any, ...]:
        if not isinstance(value, list):
            raise ValueError("it is no list")
        return tuple(map(inner, value))

    return decode


def _of(kind: type) -> Callable[[object], Any]:
    return lambda value: _decoded(kind, value)


def _mapping(value: object) -> Mapping[str, str]:
    if not isinstance(value, dict) or not all(isinstance(one, str) for one in value.values()):
        raise ValueError("it is no object of texts")
    return value


_TEXT, _NUMBER, _TRUTH = _scalar(str), _scalar(int), _scalar(bool)
_DECODERS: Final[dict[str, Callable[[Any], Any]]] = {
    "str": _TEXT,
    "str | None": _optional(_TEXT),
    "int | None": _optional(_NUMBER),
    "bool": _TRUTH,
    "bool | None": _optional(_TRUTH),
    "tuple[str, ...]": _many(_TEXT),
    "Mapping[str, str]": _mapping,
    "Copies": _of(Copies),
    "Evidence": Evidence,
    "GuardFinding": _of(GuardFinding),
    "KernelPmu": KernelPmu,
    "Verdict": Verdict,
    "Qemu | None": _optional(_of(Qemu)),
    "tuple[Qemu, ...]": _many(_of(Qemu)),
    "tuple[LiveVm, ...]": _many(_of(LiveVm)),
}
