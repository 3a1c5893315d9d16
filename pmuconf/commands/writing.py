"""How a command that changes domains begins."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager

from cliff.command import Command

from pmuconf.change import writing as begin
from pmuconf.commands.base import connect
from pmuconf.conf import Settings
from pmuconf.hypervisor import Hypervisor
from pmuconf.journal import Journal

__all__ = ["writing"]


@contextmanager
def writing(command: Command, args: argparse.Namespace, chosen: Settings) -> Iterator[tuple[Hypervisor, Journal]]:
    """A read-write connection and the journal, held by us alone, with nothing left in flight."""
    connecting = connect(args, chosen, read_only=False)
    with begin(connecting, chosen.journal, chosen.retention_days) as (hypervisor, journal, settled):
        for sentence in settled:
            command.app.LOG.warning("%s", sentence)
        yield hypervisor, journal
