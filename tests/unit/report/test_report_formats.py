"""The report as CSV and as Prometheus metrics: read back by what will read them, hostile names included."""

from __future__ import annotations

import csv
import io
import json
import math
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

import pmuconf
from pmuconf.fastpath.cases import CASES
from pmuconf.report.csv import COLUMNS, csv_text
from pmuconf.report.groups import BY_FAST_PATH, BY_POLICY, fast_path_group, policy_group
from pmuconf.report.plain import printable
from pmuconf.report.prometheus import NOT_JUDGED, prometheus_text
from tests.support.domains import plain_domain
from tests.support.sample import AT, FACTS, of_names, sample
from tests.unit.conftest import Run
from tests.unit.test_imports import loaded

PAGE = Path(pmuconf.__file__).resolve().parents[1] / "docs" / "report.md"
HOSTILE = ('a"b', "back\\slash\\n", "two\nlines", "</script>", "=1+1", "日本 ☃", "\u202egnp.exe", "\udcff", "{}", " ")

Series = dict[tuple[str, frozenset[tuple[str, str]]], float]


def series(text: str) -> Series:
    """Every sample, by its name and labels."""
    return {
        (one.name, frozenset(one.labels.items())): one.value
        for family in text_string_to_metric_families(text)
        for one in family.samples
    }


def value(found: Series, name: str, **labels: str) -> float:
    return found[name, frozenset(labels.items())]


def total(found: Series, name: str, **labels: str) -> float:
    """The sum over what has these labels, as PromQL's sum() makes it."""
    return sum(v for (n, have), v in found.items() if n == name and frozenset(labels.items()) <= have)


# ---- CSV -----------------------------------------------------------------------------------------------------------


def test_csv_has_one_row_a_domain_and_every_fact_of_it() -> None:
    document = sample()
    header, *rows = csv.reader(io.StringIO(csv_text(document)))
    assert header == list(COLUMNS)
    assert len(rows) == len(document["domains"])
    flat = {f"{one}_{key}" for one in ("qemu", "next_qemu") for key in ("path", "build_id", "disables_pmu")}
    flat |= {"error_cause", "error_message"}
    assert set(document["domains"][0]) - {"qemu", "next_qemu", "error"} | flat | {"host", "generated_at"} == set(
        COLUMNS
    )
    for row, vm in zip(rows, document["domains"]):
        cells = dict(zip(header, row))
        assert (cells["host"], cells["name"], cells["uuid"]) == (document["host"], vm["name"], vm["uuid"])
        assert cells["drift"] == ("true" if vm["drift"] else "false")
        assert cells["causes"].split() == vm["causes"]
        assert cells["pmu_in_use"] == {None: "", True: "true", False: "false"}[vm["pmu_in_use"]]
        if vm["qemu"]:
            assert cells["qemu_path"] == vm["qemu"]["path"]
            assert cells["next_qemu_path"] == vm["next_qemu"]["path"]
        if vm["error"]:
            assert cells["error_cause"] == vm["error"]["cause"]
        if vm["exits_per_second"] is not None:
            assert float(cells["exits_per_second"]) == pytest.approx(vm["exits_per_second"], abs=0.001)


def test_csv_of_no_domains_is_its_header() -> None:
    assert csv_text(of_names([])) == ",".join(COLUMNS) + "\n"


def test_csv_is_one_line_a_domain_and_no_formula() -> None:
    text = csv_text(of_names([*HOSTILE, "@x", "+1", "-1", "\t=1"], flavor="=cmd|' /C calc'!A0"))
    assert len(text.split("\n")) == 1 + len(HOSTILE) + 4 + 1
    for row in csv.DictReader(io.StringIO(text)):
        assert row["name"][0] not in "=+-@\t\r"
        assert row["flavor"] == "'=cmd|' /C calc'!A0"
    assert "\u202e" not in text


# ---- Prometheus ----------------------------------------------------------------------------------------------------


def test_metrics_say_what_the_document_says() -> None:
    document = sample()
    found, summary = series(prometheus_text(document)), document["summary"]
    assert value(found, "pmuconf_build_info", version=pmuconf.__version__) == 1
    assert value(found, "pmuconf_report_timestamp_seconds") == AT.timestamp()
    for path, count in summary["fast_path"].items():
        assert total(found, "pmuconf_vms", fast_path=path) == count
    for cause, count in summary["causes"].items():
        assert total(found, "pmuconf_vms", cause=cause) == count
    assert total(found, "pmuconf_vms", cause=NOT_JUDGED) == summary["errors"] == 1
    assert total(found, "pmuconf_vms") == summary["domains"]
    for kind in ("running", "drift", "pending", "transient", "undecided", "errors"):
        assert value(found, f"pmuconf_vms_{kind}") == summary[kind]
    running = [vm for vm in document["domains"] if vm["running"]]
    for state in ("enabled", "disabled", "unknown"):
        held = sum(vm["in_kernel_pmu"] == state for vm in running)
        assert value(found, "pmuconf_in_kernel_pmu_vms", in_kernel_pmu=state) == held
    for said, state in ((True, "yes"), (False, "no"), (None, "unknown")):
        used = sum(vm["pmu_in_use"] is said for vm in running)
        assert value(found, "pmuconf_pmu_in_use_vms", pmu_in_use=state) == used
    assert value(found, "pmuconf_saved_cycles_per_second") == document["worth"]["saved_per_second"]
    assert value(found, "pmuconf_savable_cycles_per_second") == document["worth"]["savable_per_second"]
    assert value(found, "pmuconf_exit_saving_cycles", basis="expected") == 57


