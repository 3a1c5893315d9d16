"""One pass over the domains of a host, or over domain XML files: what each has, what it should have, how fast it is."""

from __future__ import annotations

import enum
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

from pmuconf.domain import definition as domain
from pmuconf.domain.definition import Domain, DomainXmlError, PmuState
from pmuconf.errors import DomainVanished, PmuconfError
from pmuconf.fastpath import Answer, Guest, answer, overridden
from pmuconf.files.inputs import read_start
from pmuconf.hostfacts import HostFacts, KernelPmu, LiveVm, Qemu
from pmuconf.policy import Decision, FlavorImageConflict, Policy, Ruling, Subject, decide

if TYPE_CHECKING:  # an audit of files needs no libvirt
    from pmuconf.hypervisor.hypervisor import Hypervisor, Listed

__all__ = [
    "Report",
    "Severity",
    "Unjudged",
    "Vm",
    "asks_host",
    "audit",
    "audit_files",
    "guest_of",
    "join",
    "judge",
    "look",
]


class Severity(enum.IntEnum):
    """How far from wanted, as the exit status of a command says it."""

    OK = 0
    WARNING = 1
    FINDING = 2


@dataclass(frozen=True)
class Unjudged:
    """Why a domain could not be judged: a cause code and a sentence."""

    cause: str
    message: str


@dataclass(frozen=True)
class Vm:
    """One domain of the report.

    ``live``, ``next_boot`` and ``saved`` are None where there is no such thing: a domain that is not running, a
    transient one (nothing can be written for it), one without a managed save image. ``snapshots`` counts those that
    would bring another PMU state back than the next boot has.

    ``domain`` is the definition that the guest has, or will have if it does not run; ``next_domain`` that of the next
    boot. ``effective_pmu`` is what the guest gets, by its process if that tells. ``process`` is what runs it, and
    ``answer`` whether it has the fast path: None where the host was not asked. ``exits_per_second`` are all its VM
    exits, of which an unknown part gains by the fast path; None where they were not counted.
    """

    name: str
    uuid: str | None
    flavor: str | None = None
    decision: Decision | None = None
    rule: str | None = None
    reason: str | None = None
    live: PmuState | None = None
    next_boot: PmuState | None = None
    saved: PmuState | None = None
    snapshots: int = 0
    effective_pmu: PmuState | None = None
    nova: bool = False
    transient: bool = False
    error: Unjudged | None = None
    domain: Domain | None = None
    next_domain: Domain | None = None
    process: LiveVm | None = None
    answer: Answer | None = None
    exits_per_second: float | None = None

    @property
    def drift(self) -> bool:
        """The next boot differs from the decision."""
        wanted = self._wanted
        return wanted is not None and self.next_boot not in (None, wanted)

    @property
    def pending(self) -> bool:
        """The next boot is right; the running guest, or the saved image that it starts from, is not yet."""
        wanted = self._wanted
        return wanted is not None and self.next_boot is wanted and self.waits(wanted)

    def waits(self, wanted: PmuState) -> bool:
        """Whether its live or saved state is another, and a new start brings that state, once it is written."""
        if self.saved not in (None, wanted):
            return True
        if self.live is None or self.domain is None:
            return self.live not in (None, wanted)
        return self.domain.awaits(self.next_domain, wanted)

    @property
    def obeyed(self) -> bool | None:
        """Whether the next boot gets what its ``<pmu>`` says, on or off; None: it can't be said."""
        return True if self._guest is None else self._guest.heeded

    @property
    def next_effective(self) -> PmuState | None:
        """What the next boot gets; None: there is none, or it is unknown."""
        guest = self._guest
        return None if guest is None or self.next_boot is None else guest.will_get(self.next_boot)

    @property
    def may_be_recreated(self) -> bool | None:
        """Whether its QEMU alone does not tell what KVM will hold of it after a start; None: no process was found.

        A reset gives confidential guests another VM of KVM. Of TDX guests some kernels decide.
        """
        if self.process is None:
            return None
        tdx = any(one is not None and one.tdx for one in (self.domain, self.next_domain))
        return self.process.may_be_recreated or self.process.tdx is not False or tdx

    @property
    def overridden(self) -> bool:
        """The next boot has the state that the policy wants, and the guest will not get it: options decide."""
        return self._guest is not None and overridden(self._guest)

    @cached_property
    def _guest(self) -> Guest | None:
        return guest_of(self)

    @property
    def severity(self) -> Severity:
        """2 for drift and what can't be judged, 1 for what waits for someone, 0 for as wanted."""
        if self.drift or self.error is not None or self.overridden:
            return Severity.FINDING
        if self.answer is not None and self.answer.severity == Severity.FINDING:
            return Severity.FINDING
        stuck = self.next_boot is None and self._wanted not in (None, self.live)
        slow = self.answer is not None and self.answer.severity == Severity.WARNING
        if self.pending or stuck or slow or self.decision is Decision.UNDECIDED:
            return Severity.WARNING
        return Severity.OK

    @property
    def _wanted(self) -> PmuState | None:
        return None if self.decision is None else self.decision.state


