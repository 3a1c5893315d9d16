"""The alerting rules, by Prometheus' own promtool: each fires and does not, and its tests notice if it is wrong."""

from __future__ import annotations

import copy
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from pmuconf.commands.names import COMMANDS
from pmuconf.conf import load
from pmuconf.fastpath.cases import CASES
from pmuconf.service.health import AREAS
from tests.support.metrics import series_names

ROOT = Path(__file__).resolve().parents[2]
RULES = ROOT / "etc/prometheus/pmuconf.rules.yml"
SCRAPE = ROOT / "etc/prometheus/pmuconf.scrape.yml"
TESTS = Path(__file__).with_name("alerts.test.yml")

promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool (Debian: prometheus) is not installed")

(GROUP,) = yaml.safe_load(RULES.read_text())["groups"]
ALERTS: dict[str, dict[str, Any]] = {rule["alert"]: rule for rule in GROUP["rules"]}


def run(*arguments: str | Path) -> tuple[int, str]:
    ran = subprocess.run(["promtool", *map(str, arguments)], capture_output=True, text=True, timeout=120)
    return ran.returncode, ran.stdout + ran.stderr


def fails(folder: Path, rule: dict[str, Any]) -> bool:
    """Whether the tests of this alert fail with this rule."""
    alert = rule["alert"]
    (folder / "rules.yml").write_text(yaml.safe_dump({"groups": [{**GROUP, "rules": [rule]}]}))
    tests = yaml.safe_load(TESTS.read_text())
    tests["rule_files"] = ["rules.yml"]
    tests["tests"] = [group for group in tests["tests"] if group["name"] == alert]
    (folder / "tests.yml").write_text(yaml.safe_dump(tests))
    status, text = run("test", "rules", folder / "tests.yml")
    assert ("FAILED" in text) == (status != 0), text
    return status != 0


@promtool
def test_promtool_takes_the_rules_and_the_scrape_sample() -> None:
    status, text = run("check", "rules", "--lint-fatal", RULES)
    assert status == 0, text
    assert f"{len(ALERTS)} rules found" in text
    status, text = run("check", "config", "--lint-fatal", SCRAPE)
    assert status == 0, text


@promtool
def test_each_alert_fires_and_does_not_as_its_tests_say() -> None:
    status, text = run("test", "rules", TESTS)
    assert status == 0, text


def test_each_alert_has_tests_that_it_fires_and_that_it_does_not() -> None:
    tests = yaml.safe_load(TESTS.read_text())["tests"]
    assert [group["name"] for group in tests] == list(ALERTS)
    for group in tests:
        ours = [case for case in group["alert_rule_test"] if case["alertname"] == group["name"]]
        assert {bool(case.get("exp_alerts")) for case in ours} == {True, False}, group["name"]


@promtool
@pytest.mark.parametrize("alert", ALERTS)
def test_the_tests_of_an_alert_notice_that_it_never_fires_or_fires_at_once(alert: str, tmp_path: Path) -> None:
    rule = ALERTS[alert]
    assert not fails(tmp_path, rule)
    assert fails(tmp_path, {**rule, "expr": "vector(1) < 0"})
    assert fails(tmp_path, {**rule, "for": "0s"})


