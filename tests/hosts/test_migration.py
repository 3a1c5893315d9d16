"""Live migration of emulated guests between two libvirts whose policies differ: Debian 12 to Debian 13 and back."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from tests.functional import oracle
from tests.hosts.conftest import BINS, SUITES, Debian
from tests.hosts.controller import Controller
from tests.hosts.lan import Lan
from tests.support.domains import domain_uuid, plain_domain
from tests.system.machine import Machine

HOME, AWAY = "h1", "h3"
POLICIES: Final = {HOME: "", AWAY: "[policy]\nrules = kept\n\n[rule:kept]\npmu = on\ndomain = web*\n"}
"""Off at home, which is the default, and on where they go."""
RULE: Final = "/usr/share/doc/pmuconf/examples/50-pmuconf.rules"
Pmu = tuple[str | None, str | None]
"""The PMU state of the running guest, and of its next boot; None: there is none."""


@dataclass(frozen=True)
class Hosts:
    """Two booted machines with pmuconf."""

    machines: Mapping[str, Machine]
    controller: Controller

    def start(self, host: str, states: Mapping[str, str | None]) -> None:
        """Define and start guests with these PMU states."""
        for name, state in states.items():
            self.machines[host].write(f"/root/{name}.xml", plain_domain(name, pmu=state))
            self.machines[host].run(f"virsh define /root/{name}.xml && virsh start {name}")

    def migrate(self, name: str, source: str, target: str, *options: str) -> None:
        """Move a running guest, from libvirt to libvirt over SSH."""
        words = ["virsh", "migrate", "--live", "--p2p", *options, name, f"qemu+ssh://{target}/system"]
        self.machines[source].run(*words)

    def pmu(self, host: str, name: str) -> Pmu:
        """By libvirt's own word."""
        machine = self.machines[host]
        about = machine.run("virsh", "dominfo", name)
        running = re.search(r"^State: +running$", about, re.MULTILINE) is not None
        persistent = re.search(r"^Persistent: +yes$", about, re.MULTILINE) is not None
        live = oracle.pmu(machine.run("virsh", "dumpxml", name)) if running else None
        return live, oracle.pmu(machine.run("virsh", "dumpxml", "--inactive", name)) if persistent else None

    def pmus(self, host: str) -> dict[str, Pmu]:
        return {name: self.pmu(host, name) for name in self.machines[host].run("virsh list --all --name").split()}

    def started_with(self, host: str, name: str) -> str | None:
        """The value of pmu that QEMU was started with."""
        lines = self.machines[host].run(
            "for p in $(pidof qemu-system-x86_64); do tr '\\0' ' ' </proc/$p/cmdline; echo; done"
        )
        (line,) = [line for line in lines.splitlines() if f"guest={name}," in line]
        found = re.search(r" -cpu \S*\bpmu=(on|off)", line)
        return found and found[1]

    def json(self, host: str, *words: str) -> list[dict[str, Any]]:
        """What a command of pmuconf says there."""
        answer: list[dict[str, Any]] = json.loads(self.machines[host].result("pmuconf", *words, "-f", "json").stdout)
        return answer

    def journal(self, host: str) -> list[tuple[str, str, str, str]]:
        """The changes in the journal, the oldest first."""
        made = [(row["name"], row["old"], row["new"], row["status"]) for row in self.json(host, "journal")]
        return made[::-1]

    def statuses(self, host: str) -> dict[str, str]:
        """Each domain's status in the policy of its host."""
        return {row["name"]: row["status"] for row in self.json(host, "audit")}

    def gather(self, folder: Path) -> Path:
        """The reports of both, by Ansible over SSH."""
        ran = self.controller.play("pmuconf.kvm.gather", "-e", f"pmuconf_reports={folder}")
        assert ran.status == 0, ran.text
        assert {file.name for file in folder.iterdir()} == {f"{HOME}.json", f"{AWAY}.json"}
        return folder


