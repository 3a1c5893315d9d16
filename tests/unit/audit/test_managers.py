"""A domain of another manager: known in an audit, with that manager's verbs, and what becomes of a rewrite there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pmuconf.audit.managers import apply_by, cycle_by, lasting, lasts, redefine_by
from pmuconf.domain.definition import Manager, PmuState
from tests.unit.conftest import Run
from tests.unit.hooks.forms import CLOUDSTACK, KUBEVIRT, OPENNEBULA, VDSM

OTHERS = (Manager.KUBEVIRT, Manager.OVIRT, Manager.CLOUDSTACK, Manager.OPENNEBULA)
DOMAINS = {
    Manager.KUBEVIRT: KUBEVIRT[0].xml,
    Manager.OVIRT: VDSM[0].xml,
    Manager.CLOUDSTACK: CLOUDSTACK[1].xml,
    Manager.OPENNEBULA: OPENNEBULA[0].xml,
}
VERBS = {
    Manager.KUBEVIRT: "virtctl restart",
    Manager.OVIRT: "run it by the engine",
    Manager.CLOUDSTACK: "cmk stop virtualmachine",
    Manager.OPENNEBULA: "onevm poweroff",
}


@pytest.mark.parametrize("manager", OTHERS)
@pytest.mark.parametrize("running", [True, False])
def test_an_audit_names_the_manager_and_its_verbs(run: Run, tmp_path: Path, manager: Manager, running: bool) -> None:
    xml = DOMAINS[manager]
    if running:
        xml = xml.replace("<domain ", "<domain id='1' ", 1)
    (tmp_path / "vm.xml").write_text(xml)
    said = run("report", "-f", "json", "--xml", tmp_path / "vm.xml")
    (domain,) = json.loads(said.out)["domains"]
    assert domain["manager"] == manager.value
    text = " ".join(remedy["text"] for remedy in domain["remedies"])
    assert manager.title in text
    assert f"pmuconf hook {'vdsm' if manager is Manager.OVIRT else manager.value}" in text
    assert "virsh" not in text
    assert (VERBS[manager] in text) == running


@pytest.mark.parametrize("manager", OTHERS)
def test_the_words_of_each(manager: Manager) -> None:
    without, with_cycle = apply_by(manager, cycle=False), apply_by(manager, cycle=True)
    assert VERBS[manager] in with_cycle
    assert VERBS[manager] not in without
    assert without.endswith(f"pmuconf apply lasts until {manager.title} starts it anew")
    assert VERBS[manager] in cycle_by(manager)
    assert "<pmu state='on'/>" in redefine_by(manager, PmuState.ON)
    assert "<pmu state='off'/>" in redefine_by(manager, PmuState.OFF)
    assert "pmuconf hook" in lasting(manager)
    assert lasts(manager) in without


@pytest.mark.parametrize("manager", [manager for manager in Manager if manager not in OTHERS])
def test_all_others_have_words_elsewhere(manager: Manager) -> None:
    assert [apply_by(manager, cycle=True), cycle_by(manager), redefine_by(manager, PmuState.OFF)] == ["", "", ""]
    assert bool(lasts(manager)) == bool(lasting(manager)) == (manager is Manager.NOVA)


def test_flavor_and_project_of_other_managers_are_shown_and_selected_by(run: Run, tmp_path: Path) -> None:
    (tmp_path / "cloud.xml").write_text(CLOUDSTACK[2].xml)
    (tmp_path / "one.xml").write_text(OPENNEBULA[3].xml)
    (tmp_path / "kube.xml").write_text(KUBEVIRT[0].xml)
    rows = json.loads(run("audit", "-f", "json", "--xml", tmp_path).out)
    assert {(row["name"], row["flavor"]) for row in rows} == {
        ("i-2-8-VM", "small"),
        ("one-44", None),
        ("shop_web", None),
    }
    documents = json.loads(run("report", "-f", "json", "--xml", tmp_path).out)["domains"]
    assert {domain["project"] for domain in documents} == {"lab", "shop"}
    rows = json.loads(run("audit", "-f", "json", "--xml", tmp_path, "--project", "lab").out)
    assert {row["name"] for row in rows} == {"i-2-8-VM", "one-44"}
