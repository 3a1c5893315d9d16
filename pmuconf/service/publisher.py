"""Makes the report of the host's VMs, as the service has seen them last, and puts it out when it is due."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from pmuconf.audit.look import audit_processes, with_processes
from pmuconf.audit.report import Report, asks_host, join
from pmuconf.audit.vm import Vm
from pmuconf.conf import Processes, Settings
from pmuconf.errors import PmuconfError
from pmuconf.hostfacts import HostFacts
from pmuconf.hypervisor.hypervisor import Hypervisor
from pmuconf.report.document import document
from pmuconf.service.announcer import Announcer
from pmuconf.service.outputs import Outputs

__all__ = ["Publisher"]

_SHARE: Final = 50  # publishing may take a fiftieth of the processor's time,
_FRESH_SECONDS: Final = 15.0  # or what it takes to be so fresh


class Publisher:
    """``stale`` says that the report that is out is not the newest; then ``due`` says when to publish.

    :param survey: finds the facts of this host: from the file that is given, or by probes where it is None.
    """

    def __init__(self, outputs: Outputs, survey: Callable[[Path | None], HostFacts], announcer: Announcer) -> None:
        self._outputs = outputs
        self._survey = survey
        self._announcer = announcer
        self._document: Mapping[str, Any] | None = None
        self._not_before = 0.0
        self.stale = False

    @property
    def due(self) -> float | None:
        """When to publish; None: there is nothing new."""
        return self._not_before if self.stale else None

    def hurry(self) -> None:
        """There is something new, which is to be seen at once."""
        self.stale, self._not_before = True, 0.0

    def publish(self, chosen: Settings, hypervisor: Hypervisor, vms: Sequence[Vm], at: datetime) -> None:
        """Put out the report of these VMs, and of those that libvirt does not know if they are wanted.

        :param at: when all of them were looked at.
        """
        self._announcer.alive()
        begin = time.thread_time()
        vms = tuple(sorted(vms, key=lambda vm: vm.name))
        beside = chosen.service.processes is Processes.BESIDE
        asked = hypervisor.local and (beside or asks_host(vms))
        facts = self._facts(chosen.service.host_facts) if asked else None
        self._announcer.alive()
        report = Report(hypervisor.uri, join(vms, facts), facts, at=at)
        self._publish(chosen, with_processes(report, chosen.policy) if beside else report, begin)

    def publish_processes(self, chosen: Settings, at: datetime) -> int | None:
        """Put out the report of the VMs that KVM holds here; their number, None if the host could not be examined."""
        self._announcer.alive()
        begin = time.thread_time()
        facts = self._facts(chosen.service.host_facts)
        self._announcer.alive()
        report = None if facts is None else replace(audit_processes(chosen.policy, facts), at=at)
        if report is None:
            self._put_out(chosen, begin)
            return None
        self._publish(chosen, report, begin)
        return len(report.vms)

    def _publish(self, chosen: Settings, report: Report, begin: float) -> None:
        self._document = document(report, chosen.policy)
        self.stale = False
        self._put_out(chosen, begin)

    def publish_state(self, chosen: Settings) -> None:
        """Put out the last report again, with what troubles the service now."""
        self._put_out(chosen, time.thread_time())

    def _put_out(self, chosen: Settings, begin: float) -> None:
        self._announcer.alive()
        try:
            self._outputs.publish(self._document, chosen.service)
        except PmuconfError as error:
            self._announcer.trouble("output", error)
        else:
            self._announcer.well("output")
        self._not_before = time.monotonic() + min(_FRESH_SECONDS, _SHARE * (time.thread_time() - begin))

    def _facts(self, file: Path | None) -> HostFacts | None:
        """The facts of this host: from the file, else as far as they can be seen from here."""
        try:
            facts = self._survey(file)
        except PmuconfError as error:
            self._announcer.trouble("host-facts", error)
        else:
            self._announcer.well("host-facts")
            return facts
        self._announcer.alive()
        try:
            return self._survey(None) if file is not None else None
        except PmuconfError:  # what the file lacks is reported already
            return None
