"""The modules, one host each: what they change, say and refuse, and that they do it once."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.ansible.conftest import MakeFleet
from tests.ansible.fleet import Fleet, Played
from tests.support.domains import domain_uuid, nova_domain, plain_domain

DOMAIN = "pmuconf.kvm.domain"
ROLLBACK = "pmuconf.kvm.rollback"


@pytest.fixture
def fleet(make: MakeFleet) -> Fleet:
    """One host with three domains: by default, off, and with an explicit choice."""
    made = make(["h"])
    specs = {"hw:pmu": "true"}
    chosen = nova_domain("chosen", version="34.0.0", flavor="perf", extra_specs=specs, pmu="on", disks=0, nics=0)
    made.define({"h": [plain_domain("web1"), plain_domain("web2"), plain_domain("db", pmu="off"), chosen]})
    return made


def ask(fleet: Fleet, module: str, *words: str, **options: Any) -> tuple[Played, dict[str, Any]]:
    """Run one module; what was played, and what it gave."""
    kept = fleet.folder / "answer.json"
    ran = fleet.play(
        [
            {module: options, "register": "answer", "ignore_errors": True},
            {
                "ansible.builtin.copy": {"content": "{{ answer | to_json }}", "dest": str(kept), "mode": "0600"},
                "check_mode": False,
                "diff": False,
                "changed_when": False,
            },
        ],
        *words,
    )
    assert ran.status == 0, ran.text
    answer: dict[str, Any] = json.loads(kept.read_text())
    return ran, answer


def outcomes(answer: dict[str, Any]) -> dict[str, str]:
    return {result["name"]: result["outcome"] for result in answer["results"]}


def cli(fleet: Fleet, *words: str) -> str:
    """What the command says on standard error, and whether it is an error."""
    program = Path(sys.executable).with_name("pmuconf")
    config = fleet.root("h") / "pmuconf.conf"
    ran = subprocess.run([str(program), "--config-file", str(config), *words], capture_output=True, text=True)
    assert ran.returncode == 255
    return ran.stderr.strip().splitlines()[-1]


def test_on_policy_and_back(fleet: Fleet) -> None:
    before = fleet.pmus("h")
    assert before == {"web1": "default", "web2": "default", "db": "off", "chosen": "on"}
    told, would = ask(fleet, DOMAIN, "--check", "--diff")
    assert (would["changed"], outcomes(would)) == (True, {"web1": "planned", "web2": "planned"})
    assert fleet.pmus("h") == before
    ran, did = ask(fleet, DOMAIN, "--diff")
    assert (did["changed"], outcomes(did)) == (True, {"web1": "changed", "web2": "changed"})
    assert fleet.pmus("h") == {**before, "web1": "off", "web2": "off"}
    for shown in (told.text, ran.text):
        assert "-web1: default" in shown
        assert "+web1: off" in shown
        assert "<domain" not in shown
    _, again = ask(fleet, DOMAIN)
    assert (again["changed"], again["results"], again["status"]) == (False, [], 0)

    for words, changed in ((["--check"], True), ([], True), (["--check"], False), ([], False)):
        assert ask(fleet, ROLLBACK, *words, names=["web1", "web2"])[1]["changed"] is changed, words
    assert fleet.pmus("h") == before
    assert ask(fleet, ROLLBACK, all=True)[1]["changed"] is False


def test_limits_and_canary(fleet: Fleet) -> None:
    _, one = ask(fleet, DOMAIN, canary=1)
    assert outcomes(one) == {"web1": "changed", "web2": "not-reached"}
    assert (one["status"], {result["cause"] for result in one["results"]}) == (2, {"", "canary"})
    _, rest = ask(fleet, DOMAIN, **{"continue": True})
    assert outcomes(rest) == {"web2": "changed"}
    ask(fleet, ROLLBACK, all=True)
    for words in ([], ["--check"]):
        _, lost = ask(fleet, DOMAIN, *words, **{"continue": True})
        assert (lost["failed"], lost["cause"]) == (True, "canary-missing")
    _, limited = ask(fleet, DOMAIN, max_changes=1)
    assert outcomes(limited) == {"web1": "changed", "web2": "not-reached"}


def test_asked_for(fleet: Fleet) -> None:
    _, on = ask(fleet, DOMAIN, name="db", state="on")
    assert (on["changed"], on["results"][0]["rule"]) == (True, "requested")
    assert fleet.pmus("h")["db"] == "on"
    assert ask(fleet, DOMAIN, name="db", state="on")[1]["changed"] is False
    for words in ([], ["--check"]):
        _, refused = ask(fleet, DOMAIN, *words, names=["web1", "chosen"], state="off")
        assert (refused["failed"], refused["cause"]) == (True, "request-refused")
        assert "hw:pmu is set explicitly" in refused["msg"]
    assert fleet.pmus("h")["web1"] == "default", "refused before anything is changed"
    assert ask(fleet, DOMAIN, state="off")[1]["cause"] == "usage"


def test_errors_are_the_command_s(fleet: Fleet) -> None:
    _, answer = ask(fleet, DOMAIN, names=["nonesuch"])
    assert answer["cause"] == "no-such-domain"
    assert cli(fleet, "apply", "nonesuch") == f"pmuconf: {answer['msg']}"
    _, answer = ask(fleet, ROLLBACK, change=7)
    assert answer["cause"] == "no-such-change"
    assert cli(fleet, "rollback", "--change", "7") == f"pmuconf: {answer['msg']}"
    _, answer = ask(fleet, ROLLBACK, changes=[{"change": 1}])
    assert answer["cause"] == "change-invalid"
    (fleet.root("h") / "pmuconf.conf").write_text("[policy]\ndefault = maybe\n")
    _, answer = ask(fleet, DOMAIN)
    assert answer["cause"] == "config-invalid"
    assert cli(fleet, "apply") == f"pmuconf: {answer['msg']}"


def test_a_failed_change(fleet: Fleet) -> None:
    fleet.spoil("h", "web2")
    _, answer = ask(fleet, DOMAIN)
    assert (answer["failed"], answer["changed"], answer["cause"]) == (True, True, "refused-by-libvirt")
    assert outcomes(answer) == {"web1": "changed", "web2": "failed"}
    assert "web2" in answer["msg"]
    fleet.mend("h", "web2")
    assert outcomes(ask(fleet, DOMAIN)[1]) == {"web2": "changed"}


def test_what_waits(fleet: Fleet) -> None:
    fleet.start("h", "web1")
    _, answer = ask(fleet, DOMAIN, "--check")
    assert (answer["pending"], answer["status"]) == (["web1"], 1)
    _, answer = ask(fleet, DOMAIN)
    assert (answer["pending"], answer["status"]) == (["web1"], 1)
    _, looked = ask(fleet, "pmuconf.kvm.report_info")
    assert looked["power_cycle"] == [domain_uuid("web1")]
    (waiting,) = [result for result in answer["results"] if result["pending"]]
    assert waiting["remedy"].startswith("stop and start it")


def test_reading(fleet: Fleet) -> None:
    _, report = ask(fleet, "pmuconf.kvm.report_info")
    assert report["report"]["summary"]["drift"] == 2
    assert report["status"] == 2
    assert not report["changed"]
    _, host = ask(fleet, "pmuconf.kvm.host_info")
    assert host["verdict"] == host["host"]["guard"]["verdict"]
    assert not (host["delivers_fast_path"] and host["status"])
    ask(fleet, DOMAIN)
    _, journal = ask(fleet, "pmuconf.kvm.journal_info", standing=True)
    assert {change["name"]: change["here"] for change in journal["changes"]} == {"web1": True, "web2": True}
    _, one = ask(fleet, "pmuconf.kvm.journal_info", names=["web1"])
    assert [change["name"] for change in one["changes"]] == ["web1"]


def test_without_pmuconf_on_the_host(fleet: Fleet, tmp_path: Path) -> None:
    """By a Python without it: said, or another one is taken that has it."""
    python = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(python)], check=True)
    bare = ["-e", f"ansible_python_interpreter={python}/bin/python"]
    _, answer = ask(fleet, DOMAIN, *bare, python="/nonexistent/python")
    assert answer["failed"]
    assert (answer["cause"], "pmuconf[host]" in answer["msg"]) == ("module-missing", True)
    _, answer = ask(fleet, DOMAIN, *bare, python=sys.executable)
    assert answer["changed"]
