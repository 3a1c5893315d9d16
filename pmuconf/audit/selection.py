"""A part of an audit's VMs: by what there is to say of them, by flavor and by project. Pure."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from pmuconf.audit.vm import Severity, Status, Vm
from pmuconf.fastpath.cases import FastPath
from pmuconf.policy import Decision

__all__ = ["Selection", "VmKind"]


class VmKind(enum.Enum):
    """What there is to say of a VM; it may be of several kinds."""

    FINDINGS = "findings"
    """Of all that the exit status 2 is for: drift, overridden, slow, or not judged."""
    DRIFT = "drift"
    PENDING = "pending"
    UNKNOWN = "unknown"
    """Its fast path or the policy's decision is not known, or it can't be judged."""
    SLOW = "slow"
    """It runs, is not to have a PMU, and has not, or not wholly, the fast path."""
    ALL = "all"

    def has(self, vm: Vm) -> bool:
        """Whether the VM is of this kind."""
        if self is VmKind.ALL:
            return True
        if self is VmKind.FINDINGS:
            return vm.severity is Severity.FINDING
        if self is VmKind.DRIFT:
            return vm.drift
        if self is VmKind.PENDING:  # a dump of a guest tells of no next boot
            return vm.pending or (vm.status is Status.STUCK and not vm.transient)
        if self is VmKind.UNKNOWN:
            return vm.error is not None or vm.decision is Decision.UNDECIDED or _verdict(vm) is FastPath.UNKNOWN
        return vm.live is not None and _verdict(vm) in (FastPath.NO, FastPath.PARTIAL)


def _verdict(vm: Vm) -> FastPath | None:
    """The verdict on a VM that is to have the fast path; None if there is none, or nothing is wrong with it."""
    return vm.answer.fast_path if vm.answer is not None and vm.answer.severity else None


@dataclass(frozen=True)
class Selection:
    """Which VMs of an audit are of interest.

    :param kinds: VMs of any of these kinds; empty: all.
    :param flavors: names or globs, any of which the flavor's name fits; empty: all.
    :param projects: IDs; empty: all.
    """

    kinds: tuple[VmKind, ...] = ()
    flavors: tuple[str, ...] = ()
    projects: tuple[str, ...] = ()

    def of(self, vms: Sequence[Vm]) -> tuple[Vm, ...]:
        """The VMs that are of interest, in their order."""
        return tuple(vm for vm in vms if self._has(vm))

    def _has(self, vm: Vm) -> bool:
        if self.kinds and not any(kind.has(vm) for kind in self.kinds):
            return False
        project = None if vm.domain is None else vm.domain.project
        if self.projects and project not in self.projects:
            return False
        return not self.flavors or any(_fits(vm.flavor, glob) for glob in self.flavors)


def _fits(flavor: str | None, glob: str) -> bool:
    return flavor is not None and (flavor == glob or fnmatchcase(flavor, glob))
