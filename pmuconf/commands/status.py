"""pmuconf status."""

from __future__ import annotations

import argparse
from functools import partial

from pmuconf.audit.look import Pace, audit
from pmuconf.commands.audit import add_host_facts, add_processes, audit_host
from pmuconf.commands.base import Action, add_connect, progress, settings
from pmuconf.commands.exitstatus import CHECK_UNKNOWN
from pmuconf.commands.outputs import add_format, show
from pmuconf.errors import PmuconfError
from pmuconf.report.plain import printable
from pmuconf.report.status import HostStatus, status_of

__all__ = ["ShowStatus"]


class ShowStatus(Action):
    """Answer in a few lines: does this kernel deliver, which QEMUs do, how do the VMs stand, what to do next.

    The exits of all VMs are counted for a second, to tell what the fast path saves, and what it could save, as per
    cent of the host's CPU time: an upper bound.

    Exit status: 0 as wanted, 1 something waits, is undecided or unknown, 2 drift, the slow path, or a domain that
    can't be judged, 255 error. With --check: 0 OK, 1 WARNING, 2 CRITICAL, 3 UNKNOWN (an error).
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        add_connect(parser)
        add_processes(parser)
        add_host_facts(parser)
        add_format(parser)
        parser.add_argument("--check", action="store_true", help="One line in the format of monitoring plug-ins.")
        parser.add_argument(
            "--no-sample", action="store_true", help="Do not count exits: a second faster, and without per cent."
        )
        return parser

    def take_action(self, args: argparse.Namespace) -> int:
        if not args.check:
            status = self._status(args)
            show(self, args, status)
            return int(status.severity)
        try:
            status = self._status(args)
        except PmuconfError as error:
            self.app.stdout.write(f"PMUCONF UNKNOWN - {printable(error.message)} ({error.cause})\n")
            return CHECK_UNKNOWN
        self.app.stdout.write(status.check() + "\n")
        return int(status.severity)

    def _status(self, args: argparse.Namespace) -> HostStatus:
        chosen = settings(self)
        look = partial(audit, always=True, pace=Pace(0 if args.no_sample else 1, progress))
        report = audit_host(args, chosen, look)
        for sentence in report.warnings:
            self.app.LOG.warning("%s", sentence)
        return status_of(report)
