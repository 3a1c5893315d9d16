"""The command ``pmuconf host disable-pmu``."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from pmuconf.access import connect, host_modules, surveyor
from pmuconf.audit.look import audit
from pmuconf.audit.report import Report
from pmuconf.causes import CAUSES
from pmuconf.commands.base import Table, add_connect, settings
from pmuconf.commands.plaintable import Brief
from pmuconf.conf import Settings
from pmuconf.errors import PmuconfError
from pmuconf.files.replacing import replace_file
from pmuconf.flavors.map import FlavorMap
from pmuconf.hostfacts import HostFacts, Verdict
from pmuconf.losers import Supply, losers
from pmuconf.wording import counted

__all__ = ["DisablePmu"]

_FILE: Final = Path("/etc/modprobe.d/pmuconf.conf")
_LINE: Final = "options kvm enable_pmu=N"
_TEXT: Final = f"""\
# No VM of this host gets a PMU. This takes effect when KVM is loaded next: drain the host, then reboot it.
# Written by 'pmuconf host disable-pmu'. To go back, remove this file, and load KVM anew in the same way.
{_LINE}
"""
_SLOW: Final = (Verdict.UNGUARDED, Verdict.PARTIAL)


class DisablePmu(Table):
    """Write kvm.enable_pmu=N for this host's next load of KVM, if no VM would lose a PMU that it is to have.

    With the parameter N, KVM gives no VM of the host a PMU. VMs then have the fast path under any QEMU, also before
    11.0, if the kernel has the guard. No VM can be an exception.

    Listed is who would lose a PMU, or may: VMs that the policy lets have one; VMs that use theirs now; VMs of KVM that
    libvirt does not know; and whatever may come here with one: by a rule, by the default, by a flavor or an image. Run
    it as root, since only root sees whether a PMU is in use. With VMs of Nova, name the cloud.

    If anybody is listed, nothing is written. With --check, nothing is written in any case. What is written counts
    from the next load of KVM, so the host must be drained for it. Nothing is loaded or restarted here.

    loses: yes (a VM of this host), or may.

    Exit status: 0 nobody is listed, 1 somebody may lose a PMU, 2 a VM of this host would, 255 error.
    """

    columns: Sequence[str] = ("kind", "name", "loses", "cause", "why")
    brief: Sequence[str | Brief] = ("kind", "name", "loses", Brief("why", lambda row: row["why"], folds=True))

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        add_connect(parser)
        parser.add_argument("--check", action="store_true", help="Only say who would lose a PMU. Write nothing.")
        parser.add_argument(
            "--elsewhere",
            action="append",
            default=[],
            metavar="GLOB",
            help="VMs of these rules, flavors or images never come to this host, by a host aggregate for example: "
            "leave them out. May be given several times.",
        )
        parser.add_argument(
            "--flavors",
            type=Path,
            metavar="FILE",
            help="Judge the flavors in FILE ('pmuconf flavors export'). It has no images, which may choose a PMU too.",
        )
        parser.add_argument(
            "--os-cloud",
            metavar="NAME",
            help="Ask this cloud of clouds.yaml for its flavors, and for images that choose a PMU.",
        )
        return parser

    def records(self, args: argparse.Namespace) -> Iterable[Mapping[str, Any]]:
        chosen = settings(self)
        _refuse_blind()
        facts = surveyor()()
        if facts.enable_pmu is None:
            raise PmuconfError(
                "KVM's parameter enable_pmu can't be read",
                cause="parameter-unknown",
                hint="Load KVM first (modprobe kvm_amd or kvm_intel); kernels before 5.17 have no such parameter",
            )
        losing = losers(_audit(args, chosen, facts), chosen.policy, _supply(args), args.elsewhere)
        certain = sum(loser.certain for loser in losing)
        self.status = 2 if certain else int(bool(losing))
        self.closing += self._closing(facts, len(losing) - certain, certain)
        if not facts.enable_pmu:
            self.closing.append("kvm.enable_pmu is N already: there is nothing to write")
        elif not losing and args.check:
            self.closing.append(f"to write it: pmuconf host disable-pmu, or {_LINE!r} into {_FILE}")
        elif not losing:
            replace_file(_FILE, _TEXT, ours=True)
            self.closing.append(
                f"{_FILE} is written. It counts from the next load of KVM: drain the host, then reboot it"
            )
        elif not args.check:
            self.closing.append(f"nothing is written. If that is to be all the same: {_LINE!r} into {_FILE}")
        return [
            {
                "kind": loser.kind,
                "name": loser.name,
                "loses": "yes" if loser.certain else "may",
                "cause": loser.cause,
                "why": CAUSES[loser.cause].meaning,
            }
            for loser in losing
        ]

    def _closing(self, facts: HostFacts, may: int, certain: int) -> Iterable[str]:
        """How many would lose a PMU, and what the parameter brings on this kernel."""
        yield f"{counted(certain, 'VM')} of this host would lose a PMU, and {may} more may"
        if facts.guard.verdict in _SLOW:
            yield (
                f"this kernel is {facts.guard.verdict.value}: with enable_pmu=N, its VMs go on paying until it has the "
                "guard too"
            )
        elif facts.guard.verdict is Verdict.UNKNOWN:
            yield "whether this kernel has the guard is unknown: 'pmuconf host' says why"


def _refuse_blind() -> None:
    """Refuse where not every VM of KVM can be seen.

    :raises PmuconfError: root-required, pid-namespace, or host-missing.
    """
    if os.geteuid() != 0:
        raise PmuconfError(
            "only root sees every VM of KVM, and whether its PMU is in use",
            cause="root-required",
            hint="Run it as root",
        )
    with host_modules():
        from pmuconf.host.root import Root
        from pmuconf.host.vms.procdir import initial_namespace
    if not initial_namespace(Root()):
        raise PmuconfError(
            "from within a container, not every VM of KVM can be seen",
            cause="pid-namespace",
            hint="Run it on the host itself",
        )


def _audit(args: argparse.Namespace, chosen: Settings, facts: HostFacts) -> Report:
    """The audit of the whole host, with these facts.

    :raises PmuconfError: remote-host, or as audit().
    """
    with connect(chosen, args.connect, read_only=True) as hypervisor:
        if not hypervisor.local:
            raise PmuconfError("its VMs are on another host: run it there", cause="remote-host")
        return audit(hypervisor, chosen.policy, max_bytes=chosen.max_xml_bytes, survey=lambda: facts, always=True)


def _supply(args: argparse.Namespace) -> Supply:
    """The flavors and images of the cloud, as far as it was named.

    :raises PmuconfError: usage, or as Cloud.open() and FlavorMap.load().
    """
    if args.flavors and args.os_cloud:
        raise PmuconfError("--flavors and --os-cloud give the same: one of them is enough", cause="usage")
    if args.os_cloud:
        from pmuconf.flavors.cloud import Cloud

        with Cloud.open(args.os_cloud) as cloud:
            return Supply(cloud.flavors(), cloud.images())
    return Supply(FlavorMap.load(args.flavors).flavors) if args.flavors else Supply()
