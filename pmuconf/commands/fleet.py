"""pmuconf fleet report, fleet diff, fleet plan"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, TextIO, TypeVar

from pmuconf.commands.base import Action
from pmuconf.errors import PmuconfError
from pmuconf.files.inputs import read_regular
from pmuconf.files.replacing import replace_file, replacing
from pmuconf.fleet.absent import severity
from pmuconf.fleet.campaign import campaign
from pmuconf.fleet.campaign import document as plan_document
from pmuconf.fleet.csv import host_text, vm_rows
from pmuconf.fleet.diff import diff
from pmuconf.fleet.diff import document as diff_document
from pmuconf.fleet.document import Fleet, document
from pmuconf.fleet.files import Problem
from pmuconf.fleet.hostreport import HostReport
from pmuconf.fleet.hosts import Hosts, cores, gather
from pmuconf.fleet.report import fleet
from pmuconf.fleet.table import diff_table, table
from pmuconf.report.csv import COLUMNS, csv_lines

__all__ = ["FORMATS", "FleetDiff", "FleetPlan", "FleetReport"]

FORMATS = ("table", "json", "csv", "html")
_T = TypeVar("_T")
_MAX_NAMES = 16 << 20
_UNITS = {"m": "minutes", "h": "hours", "d": "days"}


class FleetReport(Action):
    """Join the reports of many hosts: who has the fast path, who has not, and what few steps would change most.

    Reads only files that 'pmuconf report -f json' wrote on the hosts; something else brings them here (docs/fleet.md).

      table  what matters, on a screen
      json   everything there is, versioned (docs/fleet-report.schema.json)
      csv    one row a domain as 'pmuconf report -f csv' has it, or with --rows hosts one a host
      html   one page that needs only a browser; with --host-pages a folder, with a page for each host

    A step brings those VMs that have nothing else in their way: one that needs a kernel, a QEMU and a power cycle
    counts for the three together. What could be saved is an upper bound, over the VMs whose exits were counted
    (--sample on the hosts); where none was, it is left out.

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
            "--host-pages",
            action="store_true",
            help="With -f html: -o is a folder, which gets index.html and hosts/NAME.html, the page of each host.",
        )
        parser.add_argument(
            "--rows", choices=("vms", "hosts"), help="With -f csv: a row a domain (default), or one a host."
        )
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
        if args.rows is not None and args.format != "csv":
            raise PmuconfError("--rows is for -f csv", cause="usage")
        if args.host_pages and (args.format != "html" or args.output is None):
            raise PmuconfError("--host-pages is for -f html, with a folder to write to: -o DIR", cause="usage")
        html = _html() if args.format == "html" else None  # first: what can't be written is read for nothing
        found = gather(args.paths, args.jobs)
        broken: list[Problem] = []
        if args.format == "csv" and args.rows != "hosts":
            with _output(self, args.output) as file:
                file.write(csv_lines([COLUMNS]))
                made = join(found, args, vm_rows, file.write)
        elif html is not None and args.host_pages:
            folder = _folder(args.output / html.HOSTS)
            made = join(found, args, partial(_host_page, folder), broken.extend)
            made = replace(made, problems=[*made.problems, *broken])
            replace_file(args.output / "index.html", html.page(document(made, args.top), pages=True))
        else:
            made = join(found, args)
            record = document(made, args.top)
            with _output(self, args.output) as file:
                file.write(_text(args.format, record) if html is None else html.page(record))
        tell(self, made.problems)
        return made.severity


