"""pmuconf journal, pmuconf journal purge"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping
from typing import Any

from pmuconf.commands.base import Action, Table, settings
from pmuconf.errors import PmuconfError
from pmuconf.journal import Entry, Journal, writer_lock

__all__ = ["PurgeJournal", "ShowJournal"]


class ShowJournal(Table):
    """List the changes that pmuconf made, newest first.

    status: done, undone (rolled back since), abandoned (not made), restored (put back at once after a define went
    wrong), in-flight (interrupted; the next apply or rollback settles it).

    Exit status: 0, or 255 for an error.
    """

    columns = ("change", "time", "name", "uuid", "old", "new", "rule", "kind", "status", "cause", "who", "uri")
    brief = ("change", "time", "name", "old", "new", "rule", "status", "who")

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        parser.add_argument("domains", nargs="*", metavar="DOMAIN", help="Names or UUIDs; without any, all.")
        parser.add_argument("--limit", type=int, default=-1, metavar="N", help="The newest N only.")
        return parser

    def records(self, args: argparse.Namespace) -> Iterable[Mapping[str, Any]]:
        chosen = settings(self)
        if not chosen.journal.exists():
            self.closing.append(f"nothing was changed yet: there is no journal at {chosen.journal}")
            return []
        with Journal.open(chosen.journal) as journal:
            entries = journal.entries(limit=-1 if args.domains else args.limit)
        if args.domains:
            entries = [entry for entry in entries if {entry.name, entry.uuid} & set(args.domains)]
            entries = entries if args.limit < 0 else entries[: args.limit]
        return map(_record, entries)


class PurgeJournal(Action):
    """Drop finished changes from the journal; they can't be rolled back any more.

    Changes in flight stay. The same happens by itself, with [journal] retention_days, whenever something is applied.

    Exit status: 0, or 255 for an error.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        parser.add_argument(
            "--older-than",
            type=int,
            metavar="DAYS",
            help="Those older than so many days; 0 for all. The default is [journal] retention_days.",
        )
        return parser

    def take_action(self, args: argparse.Namespace) -> int:
        chosen = settings(self)
        days = chosen.retention_days if args.older_than is None else args.older_than
        if days < 0:
            raise PmuconfError("--older-than takes 0 or more days", cause="usage")
        with writer_lock(chosen.journal), Journal.open(chosen.journal) as journal:
            self.app.LOG.info("%d changes dropped", journal.purge(days))
        return 0


def _record(entry: Entry) -> Mapping[str, Any]:
    return {**entry.record(), "time": entry.at.isoformat(timespec="seconds")}
