"""The command line: exit statuses, usage, and what each command says."""

from __future__ import annotations

import importlib
import json
import re
import shlex
from pathlib import Path

import pytest

import pmuconf
from pmuconf.change.journal import ChangeKind, ChangeStatus, Intent, Journal
from pmuconf.commands.names import COMMANDS as NAMES
from pmuconf.commands.names import GROUPS
from pmuconf.domain.definition import PmuState
from tests.support.domains import nova_domain, plain_domain
from tests.unit import oracle
from tests.unit.conftest import Run

COMMANDS = (
    ("apply",),
    ("audit",),
    ("bench", "compare"),
    ("bench", "cpuid"),
    ("bench", "msr"),
    ("bench", "port"),
    ("explain",),
    ("hook",),
    ("host",),
    ("host", "facts"),
    ("host", "record"),
    ("journal",),
    ("journal", "purge"),
    ("policy", "check"),
    ("policy", "explain"),
    ("preflight", "qemu"),
    ("report",),
    ("rewrite",),
    ("rollback",),
)


@pytest.fixture
def off(tmp_path: Path) -> Path:
    path = tmp_path / "off.xml"
    path.write_text(plain_domain("off", pmu="off", virt_type="kvm"))
    return path


@pytest.fixture
def on(tmp_path: Path) -> Path:
    path = tmp_path / "on.xml"
    path.write_text(plain_domain("on", pmu="on", virt_type="kvm"))
    return path


@pytest.fixture
def live(on: Path, tmp_path: Path) -> Path:
    path = tmp_path / "live.xml"
    path.write_text(on.read_text().replace("<domain ", "<domain id='1' "))
    return path


# ---- usage ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_has_a_help_of_its_own_that_tells_its_exit_status(run: Run, command: tuple[str, ...]) -> None:
    for asked in ((*command, "--help"), (*command, "-h"), ("help", *command)):
        said = run(*asked, config=None)
        assert (said.status, said.err) == (0, "")
        assert said.out.startswith(f"usage: pmuconf {' '.join(command)} ")
        assert "exit status" in " ".join(said.out.lower().split())


def test_the_list_of_commands_is_whole(run: Run) -> None:
    said = run("--help", config=None)
    assert said.status == 0
    for command in COMMANDS:
        assert f"\n  {' '.join(command)} " in said.out
    assert "Exit status of every command: 0 " in said.out
    assert run("help", config=None).status == 0


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        ("app", "apply"),
        ("rollb --all", "rollback"),
        ("serv", "serve"),
        ("flavors app", "flavors apply"),
        ("aud", "audit"),
        ("sttaus", "status"),
        ("polcy check", "policy check"),
        ("fleet", "fleet report"),
    ],
)
def test_a_command_is_run_by_its_whole_name_only(run: Run, arguments: str, meant: str) -> None:
    said = run(*arguments.split())
    assert said.status == 255
    assert re.search(rf"is no command \(usage\)\. Did you mean: ([^?]*, )?{meant}[,?]", said.err)


def test_a_name_that_begins_a_command_is_a_name(run: Run) -> None:
    """cliff itself took "journal p" for "journal purge"."""
    said = run("journal", "p", "--connect", "test:///default")
    assert "dropped" not in said.out + said.err


def examples() -> list[str]:
    return [example for group in GROUPS for example in group.examples]


@pytest.mark.parametrize("example", examples())
def test_the_examples_of_the_overview_are_what_the_commands_take(example: str) -> None:
    program, *arguments = shlex.split(example)
    assert program == "pmuconf"
    name = next(name for number in (2, 1) if (name := " ".join(arguments[:number])) in NAMES)
    module, _, command = NAMES[name].place.partition(":")
    parser = getattr(importlib.import_module(f"pmuconf.commands.{module}"), command)(None, None).get_parser("pmuconf")
    parser.parse_args(arguments[len(name.split()) :])


