"""What a container hides: /dev/kvm and kernel memory, packet filters, the kernel's log, AppArmor, a reboot.

The machine's kernel is its Debian's own, which is known to be without the guard. Its CPU is emulated and has no PMU, so
kvm.enable_pmu is N.
"""

from __future__ import annotations

import http.client
import json
from typing import Any, Final

import pytest

from tests.system.test_service import ENFORCE, FACTS, RULE, WHOLE_RULE
from tests.vm.machine import VirtualMachine

PROOF: Final = "/run/pmuconf/kernel-proof.json"
AT: Final = "http://127.0.0.1:9754"
SLOW: Final = 900.0
"""Seconds that something may take there at the most."""
# What is denied ends the process, instead of EPERM, which a program may overlook; and all is slow there.
STRICT: Final = "[Service]\nSystemCallErrorNumber=kill\nSystemCallFilter=set_mempolicy\nTimeoutStartSec=900\n"
PORT: Final = 9754


def drop_in(vm: VirtualMachine, unit: str, text: str) -> None:
    vm.run(f"mkdir -p /etc/systemd/system/{unit}.service.d")
    vm.write(f"/etc/systemd/system/{unit}.service.d/test.conf", text)
    vm.run("systemctl daemon-reload")


def configure(vm: VirtualMachine, service: str) -> None:
    vm.write("/etc/pmuconf/pmuconf.conf.d/test.conf", f"[host]\nprove = true\n[service]\n{service}")


def facts(vm: VirtualMachine) -> Any:
    return json.loads(vm.run(f"cat {FACTS}"))["facts"]


def reached(vm: VirtualMachine) -> bool:
    """Whether the service answers from outside of the machine."""
    connection = http.client.HTTPConnection("127.0.0.1", vm.other_port(PORT), timeout=10)
    try:
        connection.request("GET", "/healthz")
        connection.getresponse().read()
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
    return True


@pytest.fixture(scope="module")
def host(vm: VirtualMachine) -> VirtualMachine:
    """The machine with a service that enforces, and with facts that the unit has made, with the experiment."""
    vm.run(f"cp {WHOLE_RULE} {RULE}")
    configure(vm, ENFORCE)
    for unit in ("pmuconf", "pmuconf-host-facts"):
        drop_in(vm, unit, STRICT)
    vm.run("systemctl start pmuconf-host-facts.service")
    vm.run("systemctl enable --now pmuconf pmuconf-host-facts.timer")
    vm.until(f"curl -fsS {AT}/metrics | grep -q '^pmuconf_service_passes_total [1-9]'", SLOW)
    return vm


def test_the_facts_are_those_of_the_running_kernel_and_the_experiment_agrees(host: VirtualMachine) -> None:
    """In the unit's sandbox, with each system call that is denied as the end of the process."""
    assert host.run("systemctl show -P Result pmuconf-host-facts") == "success"
    guard = facts(host)["guard"]
    assert (guard["verdict"], guard["evidence"], guard["source"]) == (
        "unguarded",
        "observed",
        "live text (/proc/kcore)",
    )
    assert json.loads(host.run(f"cat {PROOF}"))["calls"] == 201
    assert [note for note in guard["notes"] if "201 times" in note and "as the code says" in note] != []
    assert host.run("cat /sys/kernel/tracing/kprobe_events; ls /sys/kernel/tracing/instances") == ""


def test_where_the_experiment_contradicts_the_code_the_verdict_is_unknown(host: VirtualMachine) -> None:
    """As if it had counted nothing: the unit's next run says both."""
    host.run(f"""cp {PROOF} /root/proof; sed -i 's/"calls": 201/"calls": 0/' {PROOF}""")
    host.run("systemctl start pmuconf-host-facts.service")
    guard = facts(host)["guard"]
    host.run(f"cp /root/proof {PROOF}; systemctl start pmuconf-host-facts.service")
    assert (guard["verdict"], guard["cause"]) == ("unknown", "proof-disagrees")
    assert "the code says unguarded (no-test), but kvm_pmu_trigger_event was called 0 times" in guard["message"]
    assert facts(host)["guard"]["verdict"] == "unguarded"


