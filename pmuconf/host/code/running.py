"""Where the code is that this host runs as ``kvm_skip_emulated_instruction``.

In this order: a livepatch that replaces it, the live text, else the file that has the running code's build-id. Every
way that is not open leaves its reason. Files are told by build-id alone, never by their names or versions.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pmuconf.errors import PmuconfError
from pmuconf.host.code.btf import Btf
from pmuconf.host.code.image import Beside, Image
from pmuconf.host.code.kernel import RunningKernel
from pmuconf.host.code.live import LiveText
from pmuconf.host.code.offsets import Offsets
from pmuconf.host.code.unpack import Budget, unpacked
from pmuconf.host.identity import kvm_built_in, module_build_id, running_build_id
from pmuconf.host.livepatch import livepatches_of_kvm, replacement
from pmuconf.host.names import (
    COUNTING_OF_VCPU,
    FUNCTION,
    HOLDERS,
    KVM,
    PMU_OF_VCPU,
    VENDORS,
    VM_ENABLE_PMU,
    VM_OF_VCPU,
    VM_PROTECTED_PMU,
    is_vendor,
    vendors_among,
)
from pmuconf.host.root import Root

if TYPE_CHECKING:  # pyelftools takes a tenth of the time that a verdict takes, and live text does not need it
    from pmuconf.host.code.dwarf import Dwarf
    from pmuconf.host.code.elf import ObjectFile

__all__ = [
    "FUNCTION",
    "Code",
    "Found",
    "Source",
    "callers",
    "dwarf_offsets",
    "find_code",
    "in_file",
    "load_file",
    "offsets_of",
]

_MAX_FILES: Final = 32


@dataclass(frozen=True)
class Source:
    """Where code was read: what it is called, whether that is what runs, and its build-id."""

    name: str
    observed: bool
    build_id: str | None


@dataclass(frozen=True)
class Code:
    """One function to be judged: an image, where the function begins in it, and where the members are."""

    image: Image
    entry: int
    offsets: Offsets | None
    offsets_from: str
    source: Source
    watched: frozenset[str] = frozenset()
    """Functions whose ftrace hooks are known only to watch."""
    patched: Image | None = None
    """KVM's own text, where the image is that of a livepatch: it has the inlined copies."""
    patches: tuple[Image, ...] = ()
    """The text of every livepatch that replaces functions of KVM: it may have inlined copies of its own."""
    replaced: frozenset[str] = frozenset()
    """The functions that livepatches replace by what can't be read."""
    vendors: tuple[Image, ...] = ()
    """KVM's vendor modules that run: they may have calls and inlined copies of their own."""
    unread: tuple[str, ...] = ()
    """The vendor modules that run and of which no code was to be had."""


@dataclass(frozen=True)
class Found:
    """The code, or None; and every reason why a better source was not to be had, the last one the deciding."""

    code: Code | None
    reasons: tuple[PmuconfError, ...] = ()


def find_code(kernel: RunningKernel) -> Found:
    """The code that a kernel runs."""
    root = kernel.root
    machine = root.text("/proc/sys/kernel/arch")
    if machine is not None and machine != "x86_64":
        return Found(None, (PmuconfError(f"{machine}: only x86-64 is judged", cause="not-x86"),))
    built_in = kvm_built_in(root)
    if not root.exists("/sys/module/kvm"):
        return Found(
            None, (PmuconfError("KVM is not loaded", cause="kvm-not-loaded", hint="modprobe kvm_amd or kvm_intel"),)
        )
    try:
        patches = livepatches_of_kvm(root, built_in)
        patch = replacement(patches)
    except PmuconfError as error:
        return Found(None, (error.bare(),))
    reasons: list[PmuconfError] = []
    try:
        return Found(_live(kernel, built_in, patch, [one.name for one in patches]))
    except PmuconfError as error:
        reasons.append(error.bare())
    if patch is not None:
        reasons.append(
            PmuconfError(
                f"livepatch {patch} replaces {FUNCTION}, and only live text would show by what", cause="livepatched"
            )
        )
        return Found(None, tuple(reasons))
    try:
        code = _from_file(kernel, built_in)
        replaced = frozenset(function for one in patches for function in one.functions)
        return Found(replace(code, replaced=replaced), tuple(reasons))
    except PmuconfError as error:
        reasons.append(error.bare())
    return Found(None, tuple(reasons))


def load_file(path: Path, budget: Budget | None = None, beside: ObjectFile | None = None) -> ObjectFile:
    """An ELF file for x86-64, decompressed if it is compressed.

    :param budget: what files like this may take together.
    :param beside: a module that it calls: its addresses are other ones, and what it lacks is taken from there.
    :raises PmuconfError: cause file-unreadable, cannot-decompress, elf-broken or not-x86.
    """
    from pmuconf.host.code.elf import ObjectFile

    file = unpacked(path, budget)
    return ObjectFile(file, str(path)) if beside is None else ObjectFile(file, str(path), beside=beside)