def test_the_overview_fits_a_terminal(run: Run) -> None:
    assert max(map(len, run("--help", config=None).out.splitlines())) <= 120
    assert [len(group.examples) for group in GROUPS] == [3] * len(GROUPS)


def test_the_version(run: Run) -> None:
    assert run("--version", config=None) == (0, f"pmuconf {pmuconf.__version__}\n", "")


def test_nothing_asked_is_a_usage_error_with_the_help(run: Run) -> None:
    said = run(config=None)
    assert (said.status, said.out) == (255, "")
    assert "usage: pmuconf" in said.err


@pytest.mark.parametrize(
    "arguments",
    [
        "nosuch",
        "policy",
        "policy nosuch",
        "help nosuch",
        "--nosuch",
        "audit --nosuch",
        "audit --xml",
        "audit --format nosuch",
        "apply --canary -1",
        "apply --max-changes many",
        "rollback",
        "rollback --all --change 3",
        "rollback --all web1",
        "rollback --change many",
        "policy explain",
        "policy explain --xml a.xml --flavor m1",
        "policy explain --flavor m1 --extra-spec hw:pmu",
        "policy explain --flavor m1 --image-property =x",
        "rewrite --pmu maybe",
        "rewrite a.xml b.xml",
        "journal --limit many",
        "journal purge --older-than -1",
        "report --output",
    ],
)
def test_a_usage_error_is_an_error_and_says_something(run: Run, arguments: str) -> None:
    """cliff's own 1 and 2 would be a warning and a finding."""
    said = run(*arguments.split())
    assert (said.status, said.out) == (255, "")
    assert re.fullmatch(r"pmuconf: [^\n]+ \(usage\)[^\n]*\n", said.err)
    assert "_" not in said.err


def test_files_and_domains_do_not_go_together(run: Run, off: Path) -> None:
    said = run("audit", "--xml", off, "--connect", "test:///default")
    assert said.status == 255
    assert "(usage)" in said.err


# ---- audit ---------------------------------------------------------------------------------------------------------


def test_the_exit_status_of_audit_is_that_of_its_worst_domain(run: Run, on: Path, off: Path, live: Path) -> None:
    for command in ("audit", "report"):
        assert run(command, "--xml", off).status == 0
        assert run(command, "--xml", off, live).status == 1
        assert run(command, "--xml", off, live, on).status == 2
        assert run(command, "--xml", on, config="[policy]\ndefault = on\n").status == 0
        assert run(command, "--xml", on, config="[policy]\ndefault = keep\n").status == 0


def test_undecided_is_a_warning(run: Run, tmp_path: Path) -> None:
    old_nova = tmp_path / "nova.xml"
    xml = nova_domain("instance-1", version="30.0.0", virt_type="kvm")
    old_nova.write_text(xml.replace("<type machine", "<type arch='x86_64' machine"))
    rule = "[policy]\nrules = a\n[rule:a]\npmu = on\nextra_spec = hw:cpu_policy\n"
    assert run("audit", "--xml", old_nova, config=rule).status == 1
    assert run("policy", "explain", "--xml", old_nova, config=rule).status == 1
    assert run("audit", "--xml", old_nova).status == 2


def test_a_file_that_is_no_domain_is_a_finding_and_is_told(run: Run, tmp_path: Path, off: Path) -> None:
    bad = tmp_path / "bad.xml"
    bad.write_text("<network/>")
    said = run("audit", "--xml", off, bad, "-f", "value", "-c", "name", "-c", "status")
    assert (said.status, said.out) == (2, "off ok\nbad.xml not-a-domain\n")
    assert f"{bad}:1: the root element is <network>, not <domain> (not-a-domain)" in said.err


def test_the_statuses_of_domains(run: Run, on: Path, off: Path, live: Path) -> None:
    said = run("audit", "--xml", off, on, live, "-f", "value", "-c", "status")
    assert said.out.split() == ["ok", "drift", "pending"]