@dataclass(frozen=True)
class Report:
    """The audit of one host; source is the libvirt URI or what was read instead.

    ``facts`` are those of the host, None where it was not asked: no VM of it runs under KVM, it is another host, or
    files were read.
    """

    source: str
    vms: tuple[Vm, ...]
    facts: HostFacts | None = None
    host: str = field(default_factory=socket.gethostname)
    at: datetime = field(default_factory=lambda: datetime.now(timezone.utc))

    @property
    def severity(self) -> Severity:
        """The worst of its domains."""
        return max((vm.severity for vm in self.vms), default=Severity.OK)


def audit(
    hypervisor: Hypervisor,
    policy: Policy,
    names: Sequence[str] = (),
    *,
    max_bytes: int = domain.MAX_XML_BYTES,
    survey: Callable[[], HostFacts] | None = None,
    always: bool = False,
    sample: float = 0,
    fill: Callable[[Domain], Domain] | None = None,
    warn: Callable[[str], None] = lambda _: None,
) -> Report:
    """Look at every domain, or at those named. Reads only.

    A domain that goes away meanwhile is left out; one whose XML can't be judged is reported with its error.

    :param survey: what finds the facts of the host that the domains are on; None: the fast path is not judged. It is
        asked only if a VM runs there under KVM, for it takes half a second, or if ``always`` is set.
    :param fill: adds to a definition what is known of it from elsewhere, such as FlavorMap.fill().
    :param sample: count the VMs' exits over so many seconds; 0: don't.
    :param warn: is told, in sentences, which VMs could not be counted because their QEMU does not answer.
    """
    begin, before = time.monotonic(), hypervisor.exits() if sample else None
    looking = partial(look, hypervisor, policy, max_bytes=max_bytes, fill=fill)
    vms = tuple(vm for vm in hypervisor.map(looking, hypervisor.domains(names)) if vm is not None)
    facts = None
    if survey is not None:
        facts = survey() if hypervisor.local and (always or asks_host(vms)) else None
        vms = join(vms, facts, whole=not names)
    if before is not None:
        time.sleep(max(0.0, begin + sample - time.monotonic()))
        after, seconds = hypervisor.exits(), time.monotonic() - begin
        counts = before.counted, after.counted
        vms = tuple(replace(vm, exits_per_second=_rate(*counts, vm.uuid or "", seconds)) for vm in vms)
        for name in sorted(before.silent | after.silent):
            warn(
                f"the exits of domain {name!r} were not counted: its QEMU does not answer (qemu-silent). "
                f"'virsh domcontrol {name}' shows since when"
            )
    return Report(hypervisor.uri, vms, facts)


