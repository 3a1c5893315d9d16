"""The service as systemd runs it on Debian 12 and 13: what it does, what it survives, and what it may not do."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from tests.docs.blocks import blocks_of
from tests.system.conftest import Built
from tests.system.machine import Machine
from tests.system.test_packages import files

DOCS: Final = Path(__file__).resolve().parents[2] / "docs"
AT: Final = "http://127.0.0.1:9754"
WHOLE_RULE: Final = "/usr/share/doc/pmuconf/examples/50-pmuconf.rules"
SHIPPED_RULE: Final = "/usr/share/polkit-1/rules.d/50-pmuconf.rules"
RULE: Final = "/etc/polkit-1/rules.d/50-pmuconf.rules"
ENFORCE: Final = "mode = enforce\ninterval = 3600\n"
LOG: Final = "journalctl --no-pager _SYSTEMD_INVOCATION_ID=$(systemctl show -P InvocationID pmuconf)"
"""What the service has said since it was started."""
KILLED_IF_DENIED: Final = "[Service]\nSystemCallErrorNumber=kill\nSystemCallFilter=set_mempolicy\n"
"""In place of EPERM, which a program may overlook, a system call that is not allowed ends the process. libnuma, which
libvirt's client on Debian 12 loads, tries one, to see whether the kernel knows a policy of memory. EPERM means no."""
WITH_NO_KVM: Final = "[Unit]\nConditionPathExists=\n"
"""A container has no /dev/kvm."""
FACTS: Final = "/run/pmuconf/host-facts.json"
FACTS_COMMAND: Final = f"pmuconf host facts --output {FACTS}"
"""Outside of the unit: a container has a boot ID and a /sys of its own. The unit's sandbox does not see all of that, so
the container would not take its facts for its own."""


@dataclass(frozen=True)
class Host:
    """A booted machine with pmuconf and node_exporter; each test finds the service stopped and nothing configured."""

    machine: Machine

    def run(self, *command: str, check: bool = True) -> str:
        return self.machine.run(*command, check=check)

    def until(self, command: str, seconds: float = 60.0) -> str:
        return self.machine.until(command, seconds)

    def configure(self, options: str) -> None:
        """These are the options of [service] from now on; not read yet."""
        self.machine.write("/etc/pmuconf/pmuconf.conf.d/test.conf", f"[service]\n{options}")

    def drop_in(self, unit: str, text: str) -> None:
        self.run(f"mkdir -p /run/systemd/system/{unit}.service.d")
        self.machine.write(f"/run/systemd/system/{unit}.service.d/test.conf", text)
        self.run("systemctl daemon-reload")

    def start(self, options: str = "", *, enforces: bool = False) -> None:
        """Start the service, and wait for its first look at all domains."""
        if enforces:
            self.run(f"cp {WHOLE_RULE} {RULE}")
            options += ENFORCE
        self.configure(options)
        self.run("systemctl start pmuconf")
        self.until(f"curl -fsS {AT}/metrics | grep -q '^pmuconf_service_passes_total [1-9]'")

    def define(self, name: str) -> None:
        self.machine.write(
            f"/root/{name}.xml",
            f"<domain type='qemu'><name>{name}</name><memory unit='MiB'>64</memory>"
            "<os><type arch='x86_64' machine='pc'>hvm</type></os><features><acpi/></features></domain>",
        )
        self.run(f"virsh define /root/{name}.xml")

    def until_off(self, name: str) -> None:
        self.until(f"virsh dumpxml --inactive {name} | grep -q \"<pmu state='off'/>\"")

    def metric(self, name: str) -> float:
        found = re.findall(rf"^{name} (\S+)$", self.run(f"curl -fsS {AT}/metrics"), re.MULTILINE)
        return float(found[0])

    def problems(self) -> set[str]:
        """The causes that /healthz names."""
        return {problem["cause"] for problem in json.loads(self.run(f"curl -sS {AT}/healthz"))["problems"]}

    def unit(self, value: str, unit: str = "pmuconf") -> str:
        return self.run(f"systemctl show -P {value} {unit}")

    def as_user(self, user: str, command: str) -> tuple[int, str]:
        """Status and words of a command that a user runs, with this user's groups and no other."""
        ran = self.machine.result(f"setpriv --reuid {user} --regid $(id -g {user}) --init-groups {command}")
        return ran.returncode, ran.stdout + ran.stderr


