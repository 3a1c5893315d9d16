"""A second opinion on the verdict: count how often the PMU's function is called for a VM whose PMU is disabled.

A micro-VM of our own runs a loop of CPUID, each an exit that KVM ends in ``kvm_skip_emulated_instruction``, while a
kprobe on the callee, in a trace instance of its own and filtered to our own thread, counts. Takes root, /dev/kvm and
kprobes; everything is removed afterwards, and what a killed run has left is removed by the next.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pmuconf.errors import PmuconfError
from pmuconf.host.code.kallsyms import Kallsyms
from pmuconf.host.names import KVM, callees_of
from pmuconf.host.prove.microvm import CODE, can_disable_pmu, micro_vm
from pmuconf.host.root import Root
from pmuconf.hostfacts import GuardFinding, Verdict

__all__ = ["EXITS", "Proof", "agrees", "prove"]

EXITS: Final = 200
"""How many exits the micro-VM makes: a few milliseconds."""

_TRACING: Final = Path("/sys/kernel/tracing")
_GROUP: Final = "pmuconf"
_NAME: Final = re.compile(r"pmuconf-(\d+)")

# mov esi, EXITS; again: xor eax, eax; xor ecx, ecx; cpuid; dec esi; jnz again; hlt
_LOOP: Final = b"\xbe" + struct.pack("<I", EXITS) + bytes.fromhex("31c0 31c9 0fa2 ffce 75f6 f4")


@dataclass(frozen=True)
class Proof:
    """How often the callee was called in so many exits, and whether that is what the code says.

    ``agrees`` is None where the code verdict foretells nothing.
    """

    exits: int
    calls: int
    callee: str
    agrees: bool | None

    @property
    def sentence(self) -> str:
        """The proof for a person."""
        said = {True: "as the code says", False: "against what the code says", None: "the code says nothing"}
        return (
            f"{self.callee} was called {self.calls} times in {self.exits} CPUID exits and one HLT: {said[self.agrees]}"
        )


def prove(finding: GuardFinding) -> Proof:
    """Count, and compare with the verdict of the code.

    :raises PmuconfError: there are no kprobes, no /dev/kvm or no rights; cause prove-impossible.
    """
    try:
        _sweep()
        with _counter() as (callee, instance):
            run_micro_vm()
            calls = _count(instance)
    except OSError as error:
        what = f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror)
        raise PmuconfError(
            f"the calls can't be counted: {what}",
            cause="prove-impossible",
            hint="--prove takes root, tracefs with kprobe events, and /dev/kvm",
        ) from None
    return Proof(EXITS, calls, callee, agrees(finding, calls))


def agrees(finding: GuardFinding, calls: int) -> bool | None:
    """A guard in the caller makes no calls; one in the callee, and the early-out, are calls all the same.

    The HLT that ends the loop goes through a function that may have a copy of its own: one call more.
    """
    if finding.verdict is Verdict.PARTIAL:
        return calls <= 1
    if finding.verdict is Verdict.NO_CALL or finding.cause == "guard-in-caller":
        return calls == 0
    if finding.verdict in (Verdict.UNGUARDED, Verdict.EARLY_OUT, Verdict.GUARDED):
        return calls >= EXITS
    return None


def run_micro_vm() -> None:
    """A VM with its PMU disabled makes EXITS exits by CPUID, in this thread.

    :raises OSError: KVM refuses something.
    """
    disable = can_disable_pmu()  # not with kvm.enable_pmu=N: every VM's PMU is disabled anyway
    with micro_vm(_LOOP, disable_pmu=disable) as machine:
        machine.run(CODE)


@contextlib.contextmanager
def _counter() -> Iterator[tuple[str, Path]]:
    """A kprobe on the callee that records our own thread's calls into a trace instance of ours."""
    name = f"pmuconf-{os.getpid()}"
    event, instance = f"call_{os.getpid()}", _TRACING / "instances" / name
    callee = _place_probe(event)
    try:
        instance.mkdir()
        try:
            folder = instance / "events" / _GROUP / event
            (folder / "filter").write_text(f"common_pid == {threading.get_native_id()}")
            (folder / "enable").write_text("1")
            yield callee, instance
            (folder / "enable").write_text("0")
        finally:
            _drop_instance(instance)
    finally:
        _drop_probe(event)


def _place_probe(event: str) -> str:
    refused = OSError(errno.ENOENT, "no function of KVM's PMU can be probed")
    for callee in _candidates():
        for where in (f"{KVM}:{callee}", callee):  # the second is of a KVM that is built in
            try:
                _append(f"p:{_GROUP}/{event} {where}")
            except OSError as error:
                refused = error
                continue
            return callee
    raise refused


def _candidates() -> Iterator[str]:
    """What may be probed: the functions that count, then the compiler's clones of them."""
    yield from callees_of()
    try:
        kallsyms = Kallsyms(Root())
    except PmuconfError:
        return
    names = {name for module in (KVM, None) for _, name, code in kallsyms.of_module(module) if code}
    yield from (name for name in callees_of(names) if name in names)


def _append(line: str) -> None:
    descriptor = os.open(_TRACING / "kprobe_events", os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
    try:
        os.write(descriptor, f"{line}\n".encode())
    finally:
        os.close(descriptor)


def _count(instance: Path) -> int:
    with (instance / "trace").open() as lines:
        return sum(1 for line in lines if line.strip() and not line.startswith("#"))


def _drop_instance(instance: Path) -> None:
    for switch in instance.glob(f"events/{_GROUP}/*/enable"):
        switch.write_text("0")
    instance.rmdir()


def _drop_probe(event: str) -> None:
    _append(f"-:{_GROUP}/{event}")


def _sweep() -> None:
    """Remove what runs have left whose process is gone."""
    for instance in (_TRACING / "instances").glob("pmuconf-*"):
        match = _NAME.fullmatch(instance.name)
        if match and not Path("/proc", match.group(1)).exists():
            _drop_instance(instance)
    for event in re.findall(rf"^p\S*:{_GROUP}/(call_\d+) ", (_TRACING / "kprobe_events").read_text(), re.MULTILINE):
        if not Path("/proc", event[5:]).exists():
            _drop_probe(event)
