"""The command ``pmuconf explain``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from pmuconf.audit.look import Pace, audit
from pmuconf.audit.vm import Vm
from pmuconf.commands.audit import add_host_facts, add_processes, add_sample, audit_host
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
        parser.add_argument("domain", metavar="DOMAIN", help="Name or UUID; with --processes, or the id of a process.")
        add_processes(parser)
        add_host_facts(parser)
        add_sample(parser)
        add_format(parser)
        return parser

    def take_action(self, args: argparse.Namespace) -> int:
        chosen = settings(self)
        names = () if args.processes else [args.domain]
        report = audit_host(args, chosen, partial(audit, names=names, always=True, pace=Pace(args.sample, progress)))
        for sentence in report.warnings:
            self.app.LOG.warning("%s", sentence)
        if args.processes:
            report = replace(report, vms=_only(report.vms, args.domain), whole=False)
        if not report.vms:
            raise PmuconfError(f"domain {args.domain!r} went away while it was looked at", cause="domain-vanished")
        show(self, args, Explanation(report, report.vms[0], chosen.policy))
        return int(report.severity)


def _only(vms: Sequence[Vm], asked: str) -> tuple[Vm, ...]:
    """The one VM that has this name, this UUID, or the process with this id.

    :raises PmuconfError: no-such-domain, or usage if there are several.
    """
    called = [
        vm for vm in vms if asked in (vm.name, vm.uuid) or (vm.process is not None and asked == str(vm.process.pid))
    ]
    if not called:
        raise PmuconfError(
            f"no VM is called {asked!r} here", cause="no-such-domain", hint="'pmuconf audit --processes'"
        )
    if len(called) > 1:
        raise PmuconfError(
            f"{len(called)} VMs are called {asked!r}", cause="usage", hint="Give the id of its process, or its UUID"
        )
    return tuple(called)
