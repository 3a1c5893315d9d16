"""A second opinion on the verdict: count how often the PMU's function is called for a VM whose PMU is disabled.

A micro-VM of our own runs a loop of CPUID. KVM ends each of these exits in ``kvm_skip_emulated_instruction``, while a
kprobe counts the calls of the callee. Requires root, /dev/kvm and kprobes. Everything is removed afterwards.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from pmuconf.errors import PmuconfError
from pmuconf.host.prove.kprobe import call_counter, remove_left_overs
from pmuconf.host.prove.microvm import CODE, can_disable_pmu, micro_vm
from pmuconf.hostfacts import GuardFinding, Verdict

__all__ = ["EXITS", "Proof", "agrees", "prove"]

EXITS: Final = 200
"""The number of exits that the micro-VM makes: a few milliseconds."""

# mov esi, EXITS; again: xor eax, eax; xor ecx, ecx; cpuid; dec esi; jnz again; hlt
_LOOP: Final = b"\xbe" + struct.pack("<I", EXITS) + bytes.fromhex("31c0 31c9 0fa2 ffce 75f6 f4")


@dataclass(frozen=True)
class Proof:
    """The number of calls of the callee in so many exits.

    :param agrees: whether that is what the code says; None: the verdict on the code says nothing about calls.
    """

    exits: int
    calls: int
    callee: str
    agrees: bool | None

    @property
    def count(self) -> str:
        """What was counted, as a sentence without its full stop."""
        return f"{self.callee} was called {self.calls} times in {self.exits} CPUID exits and one HLT"

    @property
    def sentence(self) -> str:
        """The proof for a person."""
        conclusion = {True: "as the code says", False: "against what the code says", None: "the code says nothing"}
        return f"{self.count}: {conclusion[self.agrees]}"


def prove(finding: GuardFinding) -> Proof:
    """Count the calls, and compare them with the verdict on the code.

    :raises PmuconfError: there are no kprobes, no /dev/kvm or no rights; cause prove-impossible.
    """
    try:
        remove_left_overs()
        with call_counter() as counter:
            run_micro_vm()
            calls = counter.calls()
    except OSError as error:
        what = f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror)
        raise PmuconfError(
            f"the calls can't be counted: {what}",
            cause="prove-impossible",
            hint="--prove requires root, tracefs with kprobe events, and /dev/kvm",
        ) from None
    return Proof(EXITS, calls, counter.callee, agrees(finding, calls))


def agrees(finding: GuardFinding, calls: int) -> bool | None:
    """Whether so many calls are what the verdict says; None: it says nothing about calls.

    A guard in the caller makes no calls. A guard in the callee, and the early-out, are calls all the same. The HLT that
    ends the loop goes through a function that may have a copy of its own: one call more.
    """
    if finding.verdict is Verdict.PARTIAL:
        return calls <= 1
    if finding.verdict is Verdict.NO_CALL or finding.cause == "guard-in-caller":
        return calls == 0
    if finding.verdict in (Verdict.UNGUARDED, Verdict.EARLY_OUT, Verdict.GUARDED):
        return calls >= EXITS
    return None


def run_micro_vm() -> None:
    """Make EXITS exits by CPUID in this thread, in a VM with its PMU disabled.

    :raises OSError: KVM refuses something.
    """
    disable = can_disable_pmu()  # not with kvm.enable_pmu=N: every VM's PMU is disabled anyway
    with micro_vm(_LOOP, disable_pmu=disable) as machine:
        machine.run(CODE)