def test_the_sentence_for_people_stands_beside_the_table_alone(run: Run, on: Path, off: Path) -> None:
    said = run("audit", "--xml", off, on)
    assert said.err == "pmuconf: 2 domains: 1 drift; 'pmuconf apply --dry-run' shows what would be changed\n"
    assert run("audit", "--xml", off).err == "pmuconf: 1 domain: all as the policy wants\n"
    assert run("audit", "--xml", off, "-f", "json").err == ""
    assert run("--quiet", "audit", "--xml", off, on).err == ""


def test_only_some_are_shown_and_the_exit_status_is_theirs(run: Run, on: Path, off: Path, live: Path) -> None:
    files = ("audit", "--xml", off, on, live)
    for only, names, status in (
        ("drift", ["on"], 2),
        ("findings", ["on"], 2),
        ("pending", ["on"], 1),
        ("unknown", [], 0),
        ("slow", [], 0),
        ("all", ["off", "on", "on"], 2),
    ):
        said = run(*files, "--only", only, "-f", "json")
        assert ([row["name"] for row in json.loads(said.out)], said.status) == (names, status)
    assert "pmuconf: 1 of 3 domains: 1 drift; " in run(*files, "--only", "drift").err
    assert run(*files, "--only", "slow").err == "pmuconf: none of 3 domains is one that was asked for\n"
    both = run(*files, "--only", "drift", "--only", "pending", "-f", "value", "-c", "status")
    assert both.out.split() == ["drift", "pending"]
    assert run(*files, "--only", "nosuch").status == 255


def test_only_some_flavors_and_projects(run: Run, tmp_path: Path) -> None:
    for name, flavor in (("a", "m1.small"), ("b", "m1.large"), ("c", "c5.large")):
        (tmp_path / f"{name}.xml").write_text(nova_domain(name, flavor=flavor, version="32.0.0", project=f"of-{name}"))

    def names(*arguments: str) -> str:
        return run("audit", "--xml", *tmp_path.glob("?.xml"), *arguments, "-f", "value", "-c", "name").out

    assert sorted(names("--flavor", "m1.*").split()) == ["a", "b"]
    assert sorted(names("--flavor", "m1.small", "--flavor", "c5.large").split()) == ["a", "c"]
    project = json.loads(run("report", "--xml", tmp_path / "b.xml").out)["domains"][0]["project"]
    assert names("--project", project) == "b\n"
    assert names("--project", project, "--flavor", "c5.*") == ""


def test_who_cant_be_judged_is_named_even_where_it_is_not_shown(run: Run, tmp_path: Path, off: Path) -> None:
    bad = tmp_path / "bad.xml"
    bad.write_text("<network/>")
    said = run("audit", "--xml", off, bad, "--only", "drift", "-f", "json")
    assert (said.status, said.out.strip()) == (0, "[]")
    assert "(not-a-domain)" in said.err
    assert run("audit", "--xml", off, bad, "--only", "unknown").status == 2