@promtool
@pytest.mark.parametrize(
    ("alert", "part", "wrong"),
    [
        ("PmuconfServiceDown", '{job="pmuconf"}', ""),
        ("PmuconfServicePassStale", "> 3600", "> 0"),
        ("PmuconfHostFactsStale", '{area="host-facts"}', ""),
        ("PmuconfReportStale", "unless on (job, instance) pmuconf_service_last_pass_timestamp_seconds", ""),
        ("PmuconfReportStale", "> 3600", "> 30"),
        ("PmuconfReportMissing", "and on (job, instance) up == 1", ""),
        ("PmuconfReportMissing", "unless on (job, instance) pmuconf_report_timestamp_seconds", ""),
        ("PmuconfFastPathLost", "no|partial", "no"),
        ("PmuconfFastPathLost", "no|partial", "no|partial|unknown"),
        ("PmuconfFastPathLost", "not-running|", ""),
        ("PmuconfFastPathLost", "|pmu-on-by-policy", ""),
        ("PmuconfFastPathLost", ',cause!="early-out-idle"', ""),
        ("PmuconfFastPathLost", "and on (uuid)", "and on (uuid, instance)"),
        ("PmuconfFastPathLost", "< 3600", "< 1e9"),
        ("PmuconfFastPathLost", "offset 1d", "offset 1h"),
        ("PmuconfKernelUnknown", '{verdict="unknown"}', ""),
        ("PmuconfVerdictUnknown", ',cause!="kernel-unknown"', ""),
        ("PmuconfVerdictUnknown", 'fast_path="unknown",', ""),
        ("PmuconfVerdictUnknown", ", cause)", ")"),
    ],
)
def test_the_tests_of_an_alert_notice_that_a_condition_is_gone(
    alert: str, part: str, wrong: str, tmp_path: Path
) -> None:
    rule = copy.deepcopy(ALERTS[alert])
    assert part in rule["expr"]
    rule["expr"] = rule["expr"].replace(part, wrong)
    assert fails(tmp_path, rule)


def test_the_rules_ask_for_what_there_is() -> None:
    texts = [rule["expr"] for rule in ALERTS.values()]
    asked = {name for text in texts for name in re.findall(r"\bpmuconf_\w+", text)}
    assert len(asked) > 8
    assert asked <= series_names()
    named = {word for text in texts for kind in re.findall(r'cause!?[=~]+"([^"]*)"', text) for word in kind.split("|")}
    assert named
    assert named <= CASES.keys()
    assert set(re.findall(r'area!?="([^"]*)"', str(GROUP))) <= set(AREAS)


def test_each_alert_says_how_bad_it_is_and_first_what_to_do() -> None:
    for name, rule in ALERTS.items():
        assert name.startswith("Pmuconf")
        assert rule["labels"] == {"severity": "info" if name.endswith("Unknown") else "warning"}
        assert rule["for"]
        assert rule["annotations"].keys() == {"summary", "description"}
        assert rule["annotations"]["description"].startswith("Run '"), name


def test_the_alerts_name_commands_and_units_that_exist() -> None:
    descriptions = " ".join(rule["annotations"]["description"] for rule in ALERTS.values())
    commands = re.findall(r"'(pmuconf [^']*)'", descriptions)
    assert len(commands) > 5
    for command in commands:
        assert command.split()[1] in {name.split()[0] for name in COMMANDS}, command
    units = {path.stem for path in (ROOT / "etc/systemd").iterdir()} | {"pmuconf-metrics"}  # docs/report.md
    named = re.findall(r"(?:systemctl [a-z]+(?: --now)?|journalctl -u) (pmuconf[\w-]*)", descriptions)
    assert len(named) > 5
    assert set(named) <= units


def test_the_docs_explain_each_alert_in_the_order_of_the_rules() -> None:
    rows = re.findall(r"^\| `(Pmuconf\w+)` \| (\w+), (\w+) \|", (ROOT / "docs/monitoring.md").read_text(), re.MULTILINE)
    assert rows == [(name, rule["labels"]["severity"], rule["for"]) for name, rule in ALERTS.items()]


def test_the_scrape_sample_has_the_names_that_rules_and_defaults_have() -> None:
    jobs = {job["job_name"]: job for job in yaml.safe_load(SCRAPE.read_text())["scrape_configs"]}
    assert f'up{{job="{next(iter(jobs))}"}}' in ALERTS["PmuconfServiceDown"]["expr"]
    listen = load(["/dev/null"]).service.listen
    assert listen is not None
    (static,) = jobs["pmuconf"]["static_configs"]
    assert all(target.endswith(f":{listen[1]}") for target in static["targets"])
    curl = f"http://{listen[0]}:{listen[1]}/healthz"
    assert curl in ALERTS["PmuconfServiceUnhealthy"]["annotations"]["description"]
