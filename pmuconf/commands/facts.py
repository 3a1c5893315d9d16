"""pmuconf host facts"""

from __future__ import annotations

import argparse
from pathlib import Path

from pmuconf.access import surveyor
from pmuconf.commands.base import Action
from pmuconf.files.replacing import replace_file

__all__ = ["WriteFacts"]


class WriteFacts(Action):
    """Write what only root can find out about this host, so that an audit can do without root.

    The kernel's verdict with its evidence, KVM's settings, the CPU, the QEMUs that libvirt here would start a new VM
    with, and of each live VM what KVM holds. The Nova plugin's trait stands on it: /run/pmuconf/host-facts.json.

    'pmuconf audit --host-facts FILE' (report, explain) takes it if it belongs to root and still holds: it is void when
    the host was booted anew, or has another load of KVM, set of livepatches or parameters of KVM. Nothing is known of a
    VM that was started since or runs another program by now, nor of a QEMU that may be another file by now.

    Exit status: as of host: 0 guarded, early-out or no-call, 1 partial or unknown, 2 unguarded, 255 error.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        parser.add_argument(
            "-o",
            "--output",
            type=Path,
            metavar="FILE",
            help="Write to FILE, all or nothing, for all to read; else to standard output.",
        )
        return parser

    def take_action(self, args: argparse.Namespace) -> int:
        facts = surveyor()()
        from pmuconf.host.factsfile import dump

        text = dump(facts)
        if args.output is None:
            self.app.stdout.write(text)
        else:
            replace_file(args.output, text, ours=True)
        return facts.guard.verdict.severity