def test_an_empty_folder_is_said_to_be_empty(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "empty"
    folder.mkdir()
    said = run("audit", "--xml", folder)
    assert said.status == 0
    assert f"there are no domains on {folder}" in said.err
    assert run("audit", "--xml", folder, "-f", "json").out.strip() == "[]"


@pytest.mark.parametrize("command", ["audit", "report"])
def test_a_path_that_is_not_there_is_an_error(run: Run, tmp_path: Path, command: str) -> None:
    said = run(command, "--xml", tmp_path / "nowhere")
    assert (said.status, said.out) == (255, "")
    assert "(file-missing)" in said.err


def test_a_column_that_is_not_there_is_an_error(run: Run, off: Path) -> None:
    said = run("audit", "--xml", off, "-c", "nosuch")
    assert (said.status, said.out) == (255, "")
    assert "nosuch" in said.err


@pytest.mark.parametrize("command", ["audit --xml x", "policy check", "rewrite -", "journal", "policy explain web"])
def test_a_configuration_that_is_refused_is_an_error_of_every_command(run: Run, command: str) -> None:
    said = run(*command.split(), config="[policy]\ndefault = maybe\n")
    assert (said.status, said.out) == (255, "")
    assert "[policy] default: 'maybe' is not allowed; allowed: off, on, keep (config-invalid)" in said.err


def test_config_files_and_folders_are_read_in_their_order(run: Run, on: Path, tmp_path: Path) -> None:
    folder = tmp_path / "d"
    folder.mkdir()
    (folder / "a.conf").write_text("[policy]\ndefault = on\n")
    (tmp_path / "second").write_text("[policy]\ndefault = keep\n")

    def decision(*options: object) -> str:
        said = run(*options, "audit", "--xml", on, "-f", "value", "-c", "decision", config=None)
        return said.out.strip()

    assert decision("--config-file", tmp_path / "second") == "keep"
    assert decision("--config-dir", folder, "--config-file", tmp_path / "second") == "on"


# ---- report --------------------------------------------------------------------------------------------------------


def test_a_report_into_a_file_replaces_it_whole(run: Run, on: Path, tmp_path: Path) -> None:
    path = tmp_path / "out" / "report.json"
    path.parent.mkdir()
    path.write_text("old" * 10_000)
    said = run("report", "--xml", on, "-o", path)
    assert said == (2, "", "")
    assert json.loads(path.read_text())["summary"]["drift"] == 1
    assert list(path.parent.iterdir()) == [path]
    assert path.stat().st_mode & 0o777 == 0o644


def test_a_report_that_cannot_be_written_is_an_error(run: Run, on: Path, tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere" / "report.json", tmp_path):
        before = sorted(tmp_path.iterdir())
        said = run("report", "--xml", on, "-o", path)
        assert (said.status, said.out) == (255, "")
        assert "(output-unwritable)" in said.err
        assert [name for name in sorted(tmp_path.iterdir()) if name not in before and "config-" not in name.name] == []


# ---- rewrite -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", [state.value for state in PmuState])
def test_rewrite_of_standard_input_and_of_a_file(run: Run, on: Path, state: str) -> None:
    by_name, by_input = run("rewrite", on, "--pmu", state), run("rewrite", "--pmu", state, stdin=on.read_bytes())
    assert by_name == by_input
    assert (by_name.status, by_name.err) == (0, "")
    assert oracle.pmu_state(by_name.out) == state
    assert oracle.outside_pmu(by_name.out) == oracle.outside_pmu(on.read_text())


def test_rewrite_writes_off_unless_told_and_asks_no_policy(run: Run, on: Path) -> None:
    said = run("rewrite", on, config="[policy]\ndefault = keep\n")
    assert oracle.pmu_state(said.out) == "off"
    assert run("rewrite", "-", stdin=on.read_bytes()).out == said.out


@pytest.mark.parametrize("data", [b"", b"no XML", b"<network/>", b"<domain>\xff</domain>", b"<!DOCTYPE x><domain/>"])
def test_rewrite_of_what_is_no_domain_writes_nothing(run: Run, data: bytes) -> None:
    said = run("rewrite", stdin=data)
    assert (said.status, said.out) == (255, "")
    assert said.err.startswith("pmuconf: standard input:1: ")


def test_rewrite_of_what_is_too_large_reads_no_further(run: Run) -> None:
    said = run("rewrite", stdin=b" " * 10_000, config="[libvirt]\nmax_xml_bytes = 4096\n")
    assert said.status == 255
    assert "(xml-too-large)" in said.err


def test_rewrite_of_a_file_that_is_not_there_or_is_a_folder(run: Run, tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere", tmp_path):
        said = run("rewrite", path)
        assert (said.status, said.out) == (255, "")
        assert f"{path}: " in said.err
        assert "(file-unreadable)" in said.err


# ---- policy --------------------------------------------------------------------------------------------------------

POLICY = """
[policy]
rules = perf
nova_domains = observe
[rule:perf]
pmu = on
reason = they run perf
flavor = perf.*, *.perf
"""


def test_policy_check_says_what_the_configuration_means(run: Run) -> None:
    said = run("policy", "check", config=POLICY)
    assert (said.status, said.err) == (0, "")
    assert "valid: " in said.out
    assert "1. perf: on where flavor is perf.* or *.perf  # they run perf" in said.out
    assert "default: off; Nova's domains: observe" in said.out


def test_policy_check_warns_of_a_rule_that_is_not_used(run: Run) -> None:
    said = run("policy", "check", config=POLICY + "[rule:other]\npmu = on\nflavor = x\n")
    assert said.status == 1
    assert "[rule:other] is not used: [policy] rules does not list it" in said.err


@pytest.mark.parametrize(
    ("arguments", "status", "decision", "rule"),
    [
        ("--flavor perf.large", 0, "on", "perf"),
        ("--flavor m1.small", 0, "off", "default"),
        ("--flavor m1.small --extra-spec hw:pmu=true", 0, "on", "hw:pmu"),
        ("--flavor perf.large --image-property hw_pmu=false", 0, "off", "hw_pmu"),
        ("--flavor perf.large --arch aarch64", 0, "keep", "out-of-scope"),
    ],
)
def test_policy_explain_of_a_flavor(run: Run, arguments: str, status: int, decision: str, rule: str) -> None:
    said = run("policy", "explain", *arguments.split(), config=POLICY)
    assert (said.status, said.err) == (status, "")
    assert f"decision: {decision}\nrule: {rule}\nbecause: " in said.out


def test_policy_explain_of_a_flavor_does_not_know_its_domains(run: Run) -> None:
    rule = "[policy]\nrules = web\n[rule:web]\npmu = on\ndomain = web*\n"
    said = run("policy", "explain", "--flavor", "m1", config=rule)
    assert said.status == 1
    assert "decision: undecided\nrule: web\n" in said.out


def test_policy_explain_of_a_contradiction_is_an_error(run: Run) -> None:
    torn = ["--flavor", "m1", "--extra-spec", "hw:pmu=true", "--image-property", "hw_pmu=false"]
    said = run("policy", "explain", *torn)
    assert (said.status, said.out) == (255, "")
    assert "(flavor-image-conflict)" in said.err


def test_policy_explain_decides_as_audit_does(run: Run, on: Path) -> None:
    said = run("policy", "explain", "--xml", on, config=POLICY)
    audited = json.loads(run("audit", "--xml", on, "-f", "json", config=POLICY).out)[0]
    assert f"decision: {audited['decision']}\nrule: {audited['rule']}\nbecause: {audited['reason']}\n" in said.out


def test_policy_explain_as_json_has_the_keys_and_values_of_an_audit(run: Run, on: Path) -> None:
    said = run("policy", "explain", "--xml", on, "-f", "json", config=POLICY)
    audited = json.loads(run("audit", "--xml", on, "-f", "json", config=POLICY).out)[0]
    shared = ("name", "uuid", "flavor", "decision", "rule", "reason")
    assert said.status == 0
    assert json.loads(said.out) == {
        "format": "pmuconf-decision",
        "version": 1,
        "pmu": audited["next_boot"],
        **{key: audited[key] for key in shared},
    }


def test_policy_explain_of_a_flavor_as_json(run: Run) -> None:
    rule = "[policy]\nrules = web\n[rule:web]\npmu = on\ndomain = web*\n"
    said = run("policy", "explain", "--flavor", "m1", "-f", "json", config=rule)
    assert said.status == 1
    record = json.loads(said.out)
    assert record.pop("reason")
    assert record == {
        **{"format": "pmuconf-decision", "version": 1, "name": None, "uuid": None, "pmu": None},
        **{"flavor": "m1", "decision": "undecided", "rule": "web"},
    }


def test_policy_check_as_json(run: Run) -> None:
    said = run("policy", "check", "-f", "json", config=POLICY + "[rule:other]\npmu = on\nflavor = x\n")
    assert said.status == 1
    record = json.loads(said.out)
    assert [Path(path).is_file() for path in record.pop("files")] == [True]
    assert record == {
        "format": "pmuconf-policy",
        "version": 1,
        "default": "off",
        "nova_domains": "observe",
        "rules": [
            {
                "name": "perf",
                "decision": "on",
                "criteria": {"flavor": ["perf.*", "*.perf"]},
                "reason": "they run perf",
            }
        ],
        "unused_rules": ["other"],
    }
    assert run("policy", "check", "-f", "json", config="[policy]\ndefault = maybe\n")[:2] == (255, "")


# ---- journal -------------------------------------------------------------------------------------------------------


UUIDS = ("6e1f12ab-2f16-44d2-8a4c-6c7d2f5c7a11", "6e1f12ab-2f16-44d2-8a4c-6c7d2f5c7a12")


@pytest.fixture
def journalled(tmp_path: Path) -> str:
    """A configuration whose journal has two changes."""
    path = tmp_path / "journal.sqlite"
    with Journal.open(path, create=True) as journal:
        for uuid in UUIDS:
            change = Intent(
                ChangeKind.APPLY, "test:///", uuid, "=web\x9b", PmuState.ON, PmuState.OFF, "default", "<domain/>"
            )
            (number,) = journal.begin([change])
            journal.settle([(number, ChangeStatus.DONE, "")])
    return f"[journal]\npath = {path}\n"


def test_without_a_journal_there_is_nothing_to_list(run: Run, tmp_path: Path) -> None:
    config = f"[journal]\npath = {tmp_path}/none/journal.sqlite\n"
    said = run("journal", config=config)
    assert said.status == 0
    assert "nothing was changed yet" in said.err
    assert not (tmp_path / "none").exists()
    assert run("journal", "-f", "json", config=config).out.strip() == "[]"


def test_the_journal_newest_first(run: Run, journalled: str) -> None:
    rows = json.loads(run("journal", "-f", "json", config=journalled).out)
    told = [(row["change"], row["uuid"], row["status"]) for row in rows]
    assert told == [(2, UUIDS[1], "done"), (1, UUIDS[0], "done")]
    assert rows[0]["name"] == "=web\x9b"
    assert run("journal", UUIDS[0].upper(), "-f", "value", "-c", "change", config=journalled).out == "1\n"
    assert run("journal", "--limit", "1", "-f", "value", "-c", "change", config=journalled).out == "2\n"
    assert r"=web\x9b" in run("journal", config=journalled).out


def test_a_column_that_there_is_not_is_a_usage_error(run: Run, journalled: str) -> None:
    ran = run("journal", "-c", "nothing", config=journalled)
    assert (ran.status, ran.out) == (255, "")
    assert "no column is called nothing (usage)" in ran.err


def test_purging_the_journal(run: Run, journalled: str) -> None:
    assert run("journal", "purge", config=journalled).err == "pmuconf: 0 changes dropped\n"
    assert run("journal", "purge", "--older-than", "0", config=journalled).err == "pmuconf: 2 changes dropped\n"
    assert json.loads(run("journal", "-f", "json", config=journalled).out) == []


def test_a_journal_that_is_damaged_is_an_error(run: Run, tmp_path: Path) -> None:
    (tmp_path / "j").write_bytes(b"garbage" * 1000)
    said = run("journal", config=f"[journal]\npath = {tmp_path}/j\n")
    assert (said.status, said.out) == (255, "")
    assert "(journal-damaged)" in said.err


@pytest.mark.parametrize("arguments", [["journal", "--limit"], ["rollback", "--change"]])
@pytest.mark.parametrize("number", ["99999999999999999999", "-99999999999999999999", "1" * 5000, "one"])
def test_a_number_that_no_database_holds_is_a_usage_error(run: Run, arguments: list[str], number: str) -> None:
    said = run(*arguments, number)
    assert said.status == 255
    assert "is no whole number up to 2147483647" in said.err
