"""The command ``pmuconf explain``."""

from __future__ import annotations

import argparse

from pmuconf.access import connect, surveyor
from pmuconf.audit.look import Pace, audit
from pmuconf.commands.audit import add_host_facts, add_sample
from pmuconf.commands.base import Action, add_connect, progress, settings
from pmuconf.commands.outputs import add_format, show
from pmuconf.errors import PmuconfError
from pmuconf.report.story import Explanation

__all__ = ["Explain"]


class Explain(Action):
    """Explain one VM: policy, PMU states, QEMU, kernel, verdict, and what to do.

    Run it as root: only root can read kernel memory, where the VM's PMU in KVM is observed. Otherwise that is inferred,
    or unknown.

    Exit status: 0 as wanted, 1 something waits, is undecided or unknown, 2 drift, the slow path, or a domain that
    can't be judged, 255 error.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        add_connect(parser)
        parser.add_argument("domain", metavar="DOMAIN", help="Name or UUID.")
        add_host_facts(parser)
        add_sample(parser)
        add_format(parser)
        return parser

    def take_action(self, args: argparse.Namespace) -> int:
        chosen = settings(self)
        with connect(chosen, args.connect, read_only=True) as hypervisor:
            report = audit(
                hypervisor,
                chosen.policy,
                [args.domain],
                max_bytes=chosen.max_xml_bytes,
                survey=surveyor(args.host_facts),
                always=True,
                pace=Pace(args.sample, progress),
            )
        for sentence in report.warnings:
            self.app.LOG.warning("%s", sentence)
        if not report.vms:
            raise PmuconfError(f"domain {args.domain!r} went away while it was looked at", cause="domain-vanished")
        show(self, args, Explanation(report, report.vms[0], chosen.policy))
        return int(report.severity)
