"""pmuconf report"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from pmuconf.commands.audit import add_sources, run_audit
from pmuconf.commands.base import Action, settings
from pmuconf.files import replace_file
from pmuconf.report.document import document

__all__ = ["WriteReport"]


class WriteReport(Action):
    """Write the whole audit as one versioned JSON document (docs/report.schema.json).

    Exit status as of audit: 0 all ok, 1 pending or undecided, 2 drift or a domain that can't be judged, 255 error.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        add_sources(parser)
        parser.add_argument(
            "-o",
            "--output",
            type=Path,
            metavar="FILE",
            help="Write to FILE, all or nothing; else to standard output.",
        )
        return parser

    def take_action(self, args: argparse.Namespace) -> int:
        chosen = settings(self)
        report = run_audit(args, chosen)
        text = json.dumps(document(report, chosen.policy), indent=2) + "\n"
        if args.output is None:
            self.app.stdout.write(text)
        else:
            replace_file(args.output, text)
        return int(report.severity)
