"""The host below: libvirt, the kernel's code, the facts that root left, and what else confines programs here."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from pmuconf.access import connect, surveyor
from pmuconf.conf import Settings
from pmuconf.errors import PmuconfError
from pmuconf.hostfacts import Evidence
from pmuconf.selftest.live import Live
from pmuconf.selftest.result import CheckResult, failed, ok, unchecked
from pmuconf.wording import counted

__all__ = ["checks_of_confinement", "checks_of_host"]

_SECURE_BOOT: Final = "/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
_DENIED: Final = ("avc:", 'apparmor="DENIED"', "type=1326", "SECCOMP")


def checks_of_host(chosen: Settings) -> Iterator[CheckResult]:
    """Whether libvirt answers, the kernel's code can be read, and the facts of root are valid."""
    try:
        with connect(chosen, read_only=True) as hypervisor:
            yield ok("libvirt", f"{hypervisor.uri} answers; {counted(len(hypervisor.domains()), 'domain')}")
    except PmuconfError as error:
        refused = error.cause in ("libvirt-permission", "libvirt-missing")
        yield (unchecked if refused else failed)("libvirt", f"{error.message} ({error.cause})")
    try:
        guard = surveyor()().guard
    except PmuconfError as error:
        yield unchecked("kernel", f"{error.message} ({error.cause})")
    else:
        verdict = f"{guard.verdict.value}, {guard.evidence.value}"
        if guard.evidence is Evidence.OBSERVED:
            yield ok("kernel", f"its running code was read: {verdict}")
        else:
            yield unchecked("kernel", f"its running code was not read ({verdict}): {guard.message} ({guard.cause})")
    if chosen.service.host_facts is None:
        yield unchecked("host-facts", "[service] host_facts is empty")
        return
    try:
        surveyor(chosen.service.host_facts)()
    except PmuconfError as error:
        missing = not chosen.service.host_facts.exists()
        yield (unchecked if missing else failed)("host-facts", f"{error.message} ({error.cause})")
    else:
        yield ok("host-facts", f"{chosen.service.host_facts} is of this boot and this KVM")


def checks_of_confinement(live: Live) -> Iterator[CheckResult]:
    """The state of SELinux, AppArmor, Secure Boot and lockdown, and whether any of them refused pmuconf something."""
    yield _selinux(live)
    yield _apparmor(live)
    yield _secure_boot(live)
    yield _denials(live)


def _selinux(live: Live) -> CheckResult:
    enforce = live.text("/sys/fs/selinux/enforce")
    if enforce is None:
        return ok("selinux", "not in use here")
    label = live.text("/proc/self/attr/current") or "not known"
    return ok("selinux", f"{'enforcing' if enforce == '1' else 'permissive'}; this process is {label}")


def _apparmor(live: Live) -> CheckResult:
    if live.text("/sys/module/apparmor/parameters/enabled") != "Y":
        return ok("apparmor", "not in use here")
    label = live.text("/proc/self/attr/apparmor/current") or live.text("/proc/self/attr/current") or "not known"
    return ok("apparmor", f"enabled; this process is {label}")


def _secure_boot(live: Live) -> CheckResult:
    lockdown = live.text("/sys/kernel/security/lockdown")
    mode = "not known" if lockdown is None else lockdown.partition("[")[2].partition("]")[0]
    if not live.at("/sys/firmware/efi").exists():
        return ok("secure-boot", f"this host was not booted by EFI; lockdown: {mode}")
    try:
        state = live.at(_SECURE_BOOT).read_bytes()[-1:]
    except FileNotFoundError:
        return ok("secure-boot", f"the firmware has no Secure Boot; lockdown: {mode}")
    except OSError as error:
        return unchecked("secure-boot", f"{_SECURE_BOOT}: {error.strerror}; lockdown: {mode}")
    return ok("secure-boot", f"{'on' if state == bytes([1]) else 'off'}; lockdown: {mode}")


def _denials(live: Live) -> CheckResult:
    """What the audit log and the kernel's log of this boot say of pmuconf."""
    name = "denials"
    if not live.privileged:
        return unchecked(name, "the audit log is root's. Run it as root")
    kernel = live.said(
        "journalctl", "--no-pager", "-q", "-b", "-o", "cat", "_TRANSPORT=kernel", "+", "_TRANSPORT=audit"
    )
    audit = live.text("/var/log/audit/audit.log")
    if not kernel and not audit:
        return unchecked(name, "neither the audit log nor the kernel's messages can be seen here")
    lines = [line for text in (kernel, audit) if text for line in text.splitlines()]
    ours = [line for line in lines if "pmuconf" in line and any(mark in line for mark in _DENIED)]
    if ours:
        return failed(name, f"{len(ours)} lines say that pmuconf was refused something; the last: {ours[-1][:200]}")
    return ok(name, "no line of the logs says that pmuconf was refused anything")
