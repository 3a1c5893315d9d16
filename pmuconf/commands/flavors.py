"""pmuconf flavors audit, apply, rollback, export"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pmuconf.change.journal import Kind, Status
from pmuconf.commands.base import Action, Table, number, progress, settings
from pmuconf.conf import Settings
from pmuconf.errors import PmuconfError
from pmuconf.files.replacing import replace_file
from pmuconf.flavors.change import left, result, set_all, take_back, writing
from pmuconf.flavors.cloud import Cloud
from pmuconf.flavors.judge import Standing, Verdict, audit
from pmuconf.flavors.map import FlavorMap

__all__ = ["Apply", "Audit", "Export", "Rollback"]

_FINDINGS = (Standing.TO_SET,)
_WARNINGS = (Standing.CONFLICT, Standing.UNDECIDED)


class Audit(Table):
    """Show every flavor: what it says of the PMU, what the policy wants, and what stands in the way. Reads only.

    standing: explicit (hw:pmu is set, which beats the policy); to-set (the policy decides: 'pmuconf flavors apply');
    conflict (an image of the opposite hw_pmu could be used with it, and would be refused then); keep; undecided (a
    rule reads a project, an image or a domain, in which the flavor's servers may differ).

    servers counts those built with it, older_copies those of them that have not what it says or is to say: a resize,
    or the compute plugin, gives it to them.

    Exit status: 0 nothing to set, 1 a conflict or an undecided flavor, 2 flavors to be set, 255 error.
    """

    columns: Sequence[str] = (
        *("name", "id", "public", "pmu", "decision", "rule", "reason", "standing"),
        *("conflicts", "servers", "older_copies"),
    )
    brief: Sequence[str] = ("name", "pmu", "decision", "rule", "standing", "conflicts", "servers", "older_copies")

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        _add_cloud(parser)
        _add_only_used(parser)
        return parser

    def records(self, args: argparse.Namespace) -> Iterable[Mapping[str, Any]]:
        chosen = settings(self)
        with Cloud.open(args.os_cloud) as cloud:
            verdicts = _verdicts(cloud, chosen, args)
        standings = [verdict.standing for verdict in verdicts]
        self.status = (
            2 if any(one in _FINDINGS for one in standings) else int(any(one in _WARNINGS for one in standings))
        )
        counts = ", ".join(f"{standings.count(one)} {one.value}" for one in Standing if one in standings)
        self.closing.append(f"{len(verdicts)} flavors: {counts or 'there are none'}")
        return map(_row, verdicts)


class Apply(Table):
    """Set hw:pmu of the flavors for which the policy decides and which say nothing themselves.

    An explicit value is never touched. A flavor that could be used with an image of the opposite hw_pmu is left alone
    and named, because Nova would refuse the two together. Existing servers keep their copy of the flavor. Every change
    is journalled before it is made: 'pmuconf flavors rollback' takes it back.

    Exit status: 0 done, 1 something was left alone, 2 not all could be set, 255 error.
    """

    columns: Sequence[str] = ("name", "id", "old", "new", "rule", "outcome", "note", "change")
    brief: Sequence[str] = ("name", "old", "new", "rule", "outcome", "note")

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        _add_cloud(parser)
        _add_only_used(parser)
        parser.add_argument("--dry-run", action="store_true", help="Show what would be set, and change nothing.")
        parser.add_argument("--max-changes", type=number, metavar="N", help="Stop after so many; 0 for no limit.")
        return parser

    def records(self, args: argparse.Namespace) -> Iterable[Mapping[str, Any]]:
        chosen = settings(self)
        if args.max_changes is not None and args.max_changes < 0:
            raise PmuconfError("--max-changes takes no number below 0", cause="usage")
        limit = chosen.max_changes if args.max_changes is None else args.max_changes
        with Cloud.open(args.os_cloud) as cloud:
            if args.dry_run:
                verdicts = _verdicts(cloud, chosen, args)
                rows = [result(one, "planned" if one.standing is Standing.TO_SET else left(one)) for one in verdicts]
            else:
                with writing(cloud, chosen, self.app.LOG.warning) as journal:
                    verdicts = _verdicts(cloud, chosen, args)
                    rows = list(progress(set_all(cloud, journal, verdicts, limit), len(verdicts), "setting"))
        rows = [row for row in rows if row["outcome"] not in ("explicit", "keep")]
        outcomes = [row["outcome"] for row in rows]
        done = sum(outcome in ("set", "planned", "already") for outcome in outcomes)
        self.status = 2 if {"failed", "not-reached"} & set(outcomes) else int(done < len(outcomes))
        word = "would be set" if args.dry_run else "set"
        self.closing.append(f"{outcomes.count('planned' if args.dry_run else 'set')} flavors {word}")
        return rows


class Rollback(Table):
    """Take hw:pmu away again from the flavors on which 'pmuconf flavors apply' has set it, where it still says that.

    Exit status: 0 done, 1 something stays as it is, 2 not all could be taken back, 255 error.
    """

    columns: Sequence[str] = Apply.columns
    brief: Sequence[str] = Apply.brief

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        _add_cloud(parser)
        what = parser.add_mutually_exclusive_group(required=True)
        what.add_argument("flavors", nargs="*", default=[], metavar="FLAVOR", help="Names or ids.")
        what.add_argument("--all", action="store_true", help="Every flavor that the journal has.")
        parser.add_argument("--dry-run", action="store_true", help="Show what would be taken back; change nothing.")
        return parser

    def records(self, args: argparse.Namespace) -> Iterable[Mapping[str, Any]]:
        chosen = settings(self)
        with Cloud.open(args.os_cloud) as cloud, writing(cloud, chosen, self.app.LOG.warning) as journal:
            entries = [
                entry
                for entry in journal.entries()
                if entry.uri == cloud.identity and entry.status is Status.DONE
                if entry.kind is Kind.APPLY and not entry.undone
                if args.all or entry.name in args.flavors or entry.uuid in args.flavors
            ]
            for name in args.flavors:
                if not any(name in (entry.name, entry.uuid) for entry in entries):
                    raise PmuconfError(
                        f"the journal has no change of flavor {name!r} that could be taken back", cause="no-such-change"
                    )
            rows = [take_back(cloud, journal, entry, dry_run=args.dry_run) for entry in entries]
        outcomes = [row["outcome"] for row in rows]
        self.status = 2 if "failed" in outcomes else int(any(one not in ("taken-back", "planned") for one in outcomes))
        self.closing.append(f"{outcomes.count('taken-back')} flavors taken back")
        return rows


class Export(Action):
    """Write the extra specs of all flavors, which an audit of domains of a Nova before 32 needs.

    Their metadata has no extra specs: 'pmuconf audit --flavors FILE' takes them from this file. A server whose copy of
    the flavor is older than the file is judged by what the flavor says now.

    Exit status: 0 written, 255 error.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        _add_cloud(parser)
        parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="Write to FILE; else to standard output.")
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
    parser.add_argument("--os-cloud", metavar="NAME", help="A cloud of clouds.yaml; else OS_CLOUD or OS_* variables.")


def _add_only_used(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--only-used",
        action="store_true",
        help="Let an image stand in the way of the flavors of servers built from it only, not of every flavor that "
        "somebody may use with it.",
    )


def _verdicts(cloud: Cloud, chosen: Settings, args: argparse.Namespace) -> list[Verdict]:
    return audit(chosen.policy, cloud.flavors(), cloud.images(), cloud.servers(), only_used=args.only_used)


def _row(verdict: Verdict) -> dict[str, Any]:
    return {
        "name": verdict.flavor.name,
        "id": verdict.flavor.id,
        "public": verdict.flavor.projects is None,
        "pmu": verdict.pmu.value,
        "decision": verdict.ruling.decision.value,
        "rule": verdict.ruling.rule,
        "reason": verdict.ruling.reason,
        "standing": verdict.standing.value,
        "conflicts": [image.name for image in verdict.conflicts],
        "servers": verdict.servers,
        "older_copies": verdict.older,
    }
