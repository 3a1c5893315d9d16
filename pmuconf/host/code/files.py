"""The files in which a host may have KVM's code, its modules and their debug information.

A file is known by its build-id alone, never by its name or a version.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pmuconf.errors import PmuconfError
from pmuconf.host.code.unpack import Budget, unpacked
from pmuconf.host.names import KVM
from pmuconf.host.root import Root

if TYPE_CHECKING:
    from pmuconf.host.code.elf import ObjectFile

__all__ = ["debug_files", "file_with_build_id", "kernel_files", "load_file", "module_files"]

_MAX_FILES: Final = 32
_RELEASE: Final = re.compile(r"[\w.+~-]+")


def load_file(path: Path, budget: Budget | None = None, beside: ObjectFile | None = None) -> ObjectFile:
    """An ELF file for x86-64, decompressed if it is compressed.

    :param budget: what files like this may take together.
    :param beside: a module that it calls: the symbols that the file lacks are taken from there, and its addresses
        begin behind that one's.
    :raises PmuconfError: cause file-unreadable, cannot-decompress, elf-broken or not-x86.
    """
    from pmuconf.host.code.elf import ObjectFile

    file = unpacked(path, budget)
    return ObjectFile(file, str(path)) if beside is None else ObjectFile(file, str(path), beside=beside)


def file_with_build_id(
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
    release = _release(root) or "RELEASE"
    raise PmuconfError(
        f"no file with KVM's build-id {wanted} is to be found",
        cause="no-file-with-build-id",
        hint=f"Install the very kernel package that runs: linux-image-{release} (kernel-modules-core-{release}) has "
        f"KVM as a module; where KVM is built in, its debug package has /usr/lib/debug/boot/vmlinux-{release}",
    )


def kernel_files(root: Root) -> list[str]:
    """Where the running kernel's vmlinux with symbols may be."""
    release = _release(root)
    if release is None:
        return []
    debug = f"/usr/lib/debug/boot/vmlinux-{release}"
    names = (f"/lib/modules/{release}/build/vmlinux", debug, f"/boot/vmlinux-{release}")
    return [name for name in names if root.exists(name)]


def module_files(root: Root, module: str) -> list[str]:
    """Where the file of a module of KVM's may be: where kernels have it, then where modules.dep says."""
    release = _release(root)
    if release is None:
        return []
    base, file = f"/lib/modules/{release}", module.replace("_", "-")
    names = [f"{base}/kernel/arch/x86/{KVM}/{file}.ko{suffix}" for suffix in ("", ".xz", ".zst", ".gz")]
    names += _listed(root, base, module)
    existing = (name for name in dict.fromkeys(names) if ".." not in name.split("/") and root.exists(name))
    return list(islice(existing, _MAX_FILES))


def debug_files(root: Root, build_id: str) -> list[str]:
    """Where distributions put the debug information of KVM and of the kernel: gdb's place first."""
    names = [f"/usr/lib/debug/.build-id/{build_id[:2]}/{build_id[2:]}.debug"]
    release = _release(root)
    if release is not None:
        kvm = f"lib/modules/{release}/kernel/arch/x86/{KVM}/{KVM}.ko"
        names += [f"/usr/lib/debug/{kvm}", f"/usr/lib/debug/{kvm}.debug", f"/usr/lib/debug/usr/{kvm}.debug"]
        names += [f"/usr/lib/debug/lib/modules/{release}/vmlinux", f"/usr/lib/debug/boot/vmlinux-{release}"]
    return names


def _listed(root: Root, base: str, module: str) -> Iterator[str]:
    """The files of a module that modules.dep lists; they may be called with dashes."""
    dependencies = root.text(f"{base}/modules.dep") or ""
    called = "[-_]".join(map(re.escape, module.split("_")))
    for match in re.finditer(rf"^(\S*/)?{called}\.ko(?:\.(?:xz|zst|gz))?(?=:)", dependencies, re.MULTILINE):
        yield match.group() if match.group().startswith("/") else f"{base}/{match.group()}"


def _release(root: Root) -> str | None:
    """The running kernel's release, if it can be part of a file's name."""
    release = root.text("/proc/sys/kernel/osrelease") or ""
    return release if _RELEASE.fullmatch(release) and release not in (".", "..") else None
