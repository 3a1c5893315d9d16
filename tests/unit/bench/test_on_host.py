"""A measurement from beginning to end, on a recorded host with VMs that only pretend to run."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pmuconf.bench.conclusion import between_arms
from pmuconf.bench.counters import Counter, Counts
from pmuconf.bench.difference import Direction
from pmuconf.bench.loops import Exit
from pmuconf.bench.measure import Arm, Effort, Opener
from pmuconf.bench.measurement import Measurement
from pmuconf.bench.on_host import Machinery, Request, take
from pmuconf.errors import PmuconfError
from pmuconf.host.root import Root
from tests.unit.bench.fake import Host
from tests.unit.host.sysroot import write

SMALL = Effort(pairs=22, rounds=3, turns=20)
CPUINFO = "processor\t: 0\nmodel name\t: AMD EPYC\nflags\t\t: tsc constant_tsc nonstop_tsc svm\n\n"


@pytest.fixture(autouse=True)
def every_cpu() -> Iterator[None]:
    allowed = os.sched_getaffinity(0)
    yield
    os.sched_setaffinity(0, allowed)


@pytest.fixture
def root(tmp_path: Path) -> Root:
    write(tmp_path, "/proc/cpuinfo", CPUINFO.encode())
    write(tmp_path, "/proc/sys/kernel/osrelease", b"6.1.0-test\n")
    write(tmp_path, "/sys/module/kvm/parameters/enable_pmu", b"Y\n")
    write(tmp_path, "/sys/module/kvm_amd/initstate", b"live\n")
    write(tmp_path, "/sys/devices/system/clocksource/clocksource0/current_clocksource", b"tsc\n")
    return Root(tmp_path)


class Still:
    def read(self) -> Counts:
        return Counts(0, 0, 0)


def taken(
    root: Root,
    host: Host,
    *,
    keep: bool = False,
    anyway: bool = False,
    disables: bool = True,
    mediated: bool = False,
) -> Measurement:
    asked: list[tuple[Exit, int | None, bool, bool]] = []

    def real(kind: Exit, counters: int | None, *, can_disable: bool, mediated: bool) -> Opener:
        asked.append((kind, counters, can_disable, mediated))
        return host.opener

    def counting() -> contextlib.AbstractContextManager[Counter]:
        return contextlib.nullcontext(Still())

    measurement = take(
        Request(Exit.MSR, SMALL, counters=6, keep=keep, anyway=anyway),
        root=root,
        machinery=Machinery(counting, lambda: disables, real),
    )
    assert asked in ([], [(Exit.MSR, 6, disables, mediated)])
    return measurement


def test_a_whole_measurement(root: Root) -> None:
    measurement = taken(root, Host({Arm.ON: 2157, Arm.OFF: 2100}))
    assert (
        measurement.exit,
        measurement.counters,
        measurement.release,
        len(measurement.pairs),
        measurement.spoils,
    ) == (Exit.MSR, 6, "6.1.0-test", 22, ())
    assert measurement.arms == (Arm.ON, Arm.OFF)
    assert measurement.fingerprint is not None
    assert set(measurement.fingerprint.counts) == {Arm.ON, Arm.OFF}
    assert between_arms(measurement).direction is Direction.SAVES


def test_where_nothing_can_follow_nothing_is_measured(root: Root) -> None:
    write(root.path, "/proc/cpuinfo", CPUINFO.replace("svm", "svm hypervisor").encode())
    host = Host({Arm.ON: 2157, Arm.OFF: 2100})
    for keep in (False, True):
        measurement = taken(root, host, keep=keep)
        assert (measurement.pairs, [spoil.cause for spoil in measurement.spoils], host.opened) == ((), ["nested"], [])
    anyway = taken(root, host, anyway=True)
    assert len(anyway.pairs) == 22
    assert between_arms(anyway).direction is None


def test_without_any_pmu_only_a_run_to_be_kept_is_measured(root: Root) -> None:
    write(root.path, "/sys/module/kvm/parameters/enable_pmu", b"N\n")
    host = Host({Arm.OFF: 2100})
    assert taken(root, host, disables=False).pairs == ()
    measurement = taken(root, host, keep=True, disables=False)
    assert (len(measurement.pairs), measurement.arms) == (22, (Arm.OFF,))
    assert between_arms(measurement).sentence == (
        "no conclusion: kvm.enable_pmu is N: no VM can have a PMU here to compare with"
    )


@pytest.mark.parametrize("parameter", ["Y", "?"])
def test_where_the_pmu_may_be_mediated_the_vms_have_what_it_requires(root: Root, parameter: str) -> None:
    write(root.path, "/sys/module/kvm_amd/parameters/enable_mediated_pmu", f"{parameter}\n".encode())
    assert len(taken(root, Host({Arm.ON: 9000, Arm.OFF: 2100}), mediated=True).pairs) == 22


def test_a_kvm_that_can_not_disable_a_pmu(root: Root) -> None:
    with pytest.raises(PmuconfError) as caught:
        taken(root, Host({}), disables=False)
    assert caught.value.cause == "pmu-capability-refused"


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (FileNotFoundError(2, "No such file or directory"), "kvm-missing"),
        (PermissionError(13, "Permission denied"), "kvm-permission"),
        (OSError(22, "Invalid argument"), "kvm-refused"),
        (ValueError("an AMD guest's PMU has 4 or 6 counters"), "no-such-counters"),
    ],
)
def test_kvm_refuses(root: Root, error: Exception, cause: str) -> None:
    def refusing(kind: Exit, counters: int | None, *, can_disable: bool, mediated: bool) -> Opener:
        def opened(arm: Arm) -> contextlib.AbstractContextManager[object]:
            raise error

        return opened  # type: ignore[return-value]

    with pytest.raises(PmuconfError) as caught:
        take(Request(Exit.CPUID, SMALL), root=root, machinery=Machinery(can_disable=lambda: True, opener=refusing))
    assert caught.value.cause == cause

    def asked() -> bool:
        raise error

    if isinstance(error, OSError):
        with pytest.raises(PmuconfError) as caught:
            take(Request(Exit.CPUID, SMALL), root=root, machinery=Machinery(can_disable=asked))
        assert caught.value.cause == cause
