"""Which VMs have the fast path, on real libvirt and real KVM guests.

Only what can't be had here is put in: what the running kernel does, and whether this QEMU disables the PMU. The
verdicts on real ones are the lab's (tests/lab).
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import libvirt
import pytest
from lxml import etree

from pmuconf.commands import parameter
from pmuconf.host import factsfile, survey
from pmuconf.host.kvm import read_kvm
from pmuconf.host.root import Root
from pmuconf.host.vms import procdir, qemu
from pmuconf.host.vms.installed import installed_qemus, qemus_of
from pmuconf.hostfacts import Evidence, GuardFinding, HostFacts, KernelPmu, LiveVm, Qemu, Verdict
from tests.functional.host import OFF, Host
from tests.support.daemon import Daemon, available_daemons
from tests.support.domains import plain_domain

UNGUARDED = GuardFinding(
    Verdict.UNGUARDED, "no-test", "it does not ask", Evidence.OBSERVED, remedy="a kernel that asks"
)
GUARDED = GuardFinding(Verdict.GUARDED, "guard-in-caller", "it asks", Evidence.OBSERVED)

needs_kvm = pytest.mark.skipif(not os.access("/dev/kvm", os.R_OK | os.W_OK), reason="needs /dev/kvm")


class Machine:
    """The host's kernel and QEMU, as the probes are made to say; its processes are the real ones."""

    def __init__(self) -> None:
        self.guard = GUARDED
        self.qemu: bool | None = True
        self.memory: dict[str, KernelPmu] = {}
        self.counting: set[str] = set()
        self.asked = 0
        self.mediated = False

    def put_in(self, monkeypatch: pytest.MonkeyPatch) -> None:
        real = survey.survey

        def look(root: Root, *, experiment: bool = False) -> HostFacts:
            self.asked += 1
            facts = real(root, experiment=experiment)
            facts = replace(facts, mediated_pmu=self.mediated, nmi_watchdog=True)
            return replace(facts, guard=self.guard, enable_pmu=True, cycles=57, vms=tuple(map(self.seen, facts.vms)))

        loaded = replace(read_kvm(Root()), enable_pmu=True, mediated_pmu=False)
        monkeypatch.setattr(survey, "survey", look)
        monkeypatch.setattr(factsfile, "read_kvm", lambda _: loaded)

    def seen(self, vm: LiveVm) -> LiveVm:
        name = vm.name or ""
        return replace(
            vm,
            kernel_pmu=self.memory.get(name, KernelPmu.UNKNOWN),
            in_use=name in self.counting if self.counting else None,
            qemu=Qemu("/usr/bin/qemu", None, self.qemu, "put-in"),
            next_qemu=None,
        )


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine()
    made.put_in(monkeypatch)
    return made


def kvm_domain(name: str, pmu: str | None) -> str:
    """A guest that KVM runs, nested as well: of the host's CPU, but for what a nested KVM may not pass on."""
    cpu = "<cpu mode='host-passthrough'><feature policy='disable' name='arch-capabilities'/></cpu>"
    # Of a UUID of its own: of two processes with one UUID, as tests side by side would have them, neither is taken.
    xml = plain_domain(name, pmu=pmu, virt_type="kvm", uuid=str(uuid.uuid4()))
    return xml.replace("</features>", f"</features>{cpu}", 1)


@pytest.fixture(scope="module", params=available_daemons())
def guests(
    request: pytest.FixtureRequest, capabilities: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Host]:
    """Three that run, one for each state, and one that does not; for all tests, as they are slow to end.

    They are paused: a nested KVM takes a whole CPU for their firmware.
    """
    with Daemon(request.param, cache=capabilities) as daemon:
        host = Host(daemon, tmp_path_factory.mktemp("kvm"))
        states = {"off": "off", "none": None, "on": "on", "idle": "off"}
        host.define(*(kvm_domain(name, pmu) for name, pmu in states.items()))
        try:
            for name in ("off", "none", "on"):
                host.connection.lookupByName(name).createWithFlags(libvirt.VIR_DOMAIN_START_PAUSED)
        except libvirt.libvirtError as error:
            pytest.skip(f"KVM starts no guest here: {error}")
        yield host
        host.close()


def short(host: Host, *arguments: str) -> dict[str, tuple[str, str, str]]:
    return {
        row["name"]: (row["fast_path"], row["cause"], row["evidence"]) for row in host.json("audit", *arguments).rows
    }


