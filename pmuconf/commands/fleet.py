"""pmuconf fleet report, fleet diff, fleet plan."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, TextIO, TypeVar

from pmuconf.commands.base import Action
from pmuconf.commands.terminal import width_of
from pmuconf.commands.values import whole
from pmuconf.errors import PmuconfError
from pmuconf.files.inputs import read_regular
from pmuconf.files.replacing import replace_file, replacing
from pmuconf.fleet.campaign import campaign, plan_document
from pmuconf.fleet.csv import host_text, vm_rows
from pmuconf.fleet.diff import diff, diff_document
from pmuconf.fleet.document import document
from pmuconf.fleet.files import Problem
from pmuconf.fleet.hostreport import HostReport
from pmuconf.fleet.hosts import cores, gather
from pmuconf.fleet.report import Fleet, fleet
from pmuconf.fleet.table import diff_table, table
from pmuconf.libraries import needed
from pmuconf.report.csv import COLUMNS, csv_lines

__all__ = ["FORMATS", "FleetDiff", "FleetPlan", "FleetReport"]

FORMATS = ("table", "json", "csv", "html")
_COUNT, _SOME = whole(0), whole(1)
_T = TypeVar("_T")
_MAX_NAMES = 16 << 20
_SHOWN = 10
_UNITS = {"m": "minutes", "h": "hours", "d": "days"}


class FleetReport(Action):
    """Join the reports of many hosts: how many VMs have the fast path, and which few steps would help the most others.

    Reads only files that 'pmuconf report -f json' wrote on the hosts. Something else collects them (docs/fleet.md).

      table  the most important figures, for a screen
      json   everything, versioned (docs/fleet-report.schema.json)
      csv    one row a VM as 'pmuconf report -f csv' has it; with --rows hosts, one row a host
      html   one page that needs only a browser; with --host-pages, a folder with a page for each host

    A step counts the VMs that wait for nothing else. A VM that needs a kernel, a QEMU and a power cycle counts for the
    three together. The cycles that could be saved are an upper bound, over the VMs whose exits were counted (--sample
    on the hosts). They are left out if no exits were counted.

    Exit status: 0 all as wanted; 1 something waits or can't be known, or a host is absent or its report stale; 2 drift,
    the slow path, or a file that can't be used. In these three cases the report has all files that can be used. 255
    error, such as no report at all: nothing is written.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        _add_files(parser)
        parser.add_argument("-f", "--format", choices=FORMATS, default="table", help="The default is table.")
        parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="Write to FILE, all or nothing.")
        parser.add_argument(
            "--host-pages",
            action="store_true",
            help="With -f html: write index.html and hosts/NAME.html, the page of each host, to the folder of -o.",
        )
        parser.add_argument(
            "--rows", choices=("vms", "hosts"), help="With -f csv: one row a VM (default), or one row a host."
        )
        parser.add_argument(
            "--top",
            type=_COUNT,
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
        if args.host_pages:
            joined = self._pages(args)
        elif args.format == "csv" and args.rows != "hosts":
            joined = self._vm_rows(args)
        else:
            joined = self._one_file(args)
        _warn(self, joined.problems)
        return joined.severity

    def _one_file(self, args: argparse.Namespace) -> Fleet:
        html = _html() if args.format == "html" else None  # fails before any report is read
        joined = _join(args)
        record = document(joined, args.top)
        with _output(self, args.output) as file:
            file.write(_text(args.format, record, width_of(file)) if html is None else html.page(record))
        return joined

    def _vm_rows(self, args: argparse.Namespace) -> Fleet:
        """Write the rows of each host as soon as its report is read."""
        with _output(self, args.output) as file:
            file.write(csv_lines([COLUMNS]))
            return _join(args, vm_rows, file.write)

    def _pages(self, args: argparse.Namespace) -> Fleet:
        """Write the page of each host as soon as its report is read, and the fleet's page after all of them."""
        html = _html()
        without_page: list[Problem] = []
        folder = _folder(args.output / html.HOSTS)
        joined = _join(args, partial(_host_page, folder), without_page.extend)
        joined = replace(joined, problems=[*joined.problems, *without_page])
        replace_file(args.output / "index.html", html.page(document(joined, args.top), pages=True))
        return joined


class FleetDiff(Action):
    """Show the difference between two collections of reports: hosts, and VMs that gained or lost the fast path.

    A VM is known by its UUID, so a VM that moved to another host is compared too. A host is shown as unheard if one of
    the collections has no usable report of it: neither the host nor its VMs have come or gone.

    Exit status: 2 a VM lost the fast path, or a file can't be used; 1 a host went or is unheard; otherwise 0. 255
    error.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        parser.add_argument("old", type=Path, metavar="OLD", help="A folder of reports, or one report.")
        parser.add_argument("new", type=Path, metavar="NEW", help="A later one.")
        parser.add_argument("-f", "--format", choices=("table", "json"), default="table", help="The default is table.")
        parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="Write to FILE, all or nothing.")
        parser.add_argument(
            "--top",
            type=_COUNT,
            default=1000,
            metavar="N",
            help="List N of the VMs that changed, beginning with those that lost the fast path (1000); 0 lists all.",
        )
        _add_jobs(parser)
        return parser

    def take_action(self, args: argparse.Namespace) -> int:
        old, new = (gather([path], args.jobs) for path in (args.old, args.new))
        difference = diff(old, new, now=datetime.now(timezone.utc), jobs=args.jobs)
        _warn(self, difference.problems)
        record = diff_document(difference, args.top)
        with _output(self, args.output) as file:
            file.write(_json(record) if args.format == "json" else diff_table(record, width_of(file)))
        return difference.severity


class FleetPlan(Action):
    """Write a plan that brings VMs onto the fast path and on policy, for a playbook to carry out (docs/fleet.md).

    The steps that bring the most VMs, alone or a few together, come first. Each step names its hosts or VMs, the
    request to their manager, and the steps that must come before it.

    To resume a campaign, gather the reports again and make the plan anew: it lacks what is done, and what is left keeps
    its ids. Hosts that are absent, or whose report is stale, are left out and named.

    Exit status: 0 nothing is to be done, 1 a host is left out, 2 something is to be done, or a file can't be used; in
    these three cases the plan is written. 255 error.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        _add_files(parser)
        parser.add_argument(
            "--limit",
            type=_names,
            default=[],
            metavar="GLOB,...|@FILE",
            help="Only hosts whose name, or name in the inventory, matches one of these.",
        )
        parser.add_argument("--wave-size", type=_SOME, default=20, metavar="N", help="Hosts a wave (20).")
        parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="Write to FILE, all or nothing.")
        return parser

    def take_action(self, args: argparse.Namespace) -> int:
        hosts = gather(args.paths, args.jobs).limited(args.limit)
        now = datetime.now(timezone.utc)
        planned = campaign(hosts, now=now, jobs=args.jobs, expected=args.expect, stale_after=args.stale)
        _warn(self, planned.problems)
        with _output(self, args.output) as file:
            file.write(_json(plan_document(planned, args.wave_size)))
        return planned.severity


