"""Write down what the probes read of a live host, so that the same answer can be had anywhere (--root DIR)."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Final

from pmuconf.errors import PmuconfError
from pmuconf.files.place import place
from pmuconf.host.code.btf import MAX_BTF
from pmuconf.host.code.kcore import core_file
from pmuconf.host.code.kernel import RunningKernel
from pmuconf.host.code.live import LiveText
from pmuconf.host.code.running import callers, find_code
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
_DIRECTORIES: Final = ("/sys/module/kvm/parameters", "/sys/devices/system/cpu/vulnerabilities")
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def record(root: Root, target: Path) -> GuardFinding:
    """Judge the host and write what that took into the new directory ``target``; the finding.

    :raises PmuconfError: the live text can't be read (the cause is that of the probe), or the directory can't be
        written (record-unwritable).
    """
    with RunningKernel(root) as kernel:
        return _record(kernel, target)


def _record(kernel: RunningKernel, target: Path) -> GuardFinding:
    root, found = kernel.root, find_code(kernel)
    if found.code is None or not isinstance(found.code.image, LiveText):
        raise found.reasons[0]
    finding = judge_code(found.code)
    read = (found.code.image, found.code.patched, *found.code.patches, *found.code.vendors)
    images = [image for image in read if isinstance(image, LiveText)]
    try:
        with place(target) as at:
            os.mkdir(at.name, 0o755, dir_fd=at.folder)
            folder = os.open(at.name, _FOLDER, dir_fd=at.folder)
        try:
            for name in _FILES:
                _copy(root, name, folder)
            for module in callers(root):
                for name in ("initstate", "notes/.note.gnu.build-id"):
                    _copy(root, f"/sys/module/{module}/{name}", folder)
            for name in root.names(HOLDERS):
                _write(folder, f"{HOLDERS}/{name}", b"")
            for directory in (*_DIRECTORIES, *(f"/sys/module/{module}/parameters" for module in callers(root))):
                for name in root.names(directory):
                    _copy(root, f"{directory}/{name}", folder)
            _copy_tree(root, "/sys/kernel/livepatch", folder, depth=3)
            _write(folder, "/proc/cpuinfo", (root.text("/proc/cpuinfo") or "").split("\n\n")[0].encode() + b"\n\n")
            lines = {line for image in images for line in image.kallsyms_read()}
            _write(folder, "/proc/kallsyms", b"\n".join(sorted(lines)) + b"\n")
            pages = {address: page for image in images for address, page in image.pages_read().items()}
            _write(folder, "/proc/kcore", core_file(pages))
        finally:
            os.close(folder)
    except OSError as error:
        raise PmuconfError(f"{error.filename or target}: {error.strerror}", cause="record-unwritable") from None
    return finding


def _copy(root: Root, name: str, folder: int) -> None:
    try:
        data = root.read(name, MAX_BTF)
    except OSError:
        return
    _write(folder, name, data)


def _copy_tree(root: Root, name: str, folder: int, depth: int) -> None:
    for entry in root.names(name):
        path = f"{name}/{entry}"
        if root.at(path).is_dir() and not root.at(path).is_symlink():
            os.close(_inside(folder, path))
            if depth:
                _copy_tree(root, path, folder, depth - 1)
        else:
            _copy(root, path, folder)


def _write(folder: int, name: str, data: bytes) -> None:
    path, _, last = name.rpartition("/")
    inner = _inside(folder, path)
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(last, flags, 0o600, dir_fd=inner), "wb") as file:
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
