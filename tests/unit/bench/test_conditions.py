"""What spoils a measurement, read below a host's root, and seen while it was made."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pmuconf.bench import conditions
from pmuconf.bench.conditions import Load
from pmuconf.host.root import Root
from tests.unit.host.sysroot import write

FLAGS = "fpu tsc constant_tsc nonstop_tsc svm"


@pytest.fixture
def host(tmp_path: Path) -> Root:
    """A host that nothing spoils."""
    write(
        tmp_path,
        "/proc/cpuinfo",
        f"processor\t: 0\nmodel name\t: AMD EPYC\nflags\t\t: {FLAGS}\nbugs\t: hypervisor\n".encode(),
    )
    write(tmp_path, "/sys/module/kvm/parameters/enable_pmu", b"Y\n")
    write(tmp_path, "/sys/module/kvm_amd/initstate", b"live\n")
    write(tmp_path, "/sys/devices/system/clocksource/clocksource0/current_clocksource", b"tsc\n")
    return Root(tmp_path)


def causes(root: Root) -> list[str]:
    return [spoil.cause for spoil in conditions.beforehand(root)]


def test_a_host_that_nothing_spoils(host: Root) -> None:
    assert causes(host) == []


@pytest.mark.parametrize(
    ("flags", "cause"),
    [
        (f"{FLAGS} hypervisor", "nested"),
        (FLAGS.replace("constant_tsc", ""), "no-constant-tsc"),
        (FLAGS.replace("nonstop_tsc", ""), "no-constant-tsc"),
    ],
)
def test_the_cpu(host: Root, flags: str, cause: str) -> None:
    write(host.path, "/proc/cpuinfo", f"processor\t: 0\nflags\t\t: {flags}\n".encode())
    assert causes(host) == [cause]


def test_a_tsc_that_the_kernel_does_not_trust(host: Root) -> None:
    write(host.path, "/sys/devices/system/clocksource/clocksource0/current_clocksource", b"hpet\n")
    (spoil,) = conditions.beforehand(host)
    assert spoil.cause == "tsc-not-trusted"
    assert spoil.message.endswith("but from hpet")


def test_kvm_without_hardware(host: Root) -> None:
    (host.path / "sys/module/kvm_amd/initstate").unlink()
    (host.path / "sys/module/kvm_amd").rmdir()
    assert causes(host) == ["no-hardware-kvm"]


def test_no_pmu_spoils_the_comparison_and_not_the_cost_without(host: Root) -> None:
    write(host.path, "/sys/module/kvm/parameters/enable_pmu", b"N\n")
    (spoil,) = conditions.beforehand(host)
    assert (spoil.cause, spoil.arms_only) == ("enable-pmu-n", True)


def test_what_is_only_possible_is_noted(host: Root) -> None:
    assert conditions.notes(host, 3) == ()
    write(host.path, "/sys/devices/system/cpu/cpu3/cpufreq/scaling_governor", b"schedutil\n")
    write(host.path, "/sys/devices/system/cpu/cpufreq/boost", b"1\n")
    write(host.path, "/sys/devices/system/cpu/cpu3/topology/thread_siblings_list", b"3,35\n")
    assert conditions.notes(host, 3) == (
        "CPU 3 may change its clock (governor schedutil, with boost)",
        "CPU 3 shares its core with CPU 35",
    )


@pytest.mark.parametrize(
    ("listed", "others"), [("2-3", (3,)), ("2,34", (34,)), ("0-3", (0, 1, 3)), ("2", ()), ("", ())]
)
def test_neighbours(host: Root, listed: str, others: tuple[int, ...]) -> None:
    write(host.path, "/sys/devices/system/cpu/cpu2/topology/thread_siblings_list", f"{listed}\n".encode())
    assert conditions.neighbours(host, 2) == others


def test_a_neighbour_that_worked_spoils_it(host: Root) -> None:
    write(
        host.path,
        "/proc/stat",
        b"cpu  9 9 9 9 9 9 9 9 0 0\ncpu0 10 0 5 100 5 1 1 2 0 0\nintr 5\ncpu1 0 0 0 9 0 0 0 0 0 0\n",
    )
    assert conditions.loads(host) == {0: Load(17, 105, 2), 1: Load(0, 9, 0)}
    before = {0: Load(0, 0, 0), 1: Load(100, 100, 0)}
    quiet = {0: Load(1000, 0, 0), 1: Load(140, 1060, 0)}
    busy = {0: Load(1000, 0, 0), 1: Load(200, 1000, 0)}
    assert conditions.worked(before, quiet, 0, [1]) == ()
    (spoil,) = conditions.worked(before, busy, 0, [1])
    assert (spoil.cause, spoil.message) == (
        "smt-neighbour",
        "CPU 1, of the same core as CPU 0, was busy for 10% of the time",
    )
    assert conditions.worked(before, before, 0, [1, 7]) == ()


def test_stolen_time_spoils_it() -> None:
    (spoil,) = conditions.worked({0: Load(0, 0, 0)}, {0: Load(980, 0, 20)}, 0, [])
    assert (spoil.cause, spoil.message) == ("stolen", "a hypervisor took CPU 0 away for 2.0% of the time")


def test_a_clock_that_moved_spoils_it() -> None:
    steady = [1.0, 1.01, 0.995, 1.0, 1.0] * 10
    assert conditions.moved_clock([*steady, 9.0]) is None  # one interrupt
    moved = conditions.moved_clock([*steady, *[1.2] * 25])
    assert moved is not None
    assert moved.cause == "clock-moved"
    assert "changed by 20%" in moved.message or "changed by 21%" in moved.message


def test_pinning() -> None:
    allowed = os.sched_getaffinity(0)
    try:
        assert conditions.pin(None) == (max(allowed), None)
        assert os.sched_getaffinity(0) == {max(allowed)}
        cpu, spoil = conditions.pin(100_000)
        assert spoil is not None
        assert (cpu, spoil.cause) == (100_000, "not-pinned")
    finally:
        os.sched_setaffinity(0, allowed)
