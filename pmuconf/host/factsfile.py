"""Host facts in a file, so that readers without root can use what root has found.

The file is JSON. Its facts hold as long as nothing has changed that they depend on:

- The facts about the kernel hold while the host runs the same load of KVM with the same parameters, and the same
  livepatches.
- The facts about a VM hold while its process runs the same program: KVM's flag never changes under a VM that has vCPUs
  (kvm_vm_ioctl_enable_cap()). If a reset gives the guest another VM, they do not (may_be_recreated).
- The facts about the QEMUs that libvirt would start hold while it would start the same files (installed_now()).

This module is light: the Nova plugin reads the file with it, and nothing that probes a host may load in nova-compute.
"""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass, replace
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any, Final

from pmuconf.errors import PmuconfError
from pmuconf.files.inputs import read_descriptor
from pmuconf.files.place import open_placed
from pmuconf.files.replacing import trusted
from pmuconf.host.identity import read_identity
from pmuconf.host.kvm import nmi_watchdog, read_kvm
from pmuconf.host.root import Root
from pmuconf.host.vms.procdir import same_program
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
    Thread,
    Verdict,
)
from pmuconf.typed import JsonObject, TypedError, parse_object

__all__ = ["FORMAT", "VERSION", "dump", "load"]

FORMAT: Final = "pmuconf-host-facts"
VERSION: Final = 2
_MAX: Final = 16 << 20
_HINT: Final = "Write it anew, as root: pmuconf host facts --output FILE"
_THREAD: Final = re.compile(r"(\d{1,10}) (\d{1,20})")


def dump(facts: HostFacts) -> str:
    """The facts as the text of such a file."""
    document = {"format": FORMAT, "version": VERSION, "facts": _as_json(facts)}
    return json.dumps(document, indent=1) + "\n"


def load(path: Path, root: Root, *, own: bool = True) -> HostFacts:
    """The facts in the file, as far as they still hold for the host below ``root``.

    Left out are: what was in use when they were written; VMs whose process has ended or runs another program; and
    what was known of a QEMU that may be another file by now.

    :param own: trust a file that belongs to this user, too, and not only one of root's.
    :raises PmuconfError: it can't be read (facts-unreadable), others than root and this user could have written it
        (facts-untrusted), it is no such file (facts-broken), or it is of an older version, or about another boot, KVM,
        set of livepatches or parameters of KVM (facts-stale).
    """
    facts = _parsed(path, _text(path, own=own))
    _refuse_stale(path, facts, root)
    return replace(
        facts,
        nmi_watchdog=nmi_watchdog(root),
        vms=tuple(_still_known(root, vm) for vm in facts.vms if _lives(root, vm)),
        qemus=installed_now(facts, root),
    )


def _refuse_stale(path: Path, facts: HostFacts, root: Root) -> None:
    """Refuse facts about another kernel or KVM than this host has now.

    :raises PmuconfError: facts-stale.
    """
    host = read_identity(root)
    then_and_now: tuple[tuple[str, object, object], ...] = (
        ("boot", facts.boot_id, host.boot_id),
        ("KVM", facts.kvm_build_id, host.kvm_build_id),
        ("set of livepatches", tuple(sorted(facts.livepatches)), host.livepatches),
        ("setting of KVM's parameters", facts.parameters, host.parameters),
        ("load of KVM or a livepatch", facts.loads, host.loads),
    )
    for what, then, now in then_and_now:
        if now is None or then != now:
            raise _stale(path, f"is about another {what} than this host has now")
    settings = read_kvm(root)
    if (settings.enable_pmu, settings.mediated_pmu) != (facts.enable_pmu, facts.mediated_pmu):
        raise _stale(path, "contradicts KVM's parameters")


def _lives(root: Root, vm: LiveVm) -> bool:
    """Whether the VM's process still runs the same program."""
    if vm.pid is None or vm.started is None:
        return False
    return same_program(root, vm.pid, vm.started, vm.exe, vm.threads)


