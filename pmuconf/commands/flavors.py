"""pmuconf flavors audit, apply, rollback, export."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from pmuconf.commands.base import Action, Table, progress, settings, warning
from pmuconf.commands.plaintable import Brief
from pmuconf.commands.values import whole
from pmuconf.conf import Settings
from pmuconf.files.replacing import replace_file
from pmuconf.flavors.change import FlavorOutcome, revocable, set_all, take_back, without_change, writing
from pmuconf.flavors.cloud import Cloud
from pmuconf.flavors.judge import Judged, Standing, judge
from pmuconf.flavors.map import FlavorMap
from pmuconf.wording import counted

__all__ = ["FlavorsApply", "FlavorsAudit", "FlavorsExport", "FlavorsRollback"]

_WARNINGS: Final = (Standing.CONFLICT, Standing.UNDECIDED)
_AS_WANTED: Final = (FlavorOutcome.EXPLICIT, FlavorOutcome.KEEP)
_DONE: Final = (FlavorOutcome.SET, FlavorOutcome.PLANNED, FlavorOutcome.ALREADY)
_TAKEN_BACK: Final = (FlavorOutcome.TAKEN_BACK, FlavorOutcome.PLANNED)


class FlavorsAudit(Table):
    """Show what each flavor says of the PMU, what the policy wants, and which images conflict with it. Reads only.

    standing:

      explicit   hw:pmu is set, which beats the policy
      to-set     the policy decides: run 'pmuconf flavors apply'
      conflict   an image with the opposite hw_pmu could be used with the flavor; Nova would refuse the two together
      keep       the policy leaves the flavor as it is
      undecided  a rule reads a project, an image or a domain, and servers of this flavor may differ in that

    servers counts the servers that were built with the flavor. older_copies counts those of them whose copy of the
    flavor has another value. A resize or the compute plugin gives them the new one.

    Exit status: 0 nothing to set, 1 a conflict or an undecided flavor, 2 flavors to be set, 255 error.
    """

    columns: Sequence[str] = (
        *("name", "id", "public", "pmu", "decision", "rule", "reason", "standing"),
        *("conflicts", "servers", "older_copies"),
    )
    brief: Sequence[str | Brief] = (
        *("name", "pmu", "decision", Brief.named("rule", spare=True), "standing"),
        *(Brief.named("conflicts", optional=True), "servers", Brief.named("older_copies", "older")),
    )

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        _add_cloud(parser)
        _add_only_used(parser)
        return parser

    def records(self, args: argparse.Namespace) -> Iterable[Mapping[str, Any]]:
        chosen = settings(self)
        with Cloud.open(args.os_cloud) as cloud:
            flavors = _judge(cloud, chosen, args)
        standings = [judged.standing for judged in flavors]
        if Standing.TO_SET in standings:
            self.status = 2
        elif any(standing in _WARNINGS for standing in standings):
            self.status = 1
        counts = ", ".join(
            f"{standings.count(standing)} {standing.value}" for standing in Standing if standing in standings
        )
        self.closing.append(f"{_flavors(len(flavors))}: {counts or 'there are none'}")
        return [judged.record() for judged in flavors]


class FlavorsApply(Table):
    """Set hw:pmu of the flavors that have none, where the policy decides.

    An explicit value is never touched. A flavor stays as it is, and is named, if an image with the opposite hw_pmu
    could be used with it: Nova would refuse the two together. Existing servers keep their copy of the flavor.

    Every change is journalled before it is made. 'pmuconf flavors rollback' takes it back.

    Exit status: 0 done, 1 some flavors stay as they are, 2 not all could be set, 255 error.
    """

    columns: Sequence[str] = ("name", "id", "old", "new", "rule", "outcome", "note", "change")
    brief: Sequence[str | Brief] = (
        *("name", "old", "new", Brief.named("rule", spare=True), "outcome"),
        Brief("note", lambda row: row["note"], folds=True, optional=True),
    )

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        _add_cloud(parser)
        _add_only_used(parser)
        parser.add_argument("--dry-run", action="store_true", help="Show what would be set, and change nothing.")
        parser.add_argument("--max-changes", type=whole(0), metavar="N", help="Stop after N changes; 0 for no limit.")
        return parser

    def records(self, args: argparse.Namespace) -> Iterable[Mapping[str, Any]]:
        chosen = settings(self)
        limit = chosen.max_changes if args.max_changes is None else args.max_changes
        with Cloud.open(args.os_cloud) as cloud:
            if args.dry_run:
                results = [without_change(judged) for judged in _judge(cloud, chosen, args)]
            else:
                with writing(cloud, chosen, warning(self)) as journal:
                    flavors = _judge(cloud, chosen, args)
                    results = list(progress(set_all(cloud, journal, flavors, limit), len(flavors), "setting"))
        results = [result for result in results if result.outcome not in _AS_WANTED]
        outcomes = [result.outcome for result in results]
        if FlavorOutcome.FAILED in outcomes or FlavorOutcome.NOT_REACHED in outcomes:
            self.status = 2
        elif any(outcome not in _DONE for outcome in outcomes):
            self.status = 1
        if args.dry_run:
            self.closing.append(f"{_flavors(outcomes.count(FlavorOutcome.PLANNED))} would be set")
        else:
            self.closing.append(f"{_flavors(outcomes.count(FlavorOutcome.SET))} set")
        return [result.record() for result in results]


class FlavorsRollback(Table):
    """Unset hw:pmu of the flavors on which 'pmuconf flavors apply' set it, if they still have that value.

    Exit status: 0 done, 1 some flavors stay as they are, 2 not all could be taken back, 255 error.
    """

    columns: Sequence[str] = FlavorsApply.columns
    brief: Sequence[str | Brief] = FlavorsApply.brief

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        _add_cloud(parser)
        what = parser.add_mutually_exclusive_group(required=True)
        what.add_argument("flavors", nargs="*", default=[], metavar="FLAVOR", help="Names or ids.")
        what.add_argument("--all", action="store_true", help="All flavors in the journal.")
        parser.add_argument("--dry-run", action="store_true", help="Show what would be taken back; change nothing.")
        return parser

    def records(self, args: argparse.Namespace) -> Iterable[Mapping[str, Any]]:
        chosen = settings(self)
        with Cloud.open(args.os_cloud) as cloud, writing(cloud, chosen, warning(self)) as journal:
            entries = revocable(cloud, journal, None if args.all else args.flavors)
            results = [take_back(cloud, journal, entry, dry_run=args.dry_run) for entry in entries]
        outcomes = [result.outcome for result in results]
        if FlavorOutcome.FAILED in outcomes:
            self.status = 2
        elif any(outcome not in _TAKEN_BACK for outcome in outcomes):
            self.status = 1
        self.closing.append(f"{_flavors(outcomes.count(FlavorOutcome.TAKEN_BACK))} taken back")
        return [result.record() for result in results]


class FlavorsExport(Action):
    """Write the extra specs of all flavors to a file for 'pmuconf audit --flavors FILE'.

    Before Nova 32, the metadata of a domain has no extra specs: an audit takes them from this file. A server whose copy
    of the flavor is older than the file is judged by the flavor as it is now.

    Exit status: 0 written, 255 error.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        _add_cloud(parser)
        parser.add_argument(
            "-o", "--output", type=Path, metavar="FILE", help="Write to FILE; the default is standard output."
        )
        return parser

    def take_action(self, args: argparse.Namespace) -> int:
        with Cloud.open(args.os_cloud) as cloud:
            text = FlavorMap(cloud.flavors()).dump()
        if args.output is None:
            self.app.stdout.write(text)
        else:
            replace_file(args.output, text)
        return 0


def _add_cloud(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--os-cloud", metavar="NAME", help="A cloud of clouds.yaml; the default is OS_CLOUD or the OS_* variables."
    )


def _add_only_used(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--only-used",
        action="store_true",
        help="Count an image as a conflict only for flavors of servers that were built from it. By default, it is one "
        "for every flavor that somebody may use with it.",
    )


def _judge(cloud: Cloud, chosen: Settings, args: argparse.Namespace) -> list[Judged]:
    return judge(chosen.policy, cloud.flavors(), cloud.images(), cloud.servers(), only_used=args.only_used)


def _flavors(count: int) -> str:
    return counted(count, "flavor")
