"""The host's CPU, the mitigations in force, and the case it resembles for which the guard's saving was measured.

The measured program was at_cpu_cpuid -k 0 (a loop of CPUID in the guest) with the guest's PMU off, before and after the
guard. The guard saved about 57 cycles per exit on AMD EPYC 7302 (Zen 2, retpolines and Safe RET), and about 26 on Intel
Ice Lake-SP (Enhanced IBRS). On any other host the saving is an expectation at most.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass

from pmuconf.host.root import Root

__all__ = ["Cpu", "Resemblance", "capacity", "read_cpu"]

_VULNERABILITIES = "/sys/devices/system/cpu/vulnerabilities"
_MAX_DIGITS = 10


class Resemblance(enum.Enum):
    """A measured case, by the generation of the CPU and by the mitigations that make calls expensive."""

    ZEN2_SAFE_RET = "zen2-safe-ret"
    ICE_LAKE_EIBRS = "ice-lake-eibrs"
    NONE = "none"

    @property
    def cycles(self) -> int | None:
        """The cycles per exit that the guard saved there; None if nothing was measured."""
        return {Resemblance.ZEN2_SAFE_RET: 57, Resemblance.ICE_LAKE_EIBRS: 26}.get(self)


@dataclass(frozen=True)
class Cpu:
    """The first CPU of the host, by the numbers that the kernel gives, and its mitigations by vulnerability."""

    vendor: str
    family: int | None
    model: int | None
    name: str
    mitigations: tuple[tuple[str, str], ...]

    @property
    def resembles(self) -> Resemblance:
        """The measured case that has the same microarchitecture and the same kind of mitigation."""
        state = dict(self.mitigations)
        spectre, safe_ret = state.get("spectre_v2", ""), state.get("spec_rstack_overflow", "")
        generation = self.vendor, self.family
        zen2 = generation == ("AuthenticAMD", 0x17) and (self.model or 0) >= 0x30
        ice_lake = generation == ("GenuineIntel", 6) and self.model in (0x6A, 0x6C)
        # Linux before 6.5 writes "safe RET".
        if zen2 and "Retpoline" in spectre and "safe ret" in safe_ret.lower() and "Vulnerable" not in safe_ret:
            return Resemblance.ZEN2_SAFE_RET
        if ice_lake and re.search(r"Enhanced (?:/ Automatic )?IBRS", spectre) and "Retpoline" not in spectre:
            return Resemblance.ICE_LAKE_EIBRS
        return Resemblance.NONE


def read_cpu(root: Root) -> Cpu:
    """The CPU of the host below ``root``. What can't be read is empty or None."""
    first = (root.text("/proc/cpuinfo") or "").split("\n\n")[0]
    fields = dict(re.findall(r"^([^\t:\n]+)\t*: ?(.*)$", first, re.MULTILINE))

    def number(name: str) -> int | None:
        text = fields.get(name, "")
        return int(text) if text.isdecimal() and len(text) < _MAX_DIGITS else None

    return Cpu(
        vendor=fields.get("vendor_id", ""),
        family=number("cpu family"),
        model=number("model"),
        name=fields.get("model name", "").strip(),
        mitigations=tuple((n, root.text(f"{_VULNERABILITIES}/{n}") or "") for n in root.names(_VULNERABILITIES)),
    )


def capacity(root: Root) -> tuple[int, int] | None:
    """The number of CPUs, and their cycles per second together by the clocks in /proc/cpuinfo; None if it has none."""
    clocks = re.findall(r"^cpu MHz\t*: (\d{1,6}\.\d+)$", root.text("/proc/cpuinfo") or "", re.MULTILINE)
    cycles = round(sum(map(float, clocks)) * 1e6)
    return (len(clocks), cycles) if cycles else None
