"""What to do about a VM that another manager of libvirt writes, in the words of that manager. Pure.

Each of them writes a domain anew when it starts a VM: what pmuconf or virsh has written is lost then.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from pmuconf.domain.definition import Manager, PmuState

__all__ = ["apply_by", "cycle_by", "lasting", "lasts", "redefine_by"]


@dataclass(frozen=True)
class _Words:
    """How a manager is made to write a state, and how it gives a VM a new QEMU."""

    way: str
    cycle: str


_WORDS: Final = {
    Manager.KUBEVIRT: _Words("pmuconf hook kubevirt in a sidecar", "restart it by KubeVirt (virtctl restart)"),
    Manager.OVIRT: _Words(
        "pmuconf hook vdsm on its hosts", "shut it down and run it by the engine: a reboot from inside keeps the PMU"
    ),
    Manager.CLOUDSTACK: _Words(
        "pmuconf hook cloudstack on its hosts, or extraconfig of the VM",
        "stop and start it by CloudStack (cmk stop virtualmachine, cmk start virtualmachine)",
    ),
    Manager.OPENNEBULA: _Words(
        "pmuconf hook opennebula on its hosts, or RAW of the host or cluster",
        "power it off and resume it by OpenNebula (onevm poweroff, onevm resume)",
    ),
}


def apply_by(manager: Manager, *, cycle: bool) -> str:
    """How a VM gets the state that the policy wants; empty if libvirt's tools or Nova are to write it.

    :param cycle: whether its guest needs a new start then.
    """
    words = _WORDS.get(manager)
    if words is None:
        return ""
    then = f", then {words.cycle}" if cycle else ""
    return f"let {manager.title} write it ({words.way}){then}; pmuconf apply lasts {lasts(manager)}"


def cycle_by(manager: Manager) -> str:
    """How a VM gets a new QEMU; empty if libvirt's tools or Nova give it one."""
    return _WORDS[manager].cycle if manager in _WORDS else ""


def redefine_by(manager: Manager, wanted: PmuState) -> str:
    """How a VM without a next boot gets a state; empty if its manager is not known here."""
    words = _WORDS.get(manager)
    if words is None:
        return ""
    return f"let {manager.title} ask for <pmu state='{wanted.value}'/> ({words.way}), then {words.cycle}"


def lasting(manager: Manager) -> str:
    """What lasts longer than a state that pmuconf has written into a domain of this manager; empty if that stays."""
    if manager is Manager.NOVA:
        return (
            "Nova keeps a rewrite over a soft reboot and writes the domain anew at a hard reboot, a stop and start, a "
            "resize or a cold migration: hw:pmu on the flavor, or the compute plugin, lasts"
        )
    words = _WORDS.get(manager)
    return "" if words is None else f"{manager.title} writes a domain anew at every start: {words.way} lasts"


def lasts(manager: Manager) -> str:
    """How long a state stays that pmuconf has written; empty if it stays."""
    if manager is Manager.NOVA:
        return "until Nova's next hard reboot or start"
    return f"until {manager.title} starts it anew" if manager in _WORDS else ""
