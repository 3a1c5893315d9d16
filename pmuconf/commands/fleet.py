"""pmuconf fleet report, fleet diff, fleet plan"""

from __future__ import annotations

import argparse
import json
import re
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from pmuconf.commands.base import Action
from pmuconf.errors import PmuconfError
from pmuconf.files import replace_file
from pmuconf.fleet.document import Fleet, document
from pmuconf.fleet.files import Problem
from pmuconf.fleet.hosts import Hosts, cores, gather
from pmuconf.fleet.report import fleet

__all__ = ["FORMATS", "FleetReport"]

FORMATS = ("table", "json", "csv", "html")
_UNITS = {"m": "minutes", "h": "hours", "d": "days"}


class FleetReport(Action):
    """Join the reports of many hosts: who has the fast path, who has not, and what few steps would change most.

    Reads files only, which 'pmuconf report -f json' wrote on the hosts; something else brought them here (docs/fleet.md).

      table  what matters, on a screen
      json   everything there is, versioned (docs/fleet-report.schema.json)
      csv    one row a domain as 'pmuconf report -f csv' has it, or with --rows hosts one a host
      html   one page that needs only a browser; with --host-pages a folder, with a page for each host

    A step's VMs are those that have nothing else in their way: a VM that needs a kernel, a QEMU and a power cycle counts
    for the three together. What is to be won is an upper bound, over the VMs whose exits were counted (--sample on the
    hosts); where none was, it is left out.

    Examples:

      pmuconf fleet report collected/
      pmuconf fleet report collected/ -f html --host-pages -o /var/www/html/pmu/
      pmuconf fleet report collected/ --expect @inventory.txt --stale 24h -f json -o fleet.json

    Exit status: 0 all as wanted; 1 something waits or can't be known, or a host is absent or its report stale; 2 drift,
    the slow path, or a file that can't be used. In these three cases the report is whole, and all files that can be
    used are in it. 255 error, such as no report at all: nothing is written.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        add_files(parser)
        parser.add_argument("-f", "--format", choices=FORMATS, default="table", help="The default is table.")
        parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="Write to FILE, all or nothing.")
        parser.add_argument(
            "--top",
            type=_count,
            default=50,
            metavar="N",
            help="List the N flavors, projects, kernels, QEMUs and steps with the most VMs and count the others (50); "
            "0 lists all.",
        )
        return parser

    def take_action(self, args: argparse.Namespace) -> int:
        found = gather(args.paths, args.jobs)
        made = join(found, args)
        tell(self, made.problems)
        text = _text(args.format, document(made, args.top))
        if args.output is None:
            self.app.stdout.write(text)
        else:
            replace_file(args.output, text)
        return made.severity


def add_files(parser: argparse.ArgumentParser) -> None:
    """Add what to read, and who should be among it."""
    parser.add_argument(
        "paths", nargs="+", type=Path, metavar="DIR|FILE", help="Reports; a folder gives its *.json and *.json.gz."
    )
    parser.add_argument(
        "--expect",
        type=_names,
        default=[],
        metavar="NAME,...|@FILE",
        help="Hosts that should be there, as the inventory names them; those that are not are named. A file has one a line.",
    )
    parser.add_argument(
        "--stale",
        type=_age,
        default="24h",
        metavar="AGE",
        help="Name the hosts whose report is older (24h; 30m, 7d, ...); 0: none is too old.",
    )
    parser.add_argument(
        "--jobs", type=_count, default=cores(), metavar="N", help="Read with N processes (one a core)."
    )


def join(found: Hosts, args: argparse.Namespace) -> Fleet:
    """The fleet that the arguments of add_files() name."""
    return fleet(
        found, now=datetime.now(timezone.utc), jobs=args.jobs, expected=args.expect, stale_after=args.stale
    )


def tell(command: Action, problems: Any) -> None:
    """Say what was wrong with files on standard error; of many, how many there are."""
    for one in sorted(problems)[:10]:
        command.app.LOG.warning("%s: %s (%s)", one.path, one.message, one.cause)
    if len(problems) > 10:
        command.app.LOG.warning("and %d more files: the report names them", len(problems) - 10)


def _text(form: str, made: dict[str, Any]) -> str:
    if form == "json":
        return json.dumps(made, indent=1) + "\n"
    from pmuconf.fleet.table import table

    return table(made)


def _count(text: str) -> int:
    if not re.fullmatch(r"\d{1,9}", text, re.ASCII):
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 0 on")
    return int(text)


def _age(text: str) -> timedelta | None:
    matched = re.fullmatch(r"(\d{1,6})([mhd])", text, re.ASCII)
    if text == "0":
        return None
    if matched is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no age such as 24h, 30m or 7d")
    return timedelta(**{_UNITS[matched[2]]: int(matched[1])})


def _names(text: str) -> list[str]:
    if not text.startswith("@"):
        return [name for name in text.split(",") if name]
    try:
        lines = Path(text[1:]).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise argparse.ArgumentTypeError(f"{text[1:]} can't be read: {error}") from None
    return [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
