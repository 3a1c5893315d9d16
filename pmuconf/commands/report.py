"""The command ``pmuconf report``."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pmuconf.commands.audit import add_sources, files_given, run_audit
from pmuconf.commands.base import Action, settings, warning
from pmuconf.files.replacing import replace_file
from pmuconf.libraries import needed
from pmuconf.report.document import document

__all__ = ["FORMATS", "WriteReport"]

FORMATS = ("json", "csv", "prometheus", "html")


class WriteReport(Action):
    """Write the whole audit of a host: as a JSON document, CSV, Prometheus metrics, or one HTML page. Reads only.

      json        everything there is, versioned (docs/report.schema.json)
      csv         one row a domain, no cell a formula
      prometheus  metrics for node_exporter's textfile collector (docs/report.md)
      html        one page that needs only a browser: to read, sort, filter and print

    Exit status, as of audit: 0 all as wanted, 1 something waits, is undecided or unknown, 2 drift, the slow path, or a
    domain that can't be judged; in these three cases the report is written whole. 255 error: nothing is written.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        parser.add_argument(
            "-f",
            "--format",
            choices=FORMATS,
            default="json",
            help="What to write; the default is json.",
        )
        add_sources(parser)
        parser.add_argument(
            "-o",
            "--output",
            type=Path,
            metavar="FILE",
            help="Write to FILE (mode 0644), all or nothing; else to standard output.",
        )
        return parser

    def given(self, args: argparse.Namespace) -> int:
        return files_given(args)

    def take_action(self, args: argparse.Namespace) -> int:
        write = _writer(args.format)  # first: an audit whose report can't be written is for nothing
        chosen = settings(self)
        report = run_audit(args, chosen, warning(self), always=True)
        text = write(document(report, chosen.policy))
        if args.output is None:
            self.app.stdout.write(text)
        else:
            replace_file(args.output, text)
        return int(report.severity)


def _writer(form: str) -> Callable[[Mapping[str, Any]], str]:
    """What turns a document into text; the libraries of a format are loaded when it is asked for."""
    with needed(besides="-f json and csv need none"):
        if form == "csv":
            from pmuconf.report.csv import csv_text

            return csv_text
        if form == "prometheus":
            from pmuconf.report.prometheus import prometheus_text

            return prometheus_text
        if form == "html":
            from pmuconf.report.html import page

            return page
    return lambda report: json.dumps(report, indent=2) + "\n"