def _still_known(root: Root, vm: LiveVm) -> LiveVm:
    """The VM, without what may be otherwise by now."""
    vm = replace(vm, in_use=None)
    if vm.next_qemu is not None and not same_file(root, vm.next_qemu, vm.pid or 0, vm.started or 0):
        vm = replace(vm, next_qemu=unknown(vm.next_qemu, "replaced"))
    if not vm.may_be_recreated or vm.cause in CONTRADICTORY:
        return vm
    # The VM that was seen may be gone. An enabled PMU of a TDX guest contradicts what would be concluded instead, so
    # nothing is concluded.
    contradicts = vm.tdx and vm.kernel_pmu is KernelPmu.ENABLED
    return replace(vm, kernel_pmu=KernelPmu.UNKNOWN, cause="kernel-memory-odd" if contradicts else "vm-remade")


def _stale(path: Path, what: str) -> PmuconfError:
    return PmuconfError(f"{path} {what}", cause="facts-stale", hint=_HINT)


def _text(path: Path, *, own: bool) -> bytes:
    """The contents of the file, if it can be trusted. Its time is not used: a copy can be given any.

    :raises PmuconfError: facts-unreadable, facts-untrusted; facts-broken if it is too large.
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
            return read_descriptor(descriptor, _MAX, str(path))
        finally:
            os.close(descriptor)
    except OSError as error:
        cause = "facts-broken" if error.errno == errno.EFBIG else "facts-unreadable"
        raise PmuconfError(f"{path}: {error.strerror}", cause=cause, hint=_HINT) from None


def _parsed(path: Path, text: bytes) -> HostFacts:
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


def _as_json(value: Any) -> Any:
    """A value of the facts as JSON has it: a dataclass is an object, a thread the text "ID START"."""
    if isinstance(value, Thread):
        return f"{value.number} {value.started}"
    if is_dataclass(value):
        return {field.name: _as_json(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, tuple):
        return [_as_json(item) for item in value]
    return value


def _read(kind: type[Any], record: JsonObject) -> Any:
    """A dataclass of facts from what _as_json() made of it: each field is read as its annotation says."""
    annotations = {field.name: str(field.type) for field in fields(kind)}
    record.has_only(*annotations)
    return kind(**{name: _READERS[annotation](record, name) for name, annotation in annotations.items()})


def _one(kind: type[Any], record: JsonObject, name: str) -> Any:
    """One dataclass."""
    return _read(kind, record.get_object(name))


def _optional(kind: type[Any], record: JsonObject, name: str) -> Any:
    """A dataclass or None."""
    inner = record.opt_object(name)
    return None if inner is None else _read(kind, inner)


def _several(kind: type[Any], record: JsonObject, name: str) -> Any:
    """A list of dataclasses."""
    return tuple(_read(kind, inner) for inner in record.get_objects(name))


def _word(words: type[Enum], record: JsonObject, name: str) -> Any:
    """A member of an enumeration."""
    return record.get_enum(name, words)


def _threads(record: JsonObject, name: str) -> tuple[Thread, ...]:
    matches = [_THREAD.fullmatch(text) for text in record.get_strs(name)]
    if None in matches:
        raise TypedError(f'{record.path}.{name}: a thread must be the text "ID START"')
    return tuple(Thread(int(match[1]), int(match[2])) for match in matches if match is not None)


_READERS: Final[dict[str, Callable[[JsonObject, str], Any]]] = {
    "str": JsonObject.get_str,
    "str | None": JsonObject.opt_str,
    "int": JsonObject.get_int,
    "int | None": JsonObject.opt_int,
    "bool": JsonObject.get_bool,
    "bool | None": JsonObject.opt_bool,
    "tuple[str, ...]": JsonObject.get_strs,
    "tuple[Thread, ...]": _threads,
    "Mapping[str, str]": JsonObject.get_str_map,
    **{words.__name__: partial(_word, words) for words in (Evidence, KernelPmu, Verdict)},
    **{kind.__name__: partial(_one, kind) for kind in (Copies, GuardFinding)},
    **{f"{kind.__name__} | None": partial(_optional, kind) for kind in (FileId, Qemu)},
    **{f"tuple[{kind.__name__}, ...]": partial(_several, kind) for kind in (LiveVm, Qemu, QemuPlace, Search)},
}
"""The reader of each annotation that a field of the facts has."""
