"""What a tenant sees of the PMU from inside of a guest on AMD: docs/tenant.md. Runs with PMUCONF_TEST_LAB set.

The guest is Debian's 6.12 with one program (guest/tenant.c). The emulated host has no PMU, so nothing counts. Whether
the guest's kernel accepts the PMU is seen all the same.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

import pytest

from tests.lab.boots import LAB, booted, results

pytestmark = [
    pytest.mark.boots("tenant-6.12"),
    pytest.mark.skipif("PMUCONF_TEST_LAB" not in os.environ, reason="needs the kernel lab: make test-lab"),
    pytest.mark.skipif(not (LAB / "qemu-11").exists(), reason="needs tests/lab/fetch-qemu"),
]

OLD, CORE, NEW = ("PerfEvtSel0", "PerfCtr0"), ("PERF_CTL0", "PERF_CTR0", "PERF_CTR4"), ("PerfCntrGlobalCtl",)
KEEPS, SWALLOWS = "read ok, write ok, then kept", "read ok, write ok, then zero"
REFUSES = "read EIO, write EIO, then zero"
WITH_PMU = [f"7.2-{cpu}-{pmu}" for cpu in ("host", "EPYC-Milan") for pmu in ("on", "off")]
WITH_PMU += ["11-host-on", "11-EPYC-Milan-on"]
WITHOUT = ["11-host-off", "11-EPYC-Milan-off"]


def seen(name: str) -> Mapping[str, str]:
    """What the guest of that name printed, by the first word of each line."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LAB_CPU", "EPYC,+svm,xlevel=0x80000022")
        booted("6.12", "tenant-6.12")
    text = (results("tenant-6.12") / f"{name}.txt").read_text(errors="replace").replace("\r", "")
    lines = [line.partition("TENANT ")[2] for line in text.splitlines() if "TENANT " in line]
    assert lines[-1:] == ["end"], text
    found: dict[str, str] = {}
    for line in lines:
        key, _, value = line.partition(" ")
        found[key] = f"{found[key]}; {value}" if key in found else value
    return found


@pytest.mark.parametrize("name", WITH_PMU)
def test_with_qemu_7_2_the_pmu_is_there_on_or_off(name: str) -> None:
    guest = seen(name)
    assert guest["perf-cycles"] == guest["perf-instructions"] == "opened, zero"
    assert guest["nmi-watchdog"] == "1"
    assert "NMI watchdog: Enabled" in guest["log"]
    assert {guest[f"msr-{register}"] for register in (*OLD, *CORE)} == {KEEPS}


@pytest.mark.parametrize("name", WITHOUT)
def test_with_qemu_11_it_is_gone(name: str) -> None:
    guest = seen(name)
    assert guest["perf-cycles"] == guest["perf-instructions"] == "ENOENT"
    assert guest["nmi-watchdog"] == "0"
    assert "PMU not available due to virtualization, using software events only" in guest["log"]
    assert "Perf NMI watchdog permanently disabled" in guest["log"]
    assert {guest[f"msr-{register}"] for register in OLD} == {SWALLOWS}
    assert {guest[f"msr-{register}"] for register in CORE} == {REFUSES}


@pytest.mark.parametrize("name", [*WITH_PMU, *WITHOUT])
def test_what_is_there_either_way(name: str) -> None:
    """CPUID goes on to say that there are the six counters of PERFCTR_CORE, and software events work."""
    guest = seen(name)
    assert "perfctr_core" in guest["flag"]
    assert int(guest["cpuid-80000001"].split()[2], 16) >> 23 & 1
    assert guest["perf-task-clock"] == "opened, counts"
    assert guest["soft-watchdog"] == "1"


@pytest.mark.parametrize("name", [*WITH_PMU, *WITHOUT])
def test_perfmonv2_goes_with_the_pmu(name: str) -> None:
    """QEMU 7.2 does not know it, and of the models of QEMU 11 Milan does not have it."""
    guest = seen(name)
    has = name == "11-host-on"
    assert guest["cpuid-80000022"].split()[:2] == (["00000001", "00000006"] if has else ["00000000", "00000000"])
    assert ("perfmon_v2" in guest["flag"]) == has
    assert all(guest[f"msr-{register}"].startswith("read ok" if has else "read EIO") for register in NEW)
