"""One run over a host: bring domains on policy or take changes back, for real or to see what would be done.

What the commands and the Ansible modules share: both give a Run what was asked of them, and show its results.
"""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import Any

from pmuconf.access import connect
from pmuconf.audit.look import look
from pmuconf.audit.vm import Vm
from pmuconf.change.journal import ChangeKind, ChangeStatus, Entry, Journal
from pmuconf.change.make import Limits, apply
from pmuconf.change.plan import Plan, not_to_be_changed, plan, plan_rollback, planned
from pmuconf.change.result import Outcome, Result
from pmuconf.change.settle import confirm_canary, writing
from pmuconf.change.whom import whom
from pmuconf.conf import Settings
from pmuconf.domain.definition import PmuState
from pmuconf.errors import PmuconfError
from pmuconf.hypervisor.hypervisor import Hypervisor, Listed
from pmuconf.policy import Policy, requesting

__all__ = ["Run"]

_LISTS = "pmuconf journal lists them"


@dataclass(frozen=True)
class Run:
    """What every run is given.

    :param uri: the libvirt connection; None for the configuration's.
    :param dry: tell what would be done, on a read-only connection.
    :param warn: is told, in sentences, what an interrupted run had left and how that ended.
    :param progress: wraps what is gone through, given its number and what is done, to show how far it is.
    """

    settings: Settings
    uri: str | None = None
    dry: bool = False
    warn: Callable[[str], None] = lambda _: None
    progress: Callable[[Iterable[Any], int, str], Iterable[Any]] = lambda items, _number, _what: items

    def apply(
        self,
        names: Sequence[str] = (),
        *,
        state: PmuState | None = None,
        max_changes: int | None = None,
        max_failures: int | None = None,
        canary: int = 0,
        go_on: bool = False,
    ) -> list[Result]:
        """Bring domains on policy, all of them or those named: what is changed first, then what is left alone.

        :param state: bring them to this state instead of what the rules want; what beats every rule beats this too.
        :param max_changes: None for the configuration's, and so with max_failures; see Limits for the others.
        :raises PmuconfError: request-refused (before anything is changed), canary-missing, canary-lost, locked, ...
        """
        policy = self.settings.policy if state is None else requesting(self.settings.policy, state)
        limit = self.settings.max_changes if max_changes is None else max_changes
        limits = replace(self._limits, max_changes=limit, canary=canary, go_on=go_on)
        if max_failures is not None:
            limits = replace(limits, max_failures=max_failures)
        continues = go_on and not canary
        with self._begun(remembers=continues) as (hypervisor, journal):
            if continues:
                confirm_canary(hypervisor, journal)
            vms = self._look(hypervisor, policy, names)
            if state is not None:
                _refuse(state, (vm for _, vm in vms))
            plans, rest = plan(policy, vms), not_to_be_changed(policy, (vm for _, vm in vms))
            return [*self._carried_out(hypervisor, journal, plans, limits, ChangeKind.APPLY), *rest]

    def roll_back(self, names: Sequence[str] | None, *, change: int | None = None) -> list[Result]:
        """Take back the changes of these domains, or with None all that there are; or one change alone.

        What was taken back already is so, and no error. What was changed on another host is named.

        :param names: today's names, or UUIDs.
        :raises PmuconfError: no-such-change, not-to-be-undone, flavor-change, ambiguous-domain, locked, ...
        """
        if change is not None:
            self._refuse_flavor(change)
        with self._begun() as (hypervisor, journal):
            known = [] if journal is None else self._known(hypervisor, journal)
            here = [entry for entry in known if entry.driver.same(hypervisor.driver)]
            if change is not None:
                entries = [_one(change, known)]
            elif names is not None:
                entries = [entry for name in names for entry in _of(name, here, known, hypervisor)]
            else:
                entries = here
                of_here = {entry.id for entry in here}
                elsewhere = [one for one in known if one.revocable and not one.of_flavor and one.id not in of_here]
                self._name(elsewhere)
                if not any(entry.revocable for entry in here) and elsewhere:
                    return list(map(_elsewhere, elsewhere))
            revocable = [entry for entry in entries if entry.revocable]
            left = {entry.uuid for entry in revocable}
            back = {entry.uuid: entry for entry in reversed(entries) if entry.uuid not in left and entry.undone}
            asked = names is not None or change is not None
            return [*self._undone(hypervisor, journal, revocable), *(map(_taken_back, back.values()) if asked else ())]

    def roll_back_carried(
        self, records: Sequence[Mapping[str, Any]], names: Sequence[str] | None = None
    ) -> list[Result]:
        """Take back changes that journals, of this host or of others, gave away, as far as their domains are here.

        What was taken back here is in this host's journal; the journal that gave it away is not told, but whoever
        carries the same change here again finds it undone.

        :param records: as Entry.record() makes them; those of domains that are not here are passed over.
        :param names: only those of domains that are called so here today, or have these UUIDs.
        :raises PmuconfError: change-invalid, ambiguous-domain, locked, ...
        """
        given = map(Entry.of_record, records)
        carried = list(_newest_first(entry for entry in given if entry.revocable and not entry.of_flavor))
        with self._begun() as (hypervisor, journal):
            if names is None:
                there = {uuid for uuid in {entry.uuid for entry in carried} if hypervisor.find(uuid) is not None}
            else:
                there = {listed.uuid for listed in map(hypervisor.named, names) if listed is not None}
            entries = [entry for entry in carried if entry.uuid in there]
            if journal is not None:
                if not self.dry:
                    journal.adopt([entry for entry in reversed(entries) if journal.copy_of(entry) is None])
                # What this journal knows of them counts: they may have been taken back since.
                entries = [journal.copy_of(entry) or entry for entry in entries]
            return self._undone(hypervisor, journal, [entry for entry in entries if entry.revocable])

    @contextmanager
    def _begun(self, *, remembers: bool = True) -> Iterator[tuple[Hypervisor, Journal | None]]:
        """The connection and the journal: None if a dry run finds none, or does not ask what was done before."""
        path = self.settings.journal
        connecting = connect(self.settings, self.uri, read_only=self.dry)
        if self.dry:
            with self._found() if remembers else nullcontext() as journal, connecting as hypervisor:
                yield hypervisor, journal
            return
        with writing(connecting, path, self.settings.retention_days) as (hypervisor, journal, settled):
            for sentence in settled:
                self.warn(sentence)
            yield hypervisor, journal

    def _refuse_flavor(self, change: int) -> None:
        """A flavor's change is no matter of libvirt's, which is not even asked."""
        with self._found() as journal:
            entries = [] if journal is None else journal.entries()
        for entry in entries:
            if entry.id == change and entry.of_flavor:
                raise PmuconfError(
                    f"change {change} is one of flavor {entry.name!r}, not of a domain",
                    cause="flavor-change",
                    hint=f"Take it back with: pmuconf flavors rollback {shlex.quote(entry.name)}",
                )

    def _found(self) -> AbstractContextManager[Journal | None]:
        """The journal, if there is one."""
        try:
            there = self.settings.journal.exists()
        except OSError:  # Journal.open() says what is the matter
            there = True
        return Journal.open(self.settings.journal) if there else nullcontext()

    def _look(self, hypervisor: Hypervisor, policy: Policy, names: Sequence[str]) -> list[tuple[Listed, Vm]]:
        listed = hypervisor.domains(names)
        looking = partial(look, hypervisor, policy, max_bytes=self.settings.max_xml_bytes)
        looked = self.progress(hypervisor.map(looking, listed), len(listed), "reading")
        return [(one, vm) for one, vm in zip(listed, looked) if vm is not None]

    def _known(self, hypervisor: Hypervisor, journal: Journal) -> list[Entry]:
        """The journal's changes as a real run would find them: old ones dropped, those in flight settled."""
        for number, why in journal.damaged():
            self.warn(f"change {number} of the journal can't be read, and is left out: {why}")
        entries = journal.entries()
        if not self.dry:
            return entries
        retired = journal.to_retire(self.settings.retention_days)
        return [self._settled(hypervisor, entry) for entry in entries if entry.id not in retired]

    def _name(self, elsewhere: Sequence[Entry]) -> None:
        """Say which changes are other hosts'."""
        counts = Counter(entry.uri for entry in elsewhere)
        if counts:
            where = ", ".join(f"{uri} ({count})" for uri, count in sorted(counts.items()))
            self.warn(f"{len(elsewhere)} changes that could be taken back belong to another host: {where}")

    def _settled(self, hypervisor: Hypervisor, entry: Entry) -> Entry:
        if entry.status is not ChangeStatus.IN_FLIGHT or not entry.driver.same(hypervisor.driver):
            return entry
        found = self._now(hypervisor, entry.uuid)
        made = found is not None and found[1].next_boot is entry.new
        return replace(entry, status=ChangeStatus.DONE if made else ChangeStatus.ABANDONED)

    def _undone(self, hypervisor: Hypervisor, journal: Journal | None, entries: Sequence[Entry]) -> list[Result]:
        plans, rest = plan_rollback(entries, partial(self._now, hypervisor))
        return [*self._carried_out(hypervisor, journal, plans, self._limits, ChangeKind.ROLLBACK), *rest]

    @property
    def _limits(self) -> Limits:
        """Those of the configuration that hold for every run."""
        return Limits(attempts=self.settings.attempts, max_failures=self.settings.max_failures)

    def _now(self, hypervisor: Hypervisor, uuid: str) -> tuple[Listed, Vm] | None:
        listed = hypervisor.find(uuid)
        if listed is None:
            return None
        vm = look(hypervisor, self.settings.policy, listed, max_bytes=self.settings.max_xml_bytes)
        return None if vm is None else (listed, vm)

    def _carried_out(
        self, hypervisor: Hypervisor, journal: Journal | None, plans: Sequence[Plan], limits: Limits, kind: ChangeKind
    ) -> Iterable[Result]:
        if self.dry or journal is None:  # a real run always has one
            return map(planned, plans)
        what = "putting back" if kind is ChangeKind.ROLLBACK else "changing"
        results: Iterable[Result] = self.progress(apply(hypervisor, journal, plans, limits, kind), len(plans), what)
        return results