def offsets_of(types: Btf | Dwarf) -> Offsets:
    """Where the members are that the path check asks for.

    :raises PmuconfError: there is no struct kvm or kvm_vcpu; cause no-offsets.
    """
    if not types.structs("kvm_vcpu") or not types.structs("kvm_arch"):
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


def _live(kernel: RunningKernel, built_in: bool, patch: str | None, patches: Iterable[str]) -> Code:
    root, kallsyms, memory = kernel.root, kernel.symbols, kernel.memory
    module = None if built_in else KVM
    wanted = patch.replace("-", "_") if patch is not None else module
    places = {address for address, where in kallsyms.find(FUNCTION) if where == wanted}
    if patch is not None and not places:
        # kpatch keeps the name; others put something before it (SUSE's klpp_).
        own = kallsyms.of_module(wanted)
        places = {address for address, name, code in own if code and name.endswith(f"_{FUNCTION}")}
    if len(places) != 1:
        where = f"livepatch {patch}" if patch is not None else "kvm" if module else "the kernel"
        raise PmuconfError(
            f"/proc/kallsyms has {len(places)} functions {FUNCTION} of {where}", cause="function-not-found"
        )
    (entry,) = places
    image = LiveText(kallsyms, memory, wanted)
    if not image.read(entry, 16).strip(b"\0"):
        raise PmuconfError(f"/proc/kcore holds no code at {FUNCTION}", cause="kcore-broken")
    offsets, origin = _host_offsets(kernel, built_in, None)
    patched = LiveText(kallsyms, memory, module) if patch is not None else None
    source = Source(
        f"livepatch {patch}, live text" if patch is not None else "live text (/proc/kcore)",
        observed=True,
        build_id=running_build_id(root, built_in),
    )
    texts = tuple(LiveText(kallsyms, memory, name.replace("-", "_"), patch=True) for name in patches)
    vendors, unread = _live_vendors(kernel, patched or image if built_in else None)
    return Code(
        image,
        entry,
        offsets,
        origin,
        source,
        watched=_watched(root),
        patched=patched,
        patches=texts,
        vendors=vendors,
        unread=unread,
    )


def _live_vendors(kernel: RunningKernel, inside: Image | None) -> tuple[tuple[Image, ...], tuple[str, ...]]:
    """The text of the vendor modules that run, and the names of those whose text can't be read.

    :param inside: KVM's part of the kernel, where it is built in: a vendor's may be in it.
    """
    root = kernel.root
    texts: list[Image] = []
    unread = []
    for name in callers(root):
        text = LiveText(kernel.symbols, kernel.memory, name)
        if any(True for _ in text.text()):
            texts.append(text)
        elif root.exists(f"/sys/module/{name}/initstate"):
            unread.append(name)
        elif inside is not None and root.exists(f"/sys/module/{name}"):
            has_code = name in vendors_among(inside.symbols) and any(True for _ in inside.text())
            unread += [] if has_code else [name]
    return tuple(texts), tuple(unread)


def _watched(root: Root) -> frozenset[str]:
    """The functions of which ftrace says that nothing it has hooked there changes where they go.

    A line of enabled_functions has the number of hooks and flags: R (saves registers) is harmless, I may change the
    instruction pointer, D calls a trampoline directly, M was modified.
    """
    listed = root.text("/sys/kernel/tracing/enabled_functions") or ""
    return frozenset(re.findall(r"^(\S+)(?: \[\w+\])? \(\d+\)[ R]*(?:\t.*)?$", listed, re.MULTILINE))


def callers(root: Root) -> list[str]:
    """The modules that may call functions of KVM: its vendor modules, and what depends on it."""
    names = {*VENDORS, *filter(is_vendor, root.names("/sys/module")), *root.names(HOLDERS)}
    return sorted(names)


def _from_file(kernel: RunningKernel, built_in: bool) -> Code:
    root = kernel.root
    wanted = running_build_id(root, built_in)
    if wanted is None:
        raise PmuconfError("the running KVM tells no build-id", cause="no-build-id")
    budget = Budget()
    name, file = _with_build_id(root, _kernels(root) if built_in else _modules(root, KVM), wanted, budget)
    offsets, origin = _host_offsets(kernel, built_in, file)
    code = in_file(file, offsets, origin, Source(name, observed=False, build_id=wanted))
    vendors: list[Image] = []
    unread = []
    for vendor in callers(root):
        if not root.exists(f"/sys/module/{vendor}/initstate"):
            inside = root.exists(f"/sys/module/{vendor}") and built_in
            unread += [vendor] if inside and vendor not in vendors_among(file.symbols) else []
            continue
        try:
            vendors.append(_vendor_file(root, vendor, file, budget))
        except PmuconfError:
            unread.append(vendor)
    return replace(code, vendors=tuple(vendors), unread=tuple(unread))


def _vendor_file(root: Root, vendor: str, kvm: ObjectFile, budget: Budget) -> Image:
    """The running vendor module, read from a file, beside the file of KVM that it calls.

    :raises PmuconfError: it has no build-id, or no file with that is to be had.
    """
    wanted = module_build_id(root, vendor)
    if wanted is None:
        raise PmuconfError(f"the running {vendor} tells no build-id", cause="no-build-id")
    _, file = _with_build_id(root, _modules(root, vendor), wanted, budget, kvm)
    return Beside(file, kvm)