@pytest.fixture(scope="module")
def both(lan: Lan, debian_of: Mapping[str, Debian]) -> Iterator[Hosts]:
    machines = {host: lan.machines[host] for host in (HOME, AWAY)}
    for host, machine in machines.items():
        (machine.root / "srv/pmuconf.deb").write_bytes(debian_of[SUITES[host]].package.read_bytes())
        machine.run("apt-get -qq install -y --no-install-recommends /srv/pmuconf.deb 2>&1; rm /srv/pmuconf.deb")
        machine.write("/etc/pmuconf/pmuconf.conf.d/policy.conf", POLICIES[host])
    yield Hosts(machines, Controller(lan, BINS["2.19"], {host: {} for host in machines}))
    for machine in machines.values():
        machine.run("systemctl stop pmuconf; apt-get -qq purge -y pmuconf; rm -rf /etc/pmuconf", check=False)


@pytest.fixture
def hosts(both: Hosts) -> Iterator[Hosts]:
    """Without a guest and without a change in the journal."""
    yield both
    for machine in both.machines.values():
        machine.run("systemctl stop pmuconf; rm -f /var/lib/pmuconf/* /etc/polkit-1/rules.d/*")
        machine.run(
            "for vm in $(virsh list --name); do virsh destroy $vm; done; "
            "for vm in $(virsh list --all --name); do virsh undefine $vm; done"
        )


GOES: Final = ("--persistent", "--undefinesource")
STAYS: Final = ("--persistent",)


def test_a_migration_changes_no_pmu_state(hosts: Hosts) -> None:
    """There and back; neither of the running guest, nor of the next boot that pmuconf has written."""
    states: dict[str, str | None] = {"web-default": None, "web-on": "on", "web-off": "off"}
    hosts.start(HOME, states)
    hosts.machines[HOME].result("pmuconf apply")
    before = hosts.pmus(HOME)
    assert before == {"web-default": ("default", "off"), "web-on": ("on", "off"), "web-off": ("off", "off")}
    made = hosts.journal(HOME)
    assert made == [("web-default", "default", "off", "done"), ("web-on", "on", "off", "done")]
    assert hosts.statuses(HOME) == {"web-default": "pending", "web-on": "pending", "web-off": "ok"}

    for source, target in ((HOME, AWAY), (AWAY, HOME)):
        for name in states:
            hosts.migrate(name, source, target, *GOES)
        assert (hosts.pmus(source), hosts.pmus(target)) == ({}, before)
        assert {name: hosts.started_with(target, name) for name in states} == states
        wanted = {AWAY: dict.fromkeys(states, "drift"), HOME: {**dict.fromkeys(states, "pending"), "web-off": "ok"}}
        assert hosts.statuses(target) == wanted[target]
        assert (hosts.journal(HOME), hosts.json(AWAY, "journal")) == (made, [])


def test_a_change_is_taken_back_where_the_vm_is_now(hosts: Hosts) -> None:
    """The host that made it can't; the playbook does, once, and the journal there has it."""
    hosts.start(HOME, {"web1": None, "web2": "on"})
    hosts.machines[HOME].result("pmuconf apply")
    hosts.migrate("web1", HOME, AWAY, *GOES)
    (left,) = hosts.json(HOME, "rollback", domain_uuid("web1"))
    assert left["outcome"] == "vanished"
    alone = hosts.machines[AWAY].result("pmuconf rollback web1")
    assert (alone.returncode, "no-such-change" in alone.stderr) == (255, True)
    assert hosts.pmu(AWAY, "web1") == ("default", "off")

    play = ("pmuconf.kvm.rollback", "-e", json.dumps({"pmuconf_names": ["web1"]}))
    for check, changed in ((["--check"], 1), ([], 1), ([], 0)):
        ran = hosts.controller.play(*play, *check)
        assert (ran.status, ran.changed) == (0, {HOME: 0, AWAY: changed}), ran.text
        assert hosts.pmu(AWAY, "web1") == ("default", "off" if check else "default")
    assert hosts.pmu(HOME, "web2") == ("on", "off"), "not asked for"
    assert [row[1:3] for row in hosts.journal(AWAY)][-1] == ("off", "default")