class FleetDiff(Action):
    """Show what changed between two collections of reports: hosts, and VMs that gained or lost the fast path.

    A VM is known by its UUID, so that one that moved to another host is compared too. A host of which one of the
    collections has no report that can be used has neither come nor gone, nor have its VMs: it is named as unheard.

    Example:

      pmuconf fleet diff monday/ tuesday/

    Exit status: 0 otherwise; 1 a host went or was not heard of; 2 a VM lost the fast path, or a file can't be used.
    255 error.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        parser.add_argument("old", type=Path, metavar="OLD", help="A folder of reports, or one report.")
        parser.add_argument("new", type=Path, metavar="NEW", help="A later one.")
        parser.add_argument("-f", "--format", choices=("table", "json"), default="table", help="The default is table.")
        parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="Write to FILE, all or nothing.")
        parser.add_argument(
            "--top",
            type=_count,
            default=1000,
            metavar="N",
            help="List N of the VMs that changed, those first that lost the fast path (1000); 0 lists all.",
        )
        _add_jobs(parser)
        return parser

    def take_action(self, args: argparse.Namespace) -> int:
        old, new = (gather([path], args.jobs) for path in (args.old, args.new))
        made = diff(old, new, now=datetime.now(timezone.utc), jobs=args.jobs)
        tell(self, made.problems)
        record = diff_document(made, args.top)
        with _output(self, args.output) as file:
            file.write(json.dumps(record, indent=1) + "\n" if args.format == "json" else diff_table(record))
        return made.severity


class FleetPlan(Action):
    """Write what would bring VMs onto the fast path as a plan that a playbook carries out in waves (docs/fleet.md).

    Steps stand in the order in which they are best done: first those that, alone or a few together, bring the most VMs.
    Each names its hosts or VMs, what their manager is to be asked for, and the steps that must come before it.

    To resume a campaign, gather the reports again and make the plan anew: what is done is in it no more, and what is
    left has the same ids. Hosts that are absent, or whose report is stale, are left out and named.

    Examples:

      pmuconf fleet plan collected/ -o plan.json
      pmuconf fleet plan collected/ --limit 'rack1-*,compute-7' --wave-size 5 -o plan.json

    Exit status: 0 nothing is to be done, 1 a host is left out, 2 something is to be done, or a file can't be used; in
    these three cases the plan is written. 255 error.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        add_files(parser)
        parser.add_argument(
            "--limit",
            type=_names,
            default=[],
            metavar="GLOB,...|@FILE",
            help="Only hosts whose name, or name in the inventory, matches one of these.",
        )
        parser.add_argument("--wave-size", type=_some, default=20, metavar="N", help="Hosts a wave (20).")
        parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="Write to FILE, all or nothing.")
        return parser

    def take_action(self, args: argparse.Namespace) -> int:
        found = gather(args.paths, args.jobs).limited(args.limit)
        now = datetime.now(timezone.utc)
        made = campaign(found, now=now, jobs=args.jobs, expected=args.expect, stale_after=args.stale)
        tell(self, made.problems)
        with _output(self, args.output) as file:
            file.write(json.dumps(plan_document(made, args.wave_size), indent=1) + "\n")
        left_out = severity(made.problems, made.absent, made.stale)
        return 2 if made.steps else left_out


@contextmanager
def _output(command: Action, path: Path | None) -> Iterator[TextIO]:
    """The file, which is replaced all or nothing, or standard output."""
    if path is None:
        yield command.app.stdout
    else:
        with replacing(path) as file:
            yield file


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
        help="Hosts that should be there, by their names in the inventory: who is not is named. A file has one a line.",
    )
    parser.add_argument(
        "--stale",
        type=_age,
        default="24h",
        metavar="AGE",
        help="Name the hosts whose report is older (24h; 30m, 7d, ...); 0: none is too old.",
    )
    _add_jobs(parser)


def _add_jobs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--jobs", type=_some, default=cores(), metavar="N", help="Read with N processes (one a core).")


def join(
    found: Hosts,
    args: argparse.Namespace,
    each: Callable[[HostReport], _T] | None = None,
    take: Callable[[_T], object] = lambda made: None,
) -> Fleet:
    """The fleet that the arguments of add_files() name; ``each`` and ``take`` are those of fleet()."""
    now = datetime.now(timezone.utc)
    return fleet(found, now=now, jobs=args.jobs, expected=args.expect, stale_after=args.stale, each=each, take=take)


def tell(command: Action, problems: Any) -> None:
    """Say what was wrong with files on standard error; of many, how many there are."""
    for one in sorted(problems)[:10]:
        command.app.LOG.warning("%s: %s (%s)", one.path, one.message, one.cause)
    if len(problems) > 10:
        command.app.LOG.warning("and %d more files: the report names them", len(problems) - 10)


def _html() -> ModuleType:
    try:
        from pmuconf.fleet import html
    except ImportError as error:
        raise PmuconfError(
            f"-f html needs a module that is not installed: {error.name}",
            cause="module-missing",
            hint="Install it with 'pip install pmuconf[host]'; the other formats need none",
        ) from None
    return html


def _folder(path: Path) -> Path:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PmuconfError(f"{path}: {error.strerror}", cause="output-unwritable") from None
    return path


def _host_page(folder: Path, report: HostReport) -> list[Problem]:
    """Write it, in the process that has the report; what is wrong with it is wrong with its page alone."""
    try:
        _html().write_host(folder, report)
    except PmuconfError as error:
        if error.cause != "report-broken":
            raise
        return [Problem(report.path, error.cause, error.message, report.name)]
    return []


def _text(form: str, made: dict[str, Any]) -> str:
    if form == "json":
        return json.dumps(made, indent=1) + "\n"
    if form == "csv":
        return host_text(made)
    return table(made)


def _count(text: str) -> int:
    if not re.fullmatch(r"\d{1,9}", text, re.ASCII):
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 0 on")
    return int(text)


def _some(text: str) -> int:
    if not _count(text):
        raise argparse.ArgumentTypeError("at least 1")
    return _count(text)


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
        lines = read_regular(text[1:], _MAX_NAMES).decode("utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise argparse.ArgumentTypeError(f"{text[1:]} can't be read: {error}") from None
    return [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
