"""The fleet as one HTML page, and beside it a page for each host, which has the host's VMs."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from jinja2 import TemplateError

from pmuconf.errors import PmuconfError
from pmuconf.files.replacing import replace_file
from pmuconf.fleet.hostreport import HostReport
from pmuconf.fleet.reported import KINDS
from pmuconf.hostfacts import does_to_pmu
from pmuconf.report.bars import Bar, Counted, bars
from pmuconf.report.groups import BY_FAST_PATH, OF_RUNNING
from pmuconf.report.html import page as host_page
from pmuconf.report.saving import Capacity
from pmuconf.report.template import render

__all__ = ["HOSTS", "page", "page_name", "write_host"]

HOSTS: Final = "hosts"
_ROUNDS: Final = 8
_BARS: Final = 12
_CAUSES: Final = 100
_LISTED: Final = 200
_DIGITS: Final = 8
_SLOW: Final = ("partial", "change", "qemu", "kernel")
_PLAIN: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True)
class TableRow:
    """One host of the table.

    :param page: the host's own page; empty if there is none.
    :param slow: how many of its VMs are slow.
    :param found_by: the words by which the table finds the host.
    """

    host: Mapping[str, Any]
    verdict: str
    page: str
    slow: int
    stale: bool
    found_by: str


def page(document: Mapping[str, Any], *, pages: bool = False) -> str:
    """A fleet document as an HTML page.

    :param pages: link each host to its own page, in the folder ``hosts`` beside this one.
    """
    return render("fleet.html", _view(document, pages=pages))


def page_name(host: str) -> str:
    """The file name of a host's page: the host's name if it is harmless as a file name, otherwise its digest."""
    if _PLAIN.fullmatch(host):
        return f"{host}.html"
    return f"_{hashlib.sha256(host.encode('utf-8', 'surrogatepass')).hexdigest()[:32]}.html"


def write_host(folder: Path, report: HostReport) -> None:
    """Write the page of one host.

    :raises PmuconfError: output-unwritable; report-broken, if the report lacks something that only its page shows.
    """
    try:
        text = host_page(report.document)
    except (KeyError, TypeError, ValueError, AttributeError, TemplateError) as error:
        raise PmuconfError(
            f"{report.path}: no page can be made of it: {type(error).__name__} {error}", cause="report-broken"
        ) from None
    replace_file(folder / page_name(report.name), text)


def _view(document: Mapping[str, Any], *, pages: bool) -> dict[str, Any]:
    summary = document["summary"]
    stale = {host["host"] for host in document["stale"]}
    times = [host["generated_at"] for host in document["hosts"]]
    steps = {step["id"]: step for step in document["steps"]["listed"]}
    rounds = document["rounds"]
    linked = [name for round_ in rounds[:_ROUNDS] for name in round_["steps"]]
    linked += [cause["id"] for cause in document["to_settle"]]
    word_of = {name: f"step-{name.rpartition('-')[2][:_DIGITS]}" for name in linked}
    return {
        "report": document,
        "summary": summary,
        "oldest": min(times, default=""),
        "newest": max(times, default=""),
        "kinds": [(name, summary[key]) for key, name in KINDS.items() if summary[key]],
        "groups": [(group, summary["running_groups"][group.key]) for group in OF_RUNNING],
        "whole": next(bars([Counted("running VMs", "", summary["running_groups"])], OF_RUNNING), None),
        "rounds": [{**round_, "steps": [steps[name] for name in round_["steps"]]} for round_ in rounds[:_ROUNDS]],
        "more_rounds": len(rounds[_ROUNDS:]),
        "verdicts": _bars(map(_by_verdict, document["verdicts"])),
        "kernels": _bars(map(_by_kernel, document["kernels"]["listed"])),
        "flavors": _bars(_counted(share, share["flavor"] or "no flavor") for share in document["flavors"]["listed"]),
        "projects": _bars(
            _counted(share, share["project"] or "no project") for share in document["projects"]["listed"]
        ),
        "causes": _bars(map(_by_cause, document["causes"]), most=_CAUSES),
        "qemus": _bars(map(_by_qemu, document["qemus"]["listed"])),
        "word_of": word_of,
        "rows": [_row(host, word_of, pages=pages, stale=host["host"] in stale) for host in document["hosts"]],
        "capacity": _capacity(document["worth"] or {}),
        "pages": pages,
        "listed": _LISTED,
    }


def _capacity(worth: Mapping[str, Any]) -> Capacity | None:
    """The CPUs of all hosts whose exits were counted; None if those of one of them are unknown."""
    cpus, cycles = worth.get("cpus"), worth.get("cycles_per_second")
    return Capacity(cpus, cycles) if cpus and cycles else None


def _bars(shares: Iterable[Counted], most: int = _BARS) -> Sequence[Bar]:
    return list(bars(list(shares)[:most], BY_FAST_PATH))


def _counted(share: Mapping[str, Any], label: str, search: str = "", note: str = "") -> Counted:
    return Counted(label, search, share["groups"], note)


def _by_verdict(share: Mapping[str, Any]) -> Counted:
    verdict = _verdict(share["verdict"])
    return _counted(share, verdict, f"verdict={verdict}", _hosts(share))


def _by_kernel(share: Mapping[str, Any]) -> Counted:
    return _counted(share, share["release"] or "not known", _kernel(share), _hosts(share))


def _by_cause(share: Mapping[str, Any]) -> Counted:
    return _counted(share, share["cause"] or "not asked", note=share["message"] or "")


def _by_qemu(share: Mapping[str, Any]) -> Counted:
    does = does_to_pmu(disables=share["disables_pmu"])
    note = f"{does}; build ID {share['build_id'] or 'not known'}; {_hosts(share)}"
    return _counted(share, share["path"] or "not known", note=note)


def _row(host: Mapping[str, Any], word_of: Mapping[str, str], *, pages: bool, stale: bool) -> TableRow:
    """:param word_of: the steps that lead to their hosts, by id: the word by which the table finds these hosts."""
    words = [_kernel(host), *(word_of[step] for step in host["steps"] if step in word_of)]
    if stale:
        words.append("stale")
    return TableRow(
        host=host,
        verdict=_verdict(host["verdict"]),
        page=f"{HOSTS}/{page_name(host['host'])}" if pages else "",
        slow=sum(host["groups"][group] for group in _SLOW),
        stale=stale,
        found_by=" ".join(words),
    )


def _verdict(verdict: str | None) -> str:
    return verdict or "not looked at"


def _kernel(share: Mapping[str, Any]) -> str:
    """A word by which the table finds hosts with the same kernel and verdict."""
    text = "\0".join((share["release"] or "", share["build_id"] or "", share["verdict"] or ""))
    return f"kernel-{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:12]}"


def _hosts(share: Mapping[str, Any]) -> str:
    return f"{share['hosts']:,} {'host' if share['hosts'] == 1 else 'hosts'}"
