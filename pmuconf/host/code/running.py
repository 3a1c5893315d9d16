"""The code that this host runs as ``kvm_skip_emulated_instruction``, and where it was read.

In this order: a livepatch that replaces it, the live text, otherwise the file that has the running code's build-id.
Each way that is closed leaves its reason.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from pmuconf.errors import PmuconfError
from pmuconf.host.code.files import file_with_build_id, kernel_files, module_files
from pmuconf.host.code.image import Beside, Image
from pmuconf.host.code.kernel import RunningKernel
from pmuconf.host.code.live import LiveText
from pmuconf.host.code.members import host_offsets
from pmuconf.host.code.offsets import Offsets
from pmuconf.host.code.unpack import Budget
from pmuconf.host.identity import kvm_build_id, kvm_built_in, module_build_id
from pmuconf.host.livepatch import Livepatch, livepatches_of_kvm, replacement
from pmuconf.host.names import FUNCTION, HOLDERS, KVM, VENDORS, is_vendor, vendors_among
from pmuconf.host.root import Root

if TYPE_CHECKING:
    from pmuconf.host.code.elf import ObjectFile

__all__ = ["Code", "CodeSource", "Located", "callers", "find_code", "in_file"]

_ENABLED: Final = re.compile(r"^(\S+)(?: \[\w+\])? \(\d+\)[ R]*(?:\t.*)?$", re.MULTILINE)


@dataclass(frozen=True)
class CodeSource:
    """Where code was read: what it is called, whether that is what runs, and its build-id."""

    name: str
    observed: bool
    build_id: str | None


@dataclass(frozen=True)
class Code:
    """One function to be judged: an image, where the function begins in it, and where the members are.

    :param offsets_from: what tells the offsets; without any, why nothing does.
    :param watched: functions whose ftrace hooks are known only to watch.
    :param patched: KVM's own text, if the image is that of a livepatch: it has the inlined copies.
    :param patches: the text of each livepatch that replaces functions of KVM: it may have inlined copies of its own.
    :param replaced: the functions that livepatches replace by code that can't be read.
    :param vendors: KVM's vendor modules that run: they may have calls and inlined copies of their own.
    :param unread: the vendor modules that run, and of which no code was to be had.
    """

    image: Image
    entry: int
    offsets: Offsets | None
    offsets_from: str
    source: CodeSource
    watched: frozenset[str] = frozenset()
    patched: Image | None = None
    patches: tuple[Image, ...] = ()
    replaced: frozenset[str] = frozenset()
    vendors: tuple[Image, ...] = ()
    unread: tuple[str, ...] = ()


@dataclass(frozen=True)
class Located:
    """The code, or None; and each reason why a better source was not to be had, the deciding one last."""

    code: Code | None
    reasons: tuple[PmuconfError, ...] = ()


def find_code(kernel: RunningKernel) -> Located:
    """The code that a kernel runs."""
    root = kernel.root
    machine = root.text("/proc/sys/kernel/arch")
    if machine is not None and machine != "x86_64":
        return Located(None, (PmuconfError(f"{machine}: only x86-64 is judged", cause="not-x86"),))
    if not root.exists("/sys/module/kvm"):
        error = PmuconfError("KVM is not loaded", cause="kvm-not-loaded", hint="modprobe kvm_amd or kvm_intel")
        return Located(None, (error,))
    try:
        patches = livepatches_of_kvm(root, built_in=kvm_built_in(root))
        patch = replacement(patches)
    except PmuconfError as error:
        return Located(None, (error.bare(),))
    try:
        return Located(_live(kernel, patch, patches))
    except PmuconfError as error:
        closed = error.bare()
    if patch is not None:
        message = f"livepatch {patch} replaces {FUNCTION}, and only live text would show by what"
        return Located(None, (closed, PmuconfError(message, cause="livepatched")))
    try:
        code = _from_file(kernel)
    except PmuconfError as error:
        return Located(None, (closed, error.bare()))
    replaced = frozenset(function for each in patches for function in each.functions)
    return Located(replace(code, replaced=replaced), (closed,))


def in_file(file: ObjectFile, offsets: Offsets | None, origin: str, source: CodeSource) -> Code:
    """The function in a file.

    :raises PmuconfError: there is no such function, or there are several; cause function-not-found.
    """
    places = file.symbols.addresses(FUNCTION)
    if len(places) != 1 or not file.read(places[0], 1):
        hint = "" if list(file.symbols) else "It has no symbols: give the unstripped file"
        raise PmuconfError(f"{source.name} has no function {FUNCTION}", cause="function-not-found", hint=hint)
    return Code(file, places[0], offsets, origin, source)


def callers(root: Root) -> list[str]:
    """The modules that may call functions of KVM: its vendor modules, and those that depend on it."""
    return sorted({*VENDORS, *filter(is_vendor, root.names("/sys/module")), *root.names(HOLDERS)})


def _live(kernel: RunningKernel, patch: str | None, patches: Iterable[Livepatch]) -> Code:
    """The code in the memory of the running kernel.

    :param patch: the livepatch that replaces the function.
    :param patches: all livepatches of KVM.
    :raises PmuconfError: the memory can't be read, or does not have the function once.
    """
    root, built_in = kernel.root, kvm_built_in(kernel.root)
    kvm = None if built_in else KVM
    module = _module_of(patch) if patch is not None else kvm
    entry = _live_entry(kernel, patch, module)
    image = LiveText(kernel.symbols, kernel.memory, module)
    if not image.read(entry, 16).strip(b"\0"):
        raise PmuconfError(f"/proc/kcore holds no code at {FUNCTION}", cause="kcore-broken")
    offsets, origin = host_offsets(kernel, None)
    patched = LiveText(kernel.symbols, kernel.memory, kvm) if patch is not None else None
    texts = [LiveText(kernel.symbols, kernel.memory, _module_of(each.name), patch=True) for each in patches]
    vendors, unread = _live_vendors(kernel, patched or image if built_in else None)
    name = f"livepatch {patch}, live text" if patch is not None else "live text (/proc/kcore)"
    return Code(
        image,
        entry,
        offsets,
        origin,
        CodeSource(name, observed=True, build_id=kvm_build_id(root)),
        watched=_watched(root),
        patched=patched,
        patches=tuple(texts),
        vendors=vendors,
        unread=unread,
    )


def _live_entry(kernel: RunningKernel, patch: str | None, module: str | None) -> int:
    """Where the function begins that runs.

    :raises PmuconfError: the module, or the kernel itself, has none or several; cause function-not-found.
    """
    places = {address for address, where in kernel.symbols.find(FUNCTION) if where == module}
    if patch is not None and module is not None and not places:
        # kpatch keeps the name; others put something before it (SUSE's klpp_).
        own = kernel.symbols.of_module(module)
        places = {address for address, name, code in own if code and name.endswith(f"_{FUNCTION}")}
    if len(places) != 1:
        where = f"livepatch {patch}" if patch is not None else KVM if module else "the kernel"
        message = f"/proc/kallsyms has {len(places)} functions {FUNCTION} of {where}"
        raise PmuconfError(message, cause="function-not-found")
    return places.pop()


def _module_of(patch: str) -> str:
    """The module that a livepatch is."""
    return patch.replace("-", "_")


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
    """The functions whose ftrace hooks only watch: none of them diverts the function.

    A line of enabled_functions has the number of hooks and flags: R (saves registers) is harmless, I may change the
    instruction pointer, D calls a trampoline directly, M was modified.
    """
    return frozenset(_ENABLED.findall(root.text("/sys/kernel/tracing/enabled_functions") or ""))


def _from_file(kernel: RunningKernel) -> Code:
    """The code in the file that has the build-id of what runs.

    :raises PmuconfError: there is none; cause no-build-id, no-file-with-build-id, function-not-found ...
    """
    root, built_in = kernel.root, kvm_built_in(kernel.root)
    wanted = kvm_build_id(root)
    if wanted is None:
        raise PmuconfError("the running KVM tells no build-id", cause="no-build-id")
    budget = Budget()
    names = kernel_files(root) if built_in else module_files(root, KVM)
    name, file = file_with_build_id(root, names, wanted, budget)
    offsets, origin = host_offsets(kernel, file)
    code = in_file(file, offsets, origin, CodeSource(name, observed=False, build_id=wanted))
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
    _, file = file_with_build_id(root, module_files(root, vendor), wanted, budget, kvm)
    return Beside(file, kvm)
