"""Takes a measurement on this host: looks at what would spoil it, stays on one CPU, measures, counts, looks again."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace

from pmuconf.bench import conditions
from pmuconf.bench.counters import Counter, fingerprint, hardware
from pmuconf.bench.loops import Exit
from pmuconf.bench.measure import Arm, Effort, Opener, measure, opener
from pmuconf.bench.measurement import Measurement
from pmuconf.errors import PmuconfError
from pmuconf.host.guard.verdict import judge_host
from pmuconf.host.kvm import read_kvm
from pmuconf.host.measured import host_key
from pmuconf.host.prove.microvm import can_disable_pmu, refused
from pmuconf.host.root import Root

__all__ = ["take"]


def take(
    kind: Exit,
    effort: Effort,
    *,
    counters: int | None = None,
    cpu: int | None = None,
    keep: bool = False,
    anyway: bool = False,
    progress: Callable[[int], None] = lambda pair: None,
    root: Root = Root(),  # noqa: B008  # frozen
    counting: Callable[[], AbstractContextManager[Counter]] = hardware,
    can_disable: Callable[[], bool] = can_disable_pmu,
    real: Callable[..., Opener] = opener,
) -> Measurement:
    """Measure this kind of exit; a run without pairs where it is known beforehand that nothing can follow from one.

    :param counters: how many counters the guests' PMU is to have; None: as many as KVM gives.
    :param cpu: where to measure; None: on the last CPU that this process may run on.
    :param keep: the run is to be kept, so that the cost with the PMU off is worth measuring by itself.
    :param anyway: measure in spite of all; no conclusion is drawn from it.
    :param counting: what opens the hardware counters; with ``can_disable`` and ``real``, all that asks the machine.
    :raises PmuconfError: no VM can be made here (kvm-missing, kvm-permission, kvm-refused), this KVM can't disable
        a VM's PMU (pmu-capability-refused), or there can't be so many counters (no-such-counters).
    """
    try:
        disables = can_disable()
    except OSError as error:
        raise refused(error, root) from None
    everywhere_off = read_kvm(root).enable_pmu is False
    if not disables and not everywhere_off:
        raise PmuconfError(
            "this KVM has no KVM_CAP_PMU_CAPABILITY, so it can't disable the PMU of a VM",
            cause="pmu-capability-refused",
            hint="It is there since Linux 5.18",
        )
    spoils = list(conditions.beforehand(root))
    measurement = Measurement(
        exit=kind,
        counters=counters,
        release=root.text("/proc/sys/kernel/osrelease") or "",
        host=host_key(root),
        guard=judge_host(root).verdict,
        at=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        pairs=(),
        spoils=tuple(spoils),
    )
    worthless = any(not (spoil.arms_only and keep) for spoil in spoils)
    if worthless and not anyway:
        return measurement
    if everywhere_off:
        effort = replace(effort, arms=(Arm.OFF,))
    cpu, unpinned = conditions.pin(cpu)
    opened = real(kind, counters, can_disable=disables)
    try:
        before = conditions.loads(root)
        pairs = measure(opened, effort, progress=progress)
        others = conditions.neighbours(root, cpu)
        spoils += conditions.worked(before, conditions.loads(root), cpu, others)
        marks = fingerprint(opened, effort.arms, counting())
    except OSError as error:
        raise refused(error, root) from None
    except ValueError as error:
        raise PmuconfError(str(error), cause="no-such-counters") from None
    moved = conditions.moved_clock([value for pair in pairs for value in pair.clock])
    spoils += [spoil for spoil in (unpinned, moved) if spoil is not None]
    return replace(measurement, pairs=pairs, spoils=tuple(spoils), notes=conditions.notes(root, cpu), fingerprint=marks)
