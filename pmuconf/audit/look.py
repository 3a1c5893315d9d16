"""One pass over the domains of a host, or over domain XML files: what each has, what it should have, how fast it is."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pmuconf.audit.report import Report, asks_host, join
from pmuconf.audit.vm import Unjudged, Vm, judge
from pmuconf.domain import definition as domain
from pmuconf.domain.definition import Domain, DomainXmlError
from pmuconf.errors import DomainVanished, PmuconfError
from pmuconf.files.inputs import read_start
from pmuconf.hostfacts import HostFacts
from pmuconf.policy import Policy

if TYPE_CHECKING:  # an audit of files needs no libvirt
    from pmuconf.hypervisor.hypervisor import Hypervisor, Listed

__all__ = ["audit", "audit_files", "look"]


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
        vms = join(vms, facts)
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
    return Report(hypervisor.uri, vms, facts, whole=not names)


def _rate(before: Mapping[str, int], after: Mapping[str, int], uuid: str, seconds: float) -> float | None:
    """Exits per second; None of a VM that was not there all the time."""
    if uuid not in before or uuid not in after or after[uuid] < before[uuid]:
        return None
    return (after[uuid] - before[uuid]) / seconds


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
            return Vm(listed.name, listed.uuid, error=Unjudged.of(error))
        raise


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
        return Vm(path.name, None, error=Unjudged.of(error))
    return judge(policy, live=definition) if definition.running else judge(policy, next_boot=definition)
