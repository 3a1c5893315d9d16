"""pmuconf rollback"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

from pmuconf.audit import Vm, look
from pmuconf.change import Limits, apply
from pmuconf.commands.apply import ResultTable
from pmuconf.commands.base import add_connect, connect, progress, settings
from pmuconf.commands.writing import writing
from pmuconf.errors import PmuconfError
from pmuconf.hypervisor import Hypervisor, Listed
from pmuconf.journal import Entry, Journal, Kind, Status
from pmuconf.plan import Outcome, plan_rollback, planned
from pmuconf.policy import Policy

__all__ = ["Rollback"]


class Rollback(ResultTable):
    """Put back the PMU state that a domain had before pmuconf changed it.

    With DOMAIN or --all, all changes of a domain are taken back at once; with --change, that one. Done only where
    the PMU state still is what pmuconf left; whatever else was changed in the domain since stays. The next apply
    would make the change again: add a rule for the domain first if it is to stay as it was.

    Exit status: 0 done, 1 something waits for a restart or stays as it is, 2 not all was reached, 255 error.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        add_connect(parser)
        what = parser.add_mutually_exclusive_group(required=True)
        what.add_argument("domains", nargs="*", default=[], metavar="DOMAIN", help="Names or UUIDs.")
        what.add_argument("--change", type=int, metavar="ID", help="One change, by its number in pmuconf journal.")
        what.add_argument("--all", action="store_true", help="Every change in the journal.")
        parser.add_argument("--dry-run", action="store_true", help="Show what would be put back, and change nothing.")
        return parser

    def records(self, args: argparse.Namespace) -> Iterable[Mapping[str, Any]]:
        chosen = settings(self)
        if args.dry_run:
            with Journal.open(chosen.journal) as journal, connect(args, chosen, read_only=True) as hypervisor:
                entries = _entries(args, hypervisor, journal)
                plans, rest = plan_rollback(entries, partial(_now, hypervisor, chosen.policy))
                return self.rows([*map(planned, plans), *rest])
        with writing(self, args, chosen) as (hypervisor, journal):
            entries = _entries(args, hypervisor, journal)
            plans, rest = plan_rollback(entries, partial(_now, hypervisor, chosen.policy))
            results = apply(hypervisor, journal, plans, Limits(attempts=chosen.attempts), Kind.ROLLBACK)
            rows = self.rows([*progress(results, len(plans), "putting back"), *rest])
        done = sum(row["outcome"] == Outcome.CHANGED.value for row in rows)
        self.closing.append(f"{done} domains put back" if entries else "the journal has nothing to take back")
        return rows


def _entries(args: argparse.Namespace, hypervisor: Hypervisor, journal: Journal) -> list[Entry]:
    if args.change is not None:
        entry = journal.entry(args.change)
        if entry is None:
            raise PmuconfError(
                f"the journal has no change {args.change}", cause="no-such-change", hint="pmuconf journal lists them"
            )
        if not _standing(entry):
            what = (
                "was taken back already" if entry.undone else f"is {entry.status.value} and of kind {entry.kind.value}"
            )
            raise PmuconfError(f"change {entry.id} {what}", cause="not-to-be-undone")
        return [entry]
    entries = [entry for entry in journal.entries() if entry.uri == hypervisor.identity and _standing(entry)]
    if args.all:
        return entries
    chosen = [_of(name, entries) for name in args.domains]
    return [entry for found in chosen for entry in found]


def _of(name: str, entries: Iterable[Entry]) -> list[Entry]:
    found = [entry for entry in entries if name in (entry.name, entry.uuid)]
    if not found:
        raise PmuconfError(
            f"the journal has no change of {name!r} that could be taken back",
            cause="no-such-change",
            hint="pmuconf journal lists them",
        )
    return found


def _standing(entry: Entry) -> bool:
    return entry.status is Status.DONE and entry.kind is not Kind.ROLLBACK and not entry.undone


def _now(hypervisor: Hypervisor, policy: Policy, uuid: str) -> tuple[Listed, Vm] | None:
    listed = hypervisor.find(uuid)
    vm = None if listed is None else look(hypervisor, policy, listed)
    return None if listed is None or vm is None else (listed, vm)