def _with_build_id(
    root: Root, names: Iterable[str], wanted: str, budget: Budget, beside: ObjectFile | None = None
) -> tuple[str, ObjectFile]:
    """The first of the files that has this build-id, and its name.

    :raises PmuconfError: none has; with the cause of the last that can't be read, or no-file-with-build-id.
    """
    errors: list[PmuconfError] = []
    for name in names:
        try:
            file = load_file(root.at(name), budget, beside)
        except PmuconfError as error:
            errors.append(error.bare())
            continue
        if file.build_id == wanted:
            return name, file
    if errors:
        raise errors[-1]
    raise PmuconfError(f"no file with KVM's build-id {wanted} is to be found", cause="no-file-with-build-id")


def in_file(file: ObjectFile, offsets: Offsets | None, origin: str, source: Source) -> Code:
    """The function in a file.

    :raises PmuconfError: there is no such function, or there are several; cause function-not-found.
    """
    places = file.symbols.addresses(FUNCTION)
    if len(places) != 1 or not file.read(places[0], 1):
        hint = "" if list(file.symbols) else "It has no symbols: give the unstripped file"
        raise PmuconfError(f"{source.name} has no function {FUNCTION}", cause="function-not-found", hint=hint)
    return Code(file, places[0], offsets, origin, source)


def dwarf_offsets(root: Root, build_id: str | None, file: ObjectFile | None) -> tuple[Offsets | None, str]:
    """The offsets by DWARF: of the file itself, else of the debug file with its build-id; without any, None and why."""
    from pmuconf.host.code.dwarf import Dwarf

    reasons = []
    if file is not None and file.section_size(".debug_info"):
        try:
            return offsets_of(Dwarf(file.stream, file.name, FUNCTION)), f"DWARF of {file.name}"
        except PmuconfError as error:
            reasons.append(error.message)
    for name in _debug_files(root, build_id) if build_id else ():
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


def _debug_files(root: Root, build_id: str) -> list[str]:
    """Where distributions put the debug information of KVM and of the kernel: gdb's place first."""
    names = [f"/usr/lib/debug/.build-id/{build_id[:2]}/{build_id[2:]}.debug"]
    release = _release(root)
    if release:
        kvm = f"lib/modules/{release}/kernel/arch/x86/kvm/kvm.ko"
        names += [f"/usr/lib/debug/{kvm}", f"/usr/lib/debug/{kvm}.debug", f"/usr/lib/debug/usr/{kvm}.debug"]
        names += [f"/usr/lib/debug/lib/modules/{release}/vmlinux", f"/usr/lib/debug/boot/vmlinux-{release}"]
    return names


def _release(root: Root) -> str | None:
    """The running kernel's release, if it can be part of a file's name."""
    release = root.text("/proc/sys/kernel/osrelease") or ""
    return release if re.fullmatch(r"[\w.+~-]+", release) and release not in (".", "..") else None


def _kernels(root: Root) -> list[str]:
    """Where the running kernel's vmlinux with symbols may be."""
    release = _release(root)
    if release is None:
        return []
    debug = f"/usr/lib/debug/boot/vmlinux-{release}"
    names = (f"/lib/modules/{release}/build/vmlinux", debug, f"/boot/vmlinux-{release}")
    return [name for name in names if root.exists(name)]


def _modules(root: Root, module: str) -> list[str]:
    """Where the file of a module of KVM's may be."""
    release = _release(root)
    if release is None:
        return []
    base, file = f"/lib/modules/{release}", module.replace("_", "-")
    names = [f"{base}/kernel/arch/x86/kvm/{file}.ko{suffix}" for suffix in ("", ".xz", ".zst", ".gz")]
    listed = root.text(f"{base}/modules.dep") or ""
    called = "[-_]".join(map(re.escape, module.split("_")))  # a module's file may be called with dashes
    for match in re.finditer(rf"^(\S*/)?{called}\.ko(?:\.(?:xz|zst|gz))?(?=:)", listed, re.MULTILINE):
        names.append(match.group() if match.group().startswith("/") else f"{base}/{match.group()}")
    found = (name for name in dict.fromkeys(names) if ".." not in name.split("/") and root.exists(name))
    return list(islice(found, _MAX_FILES))


def _host_offsets(kernel: RunningKernel, built_in: bool, file: ObjectFile | None) -> tuple[Offsets | None, str]:
    """The offsets, and where from; without any, None and why."""
    offsets, origin = _btf_offsets(kernel, built_in, file)
    if offsets is not None:
        return offsets, origin
    found, where = dwarf_offsets(kernel.root, running_build_id(kernel.root, built_in), file)
    return (found, where) if found is not None else (None, "; ".join(filter(None, (origin, where))))


def _btf_offsets(kernel: RunningKernel, built_in: bool, file: ObjectFile | None) -> tuple[Offsets | None, str]:
    """The offsets, and where from; without any, None and why."""
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
