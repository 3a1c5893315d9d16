"""The answer about a kernel: the verdict on it, in sentences for a person and as a record for programs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from pmuconf.host.cpu import Cpu
from pmuconf.host.kvm import Kvm
from pmuconf.hostfacts import GuardFinding

if TYPE_CHECKING:
    from pmuconf.host.prove.guard import Proof

__all__ = ["KernelAnswer"]


@dataclass(frozen=True)
class KernelAnswer:
    """The verdict on a kernel, with what belongs to it.

    :param kvm: the settings of the host's KVM; None, as ``cpu``, if a file was judged.
    :param proof: the calls that were counted; None: not asked for.
    """

    finding: GuardFinding
    kvm: Kvm | None = None
    cpu: Cpu | None = None
    proof: Proof | None = None

    @property
    def severity(self) -> int:
        """The exit status: that of the verdict, and at least 1 if the proof contradicts it."""
        contradicted = self.proof is not None and self.proof.agrees is False
        return max(self.finding.verdict.severity, int(contradicted))

    def sentences(self) -> list[str]:
        """The answer for a person: the verdict first, what to do last."""
        finding = self.finding
        return [
            f"{finding.verdict.value}: {finding.message}",
            *([] if self.kvm is None else _of_settings(self.kvm)),
            *([] if self.cpu is None else _of_cpu(self.cpu)),
            *([] if self.proof is None else [self.proof.sentence]),
            *([finding.remedy] if finding.remedy else []),
        ]

    def record(self) -> dict[str, Any]:
        """The answer for programs."""
        record = _of_finding(self.finding)
        if self.kvm is not None:
            record["kvm"] = asdict(self.kvm)
        if self.cpu is not None:
            record["cpu"] = {
                "vendor": self.cpu.vendor,
                "family": self.cpu.family,
                "model": self.cpu.model,
                "name": self.cpu.name,
                "mitigations": dict(self.cpu.mitigations),
                "resembles": self.cpu.resembles.value,
                "expected_cycles_per_exit": self.cpu.resembles.cycles,
            }
        if self.proof is not None:
            record["proof"] = asdict(self.proof)
        return record


def _of_finding(finding: GuardFinding) -> dict[str, object]:
    return {
        "verdict": finding.verdict.value,
        "cause": finding.cause,
        "message": finding.message,
        "evidence": finding.evidence.value,
        "source": finding.source,
        "build_id": finding.build_id,
        "enable_pmu_offset": finding.offset,
        "offset_from": finding.offset_from,
        "instructions": list(finding.instructions),
        "copies": {name: list(functions) for name, functions in asdict(finding.copies).items()},
        "hooks": list(finding.hooks),
        "notes": list(finding.notes),
        "remedy": finding.remedy,
    }


def _of_settings(kvm: Kvm) -> Iterator[str]:
    if kvm.enable_pmu is False:
        yield "kvm.enable_pmu is N: the PMU of every VM on this host is disabled in the kernel"
    elif kvm.mediated_pmu:
        yield (
            "KVM uses a mediated PMU: a VM whose PMU is enabled in the kernel has no fast path, even while it counts "
            "nothing"
        )
    elif kvm.mediated_pmu is None and kvm.loaded:
        yield "pmuconf can't read whether KVM uses a mediated PMU: the verdict holds only without one"


def _of_cpu(cpu: Cpu) -> Iterator[str]:
    like = cpu.resembles
    if like.cycles is not None:
        yield (
            f"this host is like {like.value}, where the guard saved about {like.cycles} cycles per exit: "
            "an expectation, not a measurement"
        )