def _refuse(state: PmuState, vms: Iterable[Vm]) -> None:
    """Nothing is changed where one of those named can't have what was asked for."""
    for vm in vms:
        if vm.decision is not None and vm.decision.state is not state and (vm.next_boot or vm.live) is not state:
            raise PmuconfError(
                f"domain {vm.name!r} can't be asked to have its PMU {state.value}: {vm.reason}",
                cause="request-refused",
                hint=f"'pmuconf policy explain {vm.name}' tells its story",
            )


def _one(number: int, entries: Iterable[Entry]) -> Entry:
    entry = next((entry for entry in entries if entry.id == number), None)
    if entry is None:
        raise PmuconfError(f"the journal has no change {number}", cause="no-such-change", hint=_LISTS)
    if not entry.revocable and not entry.undone:
        what = f"is {entry.status.value} and of kind {entry.kind.value}"
        raise PmuconfError(f"change {entry.id} {what}", cause="not-to-be-undone")
    return entry


def _taken_back(entry: Entry) -> Result:
    note = "it was taken back already"
    return Result(entry.name, entry.uuid, Outcome.ALREADY, rule="rollback", cause="taken-back", note=note)


def _elsewhere(entry: Entry) -> Result:
    note = f"it was changed on another host, {entry.uri}: take it back there"
    return Result(entry.name, entry.uuid, Outcome.ALREADY, rule="rollback", cause="another-host", note=note)