@needs_kvm
class TestAudit:
    def test_inferred_from_the_process_and_its_qemu(self, guests: Host, machine: Machine) -> None:
        assert short(guests) == {
            "off": ("yes", "guarded-disabled", "inferred"),
            "none": ("no", "drift", "inferred"),
            "on": ("no", "drift", "inferred"),
            "idle": ("no", "not-running", "observed"),
        }
        machine.qemu = False
        assert short(guests)["off"] == ("no", "qemu-keeps-pmu", "inferred")
        machine.qemu = None
        assert short(guests)["off"] == ("unknown", "pmu-unknown", "none")
        machine.guard = UNGUARDED
        assert short(guests)["off"] == ("no", "kernel-unguarded", "observed")

    def test_what_kvm_holds_outranks_what_would_follow(self, guests: Host, machine: Machine) -> None:
        machine.memory = {"off": KernelPmu.ENABLED, "none": KernelPmu.DISABLED}
        said = short(guests)
        assert said["off"] == ("no", "qemu-did-not", "observed")
        assert said["none"] == ("yes", "disabled-by-default", "observed")

    def test_the_summary_comes_first_and_the_exit_status_is_of_the_worst(self, guests: Host, machine: Machine) -> None:
        said = guests.pmuconf("audit", "off")
        assert said.status == 0
        first, *_ = said.out.splitlines()
        assert "guarded (observed): it asks" in first
        assert "fast path: 1 of 1 running VM" in said.out
        assert guests.pmuconf("audit", "idle").status == 0
        machine.qemu = False
        assert guests.pmuconf("audit", "off").status == 2
        machine.qemu = None
        assert guests.pmuconf("audit", "off").status == 1

    def test_those_who_count_come_first(self, guests: Host, machine: Machine) -> None:
        machine.counting = {"on"}
        names = [row["name"] for row in guests.json("audit", "--pmu-users").rows]
        assert names[0] == "on"
        machine.counting = {"off"}
        assert next(row["name"] for row in guests.json("audit", "--pmu-users").rows) == "off"

    def test_a_vm_that_runs_again_has_another_process(self, guests: Host, machine: Machine, tmp_path: Path) -> None:
        """What was written of the one before says nothing about it."""
        machine.memory = {"off": KernelPmu.DISABLED}
        file = tmp_path / "host.json"
        assert guests.pmuconf("host", "facts", "--output", str(file)).status == 0
        assert short(guests, "--host-facts", str(file))["off"] == ("yes", "guarded-disabled", "observed")
        domain = guests.connection.lookupByName("off")
        domain.destroy()
        domain.createWithFlags(libvirt.VIR_DOMAIN_START_PAUSED)
        assert short(guests, "--host-facts", str(file))["off"] == ("unknown", "pmu-unknown", "none")

    def test_facts_of_another_boot_are_refused(self, guests: Host, machine: Machine, tmp_path: Path) -> None:
        file = tmp_path / "host.json"
        guests.pmuconf("host", "facts", "--output", str(file))
        document = json.loads(file.read_text())
        document["facts"]["boot_id"] = "another"
        file.write_text(json.dumps(document))
        said = guests.pmuconf("audit", "--host-facts", str(file))
        assert said.status == 255
        assert "facts-stale" in said.err

    def test_exits_are_counted_over_the_sample(self, guests: Host, machine: Machine) -> None:
        rows = {row["name"]: row["exits_per_second"] for row in guests.json("audit", "--sample", "0.3s").rows}
        if rows["off"] is None:
            pytest.skip("this libvirt or QEMU does not tell of KVM's statistics")
        assert rows["off"] >= 0
        assert rows["idle"] is None
        (report,) = [json.loads(guests.pmuconf("report", "--sample", "0.3s").out)]
        assert report["worth"]["cycles_per_exit"] == 57
        assert report["worth"]["vms"] == 3

    @pytest.mark.parametrize(("new", "status"), [(True, 2), (False, 0), (None, 1)])
    def test_who_would_lose_a_pmu_under_another_qemu(
        self, guests: Host, machine: Machine, monkeypatch: pytest.MonkeyPatch, new: bool | None, status: int
    ) -> None:
        def qemu_of_file(path: str | os.PathLike[str]) -> Qemu:
            return Qemu(os.fspath(path), None, new if os.fspath(path) == "new" else False, "put-in")

        monkeypatch.setattr(qemu, "qemu_of_file", qemu_of_file)
        machine.memory = {"off": KernelPmu.ENABLED, "none": KernelPmu.ENABLED, "on": KernelPmu.ENABLED}
        machine.counting = {"off"}
        said = guests.json("preflight", "qemu", "new", "--all")
        assert said.status == status
        loses = {True: "yes", False: "no", None: "unknown"}[new]
        assert said.by_name("loses") == {"off": loses, "idle": loses, "none": "no", "on": "no"}
        assert said.by_name("pmu_in_use")["off"] is True
        machine.memory["off"] = KernelPmu.DISABLED
        assert guests.json("preflight", "qemu", "new", "--all").by_name("loses")["off"] == "no"

    def test_a_pmu_whose_counters_are_switched_is_slow_and_may_not_start_again(
        self, guests: Host, machine: Machine
    ) -> None:
        machine.mediated = True
        machine.guard = replace(GUARDED, verdict=Verdict.EARLY_OUT, cause="nothing-counted")
        machine.memory = {"off": KernelPmu.DISABLED, "none": KernelPmu.ENABLED, "on": KernelPmu.ENABLED}
        assert short(guests) == {
            "off": ("yes", "early-out-disabled", "observed"),
            "none": ("no", "mediated-pmu", "observed"),
            "on": ("no", "mediated-pmu", "observed"),
            "idle": ("no", "not-running", "observed"),
        }
        for command in (["audit"], ["preflight", "qemu", "/usr/bin/qemu-system-x86_64"]):
            said = guests.pmuconf(*command).out
            assert "a VM with a PMU may not start here" in said, command
            assert "The NMI watchdog runs now" in said
            assert "2 VMs have a PMU" in said
        machine.mediated = False
        assert "may not start" not in guests.pmuconf("audit").out

    @pytest.mark.parametrize("disables", [True, False, None])
    def test_every_front_end_gives_the_same_verdict(
        self, guests: Host, machine: Machine, disables: bool | None
    ) -> None:
        machine.qemu = disables
        together = short(guests)
        reported = {row["name"]: row for row in json.loads(guests.pmuconf("report").out)["domains"]}
        for name, said in together.items():
            row = reported[name]
            assert said == short(guests, name)[name] == (row["fast_path"], row["cause"], row["evidence"])
            explained = guests.pmuconf("explain", name)
            assert f"fast path: {said[0]} ({said[2]})" in explained.out
            assert f"({', '.join(row['causes'])})" in explained.out
            assert explained.status == guests.pmuconf("audit", name).status