@pytest.mark.parametrize("options", [GOES, STAYS], ids=["undefined behind it", "its definition stays"])
def test_what_both_hosts_have_changed_is_taken_back(hosts: Hosts, options: Sequence[str]) -> None:
    """Their policies differ, and each service enforces its own. No running guest notices."""
    hosts.start(HOME, {"web1": None})
    for machine in hosts.machines.values():
        machine.run(f"cp {RULE} /etc/polkit-1/rules.d/")
        machine.write("/etc/pmuconf/pmuconf.conf.d/service.conf", "[service]\nmode = enforce\n")
        machine.run("systemctl start pmuconf")
    until_next_boot(hosts, HOME, "off")
    hosts.migrate("web1", HOME, AWAY, *options)
    until_next_boot(hosts, AWAY, "on")
    assert hosts.pmu(AWAY, "web1") == ("default", "on")
    hosts.migrate("web1", AWAY, HOME, *options)
    until_next_boot(hosts, HOME, "off")
    assert hosts.pmu(HOME, "web1") == ("default", "off")
    hosts.migrate("web1", HOME, AWAY, *options)
    until_next_boot(hosts, AWAY, "on")
    for machine in hosts.machines.values():
        machine.run("systemctl stop pmuconf; rm /etc/pmuconf/pmuconf.conf.d/service.conf")
    assert hosts.pmu(AWAY, "web1") == ("default", "on")
    assert [row[1:3] for row in hosts.journal(HOME)] == [("default", "off"), ("on", "off")]
    assert [row[1:3] for row in hosts.journal(AWAY)] == [("off", "on")] * 2

    ran = hosts.controller.play("pmuconf.kvm.rollback", "-e", "pmuconf_all=true")
    assert ran.status == 0, ran.text
    assert hosts.pmu(AWAY, "web1") == ("default", "default")
    again = hosts.controller.play("pmuconf.kvm.rollback", "-e", "pmuconf_all=true")
    assert (again.status, again.changed) == (0, {HOME: 0, AWAY: 0}), again.text


def until_next_boot(hosts: Hosts, host: str, state: str) -> None:
    """Wait until the host's service has written this state."""
    hosts.machines[host].until(f"virsh dumpxml --inactive web1 | grep -q \"<pmu state='{state}'/>\"", 60)


def test_the_report_of_both(hosts: Hosts) -> None:
    """A VM is one VM, wherever it is, and whatever it left behind; and a transient one has no next boot."""
    hosts.start(HOME, {"web1": None, "web2": None, "web3": None})
    hosts.machines[HOME].result("pmuconf apply")
    controller = hosts.controller
    old = hosts.gather(controller.folder / "old")
    hosts.migrate("web1", HOME, AWAY, *GOES)
    hosts.migrate("web2", HOME, AWAY, *STAYS)
    hosts.migrate("web3", HOME, AWAY)  # it is transient there
    new = hosts.gather(controller.folder / "new")
    assert hosts.pmus(AWAY) == {"web1": ("default", "off"), "web2": ("default", "off"), "web3": ("default", None)}
    assert hosts.statuses(AWAY) == {"web1": "drift", "web2": "drift", "web3": "transient"}

    for folder, domains in ((old, {HOME: 3, AWAY: 0}), (new, {HOME: 2, AWAY: 3})):
        report = json.loads(controller.pmuconf("fleet", "report", folder, "-f", "json"))
        assert (report["summary"]["hosts"], report["summary"]["running"]) == (2, 3)
        assert {host["host"]: host["vms"] for host in report["hosts"]} == domains
    changed = json.loads(controller.pmuconf("fleet", "diff", old, new, "-f", "json"))
    moved = {(vm["name"], vm["change"], vm["old"]["host"], vm["new"]["host"]) for vm in changed["listed"]}
    assert moved == {(name, "moved", HOME, AWAY) for name in ("web1", "web2", "web3")}
    assert (changed["severity"], changed["vms"]["lost"], changed["vms"]["gained"]) == (0, 0, 0)

    plan = json.loads(controller.pmuconf("fleet", "plan", new))
    asked = {
        (step["kind"], host["host"], vm["name"])
        for step in plan["steps"]
        for wave in step["waves"]
        for host in wave["hosts"]
        for vm in host["vms"]
    }
    assert asked >= {("policy", AWAY, "web1"), ("policy", AWAY, "web2")}
    assert ("policy", AWAY, "web3") not in asked
