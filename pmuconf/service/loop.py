"""The loop of the service: when to look, at what, and what follows.

All of it runs in one thread. Signals, libvirt's events and readers of /metrics come in others, and leave a note and
wake it. It gives a sign of life every few seconds, whatever it does; without that, health and systemd's watchdog see
that it stands still. Looking is done on one read-only connection that stays; for changes a read-write one is opened,
and the lock of all writers held, only while there is something to change.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Final

from pmuconf.audit.look import look
from pmuconf.audit.report import Report, asks_host, join
from pmuconf.audit.vm import Vm
from pmuconf.change.make import Limits, apply
from pmuconf.change.plan import Goal, Plan, plan
from pmuconf.change.result import Outcome, Result
from pmuconf.change.settle import writing
from pmuconf.conf import Mode, Settings
from pmuconf.domain.definition import Domain
from pmuconf.errors import PmuconfError
from pmuconf.hostfacts import HostFacts
from pmuconf.hypervisor.hypervisor import Hypervisor, Listed
from pmuconf.report.document import document, summary
from pmuconf.service.agenda import Agenda, Allowance, Backoff
from pmuconf.service.health import Health
from pmuconf.service.log import Log
from pmuconf.service.outputs import Outputs
from pmuconf.service.systemd import Systemd

__all__ = ["Service", "to_be_changed"]

_ONE_BY_ONE: Final = 16  # more domains than this are found by one list of all
_LOCKED_SECONDS: Final = 2.0
_REST_SECONDS: Final = 1.0  # until those are tried that a failure kept from their turn
_AGAIN_SECONDS: Final = 30.0
_AT_ONCE: Final = 10  # changes that are worth a connection, where the allowance is used up
_SIGN_SECONDS: Final = 5.0
_PUBLISHING: Final = 50  # publishing may take a fiftieth of the processor's time,
_FRESH_SECONDS: Final = 15.0  # or what it takes to be so fresh
_CONNECTION: Final = frozenset({"libvirt-lost", "libvirt-unreachable", "libvirt-timeout"})


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
        self._survey = survey
        self._log = log
        self._systemd = systemd
        self.health = Health(clock)
        self.outputs = Outputs(self.health)
        self._noted = threading.Condition()
        self._stopping = self._reloading = self._lost = False
        self._agenda = Agenda(0)
        self._vms: dict[str, Vm] = {}
        self._failed: set[str] = set()
        self._differing: set[str] = set()  # since the last pass
        self._deaf = False
        self._events = self._events_before = 0  # heard by now, and by the begin of the last pass
        self.health.failed.set_function(lambda: len(self._failed))
        self._tripped = False
        self._document: Mapping[str, Any] | None = None
        self._at = datetime.now(timezone.utc)
        self._stale = False
        self._publish_after = 0.0
        self._configure(load())

    def stop(self) -> None:
        """End as soon as may be; from any thread."""
        with self._noted:
            self._stopping = True
            self._noted.notify_all()

    def reload(self) -> None:
        """Read the configuration anew; from any thread."""
        with self._noted:
            self._reloading = True
            self._noted.notify_all()

    def run(self) -> None:
        """Serve until stop(). Trouble with libvirt is told and waited for, never raised."""
        self._alive()
        self._systemd.ready()
        place = self.outputs.address
        self._log.info(
            "started",
            f"{'enforcing' if self._chosen.service.enforces else 'observing'} the policy at {self._chosen.uri}"
            + (f"; http://{_host(place[0])}:{place[1]}/metrics" if place else ""),
            address=place and f"{_host(place[0])}:{place[1]}",
        )
        backoff = Backoff()
        while not self._stopping:
            self._reload()
            try:
                with Hypervisor.open(self._chosen.uri, read_only=True, alive=self._alive) as hypervisor:
                    self._serve(hypervisor, backoff)
            except PmuconfError as error:
                self.health.connected(yes=False)
                if not self._stopping:
                    self._trouble("libvirt", error)
            self._publish(None)
            if not self._stopping:
                self._wait(time.monotonic() + backoff.next(), events=False)
        self.outputs.close()

    # ---- configuration

    def _configure(self, chosen: Settings) -> None:
        """Take this configuration; raises PmuconfError, and keeps the old one, if that is not possible."""
        self.outputs.listen(chosen.service.listen, chosen.service.host_names)
        self._chosen = chosen
        self._log.form = chosen.service.log_format
        self._agenda.debounce = chosen.service.debounce
        self._allowance = Allowance(chosen.max_changes, chosen.service.changes_per_minute, time.monotonic())
        self._failed.clear()
        self._differing.clear()
        self._tripped = False
        for area in ("failures", "configuration", "changes"):
            self.health.well(area)
        self.health.configured(enforces=chosen.service.enforces, patience=3 * chosen.service.interval + 60)

    def _reload(self) -> bool:
        """Read the configuration anew if somebody asked for it; whether anybody did."""
        with self._noted:
            asked, self._reloading = self._reloading, False
        if not asked:
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
        self._lost = self._deaf = False
        with hypervisor.listen(self._heard, self._lose):  # first: what happens while we look is heard
            uri, next_pass, fresh = self._chosen.uri, 0.0, True
            self.health.connections.inc()
            while not self._stopping:
                if self._lost:
                    raise PmuconfError("the connection to libvirt broke", cause="libvirt-lost")
                if self._reload():
                    if self._chosen.uri != uri:
                        return
                    next_pass = 0.0
                now = time.monotonic()
                if now >= next_pass:
                    self._pass(hypervisor, fresh=fresh)
                    next_pass, fresh = now + self._chosen.service.interval, False
                    backoff.reset()
                    self._connected()
                else:
                    with self._noted:
                        due = self._agenda.take(now)
                    if due:
                        self._look_again(hypervisor, due)
                if self._deaf:  # see DefineWatch: it hears again once nobody has listened for a moment
                    raise PmuconfError("libvirt reports no events: connecting anew", cause="events-lost")
                if self._stale and time.monotonic() >= self._publish_after:
                    self._publish(hypervisor)
                self._wait(min(next_pass, self._publish_after if self._stale else next_pass), events=True)

    def _connected(self) -> None:
        self.health.connected(yes=True)
        if self.health.well("libvirt"):
            self._log.info("connected", f"libvirt answers again at {self._chosen.uri}")
            self._stale = True

    def _pass(self, hypervisor: Hypervisor, *, fresh: bool) -> None:
        """Look at all domains, and bring them on policy; ``fresh``: the first on this connection."""
        begin, self._at = time.monotonic(), datetime.now(timezone.utc)
        with self._noted:
            self._agenda.clear()
            events = self._events
        looked = self._look(hypervisor, hypervisor.domains())
        if self._stopping:
            return
        # No domain comes or goes without an event.
        came_or_went = self._vms.keys() != {listed.uuid for listed, _ in looked}
        self._deaf = came_or_went and not fresh and self._events == self._events_before
        self._events_before = events
        self._vms = {listed.uuid: vm for listed, vm in looked}
        self._failed &= self._vms.keys()
        self._differing.clear()
        # What an earlier connection or run left in flight is settled first, even if nothing else is to be done.
        self._change(hypervisor, looked, {}, settle=fresh, failed_too=True)
        self.health.passed()
        self.health.began(self._at.timestamp())
        self.health.pass_seconds.set(time.monotonic() - begin)
        self._stale, self._publish_after = True, 0.0
        counts = summary(Report("", tuple(self._vms.values())))
        sentence = f"{counts['domains']} domains: {counts['drift']} drift, {counts['pending']} pending"
        self._log.info("pass", sentence, seconds=round(time.monotonic() - begin, 3), **_numbers(counts))
        self._systemd.status(sentence)

    def _look_again(self, hypervisor: Hypervisor, due: Mapping[str, float | None]) -> None:
        """Look at some domains that something happened to, and bring them on policy."""
        if len(due) > _ONE_BY_ONE:
            found = [listed for listed in hypervisor.domains() if listed.uuid in due]
        else:
            found = [listed for listed in map(hypervisor.find, due) if listed is not None]
        looked = self._look(hypervisor, found)
        if self._stopping:
            return
        self._take_in(due, looked)
        self._change(hypervisor, looked, due, settle=False, failed_too=False)

    def _look(self, hypervisor: Hypervisor, all_listed: Iterable[Listed]) -> list[tuple[Listed, Vm]]:
        looked = []
        for listed in all_listed:
            if self._stopping:
                break
            self._alive()
            vm = look(hypervisor, self._chosen.policy, listed, max_bytes=self._chosen.max_xml_bytes)
            if vm is not None:
                looked.append((listed, vm))
        return looked

    def _take_in(self, uuids: Iterable[str], looked: Iterable[tuple[Listed, Vm]]) -> None:
        """These domains are now as they were seen, or gone."""
        seen = {listed.uuid: vm for listed, vm in looked}
        for uuid in uuids:
            if uuid in seen:
                self._vms[uuid] = seen[uuid]
            else:
                self._vms.pop(uuid, None)
                self._failed.discard(uuid)
        self._stale = True

    # ---- changes

    def _change(
        self,
        hypervisor: Hypervisor,
        looked: Sequence[tuple[Listed, Vm]],
        since: Mapping[str, float | None],
        *,
        settle: bool,
        failed_too: bool,
    ) -> None:
        """Bring on policy what was seen to be off it, as far as mode and limits allow; the rest is kept for later.

        :param since: when each domain was first heard of, of those that an event told of.
        :param failed_too: try those again whose last change failed.
        """
        chosen, now = self._chosen, time.monotonic()
        if not chosen.service.enforces or self._tripped:
            return
        plans = to_be_changed(chosen, looked)
        # Those that failed come last, so that they take nothing from the allowance of the others.
        plans = sorted((one for one in plans if failed_too or not self._fails(one)), key=self._fails)
        allowed = self._allowance.left(now)
        rest = plans[allowed:]
        if rest:
            self._later((one.listed.uuid for one in rest), self._allowance.when(min(len(rest), _AT_ONCE), now))
        plans = plans[:allowed]
        if not plans and not settle:
            return
        left = {one.listed.uuid for one in plans}
        try:
            self._carry_out(plans, since, left)
        except PmuconfError as error:
            if error.cause == "locked":
                self._later(left, now + _LOCKED_SECONDS)
            else:
                self._trouble("changes", error)
                self._later(left, time.monotonic() + _AGAIN_SECONDS)
        else:
            self.health.well("changes")
            self._later(left, time.monotonic() + _REST_SECONDS)
        changed = [one.listed for one in plans if one.listed.uuid not in left]
        if changed and not self._stopping:
            self._take_in([listed.uuid for listed in changed], self._look(hypervisor, changed))

    def _carry_out(self, plans: Sequence[Plan], since: Mapping[str, float | None], left: set[str]) -> None:
        """Make these changes; takes out of ``left`` what was reached."""
        chosen = self._chosen
        connecting = Hypervisor.open(chosen.uri, read_only=False, parallel=chosen.parallel, alive=self._alive)
        with writing(connecting, chosen.journal, chosen.retention_days) as (hypervisor, journal, settled):
            for sentence in settled:
                self._log.warning("settled", sentence)
            new, again = ([one for one in plans if self._fails(one) is failed] for failed in (False, True))
            most = chosen.service.max_failures - len(self._failed | self._differing)
            for some, failures in ((new, most), (again, len(again))):
                if not some or self._stopping or self._tripped:
                    continue
                for result in apply(hypervisor, journal, some, Limits(attempts=chosen.attempts, max_failures=failures)):
                    self._alive()
                    if result.outcome is not Outcome.NOT_REACHED and result.cause not in _CONNECTION:
                        left.discard(result.uuid)
                        self._account(result, since)
                    if self._stopping:
                        break

    def _account(self, result: Result, since: Mapping[str, float | None]) -> None:
        """What became of one change."""
        now, uuid = time.monotonic(), result.uuid
        self.health.changes.labels(result.outcome.value).inc()
        if result.outcome in (Outcome.CHANGED, Outcome.FAILED, Outcome.BUSY):
            self._allowance.use(1)
        if result.outcome is Outcome.CHANGED:
            with self._noted:
                self._agenda.ours(uuid, now)
            heard = since.get(uuid)
            if heard is not None:
                self.health.reaction.observe(now - heard)
        if result.outcome is Outcome.BUSY:
            self._later([uuid], now + _AGAIN_SECONDS)
        if result.outcome is Outcome.FAILED:
            self._failed.add(uuid)
        else:
            self._failed.discard(uuid)
        if result.cause == "differs-after":
            self._differing.add(uuid)
        self._deaf = self._deaf or result.cause == "not-confirmed"
        self._tell(result)
        most, failed = self._chosen.service.max_failures, len(self._failed | self._differing)
        if failed > most and not self._tripped:
            self._tripped = True
            self._trouble(
                "failures",
                PmuconfError(
                    f"the changes of {failed} domains failed or left more changed than the PMU, and [service] "
                    f"max_failures is {most}: nothing is changed any more until the service is reloaded",
                    cause="too-many-failures",
                ),
            )

    def _tell(self, result: Result) -> None:
        say = self._log.info
        if result.outcome is Outcome.FAILED:
            say = self._log.error
        elif result.cause and result.cause not in ("no-change", "domain-vanished"):
            say = self._log.warning
        say(
            result.outcome.value,
            f"{result.name}: {result.outcome.value}"
            + (f" from {result.old.value} to {result.new.value}" if result.old and result.new else "")
            + (f" by {result.rule}" if result.rule else "")
            + (f": {result.note}" if result.note else ""),
            cause=result.cause,
            domain=result.name,
            uuid=result.uuid,
            rule=result.rule,
            change=result.change,
            pending=result.pending,
        )

    def _fails(self, one: Plan) -> bool:
        return one.listed.uuid in self._failed

    def _later(self, uuids: Iterable[str], at: float) -> None:
        with self._noted:
            self._agenda.later(uuids, at)

    # ---- what others see

    def _publish(self, hypervisor: Hypervisor | None) -> None:
        """Put the report out as it is now; without a connection the last one, with what troubles the service."""
        self._alive()
        begin = time.thread_time()
        if hypervisor is not None:
            vms = tuple(sorted(self._vms.values(), key=lambda vm: vm.name))
            facts = self._facts(vms) if hypervisor.local and asks_host(vms) else None
            self._alive()
            report = Report(hypervisor.uri, join(vms, facts), facts, at=self._at)
            self._document = document(report, self._chosen.policy)
            self._stale = False
        self._alive()
        try:
            self.outputs.publish(self._document, self._chosen.service)
        except PmuconfError as error:
            self._trouble("output", error)
        else:
            self.health.well("output")
        self._publish_after = time.monotonic() + min(_FRESH_SECONDS, _PUBLISHING * (time.thread_time() - begin))

    def _facts(self, vms: Sequence[Vm]) -> HostFacts | None:
        """The facts of this host: from the file, else as far as they can be seen from here."""
        file = self._chosen.service.host_facts
        try:
            facts = self._survey(file)
        except PmuconfError as error:
            self._trouble("host-facts", error)
        else:
            self.health.well("host-facts")
            return facts
        self._alive()
        try:
            return self._survey(None) if file is not None else None
        except PmuconfError:  # what the file lacks is told already
            return None

    def _trouble(self, area: str, error: PmuconfError) -> None:
        if self.health.trouble(area, error):
            self._log.error("trouble", f"{area}: {error.message}", cause=error.cause, area=area, hint=error.hint)
            self._systemd.status(f"{area}: {error.message}")

    def _alive(self) -> None:
        """A sign of life: from the loop, and from the threads that work for it while it waits for them."""
        self.health.beat()
        self._systemd.alive()

    # ---- notes from other threads

    def _heard(self, uuid: str, what: str) -> None:
        self.health.events.labels(what).inc()
        with self._noted:
            self._events += 1
            self._agenda.heard(uuid, time.monotonic())
            self._noted.notify_all()

    def _lose(self) -> None:
        with self._noted:
            self._lost = True
            self._noted.notify_all()

    def _wait(self, until: float, *, events: bool) -> None:
        """Sleep until then, or until there is something to do; events count only where they can be followed up."""
        while True:
            self._alive()
            with self._noted:
                self.health.waiting.set(len(self._agenda))
                if self._stopping or self._reloading or (events and self._lost):
                    return
                due = self._agenda.next() if events else None
                left = min(until, until if due is None else due) - time.monotonic()
                if left <= 0:
                    return
                self._noted.wait(min(left, _SIGN_SECONDS))


def to_be_changed(chosen: Settings, looked: Iterable[tuple[Listed, Vm]]) -> list[Plan]:
    """The plans for domains that are off policy, and that mode leaves to the service: that of the rule that decides."""

    def only(one: Plan) -> Plan:
        def aim(definition: Domain) -> Goal | None:
            goal = one.aim(definition)
            return goal if goal is not None and enforced(goal) else None

        return replace(one, aim=aim)

    def enforced(goal: Goal) -> bool:
        return chosen.service.mode_of(goal.rule) is Mode.ENFORCE

    return [only(one) for one in plan(chosen.policy, looked) if enforced(one.goal)]


def _host(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def _numbers(counts: Mapping[str, Any]) -> dict[str, int]:
    return {key: value for key, value in counts.items() if isinstance(value, int)}
