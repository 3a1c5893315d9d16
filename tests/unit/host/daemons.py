"""A host below a directory whose libvirt daemons have roots of their own, in the shape of its /proc."""

from __future__ import annotations

from pathlib import Path

from pmuconf.host.root import Root
from pmuconf.host.vms.installed import installed_qemus
from tests.unit.host.memory import stat

__all__ = ["KVM", "NEW", "OLD", "X86", "Host"]

OLD, NEW = b"QEMU emulator version 7.2", b"QEMU emulator version 11.0 KVM_PMU_CAP_DISABLE"
X86, KVM = "usr/bin/qemu-system-x86_64", "usr/libexec/qemu-kvm"


class Host:
    """A host below a directory, whose daemons have roots of their own."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.root = Root(path)

    def daemon(
        self,
        pid: int = 77,
        exe: str = "/usr/sbin/libvirtd",
        uids: str = "0\t0\t0\t0",
        path: str | None = "/usr/bin",
        binaries: dict[str, bytes | str] | None = None,
        contained: bool = True,
        started: int = 4321,
    ) -> Path:
        """A process; its root directory, which is the host's own unless it is contained.

        A binary that is text is a symbolic link.
        """
        folder = self.path / f"proc/{pid}"
        top = folder / "root" if contained else self.path
        (folder / "root" if contained else folder).mkdir(parents=True)
        if not contained:
            (folder / "root").symlink_to("../..")
        (folder / "stat").write_bytes(stat(pid, started, "libvirtd"))
        (folder / "comm").write_text(Path(exe.split()[0]).name + "\n")
        (folder / f"task/{pid}9").mkdir(parents=True)
        (folder / f"task/{pid}9/stat").write_bytes(stat(pid * 10 + 9, 4322, "rpc-libvirtd"))
        (folder / "exe").symlink_to(exe)
        (folder / "status").write_text(f"Name:\tlibvirtd\nUid:\t{uids}\n")
        (folder / "environ").write_bytes(b"A=b\0" + (b"" if path is None else f"PATH={path}\0".encode()))
        for name, content in (binaries or {}).items():
            file = top / name
            file.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, str):
                file.symlink_to(content)
            else:
                file.write_bytes(content)
                file.chmod(0o755)
        return top

    def found(self) -> dict[str, bool | None]:
        return {qemu.path: qemu.disables for qemu in installed_qemus(self.root)}
