"""A measurement on this host: look for what would spoil it, stay on one CPU, measure, count, and look again."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Final, Protocol

from pmuconf.bench import conditions
from pmuconf.bench.counters import Counter, fingerprint, hardware
from pmuconf.bench.loops import Exit
from pmuconf.bench.measure import Arm, Effort, Opener, measure, opener
from pmuconf.bench.measurement import Measurement
from pmuconf.errors import PmuconfError
from pmuconf.host.guard.verdict import judge_host
from pmuconf.host.kvm import read_kvm
from pmuconf.host.measured import host_key
from pmuconf.host.prove.microvm import can_disable_pmu, no_capability, refused
from pmuconf.host.root import Root

__all__ = ["Machinery", "Request", "take"]


@dataclass(frozen=True)
class Request:
    """The measurement that is asked for.

    :param counters: the number of counters of the guests' PMU; None: as many as KVM gives.
    :param cpu: the CPU to measure on; None: the last one that this process may run on.
    :param keep: the measurement is to be kept. Then the cost with the PMU off is worth measuring by itself.
    :param anyway: measure even if no conclusion can follow; none is drawn from it.
    """

    exit: Exit
    effort: Effort
    counters: int | None = None
    cpu: int | None = None
    keep: bool = False
    anyway: bool = False


class OpenerMaker(Protocol):
    """A function like opener()."""

    def __call__(self, kind: Exit, counters: int | None, *, can_disable: bool, mediated: bool) -> Opener:
        """A function that makes VMs for a kind of exit."""


@dataclass(frozen=True)
class Machinery:
    """The functions that use the machine: its counters, and KVM."""

    counting: Callable[[], AbstractContextManager[Counter]] = hardware
    can_disable: Callable[[], bool] = can_disable_pmu
    opener: OpenerMaker = opener


_REAL: Final = Machinery()


def take(
    request: Request,
    *,
    root: Root = Root(),  # noqa: B008  # frozen
    progress: Callable[[], object] = lambda: None,
    machinery: Machinery = _REAL,
) -> Measurement:
    """The measurement, without pairs if it is known beforehand that no conclusion can follow from any.

    :param progress: called after each pair of VMs.
    :raises PmuconfError: no VM can be made here (kvm-missing, kvm-permission, kvm-refused), this KVM can't disable
        a VM's PMU (pmu-capability-refused), or there can't be so many counters (no-such-counters).
    """
    try:
        can_disable = machinery.can_disable()
    except OSError as error:
        raise refused(error, root) from None
    settings = read_kvm(root)
    all_disabled = settings.enable_pmu is False
    if not can_disable and not all_disabled:
        raise no_capability()
    empty = _without_pairs(request, root)
    if _is_worthless(empty, request) and not request.anyway:
        return empty
    effort = replace(request.effort, arms=(Arm.OFF,)) if all_disabled else request.effort
    try:
        make_vm = machinery.opener(
            request.exit, request.counters, can_disable=can_disable, mediated=settings.mediated_pmu is not False
        )
        return _with_pairs(empty, effort, request.cpu, make_vm, machinery.counting, root, progress)
    except OSError as error:
        raise refused(error, root) from None
    except ValueError as error:
        raise PmuconfError(str(error), cause="no-such-counters") from None


def _without_pairs(request: Request, root: Root) -> Measurement:
    """The measurement before it is made."""
    return Measurement(
        exit=request.exit,
        counters=request.counters,
        release=root.text("/proc/sys/kernel/osrelease") or "",
        host=host_key(root),
        guard=judge_host(root).verdict,
        at=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        pairs=(),
        spoils=conditions.beforehand(root),
    )


def _is_worthless(measurement: Measurement, request: Request) -> bool:
    """Whether something spoils it. If only the comparison of the arms is spoilt, one that is kept has its worth."""
    return any(not (spoil.arms_only and request.keep) for spoil in measurement.spoils)


def _with_pairs(
    empty: Measurement,
    effort: Effort,
    cpu: int | None,
    make_vm: Opener,
    counting: Callable[[], AbstractContextManager[Counter]],
    root: Root,
    progress: Callable[[], object],
) -> Measurement:
    """The measurement, made on one CPU, with all that spoilt it meanwhile.

    :raises OSError: KVM refuses something.
    :raises ValueError: a PMU can't have so many counters.
    """
    cpu, unpinned = conditions.pin(cpu)
    before = conditions.loads(root)
    pairs = measure(make_vm, effort, progress=progress)
    other_work = conditions.worked(before, conditions.loads(root), cpu, conditions.neighbours(root, cpu))
    counts = fingerprint(make_vm, effort.arms, counting())
    moved = conditions.moved_clock([value for pair in pairs for value in pair.clock])
    meanwhile = (*other_work, *(spoil for spoil in (unpinned, moved) if spoil is not None))
    return replace(
        empty,
        pairs=pairs,
        spoils=empty.spoils + meanwhile,
        notes=conditions.notes(root, cpu),
        fingerprint=counts,
    )
