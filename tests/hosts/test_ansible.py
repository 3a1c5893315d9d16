"""Ansible over SSH: the role installs a package of Debian's kind, and the playbooks gather, carry out and take back."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from typing import Any, Final

import pytest

from tests.functional import oracle
from tests.hosts.conftest import BINS, SUITES, Debian
from tests.hosts.controller import Controller
from tests.hosts.lan import Lan
from tests.support.domains import plain_domain
from tests.system.machine import Machine

# ansible-core 2.14 can't run modules with Python 3.12 and later, as Debian 13 has.
HOSTS: Final = {"2.14": [host for host, suite in SUITES.items() if suite == "bookworm"], "2.19": list(SUITES)}
AT: Final = "http://127.0.0.1:9754"
FILES: Final = "find / -xdev \\( -path /proc -o -path /sys -o -path /tmp \\) -prune -o -path '*pmuconf*' -print"


@pytest.fixture(params=list(BINS))
def controller(request: pytest.FixtureRequest, lan: Lan, debian_of: Mapping[str, Debian]) -> Iterator[Controller]:
    version: str = request.param
    packages = {host: debian_of[SUITES[host]].package for host in HOSTS[version]}
    told: dict[str, dict[str, Any]] = {host: {"pmuconf_package": str(file)} for host, file in packages.items()}
    told["h2"] = {"pmuconf_package": "/srv/copied/pmuconf.deb", "pmuconf_package_on_host": True}
    copied = lan.machines["h2"].root / "srv/copied"
    copied.mkdir(exist_ok=True)
    shutil.copy(packages["h2"], copied / "pmuconf.deb")
    made = Controller(lan, BINS[version], told)
    yield made
    for host in HOSTS[version]:
        machine = lan.machines[host]
        machine.run("systemctl stop pmuconf; apt-get -qq purge -y pmuconf; rm -rf /etc/pmuconf", check=False)
        machine.run("for vm in $(virsh list --all --name); do virsh undefine $vm; done")


def define(machine: Machine, *names: str) -> None:
    for name in names:
        machine.write(f"/root/{name}.xml", plain_domain(name))
        machine.run(f"virsh define /root/{name}.xml")


def pmus(machine: Machine) -> dict[str, str]:
    names = machine.run("virsh list --all --name").split()
    return {name: oracle.pmu(machine.run(f"virsh dumpxml --inactive {name}")) for name in names}


def test_the_role_and_the_playbooks(controller: Controller, lan: Lan) -> None:
    hosts = {host: lan.machines[host] for host in controller.hosts}
    before = {host: machine.run(FILES) for host, machine in hosts.items()}
    for host, machine in hosts.items():
        define(machine, f"{host}-web", f"{host}-db")
    rules = [{"name": "databases", "pmu": "keep", "domain": ["*-db"]}]

    # The role, seen before and done; then there is nothing to do.
    seen = controller.role("--check", pmuconf_rules=rules)
    assert seen.status == 0, seen.text
    assert all(seen.changed[host] > 0 for host in hosts), seen.text
    assert {host: machine.run(FILES) for host, machine in hosts.items()} == before
    hosts["h1"].run("mkdir -p /opt/pmuconf/bin")  # as an installation by pip was
    hosts["h1"].write("/etc/systemd/system/pmuconf.service", "[Service]\nExecStart=/opt/pmuconf/bin/pmuconf serve\n")
    done = controller.role(pmuconf_rules=rules)
    assert done.status == 0, done.text
    again = controller.role(pmuconf_rules=rules)
    assert (again.status, again.changed) == (0, dict.fromkeys(hosts, 0)), again.text

    # It runs under systemd, from the package alone, and observes.
    for machine in hosts.values():
        assert machine.run("systemctl is-active pmuconf.service pmuconf-host-facts.timer").split() == ["active"] * 2
        assert machine.run("systemctl is-enabled pmuconf.service").split() == ["enabled"]
        assert machine.run("systemctl show -P FragmentPath pmuconf").endswith("/lib/systemd/system/pmuconf.service")
        assert machine.run("ls /opt").split() == []
        assert machine.run("dpkg --verify pmuconf") == "", "no file of the package was changed"
        machine.until(f"curl -fsS {AT}/healthz", 120)

    # Reports of all, a plan, its step, and the way back.
    reports, plan = controller.folder / "reports", controller.folder / "plan.json"
    assert controller.play("pmuconf.kvm.gather", "-e", f"pmuconf_reports={reports}").status == 0
    assert {file.stem for file in reports.glob("*.json")} == set(hosts)
    joined = json.loads(controller.pmuconf("fleet", "report", "-f", "json", reports))
    assert (joined["summary"]["hosts"], joined["summary"]["vms"]) == (len(hosts), 2 * len(hosts))
    controller.pmuconf("fleet", "plan", reports, "-o", plan)
    steps = json.loads(plan.read_text())["steps"]
    assert [step["kind"] for step in steps] == ["policy"]
    asked = ("pmuconf.kvm.campaign", "-e", f"pmuconf_plan={plan}", "-e", "pmuconf_wave=all")
    checked = controller.play(*asked, "--check")
    assert checked.status == 0, checked.text
    assert all(set(pmus(machine).values()) == {"default"} for machine in hosts.values())
    carried = controller.play(*asked)
    assert carried.status == 0, carried.text
    expected = {host: {f"{host}-web": "off", f"{host}-db": "default"} for host in hosts}
    assert {host: pmus(machine) for host, machine in hosts.items()} == expected
    back = controller.play("pmuconf.kvm.rollback", "-e", "pmuconf_all=true")
    assert back.status == 0, back.text
    assert all(set(pmus(machine).values()) == {"default"} for machine in hosts.values())

    # Enforcing, by the service itself; and back to observing.
    enforced = controller.role(pmuconf_rules=rules, pmuconf_mode="enforce")
    assert enforced.status == 0, enforced.text
    for host, machine in hosts.items():
        machine.until(f"virsh dumpxml --inactive {host}-web | grep -q \"<pmu state='off'/>\"", 120)
    assert controller.role(pmuconf_rules=rules).status == 0
    for machine in hosts.values():
        assert machine.result("test -e /etc/polkit-1/rules.d/50-pmuconf.rules").returncode != 0

    # Gone, with the journal, and nothing of ours is left.
    gone = controller.role(pmuconf_state="absent", pmuconf_remove_journal=True)
    assert gone.status == 0, gone.text
    assert {host: machine.run(FILES) for host, machine in hosts.items()} == before
    assert all(machine.result("id pmuconf").returncode != 0 for machine in hosts.values())
