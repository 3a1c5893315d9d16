"""pmuconf apply"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from pmuconf.audit import look
from pmuconf.commands.base import Table, add_connect, connect, progress, settings

if TYPE_CHECKING:
    from pmuconf.change import Limits
    from pmuconf.conf import Settings
    from pmuconf.hypervisor import Hypervisor
    from pmuconf.plan import Plan, Result

__all__ = ["Apply", "ResultTable"]


_NOVA_LASTS = (
    "Nova keeps a rewrite over a soft reboot and writes the domain anew at a hard reboot, a stop and start, a resize "
    "or a cold migration: hw:pmu on the flavor, or the compute plugin, lasts"
)


class ResultTable(Table):
    """Lists what became of domains."""

    columns = ("name", "uuid", "old", "new", "rule", "outcome", "pending", "cause", "note", "change")
    brief = ("name", "old", "new", "rule", "outcome", "note")

    def rows(self, results: Iterable[Result]) -> list[Mapping[str, Any]]:
        """The records of results; sets the exit status by the worst of them."""
        from pmuconf.plan import NOVA_NOTE, Outcome

        finding = (Outcome.PLANNED, Outcome.OBSERVED, Outcome.BUSY, Outcome.NOT_REACHED, Outcome.NOT_JUDGED)
        rows: list[Mapping[str, Any]] = []
        for result in results:
            if result.outcome is Outcome.FAILED:
                self.status = 255
            elif result.outcome in finding:
                self.status = max(self.status, 2)
            elif result.pending or result.cause:
                self.status = max(self.status, 1)
            if result.note == NOVA_NOTE and _NOVA_LASTS not in self.closing:
                self.closing.append(_NOVA_LASTS)
            rows.append(
                {
                    "name": result.name,
                    "uuid": result.uuid,
                    "old": result.old and result.old.value,
                    "new": result.new and result.new.value,
                    "rule": result.rule,
                    "outcome": result.outcome.value,
                    "pending": result.pending,
                    "cause": result.cause,
                    "note": result.note,
                    "change": result.change,
                }
            )
        return rows


class Apply(ResultTable):
    """Bring domains on policy: write the PMU state that their next boot is to have.

    A running guest is never touched: it gets its new PMU state when it is stopped and started. Transient domains
    are left alone. Each change is written to the journal before it is made, and verified after: nothing but
    <features><pmu/> may differ. pmuconf rollback takes changes back.

    Limits: --max-changes; the run stops at the first failure; --canary changes a few first.

    Exit status: 0 all as wanted, 1 something waits for a restart or can't be changed, 2 drift remains (with
    --dry-run: something would be changed), 255 error or a change that failed.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        add_connect(parser)
        parser.add_argument("domains", nargs="*", metavar="DOMAIN", help="Names or UUIDs; without any, all domains.")
        parser.add_argument("--dry-run", action="store_true", help="Show what would be changed, and change nothing.")
        parser.add_argument(
            "--max-changes",
            type=_count,
            metavar="N",
            help="Stop after N changes; 0 for no limit. The default is [change] max_changes.",
        )
        parser.add_argument(
            "--canary",
            type=_count,
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
        from pmuconf.change import Limits

        chosen = settings(self)
        limit = chosen.max_changes if args.max_changes is None else args.max_changes
        limits = Limits(max_changes=limit, canary=args.canary, go_on=args.go_on, attempts=chosen.attempts)
        if args.dry_run:
            with connect(args, chosen, read_only=True) as hypervisor:
                return self._dry_run(hypervisor, chosen, args)
        return self._apply(args, chosen, limits)

    def _dry_run(self, hypervisor: Hypervisor, chosen: Settings, args: argparse.Namespace) -> list[Mapping[str, Any]]:
        from pmuconf.plan import planned

        plans, rest = self._plan(hypervisor, chosen, args)
        self.closing.append(f"{len(plans)} domains would be changed" if plans else "nothing would be changed")
        return self.rows([*map(planned, plans), *rest])

    def _apply(self, args: argparse.Namespace, chosen: Settings, limits: Limits) -> list[Mapping[str, Any]]:
        from pmuconf.change import apply, confirm_canary
        from pmuconf.commands.writing import writing

        with writing(self, args, chosen) as (hypervisor, journal):
            if limits.go_on and not limits.canary:
                confirm_canary(hypervisor, journal)
            plans, rest = self._plan(hypervisor, chosen, args)
            results = apply(hypervisor, journal, plans, limits)
            rows = self.rows([*progress(results, len(plans), "changing"), *rest])
        self.closing.append(_sentence(rows))
        return rows

    def _plan(
        self, hypervisor: Hypervisor, chosen: Settings, args: argparse.Namespace
    ) -> tuple[list[Plan], list[Result]]:
        from pmuconf.plan import not_to_be_changed, plan

        listed = hypervisor.domains(args.domains)
        looking = partial(look, hypervisor, chosen.policy, max_bytes=chosen.max_xml_bytes)
        looked = progress(hypervisor.map(looking, listed), len(listed), "reading")
        vms = [(one, vm) for one, vm in zip(listed, looked) if vm is not None]
        return plan(chosen.policy, vms), not_to_be_changed(chosen.policy, (vm for _, vm in vms))


def _count(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"{text} is less than 0")
    return number


def _sentence(rows: list[Mapping[str, Any]]) -> str:
    counts: dict[str, int] = {}
    for row in rows:
        counts[row["outcome"]] = counts.get(row["outcome"], 0) + 1
    if not counts:
        return "nothing to change: all as the policy wants"
    pending = sum(row["pending"] for row in rows)
    waiting = f"; {pending} of them run on with the old PMU state until they are stopped and started" if pending else ""
    return ", ".join(f"{number} {what}" for what, number in counts.items()) + waiting
