"""Host facts in a file, so that one who may not read kernel memory can use what root has found.

JSON. The kernel's part holds for as long as the host runs the same load of KVM with its parameters, and the same
livepatches; that of a VM for as long as its process runs the same program: KVM's flag never changes under a VM that has
vCPUs (kvm_vm_ioctl_enable_cap()). Of a guest whose VM is made anew at a reset, it does not. What was said of the QEMUs
that libvirt would start holds while it would start these very files (installed_now()).

Light: the Nova plugin reads the file by this, and nothing that probes a host may load inside nova-compute.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from dataclasses import asdict, fields, replace
from enum import Enum
from pathlib import Path
from typing import Any, Final

from pmuconf.errors import PmuconfError
from pmuconf.files.inputs import read_descriptor
from pmuconf.files.place import open_placed
from pmuconf.files.replacing import trusted
from pmuconf.host.identity import boot_id, kvm_build_id, livepatches, loads, parameters
from pmuconf.host.kvm import nmi_watchdog, read_kvm
from pmuconf.host.root import Root
from pmuconf.host.vms.process import same_program
from pmuconf.host.vms.replaced import installed_now, same_file, unknown
from pmuconf.hostfacts import (
    CONTRADICTORY,
    Copies,
    Evidence,
    FileId,
    GuardFinding,
    HostFacts,
    KernelPmu,
    LiveVm,
    Qemu,
    QemuPlace,
    Search,
    Verdict,
)
from pmuconf.typed import JsonObject, TypedError, parse_object

__all__ = ["FORMAT", "VERSION", "dump", "load"]

FORMAT: Final = "pmuconf-host-facts"
VERSION: Final = 2
_MAX: Final = 16 << 20
_HINT: Final = "Write it anew, as root: pmuconf host facts --output FILE"


def dump(facts: HostFacts) -> str:
    """The facts as the text of such a file."""
    document = {"format": FORMAT, "version": VERSION, "facts": asdict(facts)}
    return json.dumps(document, indent=1, default=_plain) + "\n"


def load(path: Path, root: Root, *, own: bool = True) -> HostFacts:
    """The facts in the file, as far as they still hold for the host below ``root``.

    What was in use when they were written may be no longer, so it is left out; VMs whose process is gone, or runs
    another program, too. Of a QEMU that may be another file by now, nothing is known.

    :param own: take the word of a file that belongs to us as well, not only of root's.
    :raises PmuconfError: it can't be read (facts-unreadable), others than root and we could have written it
        (facts-untrusted), it is no such file (facts-broken), or it is of an older version, or about another boot, KVM,
        set of livepatches or parameters of KVM (facts-stale).
    """
    facts = _parsed(path, _text(path, own))
    same: tuple[tuple[str, object, object], ...] = (
        ("boot", facts.boot_id, boot_id(root)),
        ("KVM", facts.kvm_build_id, kvm_build_id(root)),
        ("set of livepatches", tuple(sorted(facts.livepatches)), livepatches(root)),
        ("setting of KVM's parameters", facts.parameters, parameters(root)),
        ("load of KVM or a livepatch", facts.loads, loads(root)),
    )
    for what, then, now in same:
        if now is None or then != now:
            raise _stale(path, f"is about another {what} than this host has now")
    settings = read_kvm(root)
    if (settings.enable_pmu, settings.mediated_pmu) != (facts.enable_pmu, facts.mediated_pmu):
        raise _stale(path, "contradicts KVM's parameters")
    alive = (vm for vm in facts.vms if _lives(root, vm))
    return replace(
        facts,
        nmi_watchdog=nmi_watchdog(root),
        vms=tuple(_lasting(root, vm) for vm in alive),
        qemus=installed_now(facts, root),
    )


def _lives(root: Root, vm: LiveVm) -> bool:
    if vm.pid is None or vm.started is None:
        return False
    return same_program(root, vm.pid, vm.started, vm.exe, vm.threads)


def _lasting(root: Root, vm: LiveVm) -> LiveVm:
    """What was said of a VM, without what may be otherwise by now."""
    vm = replace(vm, in_use=None)
    if vm.next_qemu is not None and not same_file(root, vm.next_qemu, vm.pid or 0, vm.started or 0):
        vm = replace(vm, next_qemu=unknown(vm.next_qemu, "replaced"))
    if not vm.may_be_recreated or vm.cause in CONTRADICTORY:
        return vm
    # What was seen may be otherwise by now. Where it contradicts what would be concluded instead, nothing is known.
    odd = vm.tdx and vm.kernel_pmu is KernelPmu.ENABLED
    return replace(vm, kernel_pmu=KernelPmu.UNKNOWN, cause="kernel-memory-odd" if odd else "vm-remade")


def _stale(path: Path, what: str) -> PmuconfError:
    return PmuconfError(f"{path} {what}", cause="facts-stale", hint=_HINT)


def _text(path: Path, own: bool) -> str:
    """What the file says.

    The time of the file is not used: a copy can be given any.
    """
    try:
        descriptor = open_placed(path)
        try:
            if not trusted(descriptor) or (not own and os.fstat(descriptor).st_uid != 0):
                raise PmuconfError(
                    f"{path} could have been written by others than root",
                    cause="facts-untrusted",
                    hint="It must belong to root, and nobody else may write it",
                )
            data = read_descriptor(descriptor, _MAX, str(path))
        finally:
            os.close(descriptor)
    except OSError as error:
        cause = "facts-broken" if error.errno == errno.EFBIG else "facts-unreadable"
        raise PmuconfError(f"{path}: {error.strerror}", cause=cause, hint=_HINT) from None
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise PmuconfError(f"{path} is no UTF-8", cause="facts-broken", hint=_HINT) from None


def _parsed(path: Path, text: str) -> HostFacts:
    try:
        document = parse_object(text)
        if "format" not in document or document.get_str("format") != FORMAT:
            raise TypedError(f"it is no {FORMAT} file")
        version = document.get_int("version")
        if 0 < version < VERSION:
            raise _stale(path, f"is of an older pmuconf: its version is {version}, and {VERSION} is read")
        if version != VERSION:
            raise TypedError(f"its version is {version}, and {VERSION} is read")
        facts: HostFacts = _read(HostFacts, document.get_object("facts"))
    except TypedError as error:
        raise PmuconfError(f"{path}: {error}", cause="facts-broken", hint=_HINT) from None
    return facts


def _plain(value: object) -> object:
    if isinstance(value, Enum):
        return value.value
    raise TypeError(type(value).__name__)


def _read(kind: type[Any], record: JsonObject) -> Any:
    """A dataclass of facts from what asdict() made of it: each field is read as its annotation says."""
    known = {field.name: str(field.type) for field in fields(kind)}
    record.has_only(*known)
    return kind(**{name: _READERS[annotation](record, name) for name, annotation in known.items()})


def _one(kind: type[Any]) -> Callable[[JsonObject, str], Any]:
    return lambda record, name: _read(kind, record.get_object(name))


def _optional(kind: type[Any]) -> Callable[[JsonObject, str], Any]:
    def read(record: JsonObject, name: str) -> Any:
        inner = record.opt_object(name)
        return None if inner is None else _read(kind, inner)

    return read


def _many(kind: type[Any]) -> Callable[[JsonObject, str], Any]:
    return lambda record, name: tuple(_read(kind, inner) for inner in record.get_objects(name))


def _word(words: type[Enum]) -> Callable[[JsonObject, str], Any]:
    return lambda record, name: record.get_enum(name, words)


_READERS: Final[dict[str, Callable[[JsonObject, str], Any]]] = {
    "str": JsonObject.get_str,
    "str | None": JsonObject.opt_str,
    "int": JsonObject.get_int,
    "int | None": JsonObject.opt_int,
    "bool": JsonObject.get_bool,
    "bool | None": JsonObject.opt_bool,
    "tuple[str, ...]": JsonObject.get_strs,
    "Mapping[str, str]": JsonObject.get_str_map,
    **{words.__name__: _word(words) for words in (Evidence, KernelPmu, Verdict)},
    **{kind.__name__: _one(kind) for kind in (Copies, GuardFinding)},
    **{f"{kind.__name__} | None": _optional(kind) for kind in (FileId, Qemu)},
    **{f"tuple[{kind.__name__}, ...]": _many(kind) for kind in (LiveVm, Qemu, QemuPlace, Search)},
}
