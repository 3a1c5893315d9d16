"""VMs by their processes: real QEMUs under KVM and under TCG, a small monitor that is none, and libvirt beside them.

The oracle is how each was started, and what /proc says of its open files, read anew here. What the kernel and KVM
hold is put in where a yes or a no is asked for: this machine has no choice. The real ones are those of the lab.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import libvirt
import pytest

from pmuconf.audit.processes import vms_of_processes
from pmuconf.host import survey
from pmuconf.host.root import Root
from pmuconf.host.vms.live import live_vms
from pmuconf.hostfacts import Evidence, GuardFinding, HostFacts, KernelPmu, LiveVm, Verdict
from pmuconf.policy import Policy
from tests.functional.host import Host, Ran, run, until
from tests.functional.served import Threaded, service_settings
from tests.support.domains import plain_domain
from tests.unit.unprivileged import as_nobody

pytestmark = pytest.mark.skipif(not os.access("/dev/kvm", os.R_OK | os.W_OK), reason="needs /dev/kvm")

GUARDED = GuardFinding(Verdict.GUARDED, "guard-in-caller", "it asks", Evidence.OBSERVED)
HOSTILE = "evil\x1b[31m\n<b>=1" + "x" * 5000
# A monitor of our own: KVM_CREATE_VM and KVM_CREATE_VCPU, and then nothing more.
MONITOR = """
import fcntl, os, sys, time
vm = fcntl.ioctl(os.open("/dev/kvm", os.O_RDWR), 0xAE01, 0)
vcpu = fcntl.ioctl(vm, 0xAE41, 0)
print(vcpu, flush=True)
time.sleep(600)
"""


class Machines:
    """Processes that run VMs, each by the name that the test gives it; all are ended with the test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.processes: dict[str, subprocess.Popen[str]] = {}

    def pid(self, name: str) -> int:
        return self.processes[name].pid

    def qemu(self, key: str, *words: str, name: str | None = None) -> None:
        """A paused QEMU, once it answers; one that does not start here skips the test."""
        monitor = self.folder / f"{key}.qmp"
        command = ["qemu-system-x86_64", "-S", "-m", "16", "-nodefaults", "-no-user-config", "-display", "none"]
        command += ["-name", f"guest={(key if name is None else name).replace(',', ',,')}"]
        command += ["-qmp", f"unix:{monitor},server=on,wait=off", *words]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        self.processes[key] = process
        # The socket comes before the vCPUs.
        until(lambda: process.poll() is not None or (monitor.exists() and self.answers(monitor)), f"{key} to start")
        if process.returncode is not None:
            assert process.stderr is not None
            pytest.skip(f"this QEMU does not start here: {process.stderr.read()[-300:]}")

    @staticmethod
    def answers(monitor: Path) -> bool:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(20)
            connection.connect(str(monitor))
            return b'"QMP"' in connection.recv(4096)
        return False

    def monitor(self, key: str, *words: str) -> None:
        """A VM of our own monitor, under the name of one that is known."""
        link = self.folder / "firecracker"
        if not link.is_symlink():
            link.symlink_to(os.path.realpath(sys.executable))
        command = [str(link), "-c", MONITOR, *words]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
        self.processes[key] = process
        assert process.stdout is not None
        if not process.stdout.readline():
            pytest.skip("KVM makes no VM here")

    def end(self, key: str) -> None:
        process = self.processes.pop(key)
        process.kill()
        process.communicate()

    def close(self) -> None:
        for key in list(self.processes):
            self.end(key)


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[Machines]:
    made = Machines(tmp_path)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def all_kinds(machines: Machines) -> Machines:
    machines.qemu("plain", "-accel", "kvm", "-cpu", "qemu64")
    machines.qemu("on", "-accel", "kvm", "-cpu", "qemu64,pmu=on", "-uuid", str(uuid.uuid4()))
    machines.qemu("maybe", "-machine", "pc,accel=kvm:tcg", "-cpu", "qemu64")
    machines.qemu("hostile", "-accel", "kvm", "-cpu", "qemu64", name=HOSTILE)
    machines.qemu("emulated", "-accel", "tcg")
    machines.monitor("monitor", "--id", "fc-1")
    machines.monitor("nameless")
    return machines


def holds_vm(pid: int) -> bool:
    """Whether a process has a VM of KVM open."""
    links = [os.readlink(entry.path) for entry in os.scandir(f"/proc/{pid}/fd")]
    return any(link.startswith("anon_inode:kvm-vm") for link in links)


