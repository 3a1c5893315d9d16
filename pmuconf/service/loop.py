"""The loop of the service: when to look, at what, and what follows.

All of it runs in one thread. Signals, libvirt's events and readers of /metrics come in others, and leave a note that
wakes it. It gives a sign of life every few seconds, whatever it does; without that, health and systemd's watchdog see
that it stands still. Looking is done on one read-only connection that stays.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Final

from pmuconf.audit.report import Report
from pmuconf.audit.vm import Vm
from pmuconf.change.domains import Domains
from pmuconf.change.plan import Seen
from pmuconf.conf import Processes, Settings
from pmuconf.errors import PmuconfError
from pmuconf.hostfacts import HostFacts
from pmuconf.hypervisor.hypervisor import Hypervisor
from pmuconf.hypervisor.listing import Listed
from pmuconf.report.document import summary
from pmuconf.service.agenda import Backoff
from pmuconf.service.announcer import Announcer
from pmuconf.service.enforcement import Enforcement
from pmuconf.service.health import Health
from pmuconf.service.log import Log
from pmuconf.service.notes import Notes
from pmuconf.service.outputs import Outputs
from pmuconf.service.publisher import Publisher
from pmuconf.service.systemd import Systemd
from pmuconf.wording import counted

__all__ = ["Service"]

_ONE_BY_ONE: Final = 16  # more domains than this are found by one list of all


class Service:
    """Keeps one host's domains on policy, and its report fresh, from run() until stop().

    :param load: reads the configuration anew, and raises PmuconfError if it is wrong.
    :param survey: finds the facts of this host: from the file that is given, or by probes where it is None.
    :param clock: what health measures with how long the loop stands still.
    """

    def __init__(
        self,
        load: Callable[[], Settings],
        survey: Callable[[Path | None], HostFacts],
        log: Log,
        systemd: Systemd,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._load = load
        self._log = log
        self._systemd = systemd
        self.health = Health(clock)
        self.outputs = Outputs(self.health)
        self._announcer = Announcer(self.health, log, systemd)
        self._notes = Notes()
        self._publisher = Publisher(self.outputs, survey, self._announcer)
        self._vms: dict[str, Vm] = {}
        self._at = datetime.now(timezone.utc)  # when all of them were looked at
        chosen = load()
        self._enforcement = Enforcement(chosen, self._notes, self._announcer)
        self.health.failed.set_function(lambda: self._enforcement.failures.failed)
        self._configure(chosen)

    def stop(self) -> None:
        """End as soon as may be; from any thread."""
        self._notes.stop()

    def reload(self) -> None:
        """Read the configuration anew; from any thread."""
        self._notes.reload()

    def run(self) -> None:
        """Serve until stop(). Trouble with libvirt is reported and waited for, never raised."""
        self._announcer.alive()
        self._systemd.ready()
        address = None if self.outputs.address is None else _shown(*self.outputs.address)
        self._log.info(
            "started",
            f"{'enforcing' if self._chosen.service.enforces else 'observing'} the policy at {self._chosen.uri}"
            + (f"; http://{address}/" if address else ""),
            address=address,
        )
        backoff = Backoff()
        while not self._notes.stopping:
            self._reload()
            if self._chosen.service.processes is Processes.ONLY:
                self._serve_processes()
                continue
            try:
                with Hypervisor.open(self._chosen.uri, read_only=True, alive=self._announcer.alive) as hypervisor:
                    self._serve(hypervisor, backoff)
            except PmuconfError as error:
                self.health.connected(yes=False)
                if not self._notes.stopping:
                    self._announcer.trouble("libvirt", error)
            self._publisher.publish_state(self._chosen)
            if not self._notes.stopping:
                self._notes.wait(time.monotonic() + backoff.next(), self._sign, events=False)
        self.outputs.close()

    # ---- configuration

    def _configure(self, chosen: Settings) -> None:
        """Take this configuration; raises PmuconfError, and keeps the old one, if that is not possible."""
        self.outputs.listen(chosen.service.listen, chosen.service.host_names)
        self._chosen = chosen
        self._log.form = chosen.service.log_format
        self._notes.debounce(chosen.service.debounce)
        self._enforcement.configure(chosen)
        for area in ("failures", "configuration", "changes"):
            self._announcer.well(area)
        self.health.configured(enforces=chosen.service.enforces, patience=3 * chosen.service.interval + 60)

    def _reload(self) -> bool:
        """Read the configuration anew if somebody asked for it; whether anybody did."""
        if not self._notes.take_reload():
            return False
        self._systemd.reloading()
        try:
            self._configure(self._load())
        except PmuconfError as error:
            self.health.trouble("configuration", error)
            self._log.error("reload-refused", f"the configuration stays as it was: {error.message}", cause=error.cause)
        else:
            self._log.info("reloaded", "the configuration was read anew")
        self._systemd.ready()
        return True

    # ---- while connected

    def _serve(self, hypervisor: Hypervisor, backoff: Backoff) -> None:
        """Look, and look again, until the connection is lost, another is wanted, or the service is to stop."""
        notes, publisher = self._notes, self._publisher
        notes.connected()
        with hypervisor.listen(self._hear, notes.lose):  # first: what happens while we look is heard
            uri, next_pass, fresh = self._chosen.uri, 0.0, True
            self.health.connections.inc()
            while not notes.stopping:
                if notes.lost:
                    raise PmuconfError("the connection to libvirt broke", cause="libvirt-lost")
                if self._reload():
                    if self._chosen.uri != uri or self._chosen.service.processes is Processes.ONLY:
                        return
                    next_pass = 0.0
                now = time.monotonic()
                if now >= next_pass:
                    self._pass(hypervisor, fresh=fresh)
                    next_pass, fresh = now + self._chosen.service.interval, False
                    backoff.reset()
                    self._connected()
                else:
                    due = notes.due()
                    if due:
                        self._look_again(hypervisor, due)
                if notes.deaf:  # see DefineWatch: it hears again once nobody has listened for a moment
                    raise PmuconfError("libvirt reports no events: connecting anew", cause="events-lost")
                if publisher.due is not None and time.monotonic() >= publisher.due:
                    publisher.publish(self._chosen, hypervisor, list(self._vms.values()), self._at)
                until = next_pass if publisher.due is None else min(next_pass, publisher.due)
                notes.wait(until, self._sign, events=True)

    def _serve_processes(self) -> None:
        """Report the VMs of a host without libvirt, again and again, until that is not wanted any more."""
        self.health.connected(yes=False)
        self._announcer.well("libvirt")
        self._vms = {}
        next_pass = 0.0
        while not self._notes.stopping and self._chosen.service.processes is Processes.ONLY:
            if self._reload():
                next_pass = 0.0
                continue
            now = time.monotonic()
            if now >= next_pass:
                self._at = datetime.now(timezone.utc)
                number = self._publisher.publish_processes(self._chosen, self._at)
                if number is not None:
                    self._passed(now, f"{counted(number, 'VM')} by their processes", domains=number)
                next_pass = now + self._chosen.service.interval
            self._notes.wait(next_pass, self._sign, events=False)

    def _connected(self) -> None:
        self.health.connected(yes=True)
        if self._announcer.well("libvirt"):
            self._log.info("connected", f"libvirt answers again at {self._chosen.uri}")
            self._publisher.stale = True

    def _pass(self, hypervisor: Hypervisor, *, fresh: bool) -> None:
        """Look at all domains, and bring them on policy; ``fresh``: the first on this connection."""
        begin, self._at = time.monotonic(), datetime.now(timezone.utc)
        self._notes.begin_pass()
        seen = self._look(hypervisor, hypervisor.domains())
        if self._notes.stopping:
            return
        before, self._vms = self._vms, {domain.listed.uuid: domain.vm for domain in seen}
        # No domain comes or goes without an event.
        came_or_went = before.keys() != self._vms.keys()
        heard = self._notes.end_pass()
        self._notes.deaf = came_or_went and not fresh and not heard
        self._enforcement.failures.begin_pass(self._vms.keys())
        # What an earlier connection or run left in flight is settled first, even if nothing else is to be done.
        self._bring(hypervisor, seen, {}, settle=fresh, failed_too=True)
        self._publisher.hurry()
        counts = summary(Report("", tuple(self._vms.values())))
        sentence = f"{counted(counts['domains'], 'domain')}: {counts['drift']} drift, {counts['pending']} pending"
        numbers = {key: value for key, value in counts.items() if isinstance(value, int)}
        self._passed(begin, sentence, **numbers)

    def _passed(self, begin: float, sentence: str, **numbers: int) -> None:
        """A look at all VMs is complete: say so."""
        self.health.passed()
        self.health.began(self._at.timestamp())
        self.health.pass_seconds.set(time.monotonic() - begin)
        self._log.info("pass", sentence, seconds=round(time.monotonic() - begin, 3), **numbers)
        self._systemd.status(sentence)

    def _look_again(self, hypervisor: Hypervisor, due: Mapping[str, float | None]) -> None:
        """Look at some domains that something happened to, and bring them on policy."""
        if len(due) > _ONE_BY_ONE:
            listed = [domain for domain in hypervisor.domains() if domain.uuid in due]
        else:
            listed = [domain for domain in map(hypervisor.find, due) if domain is not None]
        seen = self._look(hypervisor, listed)
        if self._notes.stopping:
            return
        self._take_in(due, seen)
        self._bring(hypervisor, seen, due, settle=False, failed_too=False)

    def _bring(
        self,
        hypervisor: Hypervisor,
        seen: Sequence[Seen],
        since: Mapping[str, float | None],
        *,
        settle: bool,
        failed_too: bool,
    ) -> None:
        """Bring these domains on policy (see Enforcement.bring()), and look at what was changed."""
        changed = self._enforcement.bring(seen, since, settle=settle, failed_too=failed_too)
        if changed and not self._notes.stopping:
            self._take_in([listed.uuid for listed in changed], self._look(hypervisor, changed))

    def _look(self, hypervisor: Hypervisor, listed: Sequence[Listed]) -> list[Seen]:
        """These domains as they are now; not all of them, if the service is to stop."""
        seen = []
        for domain in Domains.of(hypervisor, self._chosen).look(listed):
            self._announcer.alive()
            seen.append(domain)
            if self._notes.stopping:
                break
        return seen

    def _take_in(self, uuids: Iterable[str], seen: Iterable[Seen]) -> None:
        """These domains are now as they were seen, or gone."""
        vms = {domain.listed.uuid: domain.vm for domain in seen}
        for uuid in uuids:
            if uuid in vms:
                self._vms[uuid] = vms[uuid]
            else:
                self._vms.pop(uuid, None)
                self._enforcement.failures.gone(uuid)
        self._publisher.stale = True

    # ---- signs of life, and events

    def _sign(self, waiting: int) -> None:
        """The loop lives, and so many domains wait for their turn."""
        self._announcer.alive()
        self.health.waiting.set(waiting)

    def _hear(self, uuid: str, event: str) -> None:
        """Something happened to this domain: called from libvirt's event loop."""
        self.health.events.labels(event).inc()
        self._notes.event(uuid)


def _shown(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
