"""What the tables show: every format, names out to hurt, and outputs that do not take what they are given."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from xml.sax.saxutils import escape

import pytest
import yaml

from tests.support.domains import nova_domain, plain_domain
from tests.unit.conftest import Outcome, Run
from tests.unit.processes import ENVIRONMENT, PMUCONF

KEYS = [
    *("name", "uuid", "flavor", "live", "next_boot", "saved", "snapshots", "effective_pmu"),
    *("decision", "rule", "reason", "drift", "pending", "transient", "nova", "running"),
    *("in_kernel_pmu", "pmu_in_use", "fast_path", "cause", "causes", "evidence", "message", "remedies"),
    *("qemu", "exits_per_second", "error", "status", "manager", "by_process", "pid"),
]
BRIEF = ["name", "PMU live->next", "status", "fast path not judged"]

# What a terminal or a spreadsheet might act upon, and how it is shown.
HOSTILE = {
    "=cmd|' /C calc'!A0": "=cmd|' /C calc'!A0",
    "+1+1": "+1+1",
    "@SUM(A1)": "@SUM(A1)",
    "\u009b31mred": r"\x9b31mred",
    "\u202egpj.exe": r"\u202egpj.exe",
    "a\u200bb\u2066": r"a\u200bb\u2066",
    "two\nlines\tand": r"two\nlines\tand",
    "back\u0085\u2028": r"back\x85\u2028",
    "<script>alert(1)</script>": "<script>alert(1)</script>",
    "| -- | +": "| -- | +",
    "'; DROP TABLE change; --": "'; DROP TABLE change; --",
    "日本 ☃ é": "日本 ☃ é",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Domains with hostile names, one each."""
    where = tmp_path / "xml"
    where.mkdir()
    for at, name in enumerate(HOSTILE):
        written = escape(name, {"\n": "&#10;", "\t": "&#9;"})
        xml = plain_domain("@", pmu="off", virt_type="kvm").replace("<name>@<", f"<name>{written}<")
        (where / f"{at:02}.xml").write_text(xml)
    return where


# ---- formats -------------------------------------------------------------------------------------------------------


def test_json_and_yaml_have_every_key_and_every_name_exactly(run: Run, folder: Path) -> None:
    for formatter, load in (("json", json.loads), ("yaml", yaml.safe_load)):
        said = run("audit", "--xml", folder, "-f", formatter)
        assert (said.status, said.err) == (0, "")
        rows = load(said.out)
        assert [row["name"] for row in rows] == list(HOSTILE)
        assert all(sorted(row) == sorted(KEYS) for row in rows)
        assert not any((ord(sign) < 32 and sign != "\n") or 0x7F <= ord(sign) < 0xA0 for sign in said.out)
        assert "\u202e" not in said.out


def test_json_keeps_types(run: Run, folder: Path) -> None:
    row = json.loads(run("audit", "--xml", folder, "-f", "json").out)[0]
    assert (row["live"], row["snapshots"], row["drift"], row["error"]) == (None, 0, False, None)
    assert (row["next_boot"], row["decision"], row["rule"], row["status"]) == ("off", "off", "default", "ok")


def test_json_has_the_error_whole(run: Run, tmp_path: Path) -> None:
    (tmp_path / "bad.xml").write_text("<x/>")
    (row,) = json.loads(run("audit", "--xml", tmp_path / "bad.xml", "-f", "json").out)
    assert row["error"]["cause"] == "not-a-domain"
    assert row["error"]["message"].startswith(str(tmp_path / "bad.xml"))


def test_csv_has_every_column_and_no_formula(run: Run, folder: Path) -> None:
    said = run("audit", "--xml", folder, "-f", "csv")
    header, *rows = csv.reader(io.StringIO(said.out))
    assert header == KEYS
    shown = [dict(zip(header, row))["name"] for row in rows]
    assert [name.replace("\\\\", "\\").lstrip("'") for name in shown] == [
        name.lstrip("'").replace("\\\\", "\\") for name in HOSTILE.values()
    ]
    assert not [name for name in shown if name[0] in "=+-@\t\r"]
    assert inert(said)