def only(monkeypatch: pytest.MonkeyPatch, machines: Machines, change: Callable[[HostFacts], HostFacts]) -> None:
    """Have the survey see the VMs of this test alone, and what else a test puts in: others' tests have VMs too."""
    real = survey.survey

    def look(root: Root, **options: Any) -> HostFacts:
        facts = real(root, **options)
        pids = {process.pid for process in machines.processes.values()}
        return change(replace(facts, vms=tuple(vm for vm in facts.vms if vm.pid in pids)))

    monkeypatch.setattr(survey, "survey", look)


def without_libvirt(folder: Path, *arguments: str, policy: str = "") -> Ran:
    """Run a command where no libvirt is."""
    configuration = folder / "pmuconf.conf"
    configuration.write_text(f"{policy}[libvirt]\nuri = qemu+unix:///system?socket={folder}/none\n")
    return run("--config-file", str(configuration), *arguments)


def by_pid(said: Ran) -> dict[int, dict[str, Any]]:
    return {row["pid"]: row for row in said.rows}


def test_every_vm_of_kvm_is_listed_and_no_other(all_kinds: Machines, tmp_path: Path) -> None:
    """As this machine is: nothing is put in, and others may have VMs too."""
    facts = survey.survey(Root())
    listed = {vm.process.pid: vm for vm in vms_of_processes(Policy(), facts) if vm.process is not None}
    of_kvm = {process.pid for process in all_kinds.processes.values() if holds_vm(process.pid)}
    assert of_kvm == {process.pid for key, process in all_kinds.processes.items() if key != "emulated"}
    assert {process.pid for process in all_kinds.processes.values()} & listed.keys() == of_kvm
    in_use = Path("/sys/module/kvm/parameters/enable_pmu").read_text().strip()
    for pid in of_kvm:
        answer = listed[pid].answer
        assert answer is not None
        if in_use == "N":
            assert answer.in_kernel.pmu is KernelPmu.DISABLED
        if facts.guard.verdict is Verdict.UNKNOWN:
            assert answer.cause == "kernel-unknown"


