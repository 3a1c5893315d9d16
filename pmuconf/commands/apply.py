"""The command pmuconf apply."""

from __future__ import annotations

import argparse
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pmuconf.audit.managers import lasting, lasts
from pmuconf.change.result import Outcome, Result, foretold, tally
from pmuconf.commands.base import Table, add_connect, run_of
from pmuconf.commands.plaintable import Brief
from pmuconf.commands.values import whole
from pmuconf.domain.definition import Manager
from pmuconf.wording import counted

__all__ = ["Apply", "ResultTable"]


class ResultTable(Table):
    """Lists the results of a run."""

    columns = ("name", "uuid", "old", "new", "rule", "outcome", "pending", "cause", "note", "remedy", "change")
    brief = (
        Brief.named("name"),
        Brief("PMU old->new", lambda row: " -> ".join(filter(None, (row["old"], row["new"])))),
        Brief.named("rule"),
        Brief.named("outcome"),
        Brief("note", lambda row: _own(row["note"]), folds=True, optional=True),
    )

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        parser.add_argument(
            "--not-reached",
            action="store_true",
            help="List the domains that the run does not reach too; otherwise the table counts them.",
        )
        return parser

    def rows(self, results: Sequence[Result], args: argparse.Namespace) -> list[Mapping[str, Any]]:
        """The records of results; sets the exit status by the worst of them."""
        self.status = max([self.status, *(result.status for result in results)])
        managers = {result.manager for result in results if result.temporary}
        self.closing += [lasting(manager) for manager in Manager if manager in managers]
        listed = results
        if args.formatter == "table" and not args.not_reached:
            listed = [result for result in results if result.outcome is not Outcome.NOT_REACHED]
        return [result.record() for result in listed]

    def left(self, results: Sequence[Result], *, dry: bool) -> list[str]:
        """How many domains the run does not reach, and why, in sentences."""
        reached = "would not be reached" if dry else "not reached"
        notes = Counter(result.note for result in results if result.outcome is Outcome.NOT_REACHED)
        return [
            f"{counted(number, 'domain')} {reached}: {note.removeprefix('not begun: ')} (--not-reached lists them)"
            for note, number in notes.items()
        ]


def _own(note: str) -> str:
    """The note without what a sentence below the table says of all."""
    below = set(map(lasts, Manager))
    return "; ".join(part for part in note.split("; ") if part not in below)


class Apply(ResultTable):
    """Bring domains on policy: write the PMU state that their next boot is to have.

    A running guest is never touched: it gets its new PMU state when it is stopped and started. Transient domains
    are left alone. Each change is written to the journal before it is made, and verified after. If a domain then
    differs in more than <features><pmu/>, the difference is reported and stays. pmuconf rollback takes changes back.

    A domain that fails stops no other. Three options limit a run: --max-changes, --max-failures, and --canary, which
    changes a few domains first. A domain that libvirt refused to define comes last in the next run.

    Exit status: 0 all as wanted; 1 something waits for a restart or can't be changed; 2 drift remains, or a domain came
    back that somebody had undefined (with --dry-run: something would be changed); 255 an error, or a change failed.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        add_connect(parser)
        parser.add_argument("domains", nargs="*", metavar="DOMAIN", help="Names or UUIDs; without any, all domains.")
        parser.add_argument(
            "--dry-run",
            action="store_true",
            help="Show what would be changed within the same limits and with the same canary, and change nothing. The "
            "last line is the command that does it.",
        )
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
        rows = self.rows(results, args)
        self.closing.append(foretold(results) if args.dry_run else tally(results))
        self.closing.extend(self.left(results, dry=args.dry_run))
        left = {result.cause for result in results if result.outcome is Outcome.NOT_REACHED}
        if args.dry_run:
            self.next_command = self._command(args) if any(result.written for result in results) else ""
        elif left & {"canary", "max-changes"}:
            self.next_command = self._command(_behind(args))
        return rows

    def _command(self, args: argparse.Namespace) -> str:
        """The command line of a real run with these arguments."""
        given = self.app.options
        words = ["pmuconf"]
        for option, paths in (("--config-file", given.config_file), ("--config-dir", given.config_dir)):
            words += [word for path in paths for word in (option, path)]
        words.append("apply")
        values = {"--connect": args.connect, "--max-changes": args.max_changes, "--max-failures": args.max_failures}
        values["--canary"] = args.canary or None
        words += [word for option, value in values.items() if value is not None for word in (option, str(value))]
        words += ["--continue"] if args.go_on else []
        words += ["--"] if any(name.startswith("-") for name in args.domains) else []
        return shlex.join([*words, *args.domains])


def _behind(args: argparse.Namespace) -> argparse.Namespace:
    """The arguments of the run that goes on behind one that reached its canary or its limit."""
    canary_only = args.canary > 0 and not args.go_on
    return argparse.Namespace(**{**vars(args), "canary": 0, "go_on": canary_only})
