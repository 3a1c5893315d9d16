"""A host's domains: looked at, and written to. Commands, Ansible's modules and the service go this one way.

Looking needs a connection alone. Writing opens a read-write one, and holds the lock of all writers until it is over.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial

from pmuconf.audit.look import look
from pmuconf.change.journal import ChangeKind, Journal
from pmuconf.change.limits import Limits
from pmuconf.change.make import apply
from pmuconf.change.plan import Plan, Seen
from pmuconf.change.result import Result
from pmuconf.change.retention import too_old
from pmuconf.change.settle import tidied
from pmuconf.change.store import writer_lock
from pmuconf.conf import Settings
from pmuconf.hypervisor.hypervisor import Hypervisor
from pmuconf.hypervisor.listing import Listed
from pmuconf.policy import Policy

__all__ = ["Domains", "Writer"]


@dataclass(frozen=True)
class Domains:
    """The domains of a host, as a policy judges them."""

    hypervisor: Hypervisor
    policy: Policy
    max_bytes: int

    @classmethod
    def of(cls, hypervisor: Hypervisor, settings: Settings) -> Domains:
        """Those that this configuration's policy judges."""
        return cls(hypervisor, settings.policy, settings.max_xml_bytes)

    def look(self, listed: Sequence[Listed]) -> Iterator[Seen]:
        """These domains as they are now, one by one; without those that are gone.

        :raises PmuconfError: as audit.look.look().
        """
        looking = partial(look, self.hypervisor, self.policy, max_bytes=self.max_bytes)
        for domain, vm in zip(listed, self.hypervisor.map(looking, listed)):
            if vm is not None:
                yield Seen(domain, vm)

    def find(self, uuid: str) -> Seen | None:
        """The domain with this UUID as it is now; None if it is gone."""
        listed = self.hypervisor.find(uuid)
        return None if listed is None else next(self.look([listed]), None)


@dataclass(frozen=True)
class Writer:
    """The one writer of this host, for as long as it has the lock.

    :param sentences: what an earlier run had left in the journal, and what became of that.
    """

    hypervisor: Hypervisor
    journal: Journal
    settings: Settings
    sentences: Sequence[str]

    @classmethod
    @contextmanager
    def open(cls, connecting: AbstractContextManager[Hypervisor], settings: Settings) -> Iterator[Writer]:
        """Take the lock, open the journal and this connection, and settle what earlier runs of this host left.

        :raises PmuconfError: locked, or as Journal.open() and Hypervisor.open().
        """
        path = settings.journal
        with writer_lock(path), Journal.open(path, create=True) as journal:
            retired = journal.retire(settings.retention_days)
            with connecting as hypervisor:
                sentences = tidied(hypervisor, journal)
                if retired:
                    sentences.insert(0, too_old(retired, settings.retention_days))
                yield cls(hypervisor, journal, settings, sentences)

    def carry_out(
        self,
        plans: Sequence[Plan],
        limits: Limits,
        kind: ChangeKind = ChangeKind.APPLY,
    ) -> Iterator[Result]:
        """Make these changes, within the limits; a result for each plan, as it is known.

        :raises PmuconfError: as make.apply().
        """
        return apply(self.hypervisor, self.journal, plans, limits, kind)