@pytest.fixture(scope="module")
def booted(built: Built, layer_with_pmuconf: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    machine = Machine(tmp_path_factory.mktemp(f"{built.suite}-service"), [layer_with_pmuconf, built.layer, built.root])
    machine.prepare("sh", "-euc", "apt-get -qq install -y --no-install-recommends prometheus-node-exporter")
    with machine:
        yield machine


@pytest.fixture
def host(booted: Machine) -> Host:
    booted.run("systemctl stop pmuconf pmuconf-host-facts.service pmuconf-host-facts.timer")
    booted.run("systemctl reset-failed; rm -rf /run/systemd/system/pmuconf*.service.d; systemctl daemon-reload")
    booted.run("rm -f /etc/pmuconf/pmuconf.conf.d/* /etc/polkit-1/rules.d/* /run/pmuconf/*")
    booted.run("systemctl start libvirtd; for vm in $(virsh list --all --name); do virsh undefine $vm; done")
    return Host(booted)


# ---- what it does --------------------------------------------------------------------------------------------------


def test_it_observes_then_enforces_after_an_edit_and_a_reload(host: Host) -> None:
    """On a system that has no procps."""
    assert host.run("command -v pkill", check=False) == ""
    host.define("web1")
    before = host.run("virsh dumpxml --inactive web1")
    host.start("interval = 3600\n")
    assert host.metric("pmuconf_service_enforces") == 0
    assert host.run("virsh dumpxml --inactive web1") == before
    process = host.unit("MainPID")

    host.run(f"cp {WHOLE_RULE} {RULE}")
    host.configure(ENFORCE)
    host.run("systemctl reload pmuconf")

    host.until_off("web1")
    assert host.unit("MainPID") == process


def test_a_new_domain_is_changed_by_its_event_and_by_no_later_look_at_all(host: Host) -> None:
    """The next look at all domains is an hour away. That it takes less than 2 s is measured by python -m tests.soak."""
    host.start(enforces=True)
    for name in ("web1", "web2"):
        host.define(name)
        host.until_off(name)
    assert host.metric("pmuconf_service_passes_total") == 1
    host.until(f"curl -fsS {AT}/metrics | grep -q '^pmuconf_service_reaction_seconds_count 2'")


def test_the_page_is_served_read_only_and_with_its_policy(host: Host) -> None:
    host.define("web1")
    host.start()
    assert host.run(f"curl -sS -o /dev/null -w '%{{http_code}}' -X POST {AT}/") == "405"
    head = host.run(f"curl -fsSI {AT}/")
    assert "Content-Type: text/html; charset=utf-8" in head
    assert "Content-Security-Policy: default-src 'none'; " in head
    assert "web1" in host.run(f"curl -fsS {AT}/")


def test_node_exporter_serves_the_metrics_as_the_documents_say(host: Host) -> None:
    (block,) = (block for block in blocks_of("docs/monitoring.md") if block.run_by == "tests/system/test_service.py")
    for command in block.commands():
        host.run(command.text)
    host.define("web1")
    host.start("textfile = /var/lib/pmuconf/pmuconf.prom\n")
    host.until("curl -fsS http://127.0.0.1:9100/metrics | grep -q '^pmuconf_service_connected 1'")
    assert "node_textfile_scrape_error 0" in host.run("curl -fsS http://127.0.0.1:9100/metrics")


# ---- what it survives ----------------------------------------------------------------------------------------------


def test_killed_it_comes_back_and_nothing_is_lost(host: Host) -> None:
    host.drop_in("pmuconf", "[Service]\nRestartSec=200ms\n")
    host.start(enforces=True)
    host.define("web1")
    host.until_off("web1")
    before = host.run("pmuconf journal -f json")
    process = host.unit("MainPID")
    host.run(f"kill -9 {process}; virsh undefine web1")
    host.define("web2")
    host.until_off("web2")
    assert (host.unit("NRestarts"), host.unit("MainPID") != process) == ("1", True)
    entries = [json.loads(text) for text in (before, host.run("pmuconf journal -f json"))]
    assert all(entry in entries[1] for entry in entries[0])
    assert len(entries[1]) == len(entries[0]) + 1


def test_hung_it_is_ended_by_the_watchdog_and_comes_back(host: Host) -> None:
    host.drop_in("pmuconf", "[Service]\nRestartSec=200ms\nWatchdogSec=2\n")
    host.start(enforces=True)
    process = host.unit("MainPID")
    host.run(f"kill -STOP {process}")
    host.until(f"[ $(systemctl show -P NRestarts pmuconf) = 1 ] && curl -fsS {AT}/healthz")
    assert host.unit("MainPID") not in (process, "0")
    log = host.run("journalctl --no-pager -o cat -u pmuconf")
    assert "Watchdog timeout" in log
    host.define("web1")
    host.until_off("web1")


def test_libvirtd_may_be_restarted_and_be_away(host: Host) -> None:
    host.start(enforces=True)
    process = host.unit("MainPID")
    host.run("systemctl restart libvirtd")
    host.until(f"curl -fsS {AT}/metrics | grep -q '^pmuconf_service_connections_total [2-9]'")
    host.define("web1")
    host.until_off("web1")

    host.run("systemctl stop libvirtd libvirtd.socket libvirtd-ro.socket libvirtd-admin.socket")
    host.until(f'curl -sS {AT}/healthz | grep -q \'"area": "libvirt"\'')
    assert host.run(f"curl -sS -o /dev/null -w '%{{http_code}}' {AT}/healthz") == "503"
    assert host.run(f"curl -sS -o /dev/null -w '%{{http_code}}' {AT}/") == "200", "the page of the last report"
    host.run("systemctl start libvirtd")
    host.until(f"curl -fsS {AT}/healthz")
    assert (host.unit("MainPID"), host.unit("NRestarts")) == (process, "0")


def test_after_a_reboot_it_runs_and_the_facts_of_before_are_void(host: Host) -> None:
    host.run("systemctl enable pmuconf pmuconf-host-facts.timer")
    host.run(f"{FACTS_COMMAND}; cp {FACTS} /var/tmp/kept.json", check=False)
    status = "pmuconf status --no-sample --host-facts"
    assert "another boot" not in host.run(f"{status} /var/tmp/kept.json", check=False)

    host.machine.power_off()
    host.machine.boot()

    host.until(f"curl -fsS {AT}/healthz")
    assert host.unit("ActiveState", "pmuconf-host-facts.timer") == "active"
    assert host.run("ls /run/pmuconf") == ""
    assert "another boot" in host.run(f"{status} /var/tmp/kept.json", check=False)
    host.run(FACTS_COMMAND, check=False)
    assert "another boot" not in host.run(f"{status} {FACTS}", check=False)
    host.run("systemctl disable pmuconf pmuconf-host-facts.timer")


# ---- what it may and may not do ------------------------------------------------------------------------------------


def test_the_facts_are_made_in_their_sandbox_by_unit_and_timer(host: Host) -> None:
    host.run("systemctl start pmuconf-host-facts.service")
    assert host.unit("ConditionResult", "pmuconf-host-facts") == "no", "a container has no /dev/kvm"
    host.drop_in("pmuconf-host-facts", WITH_NO_KVM + KILLED_IF_DENIED)
    host.run("systemctl start pmuconf-host-facts.service")
    assert host.unit("Result", "pmuconf-host-facts") == "success"
    assert host.run("stat -c '%U %a' /run/pmuconf/host-facts.json") == "root 644"
    assert json.loads(host.run("cat /run/pmuconf/host-facts.json"))["format"] == "pmuconf-host-facts"
    host.run("systemctl start pmuconf-host-facts.timer")
    assert host.unit("NextElapseUSecMonotonic", "pmuconf-host-facts.timer") not in ("", "infinity")


def test_no_system_call_is_denied(host: Host) -> None:
    host.drop_in("pmuconf", KILLED_IF_DENIED)
    host.start("textfile = /var/lib/pmuconf/pmuconf.prom\nhtml = /var/lib/pmuconf/report.html\n", enforces=True)
    process = host.unit("MainPID")
    host.define("web1")
    host.until_off("web1")
    host.run("systemctl reload pmuconf; systemctl restart libvirtd")
    host.until(f"curl -fsS {AT}/metrics | grep -q '^pmuconf_service_connections_total [2-9]'")
    host.run(f"curl -fsS {AT}/ >/dev/null; test -s /var/lib/pmuconf/report.html")
    assert (host.unit("MainPID"), host.unit("ActiveState")) == (process, "active")
    host.run("systemctl stop pmuconf")
    assert host.unit("Result") == "success"


def test_the_sandboxes_are_as_tight_as_the_documents_say(host: Host) -> None:
    row = r"^\| `(pmuconf[\w-]*\.service)` .* (\d\.\d) \|$"
    table = re.findall(row, (DOCS / "service.md").read_text(), re.MULTILINE)
    assert len(table) == 2
    for unit, exposure in table:
        assert f": {exposure} " in host.run(f"systemd-analyze security --no-pager {unit} | tail -1")


def test_others_are_refused(host: Host) -> None:
    host.define("web1")
    host.start()
    for user, cause in (("nobody", "journal-untrusted"), ("pmuconf", "libvirt-permission")):
        status, said = host.as_user(user, "pmuconf apply")
        assert (status, cause in said) == (255, True), said
        assert host.as_user(user, "virsh -c qemu:///system list")[0] == 1
        assert host.as_user(user, "virsh -r -c qemu:///system list")[0] == 0
    assert host.as_user("nobody", "pmuconf journal")[0] == 255
    assert "state='off'" not in host.run("virsh dumpxml --inactive web1")


@pytest.fixture
def access_control(host: Host) -> Iterator[Host]:
    """libvirt asks polkit about each call, and a rule of the administrator's denies all that ours does not allow."""
    host.run("cp /etc/libvirt/libvirtd.conf /root/; echo 'access_drivers = [\"polkit\"]' >>/etc/libvirt/libvirtd.conf")
    host.run(f"systemctl restart libvirtd; mv {SHIPPED_RULE} /root/shipped.rules")
    host.machine.write(
        "/etc/polkit-1/rules.d/90-deny.rules",
        'polkit.addRule(function (action, subject) { if (subject.user == "pmuconf" && '
        'action.id.indexOf("org.libvirt.") == 0) return polkit.Result.NO; });\n',
    )
    yield host
    host.run(f"mv /root/shipped.rules {SHIPPED_RULE}; cp /root/libvirtd.conf /etc/libvirt/; systemctl restart libvirtd")


def test_the_rule_has_exactly_the_actions_that_are_needed(access_control: Host) -> None:
    host = access_control
    host.start(enforces=True)
    host.define("web1")
    host.until_off("web1")
    actions = re.findall(r'"(org\.libvirt\.[\w.-]+)"', host.run(f"cat {WHOLE_RULE}"))
    assert len(actions) == 10
    for action in actions:
        if action == "org.libvirt.api.connect.read":
            continue  # the time of the processors, for the share of exits, and which host another connection leads to
        host.run(f"systemctl stop pmuconf; virsh undefine web1; grep -v '\"{action}\"' {WHOLE_RULE} >{RULE}")
        host.run("systemctl reset-failed pmuconf; systemctl start pmuconf")
        host.define("web1")
        if action == "org.libvirt.api.domain.getattr":  # without it, the domain is not even listed
            host.until(f"{LOG} -o cat | grep '0 domains'")
            host.run("systemctl reload pmuconf")
            host.until(f"[ $({LOG} -o cat | grep -c '0 domains') = 2 ]")
        else:
            host.until(f"{LOG} -o cat | grep libvirt-permission")
        assert "state='off'" not in host.run("virsh dumpxml --inactive web1"), action


def test_with_libvirt_s_access_control_the_rule_of_the_package_is_enough_to_observe(access_control: Host) -> None:
    host = access_control
    host.define("web1")
    host.run(f"cp /root/shipped.rules {RULE}")
    host.start()
    assert (host.metric("pmuconf_service_connected"), host.problems()) == (1, set())
    assert "web1" in host.run(f"curl -fsS {AT}/")
    for action in re.findall(r'"(org\.libvirt\.[\w.-]+)"', host.run("cat /root/shipped.rules")):
        assert action.endswith((".monitor", ".getattr", ".read", ".search-domains")), action


def test_metrics_are_served_beyond_loopback_to_whom_a_drop_in_allows_it(host: Host) -> None:
    host.machine.ip("address", "replace", "10.99.0.1/24", "dev", "lo")
    there = "curl -fsS --max-time 3 http://10.99.0.1:9754/healthz"
    host.start()
    host.configure("listen = 10.99.0.1:9754\n")
    host.run("systemctl reload pmuconf", check=False)
    host.until(f'curl -sS {AT}/healthz | grep -q \'"area": "configuration"\'')
    assert host.machine.result(there).returncode != 0

    host.configure("listen = 10.99.0.1:9754\nlisten_beyond_loopback = true\n")
    host.run("systemctl restart pmuconf")
    host.until("journalctl --no-pager -o cat -u pmuconf | grep -q 'http://10.99.0.1:9754/'")
    # In a container systemd can't attach its packet filter, so that only its setting is seen.
    assert "10.99.0.0/24" not in host.unit("IPAddressAllow")
    assert "0.0.0.0/0" in host.unit("IPAddressDeny")

    host.drop_in("pmuconf", "[Service]\nIPAddressAllow=10.99.0.0/24\n")
    host.run("systemctl restart pmuconf")
    host.until(there)
    assert "10.99.0.0/24" in host.unit("IPAddressAllow")


# ---- what it says --------------------------------------------------------------------------------------------------


def test_the_journal_of_systemd_has_its_levels_and_fields(host: Host) -> None:
    host.run("systemctl stop libvirtd libvirtd.socket libvirtd-ro.socket libvirtd-admin.socket")
    host.configure("")
    host.run("systemctl start pmuconf")
    said = f"{LOG} -o json _COMM=pmuconf"
    host.until(f"{said} | grep -q 'libvirt-unreachable'")
    host.run("systemctl start libvirtd")
    host.until(f"{said} | grep -q '0 drift'")
    lines = [json.loads(line) for line in host.run(said).splitlines()]
    users = {(line["SYSLOG_IDENTIFIER"], line["_SYSTEMD_UNIT"], line["_UID"]) for line in lines}
    assert users == {("pmuconf", "pmuconf.service", host.run("id -u pmuconf"))}
    levels = {line["PRIORITY"] for line in lines if "libvirt-unreachable" in line["MESSAGE"]}
    assert levels in ({"3"}, {"4"})
    assert {line["PRIORITY"] for line in lines if "0 drift" in line["MESSAGE"]} == {"6"}
    assert not any(line["MESSAGE"].startswith("<") for line in lines)

    host.configure("log_format = json\n")
    host.run("systemctl restart pmuconf")
    host.until(f"{said} | grep -q '0 drift'")
    events = {json.loads(json.loads(line)["MESSAGE"])["event"] for line in host.run(said).splitlines()}
    assert {"started", "pass"} <= events


def test_the_selftest_finds_nothing_wrong_and_changes_nothing(host: Host) -> None:
    host.drop_in("pmuconf-host-facts", WITH_NO_KVM)
    host.run("systemctl enable pmuconf pmuconf-host-facts.timer; systemctl start pmuconf-host-facts.timer")
    host.run("systemctl start pmuconf-host-facts.service")
    host.run(FACTS_COMMAND, check=False)
    host.start()
    before = files(host.machine), host.run("virsh list --all")
    ran = host.machine.result("pmuconf", "selftest", "-f", "json")
    assert (files(host.machine), host.run("virsh list --all")) == before
    states = {check["name"]: (check["state"], check["detail"]) for check in json.loads(ran.stdout)["checks"]}
    # A container hides the kernel's memory and messages, and KVM: facts of a host without KVM are void.
    assert {name for name, (state, _) in states.items() if state == "failed"} <= {"host-facts"}, ran.stdout
    assert {name for name, (state, _) in states.items() if state == "not checked"} <= {"kernel", "denials"}
    assert ran.returncode in (1, 2)

    host.run("systemctl stop pmuconf; systemctl disable pmuconf; chmod 644 /var/lib/pmuconf/journal.sqlite")
    ran = host.machine.result("pmuconf", "selftest", "-f", "json")
    host.run("systemctl disable pmuconf-host-facts.timer; chmod 600 /var/lib/pmuconf/journal.sqlite")
    wrong = {check["name"] for check in json.loads(ran.stdout)["checks"] if check["state"] == "failed"}
    assert ({"pmuconf-service", "journal", "health"} <= wrong, ran.returncode) == (True, 2)
