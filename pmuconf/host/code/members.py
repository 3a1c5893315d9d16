"""Where the members are that the path check asks for: by BTF, otherwise by the debug information of a file.

Each function gives the offsets and where they are from; without any, None and why.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

from pmuconf.errors import PmuconfError
from pmuconf.files.inputs import open_regular, read_descriptor
from pmuconf.host.code.btf import BTF_START, MAX_BTF, Btf
from pmuconf.host.code.files import debug_files, load_file
from pmuconf.host.code.kernel import RunningKernel
from pmuconf.host.code.offsets import Offsets
from pmuconf.host.identity import kvm_build_id, kvm_built_in
from pmuconf.host.names import (
    COUNTING_OF_VCPU,
    FUNCTION,
    OF_KVM,
    PMU_OF_VCPU,
    VM_ENABLE_PMU,
    VM_OF_VCPU,
    VM_PROTECTED_PMU,
)
from pmuconf.host.root import Root

if TYPE_CHECKING:  # pyelftools takes a tenth of the time that a verdict takes, and live text does not need it
    from pmuconf.host.code.dwarf import Dwarf
    from pmuconf.host.code.elf import ObjectFile

__all__ = ["dwarf_offsets", "file_offsets", "host_offsets", "offsets_of"]


def offsets_of(types: Btf | Dwarf) -> Offsets:
    """The offsets by the types of KVM.

    :raises PmuconfError: there is no struct kvm or kvm_vcpu; cause no-offsets.
    """
    if not all(types.structs(name) for name in OF_KVM):
        kind = type(types).__name__.upper()
        raise PmuconfError(f"{kind} has no struct kvm_vcpu: it is not that of KVM", cause="no-offsets")
    kvm = types.find(*VM_OF_VCPU)
    if kvm is None:
        raise PmuconfError("struct kvm_vcpu has no member kvm", cause="no-offsets")
    enable = types.find(*VM_ENABLE_PMU)
    pmu = types.find(*PMU_OF_VCPU)
    counting = types.find(*COUNTING_OF_VCPU)
    if enable is not None and enable.size != 1:
        raise PmuconfError("enable_pmu is not one byte", cause="no-offsets")
    return Offsets(
        kvm=kvm.offset,
        enable_pmu=enable.offset if enable is not None else None,
        pmu=(pmu.offset, pmu.offset + pmu.size - 1) if pmu is not None and pmu.size else None,
        counting=counting.offset if counting is not None and counting.size == 8 else None,
        protected=types.find(*VM_PROTECTED_PMU) is not None,
    )


def host_offsets(kernel: RunningKernel, file: ObjectFile | None) -> tuple[Offsets | None, str]:
    """The offsets of a running kernel.

    :param file: the file that has the code, where it was not read in memory.
    """
    root, built_in = kernel.root, kvm_built_in(kernel.root)
    offsets, origin = _host_btf(kernel, file, built_in=built_in)
    if offsets is not None:
        return offsets, origin
    offsets, otherwise = dwarf_offsets(root, kvm_build_id(root), file)
    return (offsets, otherwise) if offsets is not None else (None, _both(origin, otherwise))


def file_offsets(file: ObjectFile, btf: Path | None) -> tuple[Offsets | None, str]:
    """The offsets of a file's code.

    :param btf: BTF of the vmlinux that the file belongs to, or that vmlinux.
    :raises PmuconfError: ``btf`` can't be read, or is not that of KVM.
    """
    offsets, origin = _file_btf(file, btf)
    if offsets is not None:
        return offsets, origin
    offsets, otherwise = dwarf_offsets(Root(), file.build_id, file)
    return (offsets, otherwise) if offsets is not None else (None, _both(origin, otherwise))


def dwarf_offsets(root: Root, build_id: str | None, file: ObjectFile | None) -> tuple[Offsets | None, str]:
    """The offsets by DWARF: of the file itself, otherwise of the debug file with its build-id."""
    from pmuconf.host.code.dwarf import Dwarf

    reasons = []
    if file is not None and file.section_size(".debug_info"):
        try:
            return offsets_of(Dwarf(file.stream, file.name, FUNCTION)), f"DWARF of {file.name}"
        except PmuconfError as error:
            reasons.append(error.message)
    for name in debug_files(root, build_id) if build_id else ():
        try:
            if not root.exists(name):
                continue
            with io.BufferedReader(root.open(name)) as stream:  # type: ignore[type-var]  # it is a raw file
                types = Dwarf(stream, name, FUNCTION)
                if types.build_id == build_id:
                    return offsets_of(types), f"DWARF of {name}"
        except OSError as error:
            reasons.append(f"{name}: {error.strerror}")
        except PmuconfError as error:
            reasons.append(error.message)
    return None, "; ".join(reasons)


def _both(*reasons: str) -> str:
    return "; ".join(filter(None, reasons))


def _host_btf(kernel: RunningKernel, file: ObjectFile | None, *, built_in: bool) -> tuple[Offsets | None, str]:
    """The offsets by the BTF that the kernel shows; the module's own may stand in its file only."""
    try:
        types, origin = kernel.types, "/sys/kernel/btf/vmlinux"
        if built_in:
            return offsets_of(types), origin
        if kernel.module_types is not None:
            return offsets_of(kernel.module_types), "/sys/kernel/btf/kvm"
        own = file.section(".BTF") if file is not None else None
        if file is not None and own is not None:
            types, origin = Btf(own, types), f"BTF of {file.name}"
        return offsets_of(types), origin
    except PmuconfError as error:
        return None, error.message


def _file_btf(file: ObjectFile, btf: Path | None) -> tuple[Offsets | None, str]:
    """The offsets by BTF that was given, and by the file's own, which continues that if the file is a module."""
    base = _given_btf(btf) if btf is not None else None
    own = file.section(".BTF")
    if own is None:
        return (None, "the file has no BTF: give --btf") if base is None else (offsets_of(base), f"BTF of {btf}")
    try:
        return offsets_of(Btf(own, base)), f"BTF of {file.name}"
    except PmuconfError as error:
        if base is not None:
            raise
        return None, f"{error.message}; a module's BTF needs that of its vmlinux: --btf"


def _given_btf(path: Path) -> Btf:
    """BTF, or that of a vmlinux.

    :raises PmuconfError: it can't be read, or has none; cause file-unreadable, no-offsets ...
    """
    try:
        with open(open_regular(path), "rb", buffering=0) as opened:
            start = opened.read(len(BTF_START))
            if start == BTF_START:
                return Btf(start + read_descriptor(opened.fileno(), MAX_BTF))
    except OSError as error:
        raise PmuconfError(f"{path}: {error.strerror}", cause="file-unreadable") from None
    section = load_file(path).section(".BTF")
    if section is None:
        raise PmuconfError(f"{path} has no BTF", cause="no-offsets")
    return Btf(section)
