"""pmuconf on a made-up host of 48 VMs under KVM: `python -m tests.support.madeup COMMAND ...`.

libvirt's texts, the kernel and the QEMU processes are made up; everything else is pmuconf's own. The VMs are those of a
host in the middle of a roll-out. Among them are the longest name that OpenStack's tools let pass, names of wide
characters, and one with control characters.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final
from xml.sax.saxutils import escape

from pmuconf import access
from pmuconf.errors import PmuconfError
from pmuconf.hostfacts import HostFacts, KernelPmu, LiveVm
from pmuconf.hypervisor.exits import Exits
from pmuconf.hypervisor.listing import Listed
from tests.support.domains import domain_uuid, nova_domain, plain_domain
from tests.support.sample import FACTS, NEW, OLD

__all__ = ["NAMES", "Guest", "guests"]


@dataclass(frozen=True)
class Guest:
    """A VM: its states, and what KVM holds of it."""

    name: str
    flavor: str | None
    live: str | None
    next_boot: str | None
    kernel: KernelPmu = KernelPmu.ENABLED
    old_qemu: bool = False

    def xml(self, state: str | None, *, live: bool = False) -> str:
        """Its definition with this PMU state."""
        pmu = None if state == "default" else state
        uuid = domain_uuid(self.name)
        if self.flavor is None:
            text = plain_domain("@", pmu=pmu, virt_type="kvm", uuid=uuid)
        else:
            text = nova_domain(
                "@",
                version="32.0.0",
                flavor=self.flavor,
                pmu=pmu,
                uuid=uuid,
                virt_type="kvm",
                cpu_mode="host-passthrough",
            )
            text = text.replace("<type machine", "<type arch='x86_64' machine")
        text = text.replace("<name>@<", f"<name>{escape(self.name, {chr(27): '?'})}<")
        return text.replace("<domain ", "<domain id='1' ", 1) if live else text


NAMES: Final = (
    "customer-portal-production-database-replica-02.example.org-b",
    "日本語の名前を持つ仮想マシン・本番環境のデータベース・二号機",
    "Überwachung-Größe-Straße",
    "☃\ufe0f-🚀-build",
    "red\u202eherring",
)
_HELD, _NONE = KernelPmu.ENABLED, KernelPmu.DISABLED
_KINDS: Final = (
    (14, "m1.small", "off", "off", _NONE),
    (8, "m1.large", "on", "off", _HELD),
    (6, "m1.large", "default", "off", _HELD),
    (5, "c5.4xlarge-dedicated-numa", "default", "default", _HELD),
    (4, "m1.small", None, "off", _HELD),
    (3, "m1.small", None, "default", _HELD),
    (3, "m1.small", "off", "off", KernelPmu.UNKNOWN),
)


def guests() -> list[Guest]:
    """The VMs, by name."""
    made: list[Guest] = []
    for count, flavor, live, next_boot, kernel in _KINDS:
        for _ in range(count):
            made.append(Guest(f"instance-{0x1A0 + len(made):08x}", flavor, live, next_boot, kernel))
    states = (("on", "on"), ("default", "off"), ("off", "off"), (None, "off"), ("on", "off"))
    made += [
        Guest(name, None, live, next_boot, _HELD, old_qemu=live == "off")
        for name, (live, next_boot) in zip(NAMES, states)
    ]
    return sorted(made, key=lambda guest: guest.name)


class Hypervisor:
    """Its libvirt."""

    uri, local, driver = "qemu:///system", True, None

    def __init__(self) -> None:
        self._guests = {domain_uuid(guest.name): guest for guest in guests()}
        self._counted = 0

    def domains(self, names: Sequence[str] = ()) -> list[Listed]:
        listed = [
            Listed(guest.name, uuid, guest.live is not None, persistent=True, saved=False, snapshots=False)
            for uuid, guest in self._guests.items()
            if not names or guest.name in names
        ]
        if len(listed) < len(names):
            raise PmuconfError("there is no such domain", cause="no-such-domain")
        return listed

    def map(self, function: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[Any]:
        return map(function, items)

    def live_xml(self, listed: Listed) -> str:
        return self._guests[listed.uuid].xml(self._guests[listed.uuid].live, live=True)

    def next_boot_xml(self, listed: Listed) -> str:
        return self._guests[listed.uuid].xml(self._guests[listed.uuid].next_boot)

    def exits(self) -> Exits:
        self._counted += 31_800
        return Exits({uuid: self._counted for uuid, guest in self._guests.items() if guest.live})


def facts() -> HostFacts:
    """What is found of its kernel and its processes."""
    running = [guest for guest in guests() if guest.live is not None]
    return replace(FACTS, vms=tuple(_process(guest, pid) for pid, guest in enumerate(running, 4200)))


def _process(guest: Guest, pid: int) -> LiveVm:
    return LiveVm(
        *(pid, 1, "qemu-system-x86", domain_uuid(guest.name), guest.name, guest.kernel),
        in_use=False,
        pmu_property=guest.live != "off" and guest.flavor is not None,
        qemu=OLD if guest.old_qemu else replace(NEW, disables=None if guest.kernel is KernelPmu.UNKNOWN else True),
        next_qemu=NEW,
    )


@contextmanager
def _connect(*_given: Any, **_named: Any) -> Iterator[Hypervisor]:
    yield Hypervisor()


def main() -> int:
    """Run a command there."""
    access.connect = _connect  # type: ignore[assignment]
    access.surveyor = lambda *_: facts
    from pmuconf.commands.main import main as pmuconf

    return pmuconf(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
