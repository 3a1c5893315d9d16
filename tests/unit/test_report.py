"""The report as data: it follows its schema, which lets nothing else through, and says what the audit found."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator, FormatChecker, ValidationError

import pmuconf
from pmuconf.audit import Finding, Report, Vm, judge
from pmuconf.domain import Domain, PmuState
from pmuconf.policy import Decision, NovaDomains, Policy, Rule
from pmuconf.report.document import document, record, summary
from pmuconf.report.plain import csv_cell, printable

SCHEMA = Path(pmuconf.__file__).resolve().parents[1] / "docs" / "report.schema.json"
POLICY = Policy(Decision.OFF, (Rule("perf", Decision.ON, flavor=("perf.*",)),), NovaDomains.OBSERVE)
AT = datetime(2031, 2, 3, 4, 5, 6, 789, tzinfo=timezone.utc)


def domain(pmu: PmuState, arch: str = "x86_64") -> Domain:
    return Domain("web", "1b4e28ba-2fa1-11d2-883f-0016d3cca427", "kvm", arch, pmu, "host-passthrough", None)


VMS = (
    judge(POLICY, next_boot=domain(PmuState.OFF)),
    judge(POLICY, next_boot=domain(PmuState.DEFAULT)),
    judge(POLICY, live=domain(PmuState.ON), next_boot=domain(PmuState.OFF), saved=domain(PmuState.ON)),
    judge(POLICY, live=domain(PmuState.ON, "aarch64"), snapshots=[domain(PmuState.OFF)]),
    Vm("torn", "u", error=Finding("flavor-image-conflict", "they contradict each other")),
    Vm("gone.xml", None, error=Finding("file-unreadable", "gone.xml: Permission denied")),
    Vm("undecided", "u", decision=Decision.UNDECIDED, rule="perf", reason="unknown", next_boot=PmuState.ON),
    Vm("transient", "u", decision=Decision.OFF, rule="default", reason="", live=PmuState.ON, transient=True),
)
REPORT = Report("test:///default", VMS, host="host-1", at=AT)


@pytest.fixture(scope="module")
def validator() -> Draft202012Validator:
    schema = json.loads(SCHEMA.read_text())
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema, format_checker=FormatChecker())


def test_a_report_follows_the_schema(validator: Draft202012Validator) -> None:
    validator.validate(json.loads(json.dumps(document(REPORT, POLICY))))
    validator.validate(json.loads(json.dumps(document(Report("empty", ()), Policy()))))


Damage = Callable[[dict[str, Any]], object]


@pytest.mark.parametrize(
    "damage",
    [
        lambda d: d.update(format="pmuconf"),
        lambda d: d.update(version=2),
        lambda d: d.update(version="1"),
        lambda d: d.update(generated_at="yesterday"),
        lambda d: d.update(generated_at="2031-02-03T04:05:06"),
        lambda d: d.update(extra=1),
        lambda d: d["policy"].update(default="undecided"),
        lambda d: d["policy"].update(nova_domains="ignore"),
        lambda d: d["policy"].update(extra=1),
        lambda d: d["summary"].update(drift=-1),
        lambda d: d["summary"].update(extra=1),
        lambda d: d["domains"][0].update(next_boot="ON"),
        lambda d: d["domains"][0].update(live=True),
        lambda d: d["domains"][0].update(effective_pmu="default"),
        lambda d: d["domains"][0].update(decision="default"),
        lambda d: d["domains"][0].update(decision=None),
        lambda d: d["domains"][0].update(drift=None),
        lambda d: d["domains"][0].update(name=""),
        lambda d: d["domains"][0].update(snapshots=1.5),
        lambda d: d["domains"][0].update(extra=1),
        lambda d: d["domains"][0].update(drift=True, pending=True),
        lambda d: d["domains"][4].update(decision="off"),
        lambda d: d["domains"][4].update(error="no domain"),
        lambda d: d["domains"][4]["error"].update(cause="Not A Code"),
        lambda d: d["domains"][4]["error"].update(extra=1),
    ],
)
def test_the_schema_refuses_anything_else(validator: Draft202012Validator, damage: Damage) -> None:
    damaged = copy.deepcopy(document(REPORT, POLICY))
    damage(damaged)
    with pytest.raises(ValidationError):
        validator.validate(damaged)


def test_the_schema_requires_every_key(validator: Draft202012Validator) -> None:
    whole = document(REPORT, POLICY)
    for path in ((), ("policy",), ("summary",), ("domains", 0), ("domains", 4, "error")):
        for key in _at(whole, path):
            damaged = copy.deepcopy(whole)
            del _at(damaged, path)[key]
            with pytest.raises(ValidationError):
                validator.validate(damaged)


def _at(found: Any, path: tuple[str | int, ...]) -> Any:
    for step in path:
        found = found[step]
    return found


def test_the_head_of_the_document() -> None:
    made = document(REPORT, POLICY)
    assert made["format"] == "pmuconf-report"
    assert made["version"] == 1
    assert made["generator"] == f"pmuconf {pmuconf.__version__}"
    assert made["generated_at"] == "2031-02-03T04:05:06+00:00"
    assert (made["host"], made["source"]) == ("host-1", "test:///default")
    assert made["policy"] == {"default": "off", "rules": ["perf"], "nova_domains": "observe"}


def test_the_record_of_a_domain() -> None:
    assert record(VMS[2]) == {
        "name": "web",
        "uuid": "1b4e28ba-2fa1-11d2-883f-0016d3cca427",
        "flavor": None,
        "live": "on",
        "next_boot": "off",
        "saved": "on",
        "snapshots": 0,
        "effective_pmu": "on",
        "decision": "off",
        "rule": "default",
        "reason": "no rule matches",
        "drift": False,
        "pending": True,
        "transient": False,
        "nova": False,
        "error": None,
    }


def test_the_record_of_what_could_not_be_judged() -> None:
    made = record(VMS[5])
    assert made["error"] == {"cause": "file-unreadable", "message": "gone.xml: Permission denied"}
    assert {made[key] for key in ("uuid", "live", "next_boot", "decision", "rule", "effective_pmu")} == {None}


def test_the_summary_counts_each_kind() -> None:
    assert summary(REPORT) == {"domains": 8, "drift": 1, "pending": 1, "transient": 1, "undecided": 1, "errors": 2}


# ---- text that is safe to show -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("web-1 ü ☃ 日本", "web-1 ü ☃ 日本"),
        ("a\nb\rc\td", r"a\nb\rc\td"),
        ("\x1b[31m", r"\x1b[31m"),
        ("\x9b31m", r"\x9b31m"),
        ("\x00\x07\x7f", r"\x00\x07\x7f"),
        ("\u202eabc\u2066", r"\u202eabc\u2066"),
        ("\u200b\ufeff\u2028", r"\u200b\ufeff\u2028"),
        ("\U000e0041", r"\U000e0041"),
        ("\udcff", r"\udcff"),
        ("", ""),
    ],
)
def test_what_a_terminal_might_act_upon_is_written_out(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert csv_cell(text) == shown


@pytest.mark.parametrize("start", ["=", "+", "-", "@"])
def test_a_cell_is_never_a_formula(start: str) -> None:
    assert csv_cell(f"{start}cmd|' /C calc'!A0") == f"'{start}cmd|' /C calc'!A0"
    assert csv_cell(f"a{start}") == f"a{start}"


@pytest.mark.parametrize("start", ["\t=", "\r=", "\n=", "\u200b="])
def test_nor_is_one_that_begins_with_what_a_spreadsheet_passes_over(start: str) -> None:
    assert csv_cell(f"{start}1+1")[0] == "\\"