def join(vms: Sequence[Vm], facts: HostFacts | None, *, whole: bool = True) -> tuple[Vm, ...]:
    """The same VMs with their processes and with the verdict on their fast path. Pure.

    :param facts: of the host that they are on, None if it can't be looked at from here.
    :param whole: they are all that the host has.
    """
    processes: dict[str, list[LiveVm]] = {}
    for process in facts.vms if facts is not None else ():
        if process.uuid:
            processes.setdefault(process.uuid, []).append(process)
    found = [_with(vm, _only(processes.get(vm.uuid or "none", ()))) for vm in vms]
    needing = _needing(found, facts) if whole and facts is not None else None
    guests = [(vm, guest_of(vm)) for vm in found]
    return tuple(
        vm if guest is None else replace(vm, answer=answer(facts, guest, needing=needing)) for vm, guest in guests
    )


def guest_of(vm: Vm) -> Guest | None:
    """What the verdict asks of a VM; None if its definition could not be read."""
    if vm.domain is None:
        return None
    return Guest(
        domain=vm.domain,
        running=vm.live is not None,
        next_boot=vm.next_boot,
        saved=vm.saved,
        decision=vm.decision,
        vm=vm.process,
        next_qemu=vm.process.next_qemu if vm.process else None,
        obeyed=(vm.next_domain or vm.domain).obeyed,
        next_effective=None if vm.next_domain is None else vm.next_domain.effective_pmu,
    )


def _with(vm: Vm, process: LiveVm | None) -> Vm:
    """The VM with its process: what that was started with decides what the running guest has."""
    if process is not None and vm.domain is not None and vm.next_domain is not None:
        emulator = vm.next_domain.emulator
        if emulator != vm.domain.emulator:  # of that file nothing is known
            process = replace(process, next_qemu=Qemu(emulator or "", None, None, "another-emulator"))
    if process is None or process.pmu_property is None or vm.live is None:
        return replace(vm, process=process)
    return replace(vm, process=process, effective_pmu=PmuState.ON if process.pmu_property else PmuState.OFF)


def _only(processes: Sequence[LiveVm]) -> LiveVm | None:
    """The process of a domain, if there is exactly one that says so."""
    return processes[0] if len(processes) == 1 else None


def _needing(vms: Sequence[Vm], facts: HostFacts) -> int:
    """How many VMs have a PMU that no policy takes from them, those of others than libvirt included."""
    ours = {vm.process.pid for vm in vms if vm.process is not None}
    kept = sum(vm.decision is not Decision.OFF and vm.effective_pmu is not PmuState.OFF for vm in vms)
    others = sum(vm.pid not in ours and vm.kernel_pmu is not KernelPmu.DISABLED for vm in facts.vms)
    return kept + others


def _rate(before: Mapping[str, int], after: Mapping[str, int], uuid: str, seconds: float) -> float | None:
    """Exits per second; None of a VM that was not there all the time."""
    if uuid not in before or uuid not in after or after[uuid] < before[uuid]:
        return None
    return (after[uuid] - before[uuid]) / seconds


def asks_host(vms: Iterable[Vm]) -> bool:
    """Whether any VM runs under KVM, so that the host's facts say something about it."""
    return any(
        vm.domain is not None and vm.live is not None and vm.domain.x86 and vm.domain.virt_type == "kvm" for vm in vms
    )


def audit_files(
    policy: Policy,
    paths: Iterable[Path],
    *,
    max_bytes: int = domain.MAX_XML_BYTES,
    fill: Callable[[Domain], Domain] | None = None,
) -> Report:
    """The same judgement on domain XML files (of ``virsh dumpxml`` or /etc/libvirt/qemu); folders give their \\*.xml.

    A file tells one state: of ``virsh dumpxml --inactive`` and of /etc/libvirt/qemu it is the next boot, of a
    running domain's dump (which carries an id) the live one.
    """
    paths = list(paths)
    return Report(
        " ".join(map(str, paths)), tuple(_vm_of_file(policy, path, max_bytes, fill) for path in _xml_files(paths))
    )