@needs_kvm
class TestDisablePmu:
    @pytest.fixture(autouse=True)
    def file(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
        """Where it writes, in place of modprobe's folder."""
        monkeypatch.setattr(parameter, "_FILE", tmp_path / "modprobe.conf")
        return tmp_path / "modprobe.conf"

    @pytest.fixture(autouse=True)
    def told(self, machine: Machine, guests: Host, monkeypatch: pytest.MonkeyPatch) -> None:
        """What root sees: nothing counts, KVM holds a PMU of one VM only, and no VM of another test."""
        machine.memory = {"off": KernelPmu.DISABLED, "none": KernelPmu.ENABLED, "on": KernelPmu.DISABLED}
        machine.counting = {"nobody"}
        uuids = {guests.domain(name).UUIDString() for name in machine.memory}
        self.found(monkeypatch, vms=tuple(vm for vm in survey.survey(Root()).vms if vm.uuid in uuids))
        guests.configure(OFF)

    @staticmethod
    def found(monkeypatch: pytest.MonkeyPatch, **facts: Any) -> None:
        look = survey.survey
        monkeypatch.setattr(survey, "survey", lambda root, **asked: replace(look(root, **asked), **facts))

    @staticmethod
    def ask(guests: Host, *arguments: str) -> tuple[int, dict[str, tuple[str, str]]]:
        """The exit status, and who would lose a PMU."""
        said = guests.json("host", "disable-pmu", *arguments)
        return said.status, {row["name"]: (row["loses"], row["cause"]) for row in said.rows}

    def test_nobody_loses_what_the_policy_takes_anyway(self, guests: Host, file: Path) -> None:
        assert self.ask(guests, "--check") == (0, {})
        assert not file.exists()

    def test_a_vm_that_counts_may_lose_it(self, guests: Host, monkeypatch: pytest.MonkeyPatch, file: Path) -> None:
        self.found(monkeypatch, vms=tuple(replace(vm, in_use=vm.name == "none") for vm in survey.survey(Root()).vms))
        assert self.ask(guests) == (1, {"none": ("may", "pmu-counts")})
        assert not file.exists()

    def test_a_vm_that_is_to_have_one_loses_it(self, guests: Host, file: Path) -> None:
        guests.configure(f"{OFF}rules = profiling\n[rule:profiling]\npmu = on\ndomain = none\n")
        expected = {"none": ("yes", "pmu-wanted"), "profiling": ("may", "rule-not-off")}
        assert self.ask(guests) == (2, expected)
        assert self.ask(guests, "--elsewhere", "prof*") == (2, {"none": ("yes", "pmu-wanted")})
        said = guests.pmuconf("host", "disable-pmu").err
        assert "1 VM of this host would lose a PMU" in said
        assert "nothing is written" in said
        assert not file.exists()

    def test_what_is_written(self, guests: Host, file: Path) -> None:
        said = guests.pmuconf("host", "disable-pmu", "--check")
        assert (said.status, file.exists()) == (0, False)
        assert "options kvm enable_pmu=N" in said.err
        assert guests.pmuconf("host", "disable-pmu").status == 0
        lines = [line for line in file.read_text(encoding="ascii").splitlines() if not line.startswith("#")]
        assert lines == ["options kvm enable_pmu=N"]

    def test_nothing_is_written_where_it_is_n_already(
        self, guests: Host, monkeypatch: pytest.MonkeyPatch, file: Path
    ) -> None:
        self.found(monkeypatch, enable_pmu=False)
        assert "N already" in guests.pmuconf("host", "disable-pmu").err
        assert not file.exists()

    def test_a_kernel_without_the_guard_goes_on_making_them_pay(self, guests: Host, machine: Machine) -> None:
        machine.guard = UNGUARDED
        assert "its VMs go on paying" in guests.pmuconf("host", "disable-pmu", "--check").err

    @pytest.mark.parametrize("cause", ["root-required", "pid-namespace"])
    def test_where_not_every_vm_can_be_seen_nothing_is_said(
        self, guests: Host, monkeypatch: pytest.MonkeyPatch, file: Path, cause: str
    ) -> None:
        if cause == "root-required":
            monkeypatch.setattr("os.geteuid", lambda: 65534)
        else:
            monkeypatch.setattr(procdir, "initial_namespace", lambda _: False)
        said = guests.pmuconf("host", "disable-pmu")
        assert (said.status, said.out, file.exists()) == (255, "", False)
        assert f"({cause})" in said.err

    def test_a_parameter_that_can_not_be_read_is_an_error(
        self, guests: Host, monkeypatch: pytest.MonkeyPatch, file: Path
    ) -> None:
        self.found(monkeypatch, enable_pmu=None)
        said = guests.pmuconf("host", "disable-pmu")
        assert (said.status, file.exists()) == (255, False)
        assert "(parameter-unknown)" in said.err


def test_the_host_is_not_asked_where_nothing_runs_under_kvm(host: Host, machine: Machine) -> None:
    host.define(plain_domain("tcg", pmu="off"), kvm_domain("stopped", "off"))
    host.connection.lookupByName("tcg").create()
    assert short(host) == {
        "tcg": ("no", "not-kvm", "observed"),
        "stopped": ("no", "not-running", "observed"),
    }
    assert machine.asked == 0
    assert host.pmuconf("explain", "tcg").status == 0
    assert machine.asked == 1  # one VM's whole story has its host in it


@pytest.mark.parametrize("told", ["user", "kernel"])
def test_a_socket_that_leads_to_another_host(
    host: Host, machine: Machine, monkeypatch: pytest.MonkeyPatch, told: str
) -> None:
    """Its URI has no host in it and its name may be ours, but another kernel counts other times."""
    real = libvirt.virConnect.getCPUStats
    more = {told: 60_000_000_000}
    monkeypatch.setattr(
        libvirt.virConnect,
        "getCPUStats",
        lambda *given: {name: time + more.get(name, 0) for name, time in real(*given).items()},
    )
    host.define(plain_domain("tcg", pmu="off"))
    assert host.pmuconf("explain", "tcg").status == 0
    assert machine.asked == 0


def test_a_host_that_libvirt_calls_otherwise_than_we_do_is_this_one_all_the_same(
    host: Host, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that DHCP gave after the service was started is not seen in it (ProtectHostname=)."""
    monkeypatch.setattr(libvirt.virConnect, "getHostname", lambda _: "elsewhere.example.org")
    host.define(plain_domain("tcg", pmu="off"))
    assert host.pmuconf("explain", "tcg").status == 0
    assert machine.asked == 1


def test_a_domain_that_is_not_there(host: Host) -> None:
    said = host.pmuconf("explain", "nobody")
    assert said.status == 255
    assert "no-such-domain" in said.err


@pytest.mark.parametrize("name", available_daemons())
def test_the_qemu_that_a_daemon_would_start_is_the_one_that_its_capabilities_name(
    name: str, capabilities: Path
) -> None:
    with Daemon(name, cache=capabilities) as daemon:
        connection = libvirt.open(daemon.uri)
        try:
            named = etree.fromstring(connection.getCapabilities()).findtext("guest/arch[@name='x86_64']/emulator")
        finally:
            connection.close()
        found = {one.path: one for one in qemus_of(Root(), daemon.pid)}
        assert named in found
        assert found[named].build_id == qemu.qemu_of_file(named).build_id is not None
        assert set(found.values()) <= set(installed_qemus(Root()))
