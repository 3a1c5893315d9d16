"""The commands pmuconf journal and pmuconf journal purge."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pmuconf.access import connect
from pmuconf.change.journal import Entry, Journal, writer_lock
from pmuconf.change.store import may_exist
from pmuconf.change.whom import changes_of
from pmuconf.commands.base import Action, Table, add_connect, settings
from pmuconf.commands.plaintable import Brief
from pmuconf.commands.values import number, whole
from pmuconf.errors import PmuconfError
from pmuconf.wording import counted

__all__ = ["PurgeJournal", "ShowJournal"]


class ShowJournal(Table):
    """List the changes that pmuconf made, newest first.

    status: done, undone (rolled back since), abandoned (not made), in-flight (interrupted; the next apply or rollback
    settles it), restored (put back at once, as 0.1.0 did after a define that changed more than the PMU).

    Exit status: 0, or 255 for an error.
    """

    columns = (
        "change",
        "time",
        "name",
        "uuid",
        "old",
        "new",
        "rule",
        "kind",
        "status",
        "cause",
        "who",
        "uri",
        "machine",
        "host_uuid",
    )
    brief = (
        *("change", Brief("time", lambda row: f"{row['time'][:16].replace('T', ' ')}Z"), "name"),
        Brief("PMU old->new", lambda row: f"{row['old']} -> {row['new']}"),
        *(Brief.named("rule", spare=True), "status", Brief.named("who", spare=True)),
    )

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        add_connect(parser)
        parser.add_argument(
            "domains",
            nargs="*",
            metavar="DOMAIN",
            help="Names of today, or UUIDs, or names of flavors; without any, all.",
        )
        parser.add_argument("--limit", type=number, default=-1, metavar="N", help="The newest N only.")
        return parser

    def records(self, args: argparse.Namespace) -> Iterable[Mapping[str, Any]]:
        chosen = settings(self)
        if not may_exist(chosen.journal):
            self.closing.append(f"nothing was changed yet: there is no journal at {chosen.journal}")
            return []
        with Journal.open(chosen.journal) as journal:
            entries = journal.entries(limit=-1 if args.domains else args.limit)
            for number, why in journal.damaged():
                self.app.LOG.warning("change %d can't be read, and is left out: %s", number, why)
        if args.domains:
            entries, sentences = self._of(args, entries)
            self.closing.extend(sentences)
            entries = entries if args.limit < 0 else entries[: args.limit]
        return map(_record, entries)

    def _of(self, args: argparse.Namespace, entries: Sequence[Entry]) -> tuple[list[Entry], list[str]]:
        """The changes of those that were named; where libvirt can't be asked, by the names that they had."""
        try:
            with connect(settings(self), args.connect, read_only=True) as hypervisor:
                return changes_of(args.domains, entries, hypervisor)
        except PmuconfError as error:
            if error.cause == "ambiguous-domain":
                raise
            changes, sentences = changes_of(args.domains, entries, None)
            return changes, [f"{error.message}: names are those of the past", *sentences]


class PurgeJournal(Action):
    """Drop finished changes from the journal; they can't be rolled back any more.

    Changes in flight stay. Each apply also drops changes older than [journal] retention_days by itself. It keeps the
    newest 1000 changes, and of the newest 10000 those that can be taken back.

    Exit status: 0, or 255 for an error.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        parser.add_argument(
            "--older-than",
            type=whole(0),
            metavar="DAYS",
            help="Those older than so many days; 0 for all. The default is [journal] retention_days.",
        )
        return parser

    def take_action(self, args: argparse.Namespace) -> int:
        chosen = settings(self)
        days = chosen.retention_days if args.older_than is None else args.older_than
        with writer_lock(chosen.journal), Journal.open(chosen.journal) as journal:
            purged = journal.purge(days)
        self.app.LOG.info("%s dropped", counted(purged, "change"))
        return 0


def _record(entry: Entry) -> Mapping[str, Any]:
    return {**entry.record(), "time": entry.at.isoformat(timespec="seconds")}