def _of(name: str, here: Sequence[Entry], known: Sequence[Entry], hypervisor: Hypervisor) -> list[Entry]:
    """The changes of the domain that this name means today, made on this host."""
    meant = whom(name, known, hypervisor)
    found = [entry for entry in here if entry.uuid == meant.uuid]
    if any(entry.revocable or entry.undone for entry in found):
        return found
    more = [f"{entry.uri} changed it" for entry in known if entry.uuid == meant.uuid and entry.revocable][:1]
    if meant.once:
        more.append(f"the domain that was called so then is {' or '.join(meant.once)}: give its UUID")
    raise PmuconfError(
        "; ".join([f"the journal has no change of {name!r} that could be taken back", *more]),
        cause="no-such-change",
        hint=_LISTS,
    )


def _newest_first(entries: Iterable[Entry]) -> Iterator[Entry]:
    """Changes of several journals, each once: those of one by their numbers, one journal's among another's by time.

    A clock may have been wrong; a number never is.
    """
    by_journal: dict[str, dict[tuple[datetime, str], Entry]] = {}
    for entry in entries:
        by_journal.setdefault(entry.uri, {}).setdefault((entry.at, entry.uuid), entry)
    left = [sorted(one.values(), key=lambda entry: entry.id) for one in by_journal.values()]
    while left:
        last = max(left, key=lambda one: one[-1].at)
        yield last.pop()
        left = [one for one in left if one]
