"""Which of the two measured cases a host resembles, by model and mitigations."""

from __future__ import annotations

from pathlib import Path

import pytest

from pmuconf.host.cpu import Resemblance, capacity, read_cpu
from pmuconf.host.root import Root
from tests.unit.host.sysroot import write

RETPOLINES = "Mitigation: Retpolines; IBPB: conditional; STIBP: always-on; RSB filling"
EIBRS = "Mitigation: Enhanced / Automatic IBRS; IBPB: conditional; RSB filling; PBRSB-eIBRS: SW sequence"


@pytest.mark.parametrize(
    ("vendor", "family", "model", "spectre", "srso", "like"),
    [
        ("AuthenticAMD", 23, 49, RETPOLINES, "Mitigation: Safe RET", Resemblance.ZEN2_SAFE_RET),  # EPYC 7302
        ("AuthenticAMD", 23, 49, RETPOLINES, "Mitigation: safe RET", Resemblance.ZEN2_SAFE_RET),  # on 6.1
        ("AuthenticAMD", 23, 49, RETPOLINES, "Vulnerable: Safe RET, no microcode", Resemblance.NONE),
        ("AuthenticAMD", 23, 49, "Vulnerable", "Mitigation: Safe RET", Resemblance.NONE),  # mitigations=off
        ("AuthenticAMD", 23, 1, RETPOLINES, "Mitigation: Safe RET", Resemblance.NONE),  # Zen
        ("AuthenticAMD", 25, 17, EIBRS, "Mitigation: Safe RET", Resemblance.NONE),  # Zen 4
        ("GenuineIntel", 6, 106, EIBRS, "Not affected", Resemblance.ICE_LAKE_EIBRS),
        ("GenuineIntel", 6, 106, "Mitigation: Enhanced IBRS, IBPB: conditional", "", Resemblance.ICE_LAKE_EIBRS),
        ("GenuineIntel", 6, 106, "Mitigation: Enhanced / Automatic IBRS + Retpolines", "", Resemblance.NONE),
        ("GenuineIntel", 6, 85, EIBRS, "Not affected", Resemblance.NONE),  # Cascade Lake
    ],
)
def test_resemblance(
    tmp_path: Path, vendor: str, family: int, model: int, spectre: str, srso: str, like: Resemblance
) -> None:
    one = f"vendor_id\t: {vendor}\ncpu family\t: {family}\nmodel\t\t: {model}\nmodel name\t: Some CPU\n\n"
    write(tmp_path, "/proc/cpuinfo", (one + one.replace(str(model), "99")).encode())
    write(tmp_path, "/sys/devices/system/cpu/vulnerabilities/spectre_v2", spectre.encode())
    write(tmp_path, "/sys/devices/system/cpu/vulnerabilities/spec_rstack_overflow", srso.encode())
    cpu = read_cpu(Root(tmp_path))
    assert (cpu.family, cpu.model, cpu.name, cpu.resembles) == (family, model, "Some CPU", like)


def test_nothing_to_read(tmp_path: Path) -> None:
    cpu = read_cpu(Root(tmp_path))
    assert (cpu.family, cpu.resembles, cpu.resembles.cycles) == (None, Resemblance.NONE, None)


def test_capacity_is_that_of_all_cpus(tmp_path: Path) -> None:
    assert capacity(Root(tmp_path)) is None
    write(tmp_path, "/proc/cpuinfo", b"processor\t: 0\n\nprocessor\t: 1\n")
    assert capacity(Root(tmp_path)) is None  # without clocks, as in a VM of another architecture
    write(tmp_path, "/proc/cpuinfo", b"cpu MHz\t\t: 2794.750\n\ncpu MHz\t\t: 1500.000\n")
    assert capacity(Root(tmp_path)) == (2, 4_294_750_000)