def test_the_service_uses_the_facts_of_a_guest_that_runs(host: VirtualMachine) -> None:
    """By KVM in the machine; AppArmor confines libvirtd and the guest."""
    host.run("virsh list")  # starts it
    assert host.run("cat /proc/$(systemctl show -P MainPID libvirtd)/attr/current") == "libvirtd (enforce)"
    host.write(
        "/root/web1.xml",
        "<domain type='kvm'><name>web1</name><memory unit='MiB'>64</memory>"
        "<os><type arch='x86_64' machine='pc'>hvm</type></os><features><acpi/></features></domain>",
    )
    host.run("virsh define /root/web1.xml; virsh start --paused web1")
    host.until("virsh dumpxml --inactive web1 | grep -q \"<pmu state='off'/>\"", SLOW)
    host.run("systemctl start pmuconf-host-facts.service")
    (of_guest,) = facts(host)["vms"]
    assert of_guest["kernel_pmu"] == "disabled"
    assert host.run("cat /proc/$(cat /run/libvirt/qemu/web1.pid)/attr/current").endswith("(enforce)")
    host.run("systemctl reload pmuconf")
    host.until(f"curl -fsS {AT}/metrics | grep '^pmuconf_vms.*kernel-unguarded'", SLOW)
    assert json.loads(host.run(f"curl -fsS {AT}/healthz"))["problems"] == []


def test_packets_from_elsewhere_reach_the_service_where_a_drop_in_allows_it(host: VirtualMachine) -> None:
    configure(host, f"{ENFORCE}listen = 0.0.0.0:{PORT}\nlisten_beyond_loopback = true\n")
    host.run("systemctl restart pmuconf")
    host.until(f"curl -fsS {AT}/healthz", SLOW)
    assert not reached(host), "IPAddressDeny= keeps them out"

    drop_in(host, "pmuconf", f"{STRICT}IPAddressAllow=10.0.2.0/24\n")
    host.run("systemctl restart pmuconf")
    host.until(f"curl -fsS {AT}/healthz", SLOW)
    assert reached(host)


def test_kvm_that_is_loaded_anew_makes_the_facts_void_and_then_others(host: VirtualMachine) -> None:
    host.run("virsh destroy web1", check=False)
    host.run("modprobe -r kvm_amd kvm && modprobe kvm_amd")
    status = f"pmuconf status --no-sample --host-facts {FACTS}"
    assert "another load of KVM" in host.run(status, check=False)
    host.run("systemctl start pmuconf-host-facts.service")
    assert "another load" not in host.run(status, check=False)
    assert facts(host)["guard"]["verdict"] == "unguarded"
    assert json.loads(host.run(f"cat {PROOF}"))["calls"] == 201


def test_after_a_reboot_the_facts_are_void_and_the_timer_makes_others(host: VirtualMachine) -> None:
    host.run(f"cp {FACTS} {PROOF} /var/tmp/")
    host.reboot()
    host.until(f"curl -fsS {AT}/healthz", SLOW)
    assert "another boot" in host.run("pmuconf status --no-sample --host-facts /var/tmp/host-facts.json", check=False)
    host.until(f"test -e {FACTS}", SLOW)
    assert facts(host)["boot_id"] == host.run("cat /proc/sys/kernel/random/boot_id")
    assert host.run(f"cat {PROOF}") != host.run("cat /var/tmp/kernel-proof.json")
    host.until(f"curl -fsS {AT}/healthz | grep -q '\"problems\": \\[\\]'", SLOW)


def test_nothing_is_wrong_and_nothing_was_denied(host: VirtualMachine) -> None:
    """Of both boots; each drop-in of the test is one that selftest names."""
    checks = json.loads(host.result("pmuconf", "selftest", "-f", "json").stdout)["checks"]
    states = {check["name"]: (check["state"], check["detail"]) for check in checks}
    wrong = {name: state for name, state in states.items() if state[0] != "ok"}
    assert {name for name in wrong if not name.endswith("-sandbox")} == set(), wrong
    said = host.run("journalctl --no-pager -o cat --grep 'SECCOMP|type=1326|apparmor=\"DENIED\"'", check=False)
    assert [line for line in said.splitlines() if "pmuconf" in line] == []