@contextmanager
def _output(command: Action, path: Path | None) -> Iterator[TextIO]:
    """The file, which is replaced all or nothing, or standard output."""
    if path is None:
        yield command.app.stdout
    else:
        with replacing(path) as file:
            yield file


def _add_files(parser: argparse.ArgumentParser) -> None:
    """Add the files to be read, and the hosts that should be among them."""
    parser.add_argument(
        "paths",
        nargs="+",
        type=Path,
        metavar="DIR|FILE",
        help="Reports; of a folder, all files whose names end in .json or .json.gz.",
    )
    parser.add_argument(
        "--expect",
        type=_names,
        default=[],
        metavar="NAME,...|@FILE",
        help="Hosts that should have a report, by their names in the inventory; a file has one name a line. Hosts "
        "without one are named.",
    )
    parser.add_argument(
        "--stale",
        type=_age,
        default="24h",
        metavar="AGE",
        help="Name the hosts whose report is older (24h; 30m, 7d, ...); 0: no report is too old.",
    )
    _add_jobs(parser)


def _add_jobs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--jobs", type=_SOME, default=cores(), metavar="N", help="Read with N processes (one a core).")


def _ignore(result: object) -> None:
    """Take a result that nobody needs."""


def _join(
    args: argparse.Namespace,
    each: Callable[[HostReport], _T] | None = None,
    take: Callable[[_T], object] = _ignore,
) -> Fleet:
    """The fleet of the files that the arguments name. ``each`` and ``take`` are those of fleet()."""
    return fleet(
        gather(args.paths, args.jobs),
        now=datetime.now(timezone.utc),
        jobs=args.jobs,
        expected=args.expect,
        stale_after=args.stale,
        each=each,
        take=take,
    )


def _warn(command: Action, problems: Sequence[Problem]) -> None:
    """Show the first problems with files on standard error, and how many more there are."""
    for problem in sorted(problems)[:_SHOWN]:
        command.app.LOG.warning("%s: %s (%s)", problem.path, problem.message, problem.cause)
    if len(problems) > _SHOWN:
        command.app.LOG.warning("and %d more files: the report names them", len(problems) - _SHOWN)


def _html() -> ModuleType:
    with needed(besides="The other formats need none"):
        from pmuconf.fleet import html
    return html


def _folder(path: Path) -> Path:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PmuconfError(f"{path}: {error.strerror}", cause="output-unwritable") from None
    return path


def _host_page(folder: Path, report: HostReport) -> list[Problem]:
    """Write the page of a host, in the process that read its report. A failure concerns this page alone."""
    try:
        _html().write_host(folder, report)
    except PmuconfError as error:
        if error.cause != "report-broken":
            raise
        return [Problem(report.path, error.cause, error.message, report.name)]
    return []


def _json(record: Mapping[str, Any]) -> str:
    return json.dumps(record, indent=1) + "\n"


def _text(form: str, record: Mapping[str, Any], width: int | None) -> str:
    if form == "json":
        return _json(record)
    return host_text(record) if form == "csv" else table(record, width)


def _age(text: str) -> timedelta | None:
    if text == "0":
        return None
    matched = re.fullmatch(r"(\d{1,6})([mhd])", text, re.ASCII)
    if matched is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no age such as 24h, 30m or 7d")
    return timedelta(**{_UNITS[matched[2]]: int(matched[1])})


def _names(text: str) -> list[str]:
    if not text.startswith("@"):
        return [name for name in text.split(",") if name]
    try:
        lines = read_regular(text[1:], _MAX_NAMES).decode("utf-8").splitlines()
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{text[1:]} can't be read: {error.strerror}") from None
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text[1:]} is no text in UTF-8") from None
    return [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
