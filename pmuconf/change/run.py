"""One run over a host: bring domains on policy or take changes back, for real or to see what would be done.

Commands and Ansible's modules give a Run the options that they got, and show its results.
"""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from pmuconf.access import connect
from pmuconf.audit.vm import Vm
from pmuconf.change.domains import Domains, Writer
from pmuconf.change.journal import ChangeKind, ChangeStatus, Entry, Journal
from pmuconf.change.limits import REFUSED, Course, Limits, not_begun
from pmuconf.change.plan import Plan, not_to_be_changed, plan, plan_rollback, planned
from pmuconf.change.result import Outcome, Result
from pmuconf.change.settle import confirm_canary
from pmuconf.change.store import may_exist
from pmuconf.change.whom import whom
from pmuconf.conf import Settings
from pmuconf.domain.definition import PmuState
from pmuconf.errors import PmuconfError
from pmuconf.hypervisor.hypervisor import Hypervisor
from pmuconf.policy import requesting
from pmuconf.wording import counted

__all__ = ["Run"]

_LISTS = "pmuconf journal lists them"


@dataclass(frozen=True)
class Run:
    """The options of every run.

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
        continues = go_on and not canary
        limits = Limits.of(
            self.settings, max_changes=max_changes, max_failures=max_failures, canary=canary, go_on=go_on
        )
        with self._begun(remembers=continues) as begun:
            if continues:
                confirm_canary(begun.hypervisor, begun.journal)
            listed = begun.hypervisor.domains(names)
            domains = replace(begun.domains, policy=policy)
            seen = list(self.progress(domains.look(listed), len(listed), "reading"))
            vms = [domain.vm for domain in seen]
            if state is not None:
                _refuse(state, vms)
            plans, left_alone = plan(policy, seen), not_to_be_changed(policy, vms)
            if begun.writer is None:
                return [*begun.planned(plans, limits), *left_alone]
            results = begun.writer.carry_out(plans, limits)
            return [*self.progress(results, len(plans), "changing"), *left_alone]

    def roll_back(self, names: Sequence[str] | None, *, change: int | None = None) -> list[Result]:
        """Take back the changes of these domains, or with None all that there are; or one change alone.

        A change that was taken back already is no error. Changes of other hosts are named.

        :param names: today's names, or UUIDs.
        :raises PmuconfError: no-such-change, not-to-be-undone, flavor-change, ambiguous-domain, locked, ...
        """
        if change is not None:
            self._refuse_flavor(change)
        with self._begun() as begun:
            known = self._known(begun)
            here = [entry for entry in known if entry.driver.same(begun.hypervisor.driver)]
            if names is None and change is None:
                return self._roll_all_back(begun, here, known)
            if change is not None:
                entries = [_one(change, known)]
            else:
                entries = [entry for name in names or () for entry in _of(name, here, known, begun.hypervisor)]
            revocable = [entry for entry in entries if entry.revocable]
            left = {entry.uuid for entry in revocable}
            taken_back = {entry.uuid: entry for entry in reversed(entries) if entry.uuid not in left and entry.undone}
            return [*self._undone(begun, revocable), *map(_taken_back, taken_back.values())]

    def _roll_all_back(self, begun: _Begun, here: Sequence[Entry], known: Sequence[Entry]) -> list[Result]:
        """Take back all that was changed on this host; if that is nothing, what was changed on others."""
        of_here = {entry.id for entry in here}
        elsewhere = [entry for entry in known if entry.revocable and not entry.of_flavor and entry.id not in of_here]
        self._name(elsewhere)
        revocable = [entry for entry in here if entry.revocable]
        if elsewhere and not revocable:
            return list(map(_elsewhere, elsewhere))
        return self._undone(begun, revocable)

    def roll_back_carried(
        self, records: Sequence[Mapping[str, Any]], names: Sequence[str] | None = None
    ) -> list[Result]:
        """Take back changes that journals, of this host or of others, gave away, as far as their domains are here.

        This host's journal has the roll back. The journal that gave the change away does not get to know of it. But if
        the same change is carried here again, it counts as undone.

        :param records: as Entry.record() makes them; those of domains that are not here are passed over.
        :param names: only those of domains that are called so here today, or have these UUIDs.
        :raises PmuconfError: change-invalid, ambiguous-domain, locked, ...
        """
        given = map(Entry.of_record, records)
        carried = list(_newest_first(entry for entry in given if entry.revocable and not entry.of_flavor))
        with self._begun() as begun:
            journal = begun.journal
            there = _there(begun.hypervisor, {entry.uuid for entry in carried}, names)
            entries = [entry for entry in carried if entry.uuid in there]
            if journal is not None:
                if not self.dry:
                    journal.adopt([entry for entry in reversed(entries) if journal.copy_of(entry) is None])
                # What this journal knows of them counts: they may have been taken back since.
                entries = [journal.copy_of(entry) or entry for entry in entries]
            return self._undone(begun, [entry for entry in entries if entry.revocable])

    @contextmanager
    def _begun(self, *, remembers: bool = True) -> Iterator[_Begun]:
        """Connect, and open the journal; only a dry run goes without it.

        :param remembers: a dry run needs the journal too, if there is one. Otherwise it does with what it may read: it
            takes no root, and the journal may be another user's.
        """
        connecting = connect(self.settings, self.uri, read_only=self.dry)
        if self.dry:
            with self._found() if remembers else self._readable() as journal, connecting as hypervisor:
                yield _Begun(Domains.of(hypervisor, self.settings), journal)
            return
        with Writer.open(connecting, self.settings) as writer:
            for sentence in writer.sentences:
                self.warn(sentence)
            yield _Begun(Domains.of(writer.hypervisor, self.settings), writer.journal, writer)

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
        path = self.settings.journal
        return Journal.open(path) if may_exist(path) else nullcontext()

    @contextmanager
    def _readable(self) -> Iterator[Journal | None]:
        """The journal, if there is one that can be read."""
        with ExitStack() as stack:
            journal = None
            with suppress(PmuconfError):
                journal = stack.enter_context(self._found())
            yield journal

    def _known(self, begun: _Begun) -> list[Entry]:
        """The journal's changes as a real run would find them: old ones dropped, those in flight settled."""
        journal = begun.journal
        if journal is None:
            return []
        for number, why in journal.damaged():
            self.warn(f"change {number} of the journal can't be read, and is left out: {why}")
        entries = journal.entries()
        if not self.dry:
            return entries
        retired = journal.to_retire(self.settings.retention_days)
        return [_settled(begun.domains, entry) for entry in entries if entry.id not in retired]

    def _name(self, elsewhere: Sequence[Entry]) -> None:
        """Say which changes are other hosts'."""
        counts = Counter(entry.uri for entry in elsewhere)
        if counts:
            where = ", ".join(f"{uri} ({count})" for uri, count in sorted(counts.items()))
            self.warn(f"{counted(len(elsewhere), 'change')} of another host could be taken back there: {where}")

    def _undone(self, begun: _Begun, entries: Sequence[Entry]) -> list[Result]:
        plans, results = plan_rollback(entries, begun.domains.find)
        limits = Limits.of(self.settings)
        if begun.writer is None:
            return [*begun.planned(plans, limits), *results]
        carried_out = begun.writer.carry_out(plans, limits, ChangeKind.ROLLBACK)
        return [*self.progress(carried_out, len(plans), "putting back"), *results]


