"""libvirt's QEMU driver inside the test process, without a daemon (`qemu:///embed?root=DIR`).

Good for one process that defines and starts guests; whatever takes two clients needs
`tests.support.daemon`. The caller runs a libvirt event loop in a thread before it connects. The
user `libvirt-qemu` must exist, only one process at a time can use a root, and guests outlive that
process: the next one on the same root finds them again, and shows them as running until it has made
contact. Outside its root the driver makes /run/libvirt/common and /run/libvirt/hostdevmgr.
"""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

__all__ = ["QEMU_CONF", "check_socket_length", "destroy_all", "end_process", "prepare"]

# As root and without confinement, since a /dev/kvm that QEMU cannot open makes libvirt probe QEMU
# again at every define; without cgroups and mount namespaces, so that a guest leaves no trace of
# itself on the machine; and with plain log files, as there is no virtlogd to ask.
QEMU_CONF = """\
user = "root"
group = "root"
dynamic_ownership = 0
remember_owner = 0
security_driver = "none"
cgroup_controllers = []
namespaces = []
hugetlbfs_mount = []
stdio_handler = "file"
"""

# sizeof(struct sockaddr_un.sun_path) with its final zero, see unix(7).
_SOCKET_PATH_MAX = 107


def prepare(root: Path, *, cache: Path | None = None) -> str:
    """Write the driver's configuration below `root`, made if missing, and return the URI.

    `cache` may be a directory shared with other roots and with `Daemon(cache=...)`: to learn what
    each QEMU installed can do takes seconds, and is then done once. Raises ValueError where `root`
    is too long for the sockets that libvirt makes in it.
    """
    root = root.resolve()
    # libvirt shortens the guest's name in this path to 20 characters.
    check_socket_length(root / "lib/qemu/domain-99999-12345678901234567890/monitor.sock")
    (root / "etc").mkdir(parents=True, exist_ok=True)
    (root / "etc/qemu.conf").write_text(QEMU_CONF, encoding="utf-8")
    if cache is not None and not (root / "cache").exists():
        cache.mkdir(parents=True, exist_ok=True)
        (root / "cache").symlink_to(cache.resolve(), target_is_directory=True)
    return f"qemu:///embed?root={quote(str(root))}"


def destroy_all(root: Path, timeout: float = 10.0) -> list[int]:
    """Kill the QEMU processes that the driver of this root left, and return their pids.

    For the end of a test, after the process that had them is gone or has closed its connection.
    """
    marker = os.fsencode(f"{root.resolve()}/")

    def is_ours(pid: int) -> bool:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
        return b"qemu" in command.split(b"\0", 1)[0] and marker in command

    pids = []
    for file in sorted((root / "run/qemu").glob("*.pid")):
        text = file.read_text(encoding="ascii").strip()
        if text.isdigit() and end_process(int(text), is_ours, timeout):
            pids.append(int(text))
    return pids


def end_process(pid: int, is_ours: Callable[[int], bool], timeout: float) -> bool:
    """Kill a process that need not be our child, once sure who it is, and wait for its end.

    Returns False if it is not ours or already gone; raises TimeoutError if it does not die.
    The handle is taken before the question is asked, so that a pid used again in between cannot
    get somebody else killed.
    """
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    try:
        if not is_ours(pid):
            return False
        signal.pidfd_send_signal(handle, signal.SIGKILL)
        poll = select.poll()
        poll.register(handle, select.POLLIN)
        if not poll.poll(timeout * 1000):
            raise TimeoutError(f"process {pid} still runs {timeout} s after SIGKILL")
    except (ProcessLookupError, FileNotFoundError):
        return False
    finally:
        os.close(handle)
    return True


def check_socket_length(path: Path) -> None:
    """Say now, in clear words, what libvirt would say later as "UNIX socket path too long"."""
    length = len(os.fsencode(path))
    if length > _SOCKET_PATH_MAX:
        raise ValueError(
            f"{path} has {length} bytes, a socket's path may have {_SOCKET_PATH_MAX}:"
            " use a root directory with a shorter name"
        )
