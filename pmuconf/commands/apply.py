"""The command pmuconf apply."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pmuconf.change.result import Outcome, Result, tally
from pmuconf.commands.base import Table, add_connect, run_of
from pmuconf.commands.values import whole

__all__ = ["Apply", "ResultTable"]


_NOVA_LASTS = (
    "Nova keeps a rewrite over a soft reboot and writes the domain anew at a hard reboot, a stop and start, a resize "
    "or a cold migration: hw:pmu on the flavor, or the compute plugin, lasts"
)


class ResultTable(Table):
    """Lists the results of a run."""

    columns = ("name", "uuid", "old", "new", "rule", "outcome", "pending", "cause", "note", "remedy", "change")
    brief = ("name", "old", "new", "rule", "outcome", "note")

    def rows(self, results: Sequence[Result]) -> list[Mapping[str, Any]]:
        """The records of results; sets the exit status by the worst of them."""
        self.status = max([self.status, *(result.status for result in results)])
        if any(result.temporary for result in results):
            self.closing.append(_NOVA_LASTS)
        return [result.record() for result in results]


class Apply(ResultTable):
    """Bring domains on policy: write the PMU state that their next boot is to have.

    A running guest is never touched: it gets its new PMU state when it is stopped and started. Transient domains
    are left alone. Each change is written to the journal before it is made, and verified after. If a domain then
    differs in more than <features><pmu/>, that is reported and stays. pmuconf rollback takes changes back.

    Limits: --max-changes; --max-failures, because a domain that fails stops no other; --canary changes a few first.
    A domain that libvirt refused to define is the last one of the next run.

    Exit status: 0 all as wanted; 1 something waits for a restart or can't be changed; 2 drift remains, or a domain came
    back that somebody had undefined (with --dry-run: something would be changed); 255 an error, or a change failed.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        add_connect(parser)
        parser.add_argument("domains", nargs="*", metavar="DOMAIN", help="Names or UUIDs; without any, all domains.")
        parser.add_argument("--dry-run", action="store_true", help="Show what would be changed, and change nothing.")
        parser.add_argument(
            "--max-changes",
            type=whole(0),
            metavar="N",
            help="Stop after N changes; 0 for no limit. The default is [change] max_changes.",
        )
        parser.add_argument(
            "--max-failures",
            type=whole(0),
            metavar="N",
            help="Stop when more than N domains have failed, or differ in more than their PMU for no known reason. "
            "The default is [change] max_failures.",
        )
        parser.add_argument(
            "--canary",
            type=whole(0),
            default=0,
            metavar="N",
            help="Change N domains and stop; with --continue go on with the others once these are verified.",
        )
        parser.add_argument(
            "--continue",
            dest="go_on",
            action="store_true",
            help="Go on after the canary. Alone: after an earlier canary, if its domains still have what it left.",
        )
        return parser

    def records(self, args: argparse.Namespace) -> Iterable[Mapping[str, Any]]:
        run = run_of(self, args, dry=args.dry_run)
        results = run.apply(
            args.domains,
            max_changes=args.max_changes,
            max_failures=args.max_failures,
            canary=args.canary,
            go_on=args.go_on,
        )
        rows = self.rows(results)
        if args.dry_run:
            plans = sum(result.outcome is Outcome.PLANNED for result in results)
            domains = "1 domain" if plans == 1 else f"{plans} domains"
            self.closing.append(f"{domains} would be changed" if plans else "nothing would be changed")
        else:
            self.closing.append(tally(results))
        return rows