def test_metrics_of_the_host() -> None:
    found = series(prometheus_text(sample()))
    verdicts = {dict(have)["verdict"]: v for (name, have), v in found.items() if name == "pmuconf_kernel_guard"}
    assert verdicts == dict.fromkeys(("partial", "early-out", "no-call", "unguarded", "unknown"), 0) | {"guarded": 1}
    (kernel,) = (dict(have) for name, have in found if name == "pmuconf_kernel_info")
    assert (kernel["verdict"], kernel["evidence"], kernel["release"]) == ("guarded", "observed", FACTS.release)
    assert value(found, "pmuconf_kvm_enable_pmu") == 1
    assert value(found, "pmuconf_kvm_mediated_pmu") == 0
    assert value(found, "pmuconf_kernel_memory_readable") == 1
    assert value(found, "pmuconf_other_vms") == 1
    assert value(found, "pmuconf_host_examined") == 1


def test_what_is_not_known_has_no_series() -> None:
    found = series(prometheus_text(sample(None, asked=False)))
    names = {name for name, _ in found}
    assert value(found, "pmuconf_host_examined") == 0
    assert not [
        name for name in names if re.match("pmuconf_(kernel|kvm|in_kernel|pmu_in|other|saved|savable|exit)", name)
    ]
    assert total(found, "pmuconf_vms") == total(found, "pmuconf_vms", fast_path=NOT_JUDGED) == len(sample()["domains"])


def test_the_series_of_a_host_do_not_depend_on_its_vms() -> None:
    """Else a graph or an alert would lose a series when the last VM of a kind is gone."""

    def kept(document: dict[str, Any]) -> set[tuple[str, frozenset[tuple[str, str]]]]:
        return {key for key in series(prometheus_text(document)) if key[0] != "pmuconf_vm_info"}

    few, all_of_them = of_names(["a"]), sample()
    assert kept(few) - kept(all_of_them) == set()
    assert {name for name, _ in kept(all_of_them) - kept(few)} <= {"pmuconf_vms"} | {name for name, _ in kept(few)}
    assert len(kept(all_of_them)) < 70
    causes = {dict(have).get("cause") for name, have in kept(few) if name == "pmuconf_vms"}
    assert causes == {*CASES, NOT_JUDGED}


def test_one_info_metric_a_vm() -> None:
    document = sample()
    rows = [dict(have) for name, have in series(prometheus_text(document)) if name == "pmuconf_vm_info"]
    assert len(rows) == len(document["domains"])
    (db,) = (row for row in rows if row["name"] == "db1")
    assert (db["fast_path"], db["cause"], db["decision"], db["live"], db["in_kernel_pmu"], db["pmu_in_use"]) == (
        *("no", "drift", "off", "on"),
        *("enabled", "yes"),
    )


def test_the_same_vm_twice_is_one_series() -> None:
    """Two files may hold the same domain; a series twice would void all that is scraped with it."""
    text = prometheus_text(of_names(["twice", "twice", "once"]))
    lines = [line for line in text.splitlines() if line.startswith("pmuconf_vm_info")]
    assert len(lines) == len(set(lines)) == 2


def test_hostile_names_come_back_as_they_are_shown() -> None:
    rows = [dict(have) for name, have in series(prometheus_text(of_names(HOSTILE))) if name == "pmuconf_vm_info"]
    names = {row["name"] for row in rows}
    assert names == {
        *('a"b', "back\\slash\\n", "two\\nlines", "</script>", "=1+1", "日本 ☃"),
        *("\\u202egnp.exe", "\\udcff", "{}", " "),
    }


@given(st.lists(st.text(min_size=1), max_size=5))
def test_no_name_breaks_the_text(names: list[str]) -> None:
    text = prometheus_text(of_names(names))
    text.encode()
    assert len([key for key in series(text) if key[0] == "pmuconf_vm_info"]) == len({printable(name) for name in names})


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool (Debian: prometheus) is not installed")
@pytest.mark.parametrize(
    "document", [sample(), sample(None, asked=False), of_names(HOSTILE)], ids=["all", "none", "names"]
)
def test_promtool_has_nothing_to_say(document: dict[str, Any]) -> None:
    text = prometheus_text(document)
    said = subprocess.run(["promtool", "check", "metrics"], input=text.encode(), capture_output=True, timeout=60)
    assert (said.returncode, said.stdout, said.stderr) == (0, b"", b"")


