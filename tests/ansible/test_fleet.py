"""Many hosts: each is brought on policy once, whatever becomes of the others; and taken back where the VM is now."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.ansible.conftest import BINS, MakeFleet
from tests.ansible.fleet import Fleet
from tests.support.domains import plain_domain

_HOSTS, _DOMAINS = 50, 20
_APPLY: list[dict[str, Any]] = [{"pmuconf.kvm.domain": {}}]


def domains(host: str, count: int) -> list[str]:
    """Names of so many domains, no two hosts with the same."""
    return [f"{host}-{number:02}" for number in range(count)]


def fleet_of(make: MakeFleet, hosts: int, count: int) -> Fleet:
    """So many hosts, each with so many domains, none of them with a PMU element."""
    fleet = make([f"h{number:02}" for number in range(hosts)])
    fleet.define({host: [plain_domain(name) for name in domains(host, count)] for host in fleet.names})
    return fleet


@pytest.mark.parametrize("bin", BINS[:1], indirect=True, ids=lambda path: path.parent.name)
def test_check_real_check(make: MakeFleet) -> None:
    """Fifty hosts of twenty domains: changed, changed, unchanged; and one of them fails in its middle."""
    fleet = fleet_of(make, _HOSTS, _DOMAINS)
    bad, others = fleet.names[7], [name for name in fleet.names if name != fleet.names[7]]
    every: dict[str, str] = {name: "default" for host in fleet.names for name in domains(host, _DOMAINS)}

    def pmus() -> dict[str, str]:
        return {name: state for host in fleet.names for name, state in fleet.pmus(host).items()}

    assert pmus() == every
    check = fleet.play(_APPLY, "--check")
    assert check.status == 0, check.text
    assert check.by_host("changed") == dict.fromkeys(fleet.names, 1)
    assert pmus() == every

    spoilt = domains(bad, _DOMAINS)[9]
    fleet.spoil(bad, spoilt)
    real = fleet.play(_APPLY)
    assert real.by_host("changed") == {**dict.fromkeys(others, 1), bad: 0}
    assert real.by_host("failed") == {**dict.fromkeys(others, 0), bad: 1}
    assert {name: state for name, state in pmus().items() if not name.startswith(bad)} == {
        name: "off" for name in every if not name.startswith(bad)
    }
    done = [name for name, state in fleet.pmus(bad).items() if state == "off"]
    assert 0 < len(done) < _DOMAINS
    assert spoilt not in done

    fleet.mend(bad, spoilt)
    again = fleet.play(_APPLY)
    assert again.by_host("changed") == {**dict.fromkeys(others, 0), bad: 1}
    assert pmus() == dict.fromkeys(every, "off")
    check = fleet.play(_APPLY, "--check")
    assert check.status == 0, check.text
    assert check.by_host("changed") == dict.fromkeys(fleet.names, 0)


def move(fleet: Fleet, name: str, source: str, target: str) -> None:
    """What a migration does to the definition."""
    xml = fleet.xml(source, name)
    fleet.define({target: [xml]})
    fleet.undefine(source, name)


def test_taken_back_where_the_vm_is_now(make: MakeFleet) -> None:
    fleet = fleet_of(make, 3, 3)
    assert fleet.play(_APPLY).status == 0
    move(fleet, "h00-00", "h00", "h01")
    move(fleet, "h00-01", "h00", "h02")
    fleet.define({"h02": [plain_domain("h00-01", pmu="on")]})  # and there somebody decided otherwise
    fleet.undefine("h00", "h00-02")  # gone for good
    words = ["-e", "pmuconf_all=true"]
    moved = {"h00": {}, "h01": {**dict.fromkeys(domains("h01", 3), "default"), "h00-00": "default"}}
    for mode, changed in ((["--check"], 1), ([], 1), (["--check"], 0), ([], 0)):
        ran = fleet.run("pmuconf.kvm.rollback", *words, *mode)
        assert ran.status == 0, ran.text
        assert "On none of these hosts: h00-02" in ran.text
        assert ran.by_host("changed") == {"h00": 0, "h01": changed, "h02": changed}, mode
        if mode == []:
            assert {host: fleet.pmus(host) for host in ("h00", "h01")} == moved
            assert fleet.pmus("h02") == {**dict.fromkeys(domains("h02", 3), "default"), "h00-01": "on"}


def test_taken_back_where_the_vm_runs(make: MakeFleet) -> None:
    """It has left its definition behind, as it does unless it is told otherwise."""
    fleet = fleet_of(make, 2, 1)
    assert fleet.play(_APPLY).status == 0
    fleet.define({"h01": [fleet.xml("h00", "h00-00")]})
    fleet.start("h01", "h00-00")
    for changed in (1, 0):
        ran = fleet.run("pmuconf.kvm.rollback", "-e", "pmuconf_all=true")
        assert (ran.status, ran.by_host("changed")) == (0, {"h00": changed, "h01": changed}), ran.text
        assert "On none of these hosts" not in ran.text
        assert [fleet.pmus(host) for host in fleet.names] == [
            {"h00-00": "default"},
            {"h00-00": "default", "h01-00": "default"},
        ]


def test_named_ones_alone(make: MakeFleet) -> None:
    fleet = fleet_of(make, 2, 2)
    assert fleet.play(_APPLY).status == 0
    move(fleet, "h00-00", "h00", "h01")
    ran = fleet.run("pmuconf.kvm.rollback", "-e", json.dumps({"pmuconf_names": ["h00-00"]}))
    assert ran.status == 0, ran.text
    assert fleet.pmus("h01") == {"h00-00": "default", "h01-00": "off", "h01-01": "off"}
    assert fleet.run("pmuconf.kvm.rollback").status != 0


def test_gathered(make: MakeFleet, tmp_path: Path) -> None:
    fleet = fleet_of(make, 4, 2)
    fleet.configure("h01", "[policy]\ndefault = maybe\n")
    far = {"ansible_connection": "ssh", "ansible_host": "127.0.0.1", "ansible_port": 1, "ansible_ssh_retries": 0}
    fleet.write_inventory({"h00": {}, "h01": {}, "h02": far, "h03": {}})
    into = tmp_path / "reports"
    ran = fleet.run("pmuconf.kvm.gather", "-e", f"pmuconf_reports={into}")
    assert ran.status == 0, ran.text
    found = {file.name: json.loads(file.read_text()) for file in into.iterdir()}
    assert set(found) == {"h00.json", "h01.unreachable.json", "h02.unreachable.json", "h03.json"}
    for name in ("h00", "h03"):
        report = found[f"{name}.json"]
        assert (report["format"], report["summary"]["domains"]) == ("pmuconf-report", 2)
    for name, words in (("h01", "config-invalid"), ("h02", "refused")):
        marker = found[f"{name}.unreachable.json"]
        assert (marker["format"], marker["version"], marker["host"]) == ("pmuconf-unreachable", 1, name)
        assert words in marker["reason"]
        assert set(marker) == {"format", "version", "host", "generated_at", "reason"}

    made = fleet.plan(into)
    assert [left["host"] for left in made["left_out"] if left["cause"] == "unreachable"] == ["h01", "h02"]

    fleet.configure("h03", "[policy]\ndefault = maybe\n")
    fleet.run("pmuconf.kvm.gather", "-e", f"pmuconf_reports={into}", "--limit", "h03")
    assert {"h03.json", "h03.unreachable.json"} <= {file.name for file in into.iterdir()}, "the last report is kept"