def look(
    hypervisor: Hypervisor,
    policy: Policy,
    listed: Listed,
    *,
    max_bytes: int = domain.MAX_XML_BYTES,
    fill: Callable[[Domain], Domain] | None = None,
) -> Vm | None:
    """Judge one domain as it is now; None if it is gone."""

    def read(xml: str) -> Domain:
        definition = domain.read_libvirt(xml, source=f"domain {listed.name!r}", max_bytes=max_bytes)
        return definition if fill is None else fill(definition)

    try:
        live = read(hypervisor.live_xml(listed)) if listed.active else None
        if live is not None and not live.running:
            live = None  # it stopped since it was listed
        next_boot = read(hypervisor.next_boot_xml(listed)) if listed.persistent else None
        if live is None and next_boot is None:
            return None  # a transient domain that stopped
        image = hypervisor.saved_xml(listed) if listed.saved else None
        saved = read(image) if image is not None else None
        snapshots = hypervisor.snapshot_xmls(listed) if listed.snapshots else []
        source = f"a snapshot of {listed.name!r}"
        kept = [domain.read_snapshot(xml, source=source, max_bytes=max_bytes) for xml in snapshots]
        vm = judge(policy, live=live, next_boot=next_boot, saved=saved, snapshots=kept)
        return vm if listed.persistent else replace(vm, transient=True)
    except DomainVanished:
        return None
    except PmuconfError as error:
        if isinstance(error, DomainXmlError) or error.cause in ("libvirt-error", "domain-timeout"):  # its alone
            return Vm(listed.name, listed.uuid, error=Unjudged(error.cause, error.message))
        raise


def judge(
    policy: Policy,
    *,
    live: Domain | None = None,
    next_boot: Domain | None = None,
    saved: Domain | None = None,
    snapshots: Iterable[Domain | None] = (),
) -> Vm:
    """Join the states of one domain with what the policy wants. Pure; at least one of live and next_boot is given."""
    definition = next_boot or live
    if definition is None:
        raise ValueError("neither a live nor a next-boot definition")
    ruling, error = _ruling(policy, definition)
    return Vm(
        name=definition.name,
        uuid=definition.uuid,
        flavor=definition.nova.flavor if definition.nova else None,
        decision=ruling.decision if ruling else None,
        rule=ruling.rule if ruling else None,
        reason=ruling.reason if ruling else None,
        live=live.pmu if live else None,
        next_boot=next_boot.pmu if next_boot else None,
        saved=saved.pmu if saved else None,
        snapshots=sum(kept is not None and kept.pmu is not definition.pmu for kept in snapshots),
        effective_pmu=(live or definition).effective_pmu,
        domain=live or definition,
        next_domain=next_boot,
        nova=definition.nova is not None,
        error=error,
    )


def _ruling(policy: Policy, definition: Domain) -> tuple[Ruling | None, Unjudged | None]:
    try:
        return decide(policy, Subject.of_domain(definition)), None
    except FlavorImageConflict as conflict:
        return None, Unjudged(conflict.cause, str(conflict.message))


def _xml_files(paths: Iterable[Path]) -> Iterator[Path]:
    for path in paths:
        if not path.exists():
            raise PmuconfError(f"{path}: no such file or directory", cause="file-missing")
        if path.is_dir():
            yield from sorted(path.glob("*.xml"))
        else:
            yield path


def _vm_of_file(policy: Policy, path: Path, max_bytes: int, fill: Callable[[Domain], Domain] | None) -> Vm:
    try:
        definition = domain.read(read_start(path, max_bytes + 1), source=str(path), max_bytes=max_bytes)
        definition = definition if fill is None else fill(definition)
    except OSError as error:
        return Vm(path.name, None, error=Unjudged("file-unreadable", f"{path}: {error.strerror}"))
    except DomainXmlError as error:
        return Vm(path.name, None, error=Unjudged(error.cause, error.message))
    return judge(policy, live=definition) if definition.running else judge(policy, next_boot=definition)
