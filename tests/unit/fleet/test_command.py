"""pmuconf fleet report, diff, plan: what a person or a playbook gets."""

from __future__ import annotations

import csv
import io
import json
import random
import stat
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from pmuconf.report.csv import COLUMNS, csv_text
from tests.support.fleet import host
from tests.support.hostile import PAYLOADS
from tests.support.sample import of_names
from tests.unit.conftest import Run
from tests.unit.fleet import naive

NOW = datetime.now(timezone.utc)


def write(folder: Path, made: dict[str, Any], name: str = "") -> None:
    folder.mkdir(exist_ok=True)
    (folder / f"{name or made['host']}.json").write_text(json.dumps(made, indent=2))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number, kind in enumerate(("guarded", "unguarded", "unknown", "elsewhere")):
        at = NOW - timedelta(hours=number)
        write(tmp_path / "fleet", host(kind, f"h{number}", 30, random.Random(number), at.replace(microsecond=0)))
    return tmp_path / "fleet"


def test_the_table_begins_with_what_matters(run: Run, folder: Path) -> None:
    said = run("fleet", "report", folder)
    want = naive.figures(naive.load(folder))
    assert said.status == want["severity"] == 2
    first = f"{want['fast_path']['yes']} of {want['running']} running VMs have the fast path; 120 VMs on 4 hosts"
    assert said.out.splitlines()[0] == first
    for title in ("Hosts by what their kernel does", "What would bring the most VMs", "To be settled first"):
        assert title in said.out
    assert "absent" not in said.out
    assert said.err == ""


def test_json_is_the_same_with_one_process_and_with_two(run: Run, folder: Path, tmp_path: Path) -> None:
    texts = []
    for jobs in (1, 2):
        assert run("fleet", "report", folder, "-f", "json", "--jobs", jobs, "-o", tmp_path / "x.json").out == ""
        made = json.loads((tmp_path / "x.json").read_text())
        made.pop("generated_at")
        texts.append(made)
    assert texts[0] == texts[1]
    assert stat.S_IMODE((tmp_path / "x.json").stat().st_mode) == 0o644


def test_csv_is_that_of_the_hosts_put_together(run: Run, folder: Path) -> None:
    said = run("fleet", "report", folder, "-f", "csv")
    header, *rows = csv.reader(io.StringIO(said.out))
    assert header == list(COLUMNS)
    want = [row for one in naive.load(folder) for row in list(csv.reader(io.StringIO(csv_text(one))))[1:]]
    assert rows == want
    assert said.status == 2


def test_csv_of_hosts_has_the_absent_ones_too(run: Run, folder: Path) -> None:
    said = run("fleet", "report", folder, "-f", "csv", "--rows", "hosts", "--expect", "h1,h9")
    rows = {row["host"]: row for row in csv.DictReader(io.StringIO(said.out))}
    assert sorted(rows) == ["h0", "h1", "h2", "h3", "h9"]
    assert (rows["h1"]["verdict"], rows["h1"]["vms"], rows["h1"]["cause"]) == ("unguarded", "30", "")
    assert (rows["h9"]["vms"], rows["h9"]["cause"]) == ("", "report-missing")
    groups = naive.groups(naive.load(folder)[1]["domains"])
    assert {key: int(rows["h1"][f"group_{key}"]) for key in groups} == groups


@pytest.mark.parametrize(
    ("more", "status"),
    [
        (["--stale", "30m"], 1),
        (["--stale", "0"], 0),
        (["--stale", "2h"], 0),
        (["--expect", "h0,h9"], 1),
        (["--expect", "H0"], 0),
        (["no-report.json"], 2),
    ],
)
def test_exit_status(run: Run, tmp_path: Path, more: list[str], status: int) -> None:
    made = host("no-call", "h0", 3, random.Random(1), (NOW - timedelta(hours=1)).replace(microsecond=0))
    made["domains"] = [vm for vm in made["domains"] if vm["severity"] == 0]
    write(tmp_path, made)
    (tmp_path / "no-report.json.txt").write_text("{}")
    more = [str(tmp_path / "no-report.json.txt") if one == "no-report.json" else one for one in more]
    assert run("fleet", "report", tmp_path / "h0.json", *more).status == status


def test_a_list_of_hosts_from_a_file(run: Run, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "hosts").write_text("# compute\n  h0\n\nh8\n")
    said = run("fleet", "report", folder, "--expect", f"@{tmp_path}/hosts", "-f", "json")
    assert [one["host"] for one in json.loads(said.out)["absent"]] == ["h8"]
    said = run("fleet", "report", folder, "--expect", "@/nowhere")
    assert said.status == 255
    assert "can't be read" in said.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["/nowhere"], ["(file-missing)"]),
        (["FOLDER", "--rows", "hosts"], ["(usage)"]),
        (["FOLDER", "--host-pages"], ["(usage)"]),
        (["FOLDER", "-f", "html", "--host-pages"], ["(usage)"]),
        (["FOLDER", "--stale", "soon"], ["24h"]),
        (["FOLDER", "--jobs", "0"], ["'0' is no whole number from 1 to "]),
        (["EMPTY"], ["(no-reports)", "pmuconf report -f json"]),
        (["FOLDER", "-o", "/nowhere/x"], ["(output-unwritable)"]),
        (["FOLDER", "-f", "csv", "-o", "/nowhere/x"], ["(output-unwritable)"]),
        (["FOLDER", "-f", "html", "--host-pages", "-o", "/proc/x"], ["(output-unwritable)"]),
    ],
)
def test_errors_say_what_to_do(run: Run, folder: Path, tmp_path: Path, arguments: list[str], words: list[str]) -> None:
    (tmp_path / "empty").mkdir()
    given = [{"FOLDER": str(folder), "EMPTY": str(tmp_path / "empty")}.get(one, one) for one in arguments]
    said = run("fleet", "report", *given)
    assert (said.status, said.out) == (255, "")
    for word in words:
        assert word in said.err


