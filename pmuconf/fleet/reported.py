"""The parts of a host's report that a fleet reads: host, VMs, QEMUs, and the conclusions about each VM. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

from pmuconf.fleet.outlook import HostState, Needs
from pmuconf.report import groups

__all__ = ["KINDS", "CountedExits", "Outlook", "ReportedHost", "ReportedQemu", "ReportedVm"]

KINDS: Final = {"drift": "drift", "overridden": "overridden", **groups.KINDS}
"""Properties that are counted beside the groups, with their names for a person. A VM may have several."""


class ReportedQemu(NamedTuple):
    """A QEMU. A path that the report marks as deleted is the same path here; an unknown build ID is empty."""

    path: str
    build_id: str
    disables_pmu: bool | None

    @property
    def file(self) -> tuple[str, str]:
        """Path and build ID."""
        return self.path, self.build_id


class Outlook(NamedTuple):
    """The conclusions about one VM. Most VMs of a fleet share a few of them.

    :param group: a key of report.groups.BY_FAST_PATH.
    :param needs: the changes that give the VM the fast path.
    :param kinds: the keys of KINDS that apply to the VM.
    """

    group: str
    fast_path: str | None
    cause: str | None
    severity: int
    running: bool
    nova: bool
    needs: Needs
    kinds: tuple[str, ...]


class ReportedVm(NamedTuple):
    """One VM.

    :param flavor: empty if there is none; so is ``project``.
    :param error: the cause for which the VM was not judged; empty if it was judged.
    :param explicit: flavor or image chose the PMU state, so Nova itself writes it.
    :param managed: another manager than Nova has it, and may write it anew.
    """

    uuid: str | None
    name: str
    flavor: str
    project: str
    error: str
    explicit: bool
    exits_per_second: float | None
    qemu: ReportedQemu | None
    next_qemu: ReportedQemu | None
    outlook: Outlook
    managed: bool = False


@dataclass(frozen=True)
class ReportedHost:
    """The host's kernel and KVM's parameters; texts are empty where they are not known."""

    release: str
    build_id: str
    cycles_per_exit: int | None
    state: HostState

    @property
    def kernel(self) -> tuple[str, str]:
        """Release and build ID."""
        return self.release, self.build_id


@dataclass(frozen=True)
class CountedExits:
    """Upper bounds of the cost of exits, in CPU cycles a second, over the VMs whose exits were counted.

    :param cpus: of their hosts; None: unknown, and so it is of a sum with such a host.
    :param capacity: the cycles a second of all these CPUs; None as ``cpus``.
    """

    vms: int = 0
    saved: int = 0
    savable: int = 0
    cpus: int | None = 0
    capacity: int | None = 0

    def __add__(self, other: CountedExits) -> CountedExits:
        return CountedExits(
            self.vms + other.vms,
            self.saved + other.saved,
            self.savable + other.savable,
            _sum(self.cpus, other.cpus),
            _sum(self.capacity, other.capacity),
        )


def _sum(number: int | None, other: int | None) -> int | None:
    return None if number is None or other is None else number + other
