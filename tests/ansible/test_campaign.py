"""Campaigns: steps of a plan are carried out, on real guests; and a plan made anew leaves out what was done."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import libvirt
import pytest

from pmuconf.domain.definition import PmuState
from pmuconf.hostfacts import KernelPmu
from tests.ansible.conftest import MakeFleet
from tests.ansible.fleet import Fleet
from tests.ansible.guest import polite_domain
from tests.functional import oracle
from tests.functional.host import until
from tests.support.daemon import Daemon, available_daemons
from tests.support.domains import domain_uuid, plain_domain
from tests.support.sample import Kind, many


def wave(number: int, *hosts: tuple[str, list[dict[str, Any]]]) -> dict[str, Any]:
    return {
        "number": number,
        "hosts": [{"host": host, "inventory_name": host, "waiting": len(vms) or 1, "vms": vms} for host, vms in hosts],
    }


def domains(host: str) -> list[str]:
    return [f"{host}-00", f"{host}-01"]


def vms(host: str) -> list[dict[str, Any]]:
    return [{"uuid": domain_uuid(name), "name": name, "verb": "pmuconf-apply"} for name in domains(host)]


def test_waves(make: MakeFleet) -> None:
    """By waves, by --limit, once more without harm; what a tenant has named a VM is a name."""
    fleet = make(["h00", "h01", "h02"])
    fleet.define({host: [plain_domain(name) for name in domains(host)] for host in fleet.names})
    hostile = {"uuid": domain_uuid("gone"), "name": hostile_name(fleet)}
    steps = [
        {
            "id": "policy-0123456789ab",
            "kind": "policy",
            "what": "the next boot is off",
            "waves": [
                wave(1, ("h00", [*vms("h00"), {**hostile, "verb": "nova-policy"}])),
                wave(2, ("h01", vms("h01")), ("h02", vms("h02"))),
            ],
        },
        {"id": "kernel-0123456789ab", "kind": "kernel", "what": "a kernel", "waves": [wave(1, ("h01", []))]},
    ]
    plan = fleet.folder / "plan.json"
    plan.write_text(json.dumps({"format": "pmuconf-fleet-plan", "version": 1, "steps": steps}))
    campaign = ["pmuconf.kvm.campaign", "-e", "pmuconf_plan=plan.json"]  # found in the working folder

    def states() -> list[set[str]]:
        return [set(fleet.pmus(host).values()) for host in fleet.names]

    ran = fleet.run(*campaign)
    assert ran.status == 0, ran.text
    assert states() == [{"off"}, {"default"}, {"default"}]
    ran = fleet.run(*campaign, "-e", "pmuconf_wave=2", "--limit", "localhost,h02")
    assert states() == [{"off"}, {"default"}, {"off"}], ran.text
    ran = fleet.run(*campaign, "-e", "pmuconf_wave=all")
    assert states() == [{"off"}] * 3
    assert {host: ran.by_host("changed")[host] for host in fleet.names} == {"h00": 0, "h01": 1, "h02": 0}

    ran = fleet.run(*campaign, "-e", "pmuconf_step=kernel-0123456789ab")
    assert (ran.status != 0, "pmuconf_tasks" in ran.text) == (True, True)
    mine = fleet.folder / "mine.yml"
    mine.write_text('[{"ansible.builtin.debug": {"msg": "{{ pmuconf_kind }} of {{ inventory_hostname }}"}}]')
    ran = fleet.run(*campaign, "-e", "pmuconf_step=kernel-0123456789ab", "-e", "pmuconf_tasks=mine.yml")
    assert "kernel of h01" in ran.text
    assert not (fleet.folder / "owned").exists()


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    """A libvirt for more than one client."""
    with Daemon(available_daemons()[0]) as started:
        yield started


def hostile_name(fleet: Fleet) -> str:
    """What a tenant may call a VM."""
    return "{{ lookup('pipe', 'touch " + f"{fleet.folder}/owned" + "') }}"


class Guests:
    """The domains of the daemon: what they are, and reports of a host that has them under KVM."""

    def __init__(self, connection: libvirt.virConnect) -> None:
        self._connection = connection

    def pmus(self) -> dict[str, tuple[str | None, str]]:
        """The PMU states of the running guest and of the next boot, by name."""
        inactive = libvirt.VIR_DOMAIN_XML_INACTIVE
        return {
            domain.name(): (
                oracle.pmu(domain.XMLDesc()) if domain.isActive() else None,
                oracle.pmu(domain.XMLDesc(inactive)),
            )
            for domain in self._connection.listAllDomains()
        }

    def starts(self) -> dict[str, int]:
        """A number that each start of a domain makes anew, by name."""
        return {domain.name(): domain.ID() for domain in self._connection.listAllDomains()}

    def report(self, path: Path, called: dict[str, str]) -> None:
        """Write a report, with other names for some of them.

        Of KVM it says what follows from the PMU states: without, no VM is in any plan.
        """
        kinds = []
        for name, (live, after) in self.pmus().items():
            held = KernelPmu.DISABLED if live == "off" else KernelPmu.ENABLED
            kinds.append(Kind((name,), None, None if live is None else PmuState(live), PmuState(after), held))
        made = many(kinds, host=f"{path.stem}.example.org", at=datetime.now().astimezone())
        for record in made["domains"]:
            record["uuid"] = self._connection.lookupByName(record["name"]).UUIDString()
            record["name"] = called.get(record["name"], record["name"])
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(made))


def holds_something(file: Path) -> bool:
    return file.exists() and file.stat().st_size > 0


def in_plan(made: dict[str, Any]) -> dict[str, set[str]]:
    """The UUIDs in each kind of step."""
    return {
        step["kind"]: {vm["uuid"] for wave in step["waves"] for host in wave["hosts"] for vm in host["vms"]}
        for step in made["steps"]
    }


def test_from_plan_to_plan(make: MakeFleet, daemon: Daemon) -> None:
    """Policy, then power cycles: who does not shut down is named and runs on, who is done is not stopped again."""
    fleet = make(["h00"])
    fleet.configure("h00", uri=daemon.uri)
    connection = libvirt.open(daemon.uri)
    guests = Guests(connection)
    ready = [fleet.folder / "first", fleet.folder / "last"]
    for xml in (
        polite_domain("a-first", ready[0]),
        plain_domain("b-deaf"),
        polite_domain("c-last", ready[1]),
        plain_domain("d-done", pmu="off"),
    ):
        connection.defineXML(xml).create()
    uuid = {name: domain_uuid(name) for name in guests.starts()}
    wrong = {uuid["a-first"], uuid["b-deaf"], uuid["c-last"]}
    reports, plan = fleet.folder / "reports", fleet.folder / "plan.json"
    campaign = ["pmuconf.kvm.campaign", "-e", f"pmuconf_plan={plan}", "-e", json.dumps({"pmuconf_uri": daemon.uri})]

    def planned() -> dict[str, set[str]]:
        guests.report(reports / "h00.json", {"b-deaf": hostile_name(fleet)})
        made = fleet.plan(reports)
        plan.write_text(json.dumps(made))
        return in_plan(made)

    assert planned() == {"policy": wrong, "power-cycle": wrong}
    (cycle,) = [step["id"] for step in json.loads(plan.read_text())["steps"] if step["kind"] == "power-cycle"]
    before = guests.starts()
    ran = fleet.run(*campaign, "-e", f"pmuconf_step={cycle}")
    assert (ran.status, guests.starts()) == (0, before), "its turn comes after the policy's"
    ran = fleet.run(*campaign)
    assert ran.status == 0, ran.text
    assert guests.pmus() == {
        **dict.fromkeys(["a-first", "b-deaf", "c-last"], ("default", "off")),
        "d-done": ("off", "off"),
    }

    assert planned() == {"power-cycle": wrong}
    for file in ready:
        until(partial(holds_something, file), "the guest listens to its power button")
    ran = fleet.run(*campaign, "-e", "pmuconf_stop_seconds=5")
    assert (ran.status != 0, ran.recap["h00"]["failed"]) == (True, 1), ran.text
    assert f"({uuid['b-deaf']}): it was asked to shut down and still runs" in ran.text
    assert guests.pmus() == {**dict.fromkeys(uuid, ("off", "off")), "b-deaf": ("default", "off")}
    after = guests.starts()
    assert {name for name in uuid if after[name] != before[name]} == {"a-first", "c-last"}

    ran = fleet.run(*campaign, "-e", "pmuconf_stop=destroy")  # by the plan of before
    assert ran.status == 0, ran.text
    assert {name for name in uuid if guests.starts()[name] != after[name]} == {"b-deaf"}
    assert guests.pmus() == dict.fromkeys(uuid, ("off", "off"))
    assert planned() == {}
    assert not (fleet.folder / "owned").exists()
    connection.close()
