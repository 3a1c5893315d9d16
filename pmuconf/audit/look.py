"""One pass over the domains of a host, or over domain XML files: what each has, what it should have, how fast it is."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pmuconf.audit.processes import vms_of_processes
from pmuconf.audit.report import Report, asks_host, join
from pmuconf.audit.vm import Unjudged, Vm, judge
from pmuconf.domain import reading
from pmuconf.domain.definition import Domain
from pmuconf.domain.xmltext import MAX_XML_BYTES, DomainXmlError
from pmuconf.errors import DomainVanished, PmuconfError
from pmuconf.files.inputs import read_start
from pmuconf.hostfacts import HostFacts
from pmuconf.policy import Policy

if TYPE_CHECKING:  # an audit of files needs no libvirt
    from pmuconf.hypervisor.hypervisor import Exits, Hypervisor, Listed

__all__ = ["PROCESSES", "Pace", "audit", "audit_files", "audit_processes", "look", "with_processes"]

PROCESSES: Final = "processes"
"""The source of a report for which libvirt was not asked."""

_STEP: Final = 0.5
"""The seconds of a sample between two steps of the bar."""


def _quietly(items: Iterable[Any], _number: int, _what: str, _unit: str) -> Iterable[Any]:
    return items


@dataclass(frozen=True)
class Pace:
    """How long an audit takes, and who is shown how far it is.

    :param sample: for how many seconds the exits of the VMs are counted; 0: they are not.
    :param progress: passes items through, given their number, what is done to them, and what one is called.
    """

    sample: float = 0
    progress: Callable[[Iterable[Any], int, str, str], Iterable[Any]] = _quietly


def audit(
    hypervisor: Hypervisor,
    policy: Policy,
    names: Sequence[str] = (),
    *,
    max_bytes: int = MAX_XML_BYTES,
    survey: Callable[[], HostFacts] | None = None,
    always: bool = False,
    fill: Callable[[Domain], Domain] | None = None,
    pace: Pace = Pace(),
) -> Report:
    """The audit of every domain, or of those named. Reads only.

    A domain that goes away meanwhile is left out. One whose XML can't be judged is reported with its error.

    :param survey: finds the facts of the host of these domains; None: the fast path is not judged. It takes half a
        second, so it is called only if a VM runs there under KVM, or if ``always`` is set.
    :param fill: adds to a definition what is known of it from elsewhere, such as FlavorMap.fill().
    """
    begin, before = time.monotonic(), hypervisor.exits() if pace.sample else None
    looking = partial(look, hypervisor, policy, max_bytes=max_bytes, fill=fill)
    listed = hypervisor.domains(names)
    looks = pace.progress(hypervisor.map(looking, listed), len(listed), "reading", "VM")
    vms = tuple(vm for vm in looks if vm is not None)
    facts = None
    if survey is not None:
        facts = survey() if hypervisor.local and (always or asks_host(vms)) else None
        vms = join(vms, facts)
    warnings: list[str] = []
    if before is not None:
        end = begin + pace.sample
        steps = max(0, math.ceil((end - time.monotonic()) / _STEP))
        for _ in pace.progress(_waiting(end), steps, "counting exits", "step"):
            pass
        after, seconds = hypervisor.exits(), time.monotonic() - begin
        vms = tuple(replace(vm, exits_per_second=_rate(before, after, vm.uuid or "", seconds)) for vm in vms)
        warnings = [
            f"the exits of domain {name!r} were not counted: its QEMU does not answer (qemu-silent). "
            f"'virsh domcontrol {name}' shows since when"
            for name in sorted(before.silent | after.silent)
        ]
    return Report(hypervisor.uri, vms, facts, whole=not names, warnings=tuple(warnings))


def with_processes(report: Report, policy: Policy) -> Report:
    """The same report, with the VMs too that KVM holds on this host and libvirt does not know.

    :param report: with the facts of its host; without them it is about another host, and a warning says so.
    """
    if report.facts is None:
        sentence = "these are domains of another host: the processes there can't be seen from here"
        return replace(report, warnings=(*report.warnings, sentence))
    return replace(report, vms=(*report.vms, *vms_of_processes(policy, report.facts, report.vms)))


def audit_processes(policy: Policy, facts: HostFacts) -> Report:
    """The audit of every VM that KVM holds on this host, by its process: libvirt is not asked."""
    return Report(PROCESSES, vms_of_processes(policy, facts), facts)


def _waiting(end: float) -> Iterator[None]:
    """Wait until then (time.monotonic()), step by step."""
    while (left := end - time.monotonic()) > 0:
        time.sleep(min(_STEP, left))
        yield


def _rate(before: Exits, after: Exits, uuid: str, seconds: float) -> float | None:
    """Exits per second; None for a VM that was not there all the time."""
    first, last = before.counted.get(uuid), after.counted.get(uuid)
    return None if first is None or last is None or last < first else (last - first) / seconds


def look(
    hypervisor: Hypervisor,
    policy: Policy,
    listed: Listed,
    *,
    max_bytes: int = MAX_XML_BYTES,
    fill: Callable[[Domain], Domain] | None = None,
) -> Vm | None:
    """One domain as it is now, judged by the policy; None if it is gone.

    Each of its texts is read and parsed once: what follows from them works with the definitions that the Vm has.

    :raises PmuconfError: an error that may concern all domains. An error of this domain alone is in its Vm.
    """
    try:
        states = _states(hypervisor, listed, max_bytes, fill)
    except DomainVanished:
        return None
    except PmuconfError as error:
        if isinstance(error, DomainXmlError) or error.cause in ("libvirt-error", "domain-timeout"):
            return Vm(listed.name, listed.uuid, error=Unjudged.of(error))
        raise
    if states is None:
        return None
    vm = judge(policy, live=states.live, next_boot=states.next_boot, saved=states.saved, snapshots=states.snapshots)
    return vm if listed.persistent else replace(vm, transient=True)


@dataclass(frozen=True)
class _States:
    """The definitions of a domain: what runs, what starts next, and what an image or a snapshot would bring back."""

    live: Domain | None
    next_boot: Domain | None
    saved: Domain | None
    snapshots: tuple[Domain | None, ...]


def _states(
    hypervisor: Hypervisor, listed: Listed, max_bytes: int, fill: Callable[[Domain], Domain] | None
) -> _States | None:
    """All definitions that libvirt has of a domain; None of a transient domain that stopped."""

    def read(xml: str) -> Domain:
        definition = reading.read_libvirt(xml, source=f"domain {listed.name!r}", max_bytes=max_bytes)
        return definition if fill is None else fill(definition)

    live = read(hypervisor.live_xml(listed)) if listed.active else None
    if live is not None and not live.running:
        live = None  # it stopped since it was listed
    next_boot = read(hypervisor.next_boot_xml(listed)) if listed.persistent else None
    if live is None and next_boot is None:
        return None
    image = hypervisor.saved_xml(listed) if listed.saved else None
    snapshots = hypervisor.snapshot_xmls(listed) if listed.snapshots else []
    source = f"a snapshot of {listed.name!r}"
    return _States(
        live=live,
        next_boot=next_boot,
        saved=None if image is None else read(image),
        snapshots=tuple(reading.read_snapshot(xml, source=source, max_bytes=max_bytes) for xml in snapshots),
    )


def audit_files(
    policy: Policy,
    paths: Iterable[Path],
    *,
    max_bytes: int = MAX_XML_BYTES,
    fill: Callable[[Domain], Domain] | None = None,
) -> Report:
    r"""The audit of domain XML files (of ``virsh dumpxml`` or /etc/libvirt/qemu); a folder gives its \*.xml.

    A file has one state: the next boot with ``virsh dumpxml --inactive`` and in /etc/libvirt/qemu, the live one in the
    dump of a running domain (which carries an id).

    :raises PmuconfError: file-missing.
    """
    paths = list(paths)
    vms = tuple(_vm_of_file(policy, path, max_bytes, fill) for path in _xml_files(paths))
    return Report(" ".join(map(str, paths)), vms)


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
        definition = reading.read(read_start(path, max_bytes + 1), source=str(path), max_bytes=max_bytes)
        definition = definition if fill is None else fill(definition)
    except OSError as error:
        return Vm(path.name, None, error=Unjudged("file-unreadable", f"{path}: {error.strerror}"))
    except DomainXmlError as error:
        return Vm(path.name, None, error=Unjudged.of(error))
    return judge(policy, live=definition) if definition.running else judge(policy, next_boot=definition)
