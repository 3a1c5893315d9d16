"""The report as data: it follows its schema, which lets nothing else through, and says what the audit found."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator, FormatChecker, ValidationError

import pmuconf
from pmuconf.audit.report import Report, join
from pmuconf.audit.vm import Unjudged, Vm, judge
from pmuconf.domain.definition import Domain, Nova, PmuState
from pmuconf.hostfacts import Evidence, GuardFinding, HostFacts, KernelPmu, LiveVm, Qemu, Verdict
from pmuconf.policy import Decision, NovaDomains, Policy, Rule
from pmuconf.report.document import document, record, summary, worth
from pmuconf.report.plain import csv_cell, printable
from pmuconf.report.story import Explanation, story

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
    Vm("torn", "u", error=Unjudged("flavor-image-conflict", "they contradict each other")),
    Vm("gone.xml", None, error=Unjudged("file-unreadable", "gone.xml: Permission denied")),
    Vm("undecided", "u", decision=Decision.UNDECIDED, rule="perf", reason="unknown", next_boot=PmuState.ON),
    Vm("transient", "u", decision=Decision.OFF, rule="default", reason="", live=PmuState.ON, transient=True),
)
REPORT = Report("test:///default", VMS, host="host-1", at=AT)

UUID = "1b4e28ba-2fa1-11d2-883f-0016d3cca427"
QEMU = Qemu("/usr/bin/qemu-system-x86_64", "00ff", True, "strings-in-binary", Evidence.INFERRED)
FACTS = HostFacts(
    GuardFinding(Verdict.GUARDED, "guard-in-caller", "it asks", Evidence.OBSERVED, "live text", "aa", 1668, "BTF"),
    enable_pmu=True,
    release="6.1.0",
    cpu="AMD EPYC 7302",
    mitigations={"spectre_v2": "Retpolines"},
    cycles=57,
    qemus=(QEMU, replace(QEMU, path="/usr/libexec/qemu-kvm", build_id=None, disables=None, cause="unreadable")),
    vms=(
        LiveVm(7, 1, "qemu", UUID, "web", KernelPmu.DISABLED, in_use=False, pmu_property=False, qemu=QEMU),
        LiveVm(8, 1, "firecracker", kernel_pmu=KernelPmu.ENABLED),
    ),
)
FAST, SLOW = (
    replace(judge(POLICY, live=one, next_boot=one), exits_per_second=1000.5)
    for one in (domain(PmuState.OFF), replace(domain(PmuState.OFF), uuid="another"))
)
JOINED = Report("qemu:///system", join((*VMS, FAST, SLOW), FACTS), FACTS, host="host-1", at=AT)


@pytest.fixture(scope="module")
def validator() -> Draft202012Validator:
    schema = json.loads(SCHEMA.read_text())
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema, format_checker=FormatChecker())


def test_a_report_follows_the_schema(validator: Draft202012Validator) -> None:
    validator.validate(json.loads(json.dumps(document(REPORT, POLICY))))
    validator.validate(json.loads(json.dumps(document(Report("empty", ()), Policy()))))
    validator.validate(json.loads(json.dumps(document(JOINED, POLICY))))


Damage = Callable[[dict[str, Any]], object]


@pytest.mark.parametrize(
    "damage",
    [
        lambda d: d.update(format="pmuconf"),
        lambda d: d.update(version=3),
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
        lambda d: d["host_facts"].update(extra=1),
        lambda d: d["host_facts"]["guard"].update(verdict="maybe"),
        lambda d: d["host_facts"]["guard"].update(evidence=None),
        lambda d: d["host_facts"]["other_vms"][0].update(in_kernel_pmu="on"),
        lambda d: d["worth"].update(saved_per_second=-1),
        lambda d: d["summary"]["fast_path"].update(maybe=1),
        lambda d: d["summary"]["causes"].update({"Not A Code": 1}),
        lambda d: d["domains"][8].update(fast_path="fast"),
        lambda d: d["domains"][8].update(causes=["Not A Code"]),
        lambda d: d["domains"][8]["qemu"].update(disables_pmu="yes"),
    ],
)
def test_the_schema_refuses_anything_else(validator: Draft202012Validator, damage: Damage) -> None:
    damaged = copy.deepcopy(document(JOINED, POLICY))
    damage(damaged)
    with pytest.raises(ValidationError):
        validator.validate(damaged)


def test_the_schema_requires_every_key(validator: Draft202012Validator) -> None:
    whole = document(JOINED, POLICY)
    paths: list[tuple[str | int, ...]] = [(), ("policy",), ("summary",), ("domains", 0), ("domains", 4, "error")]
    paths += [("host_facts",), ("host_facts", "guard"), ("worth",), ("summary", "fast_path"), ("domains", 8, "qemu")]
    for path in paths:
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
    assert made["version"] == 2
    assert made["generator"] == f"pmuconf {pmuconf.__version__}"
    assert made["generated_at"] == "2031-02-03T04:05:06+00:00"
    assert (made["host"], made["source"]) == ("host-1", "test:///default")
    assert made["policy"] == {"default": "off", "rules": ["perf"], "nova_domains": "observe"}


def test_the_record_of_a_domain() -> None:
    assert record(REPORT, VMS[2]) == {
        "name": "web",
        "uuid": "1b4e28ba-2fa1-11d2-883f-0016d3cca427",
        "flavor": None,
        "project": None,
        "live": "on",
        "next_boot": "off",
        "saved": "on",
        "snapshots": 0,
        "effective_pmu": "on",
        "next_effective_pmu": "off",
        "pmu_obeyed": True,
        "overridden": False,
        "decision": "off",
        "rule": "default",
        "reason": "no rule matches",
        "drift": False,
        "pending": True,
        "transient": False,
        "nova": False,
        "manager": "libvirt",
        "by_process": False,
        "pid": None,
        "running": True,
        "in_kernel_pmu": None,
        "pmu_in_use": None,
        "fast_path": None,
        "cause": None,
        "causes": [],
        "evidence": None,
        "message": None,
        "cpu_has_pmu": None,
        "may_be_recreated": None,
        "qemu": None,
        "next_qemu": None,
        "exits_per_second": None,
        "remedies": [
            {
                "text": "stop and start it (virsh shutdown, virsh start): a reboot from inside keeps the PMU",
                "causes": ["pending"],
            },
            {
                "text": "start it from the image and then stop and start it, or give the image up "
                "(virsh managedsave-remove)",
                "causes": ["pending"],
            },
        ],
        "error": None,
        "severity": 1,
    }


def test_the_record_of_a_domain_whose_host_was_looked_at() -> None:
    given = record(JOINED, JOINED.vms[8])
    assert given["in_kernel_pmu"] == "disabled"
    assert given["pmu_in_use"] is False
    assert (given["fast_path"], given["cause"], given["causes"]) == ("yes", "guarded-disabled", ["guarded-disabled"])
    assert (given["evidence"], given["remedies"]) == ("observed", [])
    assert given["qemu"] == {"path": QEMU.path, "build_id": "00ff", "disables_pmu": True}
    assert (given["next_qemu"], given["cpu_has_pmu"]) == (None, False)
    nova = replace(FAST, domain=replace(domain(PmuState.OFF), nova=Nova("m1", None, "4e2a", {}, {})))
    assert record(JOINED, nova)["project"] == "4e2a"
    assert given["exits_per_second"] == 1000.5
    assert record(JOINED, JOINED.vms[9])["cause"] == "pmu-unknown"  # there is no process with its UUID


def test_what_the_host_has_besides() -> None:
    host = document(JOINED, POLICY)["host_facts"]
    assert host["other_vms"] == [{"pid": 8, "command": "firecracker", "in_kernel_pmu": "enabled", "pmu_in_use": None}]
    assert host["guard"]["verdict"] == "guarded"
    assert document(REPORT, POLICY)["host_facts"] is None


def test_what_it_is_worth() -> None:
    value = worth(JOINED)
    assert value is not None
    assert (value["vms"], value["cycles_per_exit"], value["measured"]) == (2, 57, False)
    assert value["saved_per_second"] == round(1000.5 * 57)
    assert value["savable_per_second"] == 0  # of the other VM nothing is known
    assert worth(REPORT) is None
    assert worth(replace(JOINED, facts=replace(FACTS, cycles=None))) is None
    uncounted = tuple(replace(vm, exits_per_second=None) for vm in JOINED.vms)
    assert worth(replace(JOINED, vms=uncounted)) is None
    unguarded = replace(FACTS, guard=replace(FACTS.guard, verdict=Verdict.UNGUARDED, cause="no-test"))
    slow = replace(JOINED, vms=join(JOINED.vms, unguarded))
    value = worth(slow)
    assert value is not None
    assert (value["saved_per_second"], value["savable_per_second"]) == (0, round(2 * 1000.5 * 57))


def test_the_record_of_what_could_not_be_judged() -> None:
    made = record(REPORT, VMS[5])
    assert made["error"] == {"cause": "file-unreadable", "message": "gone.xml: Permission denied"}
    assert {made[key] for key in ("uuid", "live", "next_boot", "decision", "rule", "effective_pmu")} == {None}


def test_the_summary_counts_each_kind() -> None:
    kinds = {"drift": 1, "pending": 1, "transient": 1, "undecided": 1, "errors": 2}
    none = {"yes": 0, "partial": 0, "no": 0, "unknown": 0}
    assert summary(REPORT) == {"domains": 8, "running": 3, "fast_path": none, "causes": {}, **kinds}
    joined = summary(JOINED)
    assert joined["fast_path"]["yes"] == joined["causes"]["guarded-disabled"] > 0
    assert sum(joined["fast_path"].values()) == sum(joined["causes"].values()) == len(JOINED.vms) - 4


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


@pytest.mark.parametrize(
    "start",
    [
        *("=", "+", "-", "@", " =", "  @", "\uff1d", "\uff0b", "\uff0d", "\uff20", " \uff1d"),
        *("\ufe66", "\ufe62", "\ufe63", "\ufe6b", "\u207c", "\u208b", "\u2212"),
    ],
)
def test_a_cell_is_never_a_formula(start: str) -> None:
    assert csv_cell(f"{start}cmd|' /C calc'!A0") == f"'{start}cmd|' /C calc'!A0"
    assert csv_cell(f"a{start}") == f"a{start}"


@pytest.mark.parametrize("start", ["\t=", "\r=", "\n=", "\u200b="])
def test_nor_is_one_that_begins_with_what_a_spreadsheet_passes_over(start: str) -> None:
    assert csv_cell(f"{start}1+1")[0] == "\\"


# ---- one VM of it ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("vm", JOINED.vms, ids=lambda vm: vm.name)
def test_an_explanation_has_the_values_of_the_report(validator: Draft202012Validator, vm: Vm) -> None:
    whole = document(JOINED, POLICY)
    explained = json.loads(json.dumps(Explanation(JOINED, vm, POLICY).record()))
    assert explained.pop("format") == "pmuconf-explanation"
    assert explained.pop("version") == 1
    assert explained["domain"] in whole["domains"]
    assert (explained.pop("no_remedy") is None) == bool(explained["domain"]["remedies"])
    domain = explained.pop("domain")
    validator.validate(
        {**{key: whole[key] for key in ("format", "version", "summary")}, **explained, "domains": [domain]}
    )


def test_the_story_of_a_vm_without_a_remedy_says_why() -> None:
    for vm in JOINED.vms:
        explanation = Explanation(JOINED, vm, POLICY)
        why = explanation.record()["no_remedy"]
        assert why is None or f"what to do: nothing: {why}" in list(explanation.lines())


def test_of_a_domain_that_could_not_be_read_nothing_is_claimed() -> None:
    """Not that it is stopped, nor whose it is: libvirt may have handed out no XML of a running guest."""
    vm = Vm("hung", "u", error=Unjudged("domain-timeout", "libvirt did not answer"))
    first, *_ = story(Report("test:///default", (vm,), at=AT), vm)
    assert first == "hung: u"