def test_the_table_shows_the_short_columns_and_names_that_are_inert(run: Run, folder: Path) -> None:
    said = run("audit", "--xml", folder)
    heading, rule, *rows = said.out.splitlines()
    assert re.split("  +", heading) == BRIEF
    assert set(rule) == {"-", " "}
    assert [row.startswith(f"{name}  ") for row, name in zip(rows, HOSTILE.values())] == [True] * len(HOSTILE)
    assert len(rows) == len(HOSTILE)
    assert inert(said)


def test_value_gives_one_line_a_domain(run: Run, folder: Path) -> None:
    said = run("audit", "--xml", folder, "-f", "value", "-c", "name")
    assert said.out == "".join(f"{shown}\n" for shown in HOSTILE.values())
    assert inert(said)


def inert(said: Outcome) -> bool:
    return all(sign.isprintable() or sign in "\n\r" for sign in said.out + said.err)


def test_columns_as_asked_in_every_format(run: Run, folder: Path) -> None:
    for formatter in ("table", "json", "csv", "yaml", "value"):
        said = run("audit", "--xml", folder / "11.xml", "-f", formatter, "-c", "uuid", "-c", "drift")
        assert said.status == 0
        assert "name" not in said.out
        assert "日本" not in said.out


def test_flavors_and_projects_of_tenants_are_inert_too(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "nova.xml"
    xml = nova_domain("instance-1", version="32.0.0", flavor="=m1\u202e\u009b", display_name="\u009b", virt_type="kvm")
    path.write_text(xml)
    for formatter in ("table", "csv", "value"):
        said = run("audit", "--xml", path, "-f", formatter)
        assert r"=m1\u202e\x9b" in said.out.replace("\\\\", "\\")
        assert inert(said)
    assert json.loads(run("audit", "--xml", path, "-f", "json").out)[0]["flavor"] == "=m1\u202e\u009b"
    assert inert(run("policy", "explain", "--xml", path))


@pytest.mark.parametrize("name", ["\x1b[31mred\n.xml", "\u202e.xml", "pmuconf: all as the policy wants\n.xml"])
def test_the_names_of_files_are_inert_in_messages(run: Run, tmp_path: Path, name: str) -> None:
    """One warning is one line, whatever a file is called."""
    path = tmp_path / name
    path.write_text("<x/>")
    for command in (["audit", "--xml", path], ["policy", "explain", "--xml", path], ["rewrite", path]):
        said = run(*command)
        assert inert(said)
        about = [line for line in said.err.splitlines() if "not-a-domain" in line]
        assert len(about) == 1
        assert about[0].startswith(f"pmuconf: {tmp_path}")
    missing = run("audit", "--xml", f"{path}-nowhere")
    assert len(missing.err.splitlines()) == 1


# ---- outputs -------------------------------------------------------------------------------------------------------


def command(*arguments: object, stdout: int | None = subprocess.PIPE, **environment: str) -> tuple[int, bytes, str]:
    """The status, output and messages of the command as a process of its own."""
    done = subprocess.run(
        [*PMUCONF, *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.PIPE,
        env={**ENVIRONMENT, **environment},
        check=False,
    )
    assert b"Traceback" not in done.stderr
    return done.returncode, done.stdout or b"", done.stderr.decode()


@pytest.fixture
def config(tmp_path: Path) -> list[str]:
    (tmp_path / "pmuconf.conf").write_text("")
    return ["--config-file", str(tmp_path / "pmuconf.conf")]


@pytest.mark.parametrize("what", [["audit", "--xml"], ["report", "--xml"], ["rewrite"], ["--version"]])
def test_a_reader_that_goes_away_is_no_traceback(folder: Path, config: list[str], what: list[str]) -> None:
    arguments = what if what == ["--version"] else [*config, *what, str(folder / "00.xml")]
    reading, writing = os.pipe()
    os.close(reading)
    try:
        status, _, err = command(*arguments, stdout=writing)
    finally:
        os.close(writing)
    assert (status, err) == (255, "")


@pytest.mark.parametrize("what", [["audit", "--xml"], ["rewrite"], ["--version"]])
def test_a_full_disk_is_an_error_and_no_defect_of_ours(folder: Path, config: list[str], what: list[str]) -> None:
    arguments = what if what == ["--version"] else [*config, *what, str(folder / "00.xml")]
    with open("/dev/full", "wb") as full:
        status, _, err = command(*arguments, stdout=full.fileno())
    assert status == 255
    assert "No space left on device" in err
    assert "defect" not in err


@pytest.mark.parametrize("what", [["audit", "--xml"], ["rewrite"]])
def test_a_standard_output_that_is_closed_is_an_error(folder: Path, config: list[str], what: list[str]) -> None:
    line = ["sh", "-c", 'exec "$@" >&-', "sh", *PMUCONF, *config, *what, str(folder / "00.xml")]
    done = subprocess.run(line, stderr=subprocess.PIPE, env=ENVIRONMENT, check=False)
    assert done.returncode == 255
    assert b"Traceback" not in done.stderr
    assert b"defect" not in done.stderr


@pytest.mark.parametrize("formatter", ["table", "csv", "value"])
def test_a_name_that_the_outputs_encoding_lacks_is_written_out(folder: Path, config: list[str], formatter: str) -> None:
    """On a terminal of another encoding one domain's name must not hide all the others."""
    arguments = [*config, "audit", "--xml", folder, "-f", formatter, "-c", "name"]
    status, out, err = command(*arguments, PYTHONIOENCODING="ascii")
    assert (status, "defect" in err) == (0, False)
    assert out.isascii()
    assert b"cmd" in out
    assert b"DROP TABLE" in out


def test_an_interrupt_ends_without_a_traceback(tmp_path: Path, config: list[str]) -> None:
    """Caught while it waits for the rest of its input: more than a pipe holds is taken once it has come so far."""
    process = subprocess.Popen(
        [*PMUCONF, *config, "rewrite", "-"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=ENVIRONMENT,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # tests in the background are deaf to it
    )
    assert process.stdin is not None
    process.stdin.write(b" " * (1 << 20))
    process.stdin.flush()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert process.returncode == 255
    assert b"Traceback" not in err


def test_an_interrupt_at_the_very_end_is_none(tmp_path: Path) -> None:
    """The answer is out: what follows is Python's own end, which would show a traceback."""
    program = (
        "import os, signal, sys, threading\n"
        "from pmuconf.commands.main import main\n"
        "sys.argv = ['pmuconf', '--version']\n"
        "status = main()\n"
        "os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.exit(status)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env=ENVIRONMENT,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_command_as_a_process_says_what_it_says_in_this_one(run: Run, folder: Path, config: list[str]) -> None:
    status, out, err = command(*config, "audit", "--xml", folder, "-f", "json")
    assert (status, out.decode(), err) == run("audit", "--xml", folder, "-f", "json")
    for arguments, expected in ((["nosuch"], 255), (["--help"], 0)):
        assert command(*arguments)[0] == expected


def test_a_file_name_that_is_no_unicode_is_shown_all_the_same(folder: Path, config: list[str]) -> None:
    where = folder.parent / "bytes"
    where.mkdir()
    (Path(os.fsdecode(os.fsencode(where) + b"/\xff.xml"))).write_text("<x/>")
    for formatter in ("table", "json"):
        status, out, err = command(*config, "audit", "--xml", where, "-f", formatter)
        assert status == 2
        assert b"udcff" in out.lower()
        assert r"\udcff.xml" in err