def test_the_documentation_has_every_metric_and_no_other() -> None:
    named = set(re.findall(r"^\| `(pmuconf_\w+)", PAGE.read_text(), re.MULTILINE))
    assert named == {name for name, _ in series(prometheus_text(sample()))}


# ---- groups --------------------------------------------------------------------------------------------------------


def test_every_cause_is_in_a_group() -> None:
    keys = {group.key for group in BY_FAST_PATH}
    for cause, case in CASES.items():
        group = fast_path_group({"fast_path": case.fast_path.value, "cause": cause})
        assert group in keys
        assert (group == "fast") is (case.fast_path.value == "yes")
        assert (group == "unknown") is (case.fast_path.value == "unknown")
    assert fast_path_group({"fast_path": None, "cause": None}) == "error"


def test_the_groups_of_the_policy() -> None:
    def group(**more: object) -> str:
        base = {"error": None, "drift": False, "pending": False, "transient": False, "decision": "off", "live": "off"}
        base["overridden"] = False
        key = policy_group({**base, **more})
        return next(one.name for one in BY_POLICY if one.key == key)

    assert group() == group(decision="keep", live="on") == group(transient=True) == "as wanted"
    assert group(drift=True) == "drift"
    assert group(pending=True) == "pending"
    assert group(transient=True, live="on") == "transient"
    assert group(decision="undecided") == "undecided"
    assert group(error={}, decision=None) == "not judged"


# ---- the command ---------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    where = tmp_path / "xml"
    where.mkdir()
    for name, pmu in (("web", "on"), ("db", "off")):
        (where / f"{name}.xml").write_text(plain_domain(name, pmu=pmu, virt_type="kvm"))
    return where


@pytest.mark.parametrize("form", ["json", "csv", "prometheus", "html"])
def test_every_format_goes_to_a_file_whole_or_to_standard_output(
    run: Run, folder: Path, tmp_path: Path, form: str
) -> None:
    path = tmp_path / "out" / "report"
    path.parent.mkdir()
    path.write_text("old" * 100_000)
    assert run("report", "-f", form, "--xml", folder, "-o", path) == (2, "", "")
    assert path.stat().st_mode & 0o777 == 0o644
    assert list(path.parent.iterdir()) == [path]
    said = run("report", "-f", form, "--xml", folder)
    assert (said.status, said.err) == (2, "")
    timeless = re.compile(r"20\d\d-\d\d-\d\d[T ][\d:]+|\d\.\d+e\+09")
    assert timeless.sub("", said.out) == timeless.sub("", path.read_text("utf-8"))
    begins = {"json": "{", "csv": "host,generated_at,name", "prometheus": "# HELP pmuconf_", "html": "<!DOCTYPE html>"}
    assert said.out.startswith(begins[form])
    assert said.out.endswith("\n") or form == "html"


def test_json_is_the_default(run: Run, folder: Path) -> None:
    assert json.loads(run("report", "--xml", folder).out)["summary"]["domains"] == 2


def test_another_format_is_a_usage_error(run: Run, folder: Path) -> None:
    said = run("report", "-f", "xml", "--xml", folder)
    assert (said.status, said.out) == (255, "")
    assert "prometheus" in said.err


def test_the_libraries_are_loaded_by_who_needs_them() -> None:
    command = (
        "import io, sys, pmuconf.commands.main as m\n"
        "sys.stdout = io.StringIO(); m.main({}); sys.stdout = sys.__stdout__"
    )
    for arguments in (["audit", "--xml", "/dev/null"], ["report", "--xml", "/dev/null"], ["report", "--help"]):
        assert not loaded_by(command.format(arguments)) & {"jinja2", "prometheus_client"}
    assert "jinja2" in loaded_by(command.format(["report", "-f", "html", "--xml", "/dev/null"]))


def loaded_by(statement: str) -> set[str]:
    return loaded(f"import sys; sys.stderr = open('/dev/null', 'w')\n{statement}")


def test_the_help_teaches_by_examples(run: Run) -> None:
    said = run("report", "--help")
    assert said.status == 0
    for form in ("json", "csv", "prometheus", "html"):
        assert re.search(rf"^  {form}  ", said.out, re.MULTILINE)
    assert len(re.findall("^    pmuconf report ", said.out, re.MULTILINE)) >= 3


def test_numbers_in_metrics_are_numbers() -> None:
    assert not [key for key, number in series(prometheus_text(sample())).items() if not math.isfinite(number)]