def test_an_error_leaves_the_old_file(run: Run, tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("old")
    (tmp_path / "empty").mkdir()
    assert run("fleet", "report", tmp_path / "empty", "-f", "csv", "-o", tmp_path / "x.csv").status == 255
    assert (tmp_path / "x.csv").read_text() == "old"
    assert sorted(one.name for one in tmp_path.iterdir() if not one.name.startswith("config")) == ["empty", "x.csv"]


def test_what_is_wrong_with_files_is_said_and_does_not_run_over(run: Run, folder: Path) -> None:
    for number in range(15):
        (folder / f"bad{number}.json").write_text("{")
    said = run("fleet", "report", folder)
    assert said.err.count("(report-truncated)") == 10
    assert "and 5 more files" in said.err
    assert said.out.count("report-truncated") == 30  # each file, and each host that is absent for it


# ---- pages ---------------------------------------------------------------------------------------------------------

NAMES = (
    "../../../evil",
    "..",
    ".",
    "a/b",
    "/etc/passwd",
    "con",
    "x" * 255,
    "h\x00h",
    "index",
    "\u2603",
    ".hidden",
    "lone \udcff",
    *PAYLOADS[:6],
)


def test_no_host_gets_a_page_outside_the_folder(run: Run, tmp_path: Path) -> None:
    for number, name in enumerate(NAMES):
        write(tmp_path / "fleet", {**of_names(["vm"]), "host": name}, f"file-{number}")
    site = tmp_path / "outer" / "site"
    said = run("fleet", "report", tmp_path / "fleet", "-f", "html", "--host-pages", "-o", site, "--jobs", 1)
    assert said.status in (0, 1, 2)
    assert sorted(one.name for one in (tmp_path / "outer").iterdir()) == ["site"]
    assert sorted(one.name for one in site.iterdir()) == ["hosts", "index.html"]
    pages = [one.name for one in (site / "hosts").iterdir()]
    assert len(pages) == len(NAMES)
    assert {"con.html", "index.html"} <= set(pages)
    index = (site / "index.html").read_text()
    for page in pages:
        assert f'href="hosts/{page}"' in index


def test_a_host_s_page_is_that_of_the_host_s_own_report(run: Run, folder: Path, tmp_path: Path) -> None:
    from pmuconf.report.html import page

    run("fleet", "report", folder, "-f", "html", "--host-pages", "-o", tmp_path / "site", "--jobs", "2")
    document = naive.load(folder)[0]
    assert (tmp_path / "site" / "hosts" / "h0.html").read_text() == page(document)


def test_what_only_the_page_shows_is_missed_by_the_page_alone(run: Run, folder: Path, tmp_path: Path) -> None:
    made = naive.load(folder)[0]
    del made["host_facts"]["mitigations"]
    write(folder, made)
    said = run("fleet", "report", folder, "-f", "html", "--host-pages", "-o", tmp_path / "site")
    assert said.status == 2
    assert "no page can be made of it" in said.err
    assert sorted(one.name for one in (tmp_path / "site" / "hosts").iterdir()) == ["h1.html", "h2.html", "h3.html"]
    assert "report-broken" in (tmp_path / "site" / "index.html").read_text()


# ---- diff and plan -------------------------------------------------------------------------------------------------


def test_diff(run: Run, folder: Path, tmp_path: Path) -> None:
    for one in naive.load(folder):
        write(tmp_path / "new", one)
    same = run("fleet", "diff", folder, tmp_path / "new")
    assert same.status == 0
    unchanged = "of the others moved: 0, as they were: 120; new: 0, gone: 0"
    assert same.out == f"0 VMs gained the fast path, 0 lost it; {unchanged}\n"
    made = host("unguarded", "h0", 30, random.Random(0), NOW.replace(microsecond=0))
    for vm, old in zip(made["domains"], naive.load(folder)[0]["domains"]):
        vm["uuid"] = old["uuid"]
    write(tmp_path / "new", made)
    said = run("fleet", "diff", folder, tmp_path / "new")
    assert said.status == 2
    assert "kernel-unguarded" in said.out
    assert "verdict: guarded -> unguarded" in said.out
    record = json.loads(run("fleet", "diff", folder, tmp_path / "new", "-f", "json", "--top", 2).out)
    assert record["vms"]["lost"] > 2
    assert [one["change"] for one in record["listed"]] == ["lost", "lost"]
    assert run("fleet", "diff", folder, tmp_path / "nowhere").status == 255


def test_plan(run: Run, folder: Path, tmp_path: Path) -> None:
    assert run("fleet", "plan", folder, "-o", tmp_path / "plan.json").status == 2
    made = json.loads((tmp_path / "plan.json").read_text())
    assert made["format"] == "pmuconf-fleet-plan"
    assert made["steps"]
    said = run("fleet", "plan", folder, "--limit", "h3")  # no fast path can be promised there
    assert said.status == 2
    assert {step["kind"] for step in json.loads(said.out)["steps"]} == {"policy"}
    said = run("fleet", "plan", folder, "--limit", "nobody")
    assert (said.status, said.out) == (255, "")
    assert "(no-reports)" in said.err
    assert run("fleet", "plan", folder, "--wave-size", "0").status == 255
