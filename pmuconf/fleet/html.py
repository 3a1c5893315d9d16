"""The fleet as one HTML page, and a page for each host beside it: counts first, then hosts; VMs are on their host's."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from jinja2 import TemplateError

from pmuconf.errors import PmuconfError
from pmuconf.files.replacing import replace_file
from pmuconf.fleet.hostreport import HostReport
from pmuconf.report.bars import Bar, Counted, bars
from pmuconf.report.groups import BY_FAST_PATH, KINDS
from pmuconf.report.html import page as host_page
from pmuconf.report.template import render

__all__ = ["HOSTS", "page", "page_name", "write_host"]

HOSTS: Final = "hosts"
_ROUNDS: Final = 8
_BARS: Final = 12
_LISTED: Final = 200
_SLOW: Final = ("partial", "change", "qemu", "kernel")
_PLAIN: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True)
class Row:
    """One host of the table."""

    host: Mapping[str, Any]
    verdict: str
    page: str
    slow: int
    at: str
    stale: bool
    found_by: str


def page(document: Mapping[str, Any], *, pages: bool = False) -> str:
    """A fleet document as an HTML page.

    :param pages: each host has a page of its own, in the folder ``hosts`` beside this one.
    """
    return render("fleet.html", _view(document, pages))


def page_name(host: str) -> str:
    """The name of a host's page: the host's own where that is harmless as a file's name; else made of its digest."""
    if _PLAIN.fullmatch(host):
        return f"{host}.html"
    return f"_{hashlib.sha256(host.encode('utf-8', 'surrogatepass')).hexdigest()[:32]}.html"


def write_host(folder: Path, report: HostReport) -> None:
    """Write the page of one host.

    :raises PmuconfError: output-unwritable; report-broken, where a report lacks what only its page shows.
    """
    try:
        text = host_page(report.data)
    except (KeyError, TypeError, ValueError, AttributeError, TemplateError) as error:
        raise PmuconfError(
            f"{report.path}: no page can be made of it: {type(error).__name__} {error}", cause="report-broken"
        ) from None
    replace_file(folder / page_name(report.name), text)


def _view(document: Mapping[str, Any], pages: bool) -> dict[str, Any]:
    summary = document["summary"]
    stale = {one["host"] for one in document["stale"]}
    times = [one["generated_at"] for one in document["hosts"]]
    steps = {one["id"]: one for one in document["steps"]["listed"]}
    rounds = document["rounds"]
    return {
        "report": document,
        "summary": summary,
        "at": _at(document["generated_at"]),
        "oldest": _at(min(times)) if times else "",
        "newest": _at(max(times)) if times else "",
        "kinds": [(name, summary[key]) for key, name in KINDS.items() if summary[key]],
        "groups": [(group, summary["groups"][group.key]) for group in BY_FAST_PATH],
        "whole": next(bars([Counted("all VMs", "", summary["groups"])], BY_FAST_PATH), None),
        "rounds": [{**one, "steps": [steps[name] for name in one["steps"]]} for one in rounds[:_ROUNDS]],
        "more_rounds": len(rounds[_ROUNDS:]),
        "verdicts": _bars(
            (_verdict(one["verdict"]), f"verdict={_verdict(one['verdict'])}", one, _hosts(one))
            for one in document["verdicts"]
        ),
        "kernels": _bars(
            (one["release"] or "not known", _kernel(one), one, _hosts(one)) for one in document["kernels"]["listed"]
        ),
        "flavors": _bars((one["flavor"] or "no flavor", "", one, "") for one in document["flavors"]["listed"]),
        "projects": _bars((one["project"] or "no project", "", one, "") for one in document["projects"]["listed"]),
        "causes": _bars(
            ((one["cause"] or "not asked", "", one, one["message"] or "") for one in document["causes"]), most=100
        ),
        "qemus": _bars((one["path"] or "not known", "", one, _disables(one)) for one in document["qemus"]["listed"]),
        "rows": [_row(one, pages, one["host"] in stale) for one in document["hosts"]],
        "pages": pages,
        "listed": _LISTED,
    }


def _bars(shown: Iterable[tuple[str, str, Mapping[str, Any], str]], most: int = _BARS) -> Sequence[Bar]:
    counted = [Counted(label, value, one["groups"], note) for label, value, one, note in shown]
    return list(bars(counted[:most], BY_FAST_PATH))


def _row(host: Mapping[str, Any], pages: bool, stale: bool) -> Row:
    verdict = _verdict(host["verdict"])
    return Row(
        host=host,
        verdict=verdict,
        page=f"{HOSTS}/{page_name(host['host'])}" if pages else "",
        slow=sum(host["groups"][group] for group in _SLOW),
        at=_at(host["generated_at"]),
        stale=stale,
        found_by=" ".join((_kernel(host), *(["stale"] if stale else []))),
    )


def _verdict(verdict: str | None) -> str:
    return verdict or "not looked at"


def _kernel(one: Mapping[str, Any]) -> str:
    """A word that hosts with the same kernel and verdict are found by."""
    text = "\0".join((one["release"] or "", one["build_id"] or "", one["verdict"] or ""))
    return f"kernel-{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:12]}"


def _hosts(one: Mapping[str, Any]) -> str:
    return f"{one['hosts']:,} {'host' if one['hosts'] == 1 else 'hosts'}"


def _disables(one: Mapping[str, Any]) -> str:
    said = {True: "disables", False: "does not disable", None: "not known whether it disables"}[one["disables_pmu"]]
    return f"{said} the PMU in KVM; build ID {one['build_id'] or 'not known'}; {_hosts(one)}"


def _at(text: str) -> str:
    return datetime.fromisoformat(text).strftime("%Y-%m-%d %H:%M UTC")
