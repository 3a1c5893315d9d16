"""libvirt's errors as errors of ours, each with its cause. No domain XML is in any of them."""

from __future__ import annotations

import enum
import errno
from typing import Final
from urllib.parse import parse_qs, urlsplit

import libvirt

from pmuconf.errors import DomainVanished, PmuconfError

__all__ = ["HANGING", "Transport", "no_threads", "timed_out", "translate", "translate_open", "transport_of"]

HANGING: Final = "Is libvirtd, virtqemud or a QEMU hanging? Their logs tell; 'virsh domcontrol VM' shows which VM"
"""What to do if libvirt does not answer."""


class Transport(enum.Enum):
    """How a connection gets to the daemon (libvirt's "Connection URIs"): each fails in its own way."""

    LOCAL = "local"
    SOCKET = "socket"
    SSH = "ssh"
    TLS = "tls"
    TCP = "tcp"


_REACH: Final = {
    Transport.LOCAL: "Is libvirtd or virtqemud running? 'systemctl status libvirtd' tells",
    Transport.SOCKET: "Is that the socket of a libvirtd or virtqemud, and is the daemon running?",
    Transport.SSH: "Does 'ssh' to that host work without a password, and is libvirtd or virtqemud running there?",
    Transport.TLS: "Are the certificates in place on both hosts ('virt-pki-validate' tells), and does libvirtd or "
    "virtproxyd listen there?",
    Transport.TCP: "Does libvirtd or virtproxyd listen on that host and port?",
}
_ALLOW: Final = {
    True: "Run it as root, or as a member of the group libvirt",
    False: "Allow the user of this connection on that host, or name another with --connect",
}


def transport_of(uri: str) -> Transport:
    """How libvirt reaches the daemon of this URI: by what follows the plus, otherwise by whether a host is named."""
    parts = urlsplit(uri)
    explicit = parts.scheme.partition("+")[2]
    if explicit == "unix" or (not explicit and not parts.netloc):
        return Transport.SOCKET if "socket" in parse_qs(parts.query) else Transport.LOCAL
    if explicit in ("ssh", "libssh", "libssh2", "ext"):
        return Transport.SSH
    return Transport.TCP if explicit == "tcp" else Transport.TLS


def no_threads() -> PmuconfError:
    """The system gives this process no more threads."""
    return PmuconfError(
        "no more threads can be started",
        cause="threads-exhausted",
        hint="Allow more (TasksMax= of the unit, ulimit -u), or set [libvirt] parallel lower",
    )


def timed_out(name: str, seconds: float) -> PmuconfError:
    """Libvirt did not answer in time, about the domain of this name if there is one.

    :param seconds: how long it was waited for; 0: not at all.
    """
    after = f" within {seconds:.0f} seconds" if seconds else ""
    if name:
        return PmuconfError(
            f"domain {name!r}: libvirt did not answer{after}",
            cause="domain-timeout",
            hint=f"Is its QEMU or its storage hanging? 'virsh domcontrol {name}' tells",
        )
    return PmuconfError(f"libvirt did not answer{after}", cause="libvirt-timeout", hint=HANGING)


def translate_open(error: libvirt.libvirtError, uri: str) -> PmuconfError:
    """Libvirt's error, when this URI can't be opened, as one of ours."""
    code, number = error.get_error_code(), error.get_int1()
    text = _one_line(error)
    denied = (
        libvirt.VIR_ERR_AUTH_FAILED,
        libvirt.VIR_ERR_AUTH_CANCELLED,
        libvirt.VIR_ERR_AUTH_UNAVAILABLE,
        libvirt.VIR_ERR_ACCESS_DENIED,  # by libvirt's own access control
        libvirt.VIR_ERR_OPERATION_DENIED,
    )
    if code in denied or (code == libvirt.VIR_ERR_SYSTEM_ERROR and number in (errno.EACCES, errno.EPERM)):
        return PmuconfError(
            f"no permission to use {uri}: {text}",
            cause="libvirt-permission",
            hint=_ALLOW[transport_of(uri) in (Transport.LOCAL, Transport.SOCKET)],
        )
    if code == libvirt.VIR_ERR_SYSTEM_ERROR and number == errno.EAGAIN:  # the pid file of an embedded driver
        return PmuconfError(
            f"{uri} is in use by another process: {text}",
            cause="libvirt-busy",
            hint="An embedded driver serves one process at a time",
        )
    if code == libvirt.VIR_ERR_SYSTEM_ERROR:
        return PmuconfError(
            f"can't reach {uri}: {text}",
            cause="libvirt-unreachable",
            hint=f"{_REACH[transport_of(uri)]}; --connect names another URI",
        )
    return PmuconfError(f"can't open {uri}: {text}", cause="libvirt-error")


def translate(error: libvirt.libvirtError, name: str) -> PmuconfError:
    """Libvirt's error as one of ours, about the domain of this name if there is one."""
    code = error.get_error_code()
    about = f"domain {name!r}: " if name else ""
    # A define that meets an undefine half way is refused with these words, which have no code of their own
    # (libvirt's virDomainObjListAdd).
    being_removed = code == libvirt.VIR_ERR_OPERATION_FAILED and "already being removed" in str(error)
    if code == libvirt.VIR_ERR_NO_DOMAIN or being_removed:
        return DomainVanished(name)
    if code in (libvirt.VIR_ERR_OPERATION_DENIED, libvirt.VIR_ERR_ACCESS_DENIED, libvirt.VIR_ERR_AUTH_FAILED):
        return PmuconfError(
            f"{about}libvirt denies it: {_one_line(error)}",
            cause="libvirt-permission",
            hint="Run it as root, or give this user the right in libvirt's polkit rules",
        )
    # What the daemon answers carries the domain of its driver: an error of these two is the client's own.
    if error.get_error_domain() in (libvirt.VIR_FROM_RPC, libvirt.VIR_FROM_REMOTE):
        return PmuconfError(
            f"{about}the connection to libvirt broke: {_one_line(error)}",
            cause="libvirt-lost",
            hint="Run it again when libvirt is back: what was under way is settled then",
        )
    return PmuconfError(f"{about}{_one_line(error)}", cause="libvirt-error")


def _one_line(error: libvirt.libvirtError) -> str:
    return " ".join(str(error).split())
