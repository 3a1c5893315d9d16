"""pmuconf status: one screen that answers, whatever a host has; and one line that monitoring plug-ins agree on."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest

from pmuconf.audit.report import Report
from pmuconf.audit.vm import Severity
from pmuconf.hostfacts import HostFacts, Qemu, Verdict
from pmuconf.report.status import HostStatus, Step, status_of
from tests.support.sample import FACTS, KEEPS, KINDS, NEW, sample_report
from tests.unit.conftest import Run

# https://www.monitoring-plugins.org/doc/guidelines.html: text, "|", 'label'=value[UOM];[warn];[crit];[min];[max]
PERFDATA = r"[a-z_]+=[\d.]+%?;[\d.]*;[\d.]*;[\d.]*;[\d.]*"
CHECK = re.compile(rf"PMUCONF (OK|WARNING|CRITICAL) - [^|\n]+ \| {PERFDATA}( {PERFDATA})*")


@pytest.fixture
def report() -> Report:
    return sample_report()


def with_facts(report: Report, **changed: object) -> Report:
    assert report.facts is not None
    return replace(report, facts=replace(report.facts, **changed))  # type: ignore[arg-type]


def test_the_lines_of_a_host_in_the_middle_of_a_roll_out(report: Report) -> None:
    report = with_facts(report, qemus=(NEW, KEEPS))
    lines = list(status_of(report).lines())
    assert lines[:2] == [
        "compute-17.example.org: kernel 6.12.48-guard2-amd64 is guarded (observed):",
        "  every path to the PMU's work has found enable_pmu set",
    ]
    assert "  /usr/bin/qemu-system-x86_64 disables the PMU in KVM" in lines
    assert "  /opt/qemu-7.2/bin/qemu-system-x86_64 leaves the PMU enabled in KVM" in lines
    at = lines.index("48 VMs, 44 running: 22 fast, 16 could be, 4 with a PMU as wanted, 1 unknown, 1")
    assert lines[at + 1 : at + 3] == ["  not of KVM on x86", "off policy: 6 drift, 7 pending, 1 stuck; not judged: 1"]
    assert any(line.startswith("1. ") for line in lines)
    assert re.fullmatch(r"at most [\d.]+ % of this host's CPU time is saved, and [\d.]+ % more could be", lines[-1])


def test_each_running_vm_is_in_one_group(report: Report) -> None:
    status = status_of(report)
    assert status.fast + status.could_be + status.wanted + status.unknown + status.outside == status.running


LONG = Step("stop and start it by a tool whose name is longer than any line of a terminal " * 9, 3)


@pytest.mark.parametrize("capacity", [None, 3_000_000_000])
@pytest.mark.parametrize("verdict", Verdict)
def test_it_fits_a_screen(report: Report, verdict: Verdict, capacity: int | None) -> None:
    assert report.facts is not None
    guard = replace(report.facts.guard, verdict=verdict, message="long " * 60, remedy="a new kernel " * 40)
    qemus = tuple(replace(NEW, path=f"/opt/{number}/{'x' * 99}") for number in range(9))
    status = replace(
        status_of(with_facts(report, guard=guard, qemus=qemus, capacity=capacity)),
        steps=(LONG, LONG, LONG),
        more_steps=9,
    )
    lines = list(status.lines())
    assert len(lines) <= 20
    assert max(map(len, lines)) < 80


def test_counts_agree_with_their_words() -> None:
    empty = HostStatus("web", Severity.OK, "", None, "", (), 1, 1, 1, 0, 0, 0, 0, 0, {}, (Step("apply", 1),), 0)
    assert "1 VM, 1 running: 1 fast" in list(empty.lines())
    assert "1. 1 VM: apply" in list(empty.lines())


def test_a_host_with_nothing_to_do_says_so() -> None:
    lines = list(status_of(Report("test:///", (), None, host="h")).lines())
    assert lines == ["h: the kernel was not looked at", "0 VMs, 0 running", "off policy: none", "nothing to do"]


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        (None, None),
        (FACTS, False),  # no QEMU is known
        (replace(FACTS, qemus=(NEW,)), True),
        (replace(FACTS, qemus=(NEW, KEEPS)), False),
        (replace(FACTS, guard=replace(FACTS.guard, verdict=Verdict.UNGUARDED), qemus=(NEW,)), False),
    ],
)
def test_whether_the_host_delivers(facts: HostFacts | None, expected: bool | None) -> None:
    assert status_of(Report("test:///", (), facts, host="h")).delivers is expected


def test_an_unguarded_kernel_says_what_it_needs() -> None:
    guard = replace(FACTS.guard, verdict=Verdict.UNGUARDED, message="it does not ask", remedy="A kernel with the guard")
    lines = list(status_of(Report("test:///", (), replace(FACTS, guard=guard), host="h")).lines())
    assert lines[1] == "  needs a kernel with the guard"


def test_what_a_terminal_might_act_upon_is_written_out() -> None:
    facts = replace(FACTS, release="6\x1b[31m", qemus=(Qemu("/q\x1bemu", None, None, "x"),))
    assert "\x1b" not in "".join(status_of(Report("test:///", (), facts, host="h\x1b")).lines())


@pytest.mark.parametrize("severity", Severity)
def test_the_line_of_a_monitoring_plugin(report: Report, severity: Severity) -> None:
    status = replace(status_of(with_facts(report, capacity=3_000_000_000)), severity=severity)
    assert CHECK.fullmatch(status.check())
    assert status.check().split()[1] == ["OK", "WARNING", "CRITICAL"][severity]


def test_the_document_is_json_with_everything(report: Report) -> None:
    status = status_of(with_facts(report, capacity=3_000_000_000))
    record = json.loads(json.dumps(status.record()))
    assert (record["format"], record["version"]) == ("pmuconf-status", 1)
    assert record["steps"][0] == {"text": status.steps[0].text, "vms": status.steps[0].vms}
    assert record["off_policy"] == dict(status.off_policy)
    assert len(KINDS) > 5


def test_a_check_without_libvirt_is_unknown(run: Run) -> None:
    outcome = run("status", "--check", "--connect", "qemu:///no/such")
    assert outcome.status == 3
    assert re.fullmatch(r"PMUCONF UNKNOWN - .* \(libvirt-[a-z]+\)\n", outcome.out)