@dataclass(frozen=True)
class _Begun:
    """A run that is under way: what it works with. A dry run has no writer."""

    domains: Domains
    journal: Journal | None
    writer: Writer | None = None

    @property
    def hypervisor(self) -> Hypervisor:
        return self.domains.hypervisor

    def planned(self, plans: Sequence[Plan], limits: Limits) -> Iterator[Result]:
        """The results that carrying out these plans would have, if all goes well."""
        refused: frozenset[str] = frozenset()
        if self.journal is not None:
            with suppress(PmuconfError):  # what a run needs of the journal was read before
                refused = self.journal.refused(self.hypervisor.driver, REFUSED)
        course = Course.of(plans, limits, refused, ChangeKind.APPLY)
        for _, chosen in course.stages:
            yield from map(planned, chosen)
        yield from (not_begun(left, course.reason, limits) for left in course.left)


def _settled(domains: Domains, entry: Entry) -> Entry:
    """A change as it would be, if it was settled now."""
    if entry.status is not ChangeStatus.IN_FLIGHT or not entry.driver.same(domains.hypervisor.driver):
        return entry
    domain = domains.find(entry.uuid)
    done = domain is not None and domain.vm.next_boot is entry.new
    return replace(entry, status=ChangeStatus.DONE if done else ChangeStatus.ABANDONED)


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
    return Result(entry.name, entry.uuid, Outcome.ALREADY, rule="rollback", cause="taken-back", notes=(note,))


def _elsewhere(entry: Entry) -> Result:
    note = f"it was changed on another host, {entry.uri}: take it back there"
    return Result(entry.name, entry.uuid, Outcome.ALREADY, rule="rollback", cause="another-host", notes=(note,))


def _of(name: str, here: Sequence[Entry], known: Sequence[Entry], hypervisor: Hypervisor) -> list[Entry]:
    """The changes of the domain that this name means today, made on this host."""
    meant = whom(name, known, hypervisor)
    entries = [entry for entry in here if entry.uuid == meant.uuid]
    if any(entry.revocable or entry.undone for entry in entries):
        return entries
    more = [f"{entry.uri} changed it" for entry in known if entry.uuid == meant.uuid and entry.revocable][:1]
    if meant.once:
        more.append(f"the domain that was called so then is {' or '.join(meant.once)}: give its UUID")
    raise PmuconfError(
        "; ".join([f"the journal has no change of {name!r} that could be taken back", *more]),
        cause="no-such-change",
        hint=_LISTS,
    )


def _there(hypervisor: Hypervisor, uuids: Iterable[str], names: Sequence[str] | None) -> set[str]:
    """The UUIDs of the domains that are on this host: of those with these names, or with None of all these."""
    if names is not None:
        return {listed.uuid for listed in map(hypervisor.named, names) if listed is not None}
    return {uuid for uuid in uuids if hypervisor.find(uuid) is not None}


def _newest_first(entries: Iterable[Entry]) -> Iterator[Entry]:
    """Changes of several journals, each once: those of one by their numbers, one journal's among another's by time.

    A clock may have been wrong; a number never is.
    """
    by_journal: dict[str, dict[tuple[datetime, str], Entry]] = {}
    for entry in entries:
        by_journal.setdefault(entry.uri, {}).setdefault((entry.at, entry.uuid), entry)
    journals = [sorted(known.values(), key=lambda entry: entry.id) for known in by_journal.values()]
    while journals:
        newest = max(journals, key=lambda changes: changes[-1].at)
        yield newest.pop()
        journals = [changes for changes in journals if changes]
