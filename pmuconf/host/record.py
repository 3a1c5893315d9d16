"""A host record: a folder with all that the probes read of a live host. It gives the same answer anywhere."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from pmuconf.errors import PmuconfError
from pmuconf.files.place import place
from pmuconf.host.code.btf import MAX_BTF
from pmuconf.host.code.kcore import core_file
from pmuconf.host.code.kernel import RunningKernel
from pmuconf.host.code.live import LiveText
from pmuconf.host.code.running import Code, callers, find_code
from pmuconf.host.guard.verdict import judge_code
from pmuconf.host.names import HOLDERS
from pmuconf.host.root import Root
from pmuconf.hostfacts import GuardFinding

__all__ = ["record"]

_FILES: Final = (
    *("/proc/version", "/proc/modules", "/proc/sys/kernel/osrelease", "/proc/sys/kernel/arch", "/sys/kernel/notes"),
    *("/proc/sys/kernel/kptr_restrict", "/sys/kernel/security/lockdown", "/sys/kernel/tracing/enabled_functions"),
    "/proc/sys/kernel/nmi_watchdog",
    *("/sys/kernel/btf/vmlinux", "/sys/kernel/btf/kvm", "/sys/module/kvm/notes/.note.gnu.build-id"),
    "/sys/module/kvm/initstate",
)
_OF_MODULES: Final = ("initstate", "notes/.note.gnu.build-id")
_FOLDERS: Final = ("/sys/module/kvm/parameters", "/sys/devices/system/cpu/vulnerabilities")
_LIVEPATCHES: Final = "/sys/kernel/livepatch"
_DEPTH: Final = 3
"""The folders below that of the livepatches: a livepatch, what it patches, a function."""
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def record(root: Root, target: Path) -> GuardFinding:
    """The finding on a host, whose files and memory are written into the new directory ``target``.

    :raises PmuconfError: the live text can't be read (the cause is that of the probe), or the directory can't be
        written (record-unwritable).
    """
    with RunningKernel(root) as kernel:
        location = find_code(kernel)
        if location.code is None or not isinstance(location.code.image, LiveText):
            raise location.reasons[0]
        finding = judge_code(location.code)
        try:
            with _new_folder(target) as folder:
                _write_host(root, folder)
                _write_kernel(location.code, folder)
        except OSError as error:
            raise PmuconfError(f"{error.filename or target}: {error.strerror}", cause="record-unwritable") from None
    return finding


def _write_host(root: Root, folder: int) -> None:
    """Write the small files of a host: they are copied as they are, but for the CPUs, of which one is enough."""
    modules = callers(root)
    for name in (*_FILES, *(f"/sys/module/{module}/{name}" for module in modules for name in _OF_MODULES)):
        _copy(root, name, folder)
    for parent in (*_FOLDERS, *(f"/sys/module/{module}/parameters" for module in modules)):
        for name in root.names(parent):
            _copy(root, f"{parent}/{name}", folder)
    for name in root.names(HOLDERS):
        _write(folder, f"{HOLDERS}/{name}", b"")
    _copy_tree(root, _LIVEPATCHES, folder, _DEPTH)
    _write(folder, "/proc/cpuinfo", (root.text("/proc/cpuinfo") or "").split("\n\n")[0].encode() + b"\n\n")


def _write_kernel(code: Code, folder: int) -> None:
    """Write the symbols and the memory that were read of all images."""
    images = [image for image in _images(code) if isinstance(image, LiveText)]
    lines = {line for image in images for line in image.kallsyms_read()}
    pages = {address: page for image in images for address, page in image.pages_read().items()}
    _write(folder, "/proc/kallsyms", b"\n".join(sorted(lines)) + b"\n")
    _write(folder, "/proc/kcore", core_file(pages))


def _images(code: Code) -> Iterable[object]:
    return (code.image, code.patched, *code.patches, *code.vendors)


@contextmanager
def _new_folder(target: Path) -> Iterator[int]:
    """A new folder, open."""
    with place(target) as at:
        os.mkdir(at.name, 0o755, dir_fd=at.folder)
        folder = os.open(at.name, _FOLDER, dir_fd=at.folder)
    try:
        yield folder
    finally:
        os.close(folder)


def _copy(root: Root, name: str, folder: int) -> None:
    """Copy a file, if it can be read."""
    try:
        data = root.read(name, MAX_BTF)
    except OSError:
        return
    _write(folder, name, data)


def _copy_tree(root: Root, name: str, folder: int, depth: int) -> None:
    """Copy what is in a folder, with so many levels of folders in it."""
    for entry in root.names(name):
        path = f"{name}/{entry}"
        if root.at(path).is_dir() and not root.at(path).is_symlink():
            os.close(_inside(folder, path))
            if depth:
                _copy_tree(root, path, folder, depth - 1)
        else:
            _copy(root, path, folder)


def _write(folder: int, name: str, data: bytes) -> None:
    """Write a new file; the folders that it needs are made."""
    path, _, last = name.rpartition("/")
    inner = _inside(folder, path)
    try:
        with os.fdopen(os.open(last, _NEW, 0o600, dir_fd=inner), "wb") as file:
            file.write(data)
    finally:
        os.close(inner)


def _inside(folder: int, path: str) -> int:
    """The folder at this path below a folder that is open, made where it is missing; no link is followed."""
    at = os.dup(folder)
    for part in filter(None, path.split("/")):
        try:
            with suppress(FileExistsError):
                os.mkdir(part, 0o755, dir_fd=at)
            inner = os.open(part, _FOLDER, dir_fd=at)
        finally:
            os.close(at)
        at = inner
    return at
