"""Where members of kernel structures are, by BTF or by debug information."""

from __future__ import annotations

from dataclasses import dataclass, replace

__all__ = ["Member", "Offsets"]


@dataclass(frozen=True)
class Member:
    """Where a member is in its structure, in bytes from its start; ``size`` is None where BTF does not say."""

    offset: int
    size: int | None
    type_id: int

    def behind(self, offset: int) -> Member:
        """The same member in a structure that has this one so many bytes behind its start."""
        return replace(self, offset=offset + self.offset)


@dataclass(frozen=True)
class Offsets:
    """Where the members are, in bytes; None: the structure has no such member.

    :param kvm: ``kvm`` in struct kvm_vcpu.
    :param enable_pmu: ``arch.enable_pmu`` in struct kvm.
    :param pmu: first and last byte of ``arch.pmu`` in struct kvm_vcpu.
    :param counting: ``arch.pmu.pmc_counting_instructions`` in struct kvm_vcpu.
    :param protected: whether struct kvm has ``arch.has_protected_pmu``.
    """

    kvm: int
    enable_pmu: int | None
    pmu: tuple[int, int] | None = None
    counting: int | None = None
    protected: bool = False
