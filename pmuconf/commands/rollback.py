"""The command pmuconf rollback."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping
from typing import Any

from pmuconf.change.result import Outcome
from pmuconf.commands.apply import ResultTable
from pmuconf.commands.base import add_connect, run_of
from pmuconf.commands.values import number
from pmuconf.wording import counted

__all__ = ["Rollback"]


class Rollback(ResultTable):
    """Put back the PMU state that a domain had before pmuconf changed it.

    DOMAIN and --all take back all changes of a domain at once, --change takes back one. A domain whose PMU state
    somebody else has changed since is left alone. Everything else in the domain stays as it is.

    The next apply would make the change again. To keep the old state, add a rule for the domain first.

    Exit status: 0 done, 1 something waits for a restart or stays as it is, 2 not all was reached, 255 error.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        add_connect(parser)
        what = parser.add_mutually_exclusive_group(required=True)
        what.add_argument("domains", nargs="*", default=[], metavar="DOMAIN", help="Names or UUIDs.")
        what.add_argument("--change", type=number, metavar="ID", help="One change, by its number in pmuconf journal.")
        what.add_argument("--all", action="store_true", help="Every change in the journal.")
        parser.add_argument("--dry-run", action="store_true", help="Show what would be put back, and change nothing.")
        return parser

    def records(self, args: argparse.Namespace) -> Iterable[Mapping[str, Any]]:
        run = run_of(self, args, dry=args.dry_run)
        results = run.roll_back(None if args.all else args.domains, change=args.change)
        rows = self.rows(results, args)
        if not args.dry_run:
            done = counted(sum(result.outcome is Outcome.CHANGED for result in results), "domain")
            self.closing.append(f"{done} put back" if results else "the journal has nothing to take back")
        self.closing.extend(self.left(results, dry=args.dry_run))
        return rows