def test_names_states_and_managers(all_kinds: Machines, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "run/vc/vm/x"
    folder.mkdir(parents=True)
    all_kinds.qemu("kata", *("-accel", "kvm", "-cpu", "qemu64,pmu=on", "-pidfile", f"{folder}/pid"), name="sandbox-x")
    only(monkeypatch, all_kinds, lambda facts: replace(facts, guard=GUARDED, enable_pmu=True, mediated_pmu=False))
    rows = by_pid(without_libvirt(tmp_path, "audit", "--processes", "-f", "json"))
    found = {key: rows.get(process.pid) for key, process in all_kinds.processes.items()}
    assert found.pop("emulated") is None
    assert {key: row and (row["live"], row["manager"]) for key, row in found.items()} == {
        "plain": ("off", "unknown"),
        "on": ("on", "unknown"),
        "maybe": ("off", "unknown"),
        "hostile": ("off", "unknown"),
        "monitor": ("default", "unknown"),
        "nameless": ("default", "unknown"),
        "kata": ("on", "kata"),
    }
    names = {key: row["name"] for key, row in found.items() if row}
    assert (names["plain"], names["monitor"], names["kata"]) == ("plain", "fc-1", "sandbox-x")
    assert names["nameless"].startswith(f"PID {all_kinds.pid('nameless')} python")
    assert names["hostile"].startswith("evil\x1b[31m\n<b>=1xxx")
    assert len(names["hostile"]) < 210


def with_memory(machines: Machines, states: dict[str, KernelPmu]) -> Callable[[HostFacts], HostFacts]:
    """What KVM is to hold of each VM."""

    def change(facts: HostFacts) -> HostFacts:
        def seen(vm: LiveVm) -> LiveVm:
            key = next(key for key, process in machines.processes.items() if process.pid == vm.pid)
            state = states.get(key, KernelPmu.UNKNOWN)
            return replace(vm, kernel_pmu=state, in_use=key == "on" if state is not KernelPmu.UNKNOWN else None)

        return replace(facts, guard=GUARDED, enable_pmu=True, mediated_pmu=False, vms=tuple(map(seen, facts.vms)))

    return change


def test_verdicts_and_exit_status(all_kinds: Machines, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    states = {"plain": KernelPmu.DISABLED, "on": KernelPmu.ENABLED, "monitor": KernelPmu.DISABLED}
    only(monkeypatch, all_kinds, with_memory(all_kinds, states))
    said = without_libvirt(tmp_path, "audit", "--processes", "-f", "json")
    rows = by_pid(said)
    verdicts = {key: rows[all_kinds.pid(key)] for key in ("plain", "on", "monitor", "nameless")}
    assert {key: (row["fast_path"], row["cause"], row["evidence"]) for key, row in verdicts.items()} == {
        "plain": ("yes", "guarded-disabled", "observed"),
        "on": ("no", verdicts["on"]["cause"], "observed"),
        "monitor": ("yes", "guarded-disabled", "observed"),
        "nameless": ("unknown", "pmu-unknown", "none"),
    }
    assert verdicts["on"]["cause"] in ("transient", "qemu-keeps-pmu")  # by what this machine's QEMU does
    assert verdicts["on"]["pmu_in_use"] is True
    assert said.status == (2 if verdicts["on"]["cause"] == "qemu-keeps-pmu" else 1)
    first = without_libvirt(tmp_path, "audit", "--processes", "--pmu-users", "-f", "json").rows[0]
    assert first["name"] == "on"
    explained = without_libvirt(tmp_path, "explain", "--processes", str(all_kinds.pid("monitor")))
    assert explained.status == 0
    assert explained.out.startswith(f"fc-1: not known to this libvirt, process {all_kinds.pid('monitor')}, running")
    assert "fast path: yes (observed)" in explained.out
    assert without_libvirt(tmp_path, "explain", "--processes", "none-such").status == 255
    status = json.loads(without_libvirt(tmp_path, "status", "--processes", "--no-sample", "-f", "json").out)
    assert (status["running"], status["fast"]) == (6, 2)


def test_all_outputs_take_them_and_hostile_names_are_text(
    all_kinds: Machines, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    only(monkeypatch, all_kinds, with_memory(all_kinds, {}))
    for form in ("json", "csv", "prometheus", "html"):
        said = without_libvirt(tmp_path, "report", "--processes", "-f", form)
        assert said.status in (1, 2), said.err
        assert "fc-1" in said.out
        assert "\x1b" not in said.out
        assert "<b>=1" not in said.out or form in ("json", "csv", "prometheus")
        assert "emulated" not in said.out
        (tmp_path / f"host.{form}").write_text(said.out)
    table = without_libvirt(tmp_path, "audit", "--processes", "--wide")
    assert "\x1b" not in table.out
    assert "evil\\x1b[31m\\n<b>=1" in table.out
    document = json.loads((tmp_path / "host.json").read_text())
    assert document["source"] == "processes"
    assert document["host_facts"]["other_vms"] == []
    fleet = run("fleet", "report", "-f", "json", str(tmp_path / "host.json"))
    assert json.loads(fleet.out)["summary"]["vms"] == 6, fleet.err


def test_without_root_what_can_not_be_read_is_unknown_and_no_emulated_vm_is_listed(all_kinds: Machines) -> None:
    def look() -> list[tuple[int | None, str, str]]:
        vms, cause = live_vms(Root(), samples=0)
        facts = HostFacts(GUARDED, enable_pmu=True, mediated_pmu=False, vms=vms, vms_cause=cause)
        judged = vms_of_processes(Policy(), facts)
        return [
            (vm.process.pid, vm.answer.in_kernel.cause, vm.answer.cause) for vm in judged if vm.process and vm.answer
        ]

    answers = as_nobody(look)
    assert isinstance(answers, list), answers
    seen = {pid: (why, cause) for pid, why, cause in answers}
    found = {key: seen.get(process.pid) for key, process in all_kinds.processes.items()}
    assert found == {
        "plain": ("qemu-unknown", "pmu-unknown"),  # its file can't be read
        "on": found["on"],
        "maybe": ("may-be-emulated", "pmu-unknown"),
        "hostile": ("qemu-unknown", "pmu-unknown"),
        "emulated": None,
        "monitor": ("no-qemu", "pmu-unknown"),
        "nameless": ("no-qemu", "pmu-unknown"),
    }
    assert found["on"] is not None
    assert found["on"][0] == "qemu-property"  # a PMU that is asked for is there


def test_vms_that_come_and_go_meanwhile_do_no_harm(machines: Machines, tmp_path: Path) -> None:
    machines.monitor("stays", "--id", "stays")
    over = threading.Event()

    def churn() -> None:
        while not over.is_set():
            for number in range(3):
                machines.monitor(f"churn-{number}")
            for number in range(3):
                machines.end(f"churn-{number}")

    thread = threading.Thread(target=churn)
    thread.start()
    try:
        for _ in range(10):
            facts = survey.survey(Root())
            vms = vms_of_processes(Policy(), facts)
            (ours,) = (vm for vm in vms if vm.name == "stays")
            assert ours.process is not None
            assert ours.process.pid == machines.pid("stays")
            assert all(vm.answer is not None for vm in vms)
    finally:
        over.set()
        thread.join()


def test_a_process_that_has_ended_is_not_taken_from_a_file_for_the_next_one_with_its_id(
    machines: Machines, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machines.monitor("ends", "--id", "ends")
    machines.monitor("stays", "--id", "stays")
    only(monkeypatch, machines, lambda facts: facts)
    file = tmp_path / "facts.json"
    assert run("host", "facts", "--output", str(file)).status != 255
    document = json.loads(file.read_text())
    reused = next(vm for vm in document["facts"]["vms"] if vm["name"] == "stays")
    reused["started"] -= 1  # as if another process had had the id
    file.write_text(json.dumps(document))
    before = without_libvirt(tmp_path, "audit", "--processes", "--host-facts", str(file), "-f", "json")
    assert [row["name"] for row in before.rows] == ["ends"]
    machines.end("ends")
    assert without_libvirt(tmp_path, "audit", "--processes", "--host-facts", str(file), "-f", "json").rows == []


class TestBesideLibvirt:
    @pytest.fixture
    def domain(self, host: Host) -> libvirt.virDomain:
        cpu = "<cpu mode='host-passthrough'><feature policy='disable' name='arch-capabilities'/></cpu>"
        xml = plain_domain("of-libvirt", pmu="off", virt_type="kvm", uuid=str(uuid.uuid4()))
        host.define(xml.replace("</features>", f"</features>{cpu}", 1))
        defined = host.connection.lookupByName("of-libvirt")
        try:
            defined.createWithFlags(libvirt.VIR_DOMAIN_START_PAUSED)
        except libvirt.libvirtError as error:
            pytest.skip(f"KVM starts no guest here: {error}")
        return defined

    def look(self, monkeypatch: pytest.MonkeyPatch, machines: Machines, domain: libvirt.virDomain) -> None:
        """See this libvirt's domain and this test's machines alone."""
        real, pids = survey.survey, {process.pid for process in machines.processes.values()}

        def look(root: Root, **options: Any) -> HostFacts:
            facts = real(root, **options)
            ours = (vm for vm in facts.vms if vm.pid in pids or vm.uuid == domain.UUIDString())
            return replace(facts, guard=GUARDED, enable_pmu=True, mediated_pmu=False, vms=tuple(ours))

        monkeypatch.setattr(survey, "survey", look)

    def test_what_it_does_not_know_is_added(
        self, host: Host, domain: libvirt.virDomain, machines: Machines, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        machines.qemu("by-hand", "-accel", "kvm", "-cpu", "qemu64,pmu=on")
        self.look(monkeypatch, machines, domain)
        rows = host.json("audit", "--processes").rows
        assert {row["name"]: (row["by_process"], row["manager"], row["next_boot"]) for row in rows} == {
            "of-libvirt": (False, "libvirt", "off"),
            "by-hand": (True, "unknown", None),
        }
        assert [row["name"] for row in host.json("audit").rows] == ["of-libvirt"]
        domain.destroy()
        rows = host.json("audit", "--processes").rows
        assert {row["name"]: row["running"] for row in rows} == {"of-libvirt": False, "by-hand": True}

    def test_a_libvirt_that_does_not_answer_while_its_vms_run_is_an_error(
        self, host: Host, domain: libvirt.virDomain, machines: Machines, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        self.look(monkeypatch, machines, domain)
        said = without_libvirt(tmp_path, "audit", "--processes")
        assert said.status == 255
        assert "libvirt-unreachable" in said.err

    def test_the_service_reports_them(
        self, host: Host, domain: libvirt.virDomain, machines: Machines, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        machines.monitor("fc", "--id", "<i>fc</i>")
        self.look(monkeypatch, machines, domain)
        host.configure(service_settings(processes="beside"))
        with Threaded(host.policy) as served:
            served.until_passes(1)
            until(lambda: 'name="<i>fc</i>"' in served.get("/metrics")[1], "the report")
            assert served.metric("pmuconf_vms_running") == 2
            page = served.get("/")[1]
            assert "of-libvirt" in page
            assert "&lt;i&gt;fc" in page
            host.configure(service_settings(processes="only"))
            served.service.reload()
            until(lambda: served.metric("pmuconf_service_connected") == 0, "the new settings")
            until(lambda: 'name="of-libvirt"' in served.get("/metrics")[1], "its domain by its process")
            assert served.causes() == set()
            machines.end("fc")
            served.service.reload()
            until(lambda: "<i>fc</i>" not in served.get("/metrics")[1], "the next look")


def test_the_service_on_a_host_without_libvirt(
    machines: Machines, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machines.monitor("fc", "--id", "fc-1")
    only(monkeypatch, machines, lambda facts: replace(facts, guard=GUARDED, enable_pmu=False))
    policy = tmp_path / "pmuconf.conf"
    policy.write_text(
        f"{service_settings(processes='only')}\n[libvirt]\nuri = qemu+unix:///system?socket={tmp_path}/none\n"
    )
    with Threaded(policy) as served:
        served.until_passes(1)
        assert served.metric('pmuconf_vms{cause="disabled-by-parameter"') == 1
        assert served.causes() == set()
        assert served.get("/healthz")[0] == 200
