"""The plan: every VM that a change helps, once a step, in an order that works; what is done is in it no more."""

from __future__ import annotations

import json
import random
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

import pmuconf
from pmuconf.domain.definition import PmuState
from pmuconf.fleet.campaign import campaign, plan_document
from pmuconf.fleet.document import document
from pmuconf.fleet.hostreport import of_document
from pmuconf.fleet.hosts import gather
from pmuconf.fleet.report import fleet
from pmuconf.fleet.steps import power_cycles
from pmuconf.fleet.table import table
from pmuconf.hostfacts import KernelPmu
from pmuconf.report.html import page
from tests.support.fleet import host, of_version_1
from tests.support.sample import AT, FACTS, Kind, many, sample

SCHEMA = Path(pmuconf.__file__).resolve().parents[1] / "docs" / "fleet-plan.schema.json"
Plan = dict[str, Any]


def write(folder: Path, made: dict[str, Any], name: str = "") -> None:
    folder.mkdir(exist_ok=True)
    (folder / f"{name or made['host']}.json").write_text(json.dumps(made))


def planned(folder: Path, limit: tuple[str, ...] = (), wave_size: int = 20, **how: Any) -> Plan:
    hosts = gather([folder], 1).limited(limit)
    return plan_document(campaign(hosts, **{"now": AT, **how}), wave_size)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    kinds = ("guarded", "unguarded", "unguarded", "unknown", "livepatched", "no-call", "elsewhere")
    for number, kind in enumerate(kinds):
        write(tmp_path / "fleet", host(kind, f"h{number}.example.org", 40, random.Random(number)), f"h{number}")
    return tmp_path / "fleet"


def vms_of(step: dict[str, Any]) -> list[tuple[str, str, str]]:
    return [
        (one["host"], vm["uuid"], vm["verb"]) for wave in step["waves"] for one in wave["hosts"] for vm in one["vms"]
    ]


def hosts_of(plan: Plan) -> set[str]:
    return {one["inventory_name"] for step in plan["steps"] for wave in step["waves"] for one in wave["hosts"]}


def test_it_follows_its_schema(folder: Path) -> None:
    schema = json.loads(SCHEMA.read_text())
    Draft202012Validator.check_schema(schema)
    Draft202012Validator(schema).validate(planned(folder))
    Draft202012Validator(schema).validate(planned(folder, ("h5*",), 1))  # nothing to do there


def test_what_comes_before_comes_before_and_is_there(folder: Path) -> None:
    made = planned(folder)
    seen: list[str] = []
    for step in made["steps"]:
        assert set(step["after"]) <= set(seen), step["id"]
        seen.append(step["id"])
    assert len(set(seen)) == len(seen)
    assert {step["kind"] for step in made["steps"]} == {"kernel", "qemu", "policy", "redefine", "power-cycle"}


def test_every_vm_is_in_a_step_once_and_with_the_verb_of_its_manager(folder: Path) -> None:
    reports = {vm["uuid"]: vm for path in folder.glob("*.json") for vm in json.loads(path.read_text())["domains"]}
    for step in planned(folder)["steps"]:
        vms = vms_of(step)
        assert len({uuid for _, uuid, _ in vms}) == len(vms)
        waiting = sum(one["waiting"] for wave in step["waves"] for one in wave["hosts"])
        assert waiting == step["vms_waiting"] >= step["vms_alone"]
        if step["kind"] in ("kernel", "qemu"):
            assert vms == []
            continue
        assert len(vms) == waiting
        for _, uuid, verb in vms:
            vm = reports[uuid]
            assert vm["running"]
            assert vm["decision"] in ("off", "keep")
            assert verb.startswith("nova") == (vm["nova"] and step["kind"] != "redefine")
            if step["kind"] == "policy":
                assert vm["drift"]
            if step["kind"] == "redefine":
                assert vm["next_boot"] is None


