"""How a command that changes domains begins: the lock, the journal, and what an earlier crash left open."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager

from cliff.command import Command

from pmuconf.change import settle
from pmuconf.commands.base import connect
from pmuconf.conf import Settings
from pmuconf.hypervisor import Hypervisor
from pmuconf.journal import Journal, Status, writer_lock

__all__ = ["writing"]


@contextmanager
def writing(command: Command, args: argparse.Namespace, chosen: Settings) -> Iterator[tuple[Hypervisor, Journal]]:
    """A read-write connection and the journal, held by us alone, with nothing left in flight."""
    with writer_lock(chosen.journal), Journal.open(chosen.journal, create=True) as journal:
        journal.purge(chosen.retention_days)
        with connect(args, chosen, read_only=False) as hypervisor:
            for entry, status, cause in settle(hypervisor, journal):
                became = "was made" if status is Status.DONE else "was not made"
                more = ", and somebody changed more in it since" if cause == "settled-differs" else ""
                command.app.LOG.warning(
                    "an earlier run was interrupted: its change %d of domain %r %s%s",
                    entry.id,
                    entry.name,
                    became,
                    more,
                )
            yield hypervisor, journal
