"""Whether a QEMU disables the PMU in KVM, by starting it: paused, without disk or network, for less than a second.

Kernel memory shows best what it did. If that is closed, or if KVM disables the PMU of every VM anyway, strace shows the
call: QEMU must make it before the first vCPU. So with pmu=off, there is one KVM_ENABLE_CAP more until then than with
pmu=on. (strace does not show which capability a call is for.)
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Final

from pmuconf.errors import PmuconfError
from pmuconf.host.code.kernel import RunningKernel
from pmuconf.host.kvm import read_kvm
from pmuconf.host.prove import kvmapi
from pmuconf.host.root import Root
from pmuconf.host.vms.kvmlist import KvmList
from pmuconf.host.vms.live import live_vms, open_list
from pmuconf.host.vms.qemu import qemu_of_file
from pmuconf.hostfacts import Evidence, KernelPmu, Qemu

__all__ = ["prove_qemu"]

_SECONDS: Final = 10.0
_STEP: Final = 0.05
_MACHINE: Final = (
    *("-accel", "kvm", "-S", "-machine", "q35", "-m", "16", "-nodefaults", "-no-user-config", "-display", "none"),
    *("-monitor", "none", "-serial", "none", "-parallel", "none", "-nic", "none"),
)
_CALL: Final = re.compile(r"ioctl\(\d+, (0x[0-9a-f]+|\d+)(?:, (0x[0-9a-f]+|\d+)\) += (-?\d+))?")


@dataclass(frozen=True)
class _Calls:
    """The calls until the first vCPU was made.

    :param enabled: the number of KVM_ENABLE_CAP.
    :param offered: KVM's answer to the question for the capability; None: QEMU did not ask.
    """

    enabled: int
    offered: int | None


def prove_qemu(binary: str | os.PathLike[str], *, launch: Sequence[str] = (), seconds: float = _SECONDS) -> Qemu:
    """Start a QEMU, look, and end it: the QEMU with the answer.

    ``disables`` is None with the cause not-offered if it asks KVM for the capability, and this host's KVM does not have
    it. What this QEMU does elsewhere can't be seen here.

    :param binary: the path where its file can be read.
    :param launch: a whole command to start it with, before the machine's arguments; by default the binary itself. The
        command must execute the binary without a fork in between.
    :param seconds: how long to wait for a QEMU that does not come up.
    :raises PmuconfError: it does not start, nothing shows what it does, or the file was replaced meanwhile; cause
        prove-impossible or not-qemu.
    """
    qemu = qemu_of_file(binary)
    if qemu.cause in ("not-qemu", "unreadable"):
        raise PmuconfError(f"{qemu.path} is no QEMU that can be read", cause="not-qemu")
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        raise _impossible("/dev/kvm can't be opened")
    command = (*(launch or (os.path.abspath(qemu.path),)), *_MACHINE)
    disables = _by_memory(command, seconds) if read_kvm(Root()).enable_pmu else None
    offered: int | None = None
    if disables is None:
        with_pmu_off, with_pmu_on = _by_strace(command, seconds)
        disables, offered = with_pmu_off.enabled > with_pmu_on.enabled, with_pmu_off.offered
    if qemu_of_file(binary) != qemu:  # what was started may be another one than what was read
        raise _impossible(f"{qemu.path} was replaced meanwhile")
    if not disables and offered == 0:
        return replace(qemu, disables=None, cause="not-offered", evidence=Evidence.NONE)
    return replace(qemu, disables=disables, cause="proved", evidence=Evidence.OBSERVED)


def _by_memory(command: Sequence[str], seconds: float) -> bool | None:
    """Whether the VM has its PMU disabled in kernel memory; None if that can't be read."""
    root = Root()
    with RunningKernel(root) as kernel:
        try:
            listed = open_list(kernel)
        except PmuconfError:
            return None
        return _disabled_in(root, listed, command, seconds)


def _disabled_in(root: Root, listed: KvmList, command: Sequence[str], seconds: float) -> bool | None:
    """Whether the VM of this command has its PMU disabled, by KVM's list of VMs; None if that can't be seen."""
    with _running((*command, "-cpu", "qemu64,pmu=off")) as (process, _):
        for _ in _until(seconds, process):
            vms, _ = live_vms(root, samples=0, listed=listed)
            own = next((vm for vm in vms if vm.pid == process.pid), None)
            if own is not None and own.kernel_pmu is not KernelPmu.UNKNOWN:
                return own.kernel_pmu is KernelPmu.DISABLED
            if own is not None and own.cause == "pid-namespace":
                return None
    return None


def _by_strace(command: Sequence[str], seconds: float) -> tuple[_Calls, _Calls]:
    """The calls with pmu=off, and those with pmu=on."""
    strace = shutil.which("strace")
    if strace is None:
        raise _impossible("kernel memory is closed, and strace is not there")
    return _traced(strace, command, "off", seconds), _traced(strace, command, "on", seconds)


def _traced(strace: str, command: Sequence[str], pmu: str, seconds: float) -> _Calls:
    with tempfile.TemporaryDirectory(prefix="pmuconf-") as folder:
        log = Path(folder, "calls")
        tracer = (strace, "-f", "-q", "-X", "raw", "-e", "trace=ioctl", "-e", "signal=none", "-o", str(log))
        with _running((*tracer, *command, "-cpu", f"qemu64,pmu={pmu}")) as (process, errors):
            for _ in _until(seconds, process):
                calls = _read_calls(log)
                if calls is not None:
                    return calls
            errors.seek(0)
            last = errors.read(1 << 16).decode("utf-8", "replace").strip().splitlines()[-1:]
    raise _impossible("QEMU made no vCPU" + "".join(f": {line[:200]}" for line in last))


def _read_calls(log: Path) -> _Calls | None:
    """The calls in a trace; None as long as no vCPU is made in it."""
    enabled, offered = 0, None
    try:
        lines = log.read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return None
    for call in filter(None, map(_CALL.search, lines)):
        request = int(call.group(1), 0)
        if request == kvmapi.CREATE_VCPU:
            return _Calls(enabled, offered)
        if request == kvmapi.ENABLE_CAP:
            enabled += 1
        answered = request == kvmapi.CHECK_EXTENSION and call.group(2) is not None
        if answered and int(call.group(2), 0) == kvmapi.CAP_PMU:
            offered = int(call.group(3))
    return None


@contextlib.contextmanager
def _running(command: Sequence[str]) -> Iterator[tuple[subprocess.Popen[bytes], IO[bytes]]]:
    """The command in a process group of its own, all of which is killed afterwards; and its standard error."""
    with tempfile.TemporaryDirectory(prefix="pmuconf-") as folder, tempfile.TemporaryFile() as errors:
        environment = {"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "TMPDIR": folder, "HOME": folder}
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                cwd=folder,
                env=environment,
                start_new_session=True,
            )
        except OSError as error:
            raise _impossible(f"{error.filename}: {error.strerror}") from None
        try:
            yield process, errors
        finally:
            # Before it is waited for, so that the group's id can't be another's. A tracer that is killed lets go of
            # what it traces, which is in the same group.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _until(seconds: float, process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Again and again until the time is over, and once after the process has ended."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        ended = process.poll() is not None
        yield
        if ended:
            return
        time.sleep(_STEP)


def _impossible(why: str) -> PmuconfError:
    return PmuconfError(
        f"what this QEMU does can't be seen: {why}",
        cause="prove-impossible",
        hint="It requires /dev/kvm, and either root with /proc/kcore, or strace",
    )