@pytest.mark.parametrize(
    ("rule", "verb"), [("default", "nova-reboot"), ("hw:pmu", "nova-hard-reboot"), ("hw_pmu", "nova-hard-reboot")]
)
def test_nova_reboots_hard_where_it_writes_off_itself(tmp_path: Path, rule: str, verb: str) -> None:
    made = sample(host="h1")
    for vm in made["domains"]:
        vm["rule"] = rule if vm["nova"] else vm["rule"]
    write(tmp_path / "one", made)
    cycles = [
        vms_of(step)
        for step in planned(tmp_path / "one")["steps"]
        if step["kind"] == "power-cycle" and not step["after"]
    ]
    assert {found for step in cycles for _, _, found in step if found.startswith("nova")} == {verb}


def test_ids_stay_the_same_whatever_else_is_in_the_fleet(folder: Path) -> None:
    whole = {step["id"]: step["what"] for step in planned(folder)["steps"]}
    some = {step["id"]: step["what"] for step in planned(folder, ("h1*",))["steps"]}
    assert some.items() <= whole.items()
    assert some


def test_what_was_done_is_in_it_no_more(tmp_path: Path) -> None:
    """A VM that waits for a power cycle, and has had it."""
    pending = Kind(("web",), None, PmuState.ON, PmuState.OFF, KernelPmu.ENABLED)
    done = Kind(("web",), None, PmuState.OFF, PmuState.OFF, KernelPmu.DISABLED)
    write(tmp_path / "before", many([pending], FACTS, "h1"))
    write(tmp_path / "after", many([done], FACTS, "h1"))
    (step,) = planned(tmp_path / "before")["steps"]
    assert [verb for _, _, verb in vms_of(step)] == ["stop-start"]
    assert planned(tmp_path / "after")["steps"] == []


def test_waves(folder: Path) -> None:
    for size in (1, 2, 100):
        for step in planned(folder, wave_size=size)["steps"]:
            assert [wave["number"] for wave in step["waves"]] == list(range(1, len(step["waves"]) + 1))
            assert all(len(wave["hosts"]) == size for wave in step["waves"][:-1])
            hosts = [one["host"] for wave in step["waves"] for one in wave["hosts"]]
            assert hosts == sorted(set(hosts))


def test_limit_is_by_either_name_and_by_glob(folder: Path) -> None:
    def hosts(*limit: str) -> set[str]:
        return hosts_of(planned(folder, limit))

    assert hosts("h1") == hosts("h1.example.org") == {"h1"}
    assert hosts("H[12]", "h0.*") == {"h0", "h1", "h2"}


def test_who_is_absent_or_stale_is_left_out_and_named(folder: Path) -> None:
    later = AT + timedelta(hours=30)
    write(folder, host("unguarded", "h9", 40, random.Random(9), later))
    marker = {"format": "pmuconf-unreachable", "version": 1, "host": "h2", "reason": "gone"}
    marker["generated_at"] = later.isoformat()
    (folder / "h2.unreachable.json").write_text(json.dumps(marker))
    made = planned(folder, now=later, stale_after=timedelta(hours=24))
    assert hosts_of(made) == {"h9"}
    left_out = {(one["host"].partition(".")[0], one["cause"]) for one in made["left_out"]}
    assert left_out == {("h2", "unreachable"), *((f"h{number}", "report-stale") for number in range(7))}
    made = planned(folder, now=later, expected=["h77"])
    assert ("h77", "report-missing") in {(one["host"], one["cause"]) for one in made["left_out"]}


def test_a_host_s_own_word_on_power_cycles_is_the_plan_s(folder: Path) -> None:
    """Asked of its report as it is made: who is in such a step that waits for no other."""
    steps = [step for step in planned(folder)["steps"] if step["kind"] == "power-cycle"]
    assert {bool(step["after"]) for step in steps} == {True, False}
    reports = [of_document(json.loads(path.read_text())) for path in folder.glob("*.json")]
    said = {uuid for report in reports for uuid in power_cycles(report)}
    assert said == {uuid for step in steps if not step["after"] for _, uuid, _ in vms_of(step)}


