"""One piece of work in a process of its own: `python -m tests.bench.work JOB COUNT ARGUMENT...` prints its seconds.

Of its own, so that neither side runs with what the other one left in the process (an event loop, a warm allocator).
The time is that of the work without the imports, and with opening the connection. COUNT domains, or repetitions,
must have been done, or it is an error: a benchmark of nothing is fast.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import libvirt
from lxml import etree

from pmuconf import conf, policy
from pmuconf.audit.look import audit, look
from pmuconf.change import journal, plan, result
from pmuconf.change import make as change
from pmuconf.change.settle import settle
from pmuconf.domain.definition import PmuState
from pmuconf.domain.rewriting import rewrite_libvirt
from pmuconf.hypervisor.hypervisor import Hypervisor

__all__ = ["main"]


def pmuconf_audit(config: str, uri: str) -> Callable[[], int]:
    """All that an audit does but for showing it."""
    chosen = conf.load([config])

    def work() -> int:
        with Hypervisor.open(uri, read_only=True, parallel=chosen.parallel) as hypervisor:
            report = audit(hypervisor, chosen.policy, max_bytes=chosen.max_xml_bytes)
        return sum(vm.next_boot is not None and vm.decision is policy.Decision.OFF for vm in report.vms)

    return work


def bare_audit(uri: str) -> Callable[[], int]:
    """The shortest loop that has read every domain."""

    def work() -> int:
        connection = libvirt.openReadOnly(uri)
        roots = [etree.fromstring(domain.XMLDesc()).tag for domain in connection.listAllDomains()]
        connection.close()
        return len(roots)

    return work


def floor_audit(connections: str, uri: str) -> Callable[[], int]:
    """Every domain's XML, over so many connections at a time, and nothing done with it: no audit can do with less."""
    number = int(connections)

    def read(part: int) -> int:
        connection = libvirt.openReadOnly(uri)
        texts = [domain.XMLDesc() for domain in connection.listAllDomains()[part::number]]
        connection.close()
        return sum(map(bool, texts))

    def work() -> int:
        with ThreadPoolExecutor(number) as pool:
            return sum(pool.map(read, range(number)))

    return work


def pmuconf_apply(config: str, uri: str) -> Callable[[], int]:
    """What `pmuconf apply --max-changes 0` does, but for showing it."""
    chosen = conf.load([config])
    limits = change.Limits(max_changes=0, attempts=chosen.attempts)

    def work() -> int:
        with ExitStack() as stack:
            stack.enter_context(journal.writer_lock(chosen.journal))
            written = stack.enter_context(journal.Journal.open(chosen.journal, create=True))
            written.retire(chosen.retention_days)
            hypervisor = stack.enter_context(Hypervisor.open(uri, read_only=False, parallel=chosen.parallel))
            settle(hypervisor, written)
            listed = hypervisor.domains()
            vms = hypervisor.map(partial(look, hypervisor, chosen.policy, max_bytes=chosen.max_xml_bytes), listed)
            plans = plan.plan(chosen.policy, [plan.Seen(one, vm) for one, vm in zip(listed, vms) if vm is not None])
            results = list(change.apply(hypervisor, written, plans, limits))
        return sum(one.outcome is result.Outcome.CHANGED for one in results)

    return work


def bare_apply(uri: str) -> Callable[[], int]:
    """The shortest loop that takes the PMU element of every domain away again, without a look before or after."""

    def work() -> int:
        changed = 0
        connection = libvirt.open(uri)
        for domain in connection.listAllDomains():
            root = etree.fromstring(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_SECURE | libvirt.VIR_DOMAIN_XML_INACTIVE))
            for features in root.iterchildren("features"):
                for pmu in features.findall("pmu"):
                    features.remove(pmu)
                    changed += 1
            connection.defineXML(etree.tostring(root, encoding="unicode"))
        connection.close()
        return changed

    return work


def pmuconf_rewrite(count: str, file: str) -> Callable[[], int]:
    """The rewrite of one text, from no PMU element to off."""
    xml = Path(file).read_text(encoding="utf-8")

    def work() -> int:
        return sum(rewrite_libvirt(xml, PmuState.OFF) != xml for _ in range(int(count)))

    return work


def bare_rewrite(count: str, file: str) -> Callable[[], int]:
    """lxml reads and writes the same text."""
    xml = Path(file).read_text(encoding="utf-8")

    def work() -> int:
        return sum(bool(etree.tostring(etree.fromstring(xml), encoding="unicode")) for _ in range(int(count)))

    return work


_JOBS: dict[str, Callable[..., Callable[[], int]]] = {
    "pmuconf-audit": pmuconf_audit,
    "bare-audit": bare_audit,
    "floor-audit": floor_audit,
    "pmuconf-apply": pmuconf_apply,
    "bare-apply": bare_apply,
    "pmuconf-rewrite": pmuconf_rewrite,
    "bare-rewrite": bare_rewrite,
}


def main(job: str, count: str, *arguments: str) -> None:
    """Do the job and print its seconds."""
    work = _JOBS[job](*arguments)
    begin = time.perf_counter()
    done = work()
    seconds = time.perf_counter() - begin
    if done != int(count):
        sys.exit(f"{job}: {done} done where {count} were to be done")
    print(seconds)


if __name__ == "__main__":
    main(*sys.argv[1:])