def test_out_of_kvm_a_power_cycle_is_for_who_is_pending() -> None:
    on, off = PmuState.ON, PmuState.OFF
    emulated = [
        Kind(("pending",), None, on, off, virt_type="qemu"),
        Kind(("drifts",), None, on, on, virt_type="qemu"),
        Kind(("as-wanted",), None, off, off, virt_type="qemu"),
        Kind(("off-with-an-image",), None, None, off, saved=on, virt_type="qemu"),
    ]
    made = many(emulated)
    names = {record["uuid"]: record["name"] for record in made["domains"]}
    assert [names[uuid] for uuid in power_cycles(of_document(made))] == ["pending"]


def test_the_report_of_an_older_pmuconf_is_taken_at_its_word(tmp_path: Path) -> None:
    """It does not say what the next boot gets, nor whether that heeds its <pmu>."""
    made = host("guarded", "h", 60, random.Random(7))
    old = of_version_1(made)
    for record in old["domains"]:
        del record["next_effective_pmu"], record["pmu_obeyed"]
    assert power_cycles(of_document(old)) == power_cycles(of_document(made)) != []
    shown = page(dict(of_document(old).document))
    assert "options of its QEMU decide" not in shown


@pytest.mark.parametrize("version", [1, 2])
def test_who_is_off_policy_has_a_step_whether_or_not_it_is_slow(tmp_path: Path, version: int) -> None:
    """One that is fast all the same, one that is shut off, one that must be on; and Nova's by Nova's own means."""
    on, off = PmuState.ON, PmuState.OFF
    fast = Kind(("fast",), None, off, on, KernelPmu.DISABLED)
    shut = Kind(("shut",), None, None, on)
    right = Kind(("right",), None, off, off, KernelPmu.DISABLED)
    of_nova = Kind(("of-nova",), "perf.large", None, PmuState.DEFAULT)
    made = many([fast, shut, right, of_nova], FACTS, "h", AT)
    assert {vm["name"]: vm["drift"] for vm in made["domains"]} == {
        "fast": True, "shut": True, "right": False, "of-nova": True,
    }  # fmt: skip
    names = {vm["uuid"]: vm["name"] for vm in made["domains"]}
    write(tmp_path / "fleet", of_version_1(made) if version == 1 else made)
    steps = [step for step in planned(tmp_path / "fleet")["steps"] if step["kind"] == "policy"]
    assert {step["what"].partition(":")[0] for step in steps} == {
        "pmuconf apply", "let Nova write the state that the policy wants",
    }  # fmt: skip
    found = sorted((names[uuid], verb) for step in steps for _, uuid, verb in vms_of(step))
    assert found == [("fast", "pmuconf-apply"), ("of-nova", "nova-policy"), ("shut", "pmuconf-apply")]
    assert sum(step["vms_waiting"] for step in steps) == 3
    assert {step["vms_alone"] for step in steps} == {0}, "nothing is promised of the fast path"
    hosts = gather([tmp_path / "fleet"], 1)
    assert campaign(hosts, now=AT).severity == 2
    shown = table(document(fleet(hosts, now=AT)))
    assert "by the policy: 3 drift" in shown


@pytest.mark.parametrize(
    ("manager", "verbs"),
    [
        ("libvirt", {"pmuconf-apply", "stop-start"}),
        ("kubevirt", {"manager-policy", "manager-stop-start"}),
        (None, {"pmuconf-apply", "stop-start"}),
    ],
)
def test_what_another_manager_runs_is_left_to_it(tmp_path: Path, manager: str | None, verbs: set[str]) -> None:
    drift = Kind(("drift",), None, PmuState.ON, PmuState.ON, KernelPmu.ENABLED)
    made = many([drift], FACTS, "h", AT)
    for record in made["domains"]:
        record["manager"] = manager
    write(tmp_path / "fleet", made)
    steps = planned(tmp_path / "fleet")["steps"]
    assert {verb for step in steps for _, _, verb in vms_of(step)} == verbs


def test_a_manager_that_is_no_text_is_refused(tmp_path: Path) -> None:
    made = many([Kind(("web",), None, PmuState.OFF, PmuState.OFF, KernelPmu.DISABLED)], FACTS, "h", AT)
    made["domains"][0]["manager"] = 7
    with pytest.raises(ValueError, match="manager"):
        of_document(made)
