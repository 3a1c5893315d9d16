"""Real VMs of real QEMUs on a booted KVM: what kernel memory says of each, and what a QEMU was proved to do.

Takes more than the other tests of the lab: tests/lab/fetch-qemu and tests/lab/build-vms. The oracle is how each VM was
started, and for the small VMM its own name.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from pmuconf.host.code.btf import Btf
from pmuconf.host.code.files import load_file
from pmuconf.host.vms.layout import Layout
from tests.lab.boots import LAB, Said, booted

pytestmark = [
    pytest.mark.skipif("PMUCONF_TEST_LAB" not in os.environ, reason="needs the kernel lab: make test-lab"),
    pytest.mark.skipif(not (LAB / "qemu-11").exists(), reason="needs tests/lab/fetch-qemu"),
]

# Of the same kernel: pmu=off and a named model reach the kernel with QEMU 11 only.
KERNEL_PMU = {
    "7.2-host-default": "enabled",
    "7.2-host-off": "enabled",
    "7.2-host-on": "enabled",
    "7.2-EPYC-default": "enabled",
    "7.2-EPYC-off": "enabled",
    "7.2-EPYC-on": "enabled",
    "11-host-default": "enabled",
    "11-host-off": "disabled",
    "11-host-on": "enabled",
    "11-EPYC-default": "disabled",
    "11-EPYC-off": "disabled",
    "11-EPYC-on": "enabled",
    "replaced": "enabled",
}
VMMS = [
    ("no", "transient", False),  # on
    ("no", "transient", True),  # busy
    ("unknown", "pmu-unknown", False),  # several, which differ
    ("yes", "guarded-disabled", False),  # off
]
"""The verdicts on the VMs of the small VMM, on a guarded kernel."""
SERIES = ["6.1", "6.12"]


def document(series: str, name: str) -> dict[str, Any]:
    os.environ.setdefault("LAB_MEMORY", "4096")
    said = booted(series, f"vms-{series}")[name]
    assert said.status == 0
    return said.document


def vms(series: str, name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = document(series, name)["vms"]
    return found


@pytest.mark.boots("vms-{series}")
@pytest.mark.parametrize("series", SERIES)
class TestVms:
    def test_every_vm_is_known(self, series: str) -> None:
        said = document(series, "all")
        assert said["cause"] == ""
        by_name = {vm["name"]: vm["kernel_pmu"] for vm in said["vms"] if vm["name"]}
        assert by_name == KERNEL_PMU
        others = {vm["command"]: (vm["kernel_pmu"], vm["cause"], vm["vcpus"]) for vm in said["vms"] if not vm["name"]}
        assert others == {
            "vmm-on": ("enabled", "", 2),
            "vmm-off": ("disabled", "", 2),
            "vmm-busy": ("enabled", "", 2),
            "vmm-several": ("unknown", "several-vms", 4),
        }

    def test_only_one_uses_its_pmu(self, series: str) -> None:
        assert [vm["command"] for vm in vms(series, "all") if vm["in_use"] is not False] == ["vmm-busy"]

    def test_none_before_any_was_started(self, series: str) -> None:
        assert (document(series, "none")["cause"], vms(series, "none")) == ("", [])

    def test_what_is_inferred_agrees(self, series: str) -> None:
        """From command line and binary alone, as where kernel memory is closed."""
        closed = [vm for vm in vms(series, "closed") if vm["name"]]
        assert {vm["cause"] for vm in closed} == {document(series, "closed")["cause"]} == {"kallsyms-hidden"}
        inferred = {
            vm["name"]: "disabled" if vm["qemu"]["disables"] and vm["pmu_property"] is False else "enabled"
            for vm in closed
        }
        assert inferred == KERNEL_PMU

    @pytest.mark.parametrize(("name", "evidence"), [("processes", "observed"), ("processes-closed", "inferred")])
    def test_the_audit_by_processes(self, series: str, name: str, evidence: str) -> None:
        """A guarded kernel. Where its memory is closed, nothing is known of a VM that no QEMU runs."""
        said = booted(series, f"vms-{series}")[name]
        assert said.status == 2
        listed = rows(said.document)
        assert all(vm["by_process"] and vm["next_boot"] is None for vm in listed)
        by_qemu = {vm["name"]: vm for vm in listed if vm["name"] in KERNEL_PMU}
        assert {name: vm["in_kernel_pmu"] for name, vm in by_qemu.items()} == KERNEL_PMU
        assert {name: (vm["fast_path"], vm["cause"], vm["evidence"]) for name, vm in by_qemu.items()} == {
            name: ("yes", "guarded-disabled", evidence)
            if state == "disabled"
            else ("no", "transient" if name.startswith("11") else "qemu-keeps-pmu", evidence)
            for name, state in KERNEL_PMU.items()
        }
        others = sorted(
            (vm["fast_path"], vm["cause"], vm["pmu_in_use"]) for vm in listed if vm["name"] not in KERNEL_PMU
        )
        assert others == (VMMS if name == "processes" else [("unknown", "pmu-unknown", None)] * len(VMMS))

    def test_a_binary_that_was_replaced(self, series: str) -> None:
        (vm,) = (vm for vm in vms(series, "all") if vm["name"] == "replaced")
        assert vm["qemu"]["path"].endswith(" (deleted)")
        assert vm["qemu"]["disables"] is False

    def test_ids_of_another_namespace_pair_nothing(self, series: str) -> None:
        assert vms(series, "nested")
        assert {vm["cause"] for vm in vms(series, "nested") if vm["pid"] is None} == {"pid-namespace"}
        assert all(vm["kernel_pmu"] == "unknown" for vm in vms(series, "nested") if vm["pid"] is not None)

    def test_the_hosts_proc_seen_from_another_namespace(self, series: str) -> None:
        assert {vm["name"]: vm["kernel_pmu"] for vm in vms(series, "host-proc") if vm["name"]} == KERNEL_PMU

    def test_no_wrong_pairing_while_they_come_and_go(self, series: str) -> None:
        said = document(series, "churn")
        assert said["wrong"] == []
        assert said["counts"]["known"] > 50
        assert said["different"] > 20

    @pytest.mark.parametrize(
        ("name", "disables"), [("prove-", False), ("prove-qemu-10.0", False), ("prove-qemu-11", True)]
    )
    def test_qemus(self, series: str, name: str, disables: bool) -> None:
        said = document(series, name)["qemu"]
        assert (said["disables"], said["cause"], said["evidence"]) == (disables, "proved", "observed")


# As libvirt starts them: host-model is a named model. What the kernel holds, and why a guarded kernel is fast or not.
KEEPS = {
    f"{cpu}-{pmu}": ("enabled", "qemu-keeps-pmu") for cpu in ("passthrough", "model") for pmu in ("off", "none", "on")
}
DISABLES = {
    "passthrough-off": ("disabled", "guarded-disabled"),
    "passthrough-none": ("enabled", "drift"),
    "passthrough-on": ("enabled", "drift"),
    "model-off": ("disabled", "guarded-disabled"),
    "model-none": ("disabled", "disabled-by-default"),
    "model-on": ("enabled", "drift"),
}
DOMAINS = {
    f"qemu-{version}-host-{name}": right
    for version, of_qemu in (("7.2", KEEPS), ("10.0", KEEPS), ("11", DISABLES), ("sid", DISABLES))
    for name, right in of_qemu.items()
}
FAST = {"guarded-disabled", "disabled-by-default"}


@pytest.mark.parametrize(
    "kvm",
    [
        pytest.param("guarded", marks=pytest.mark.boots("domains-6.1")),
        pytest.param("stock", marks=pytest.mark.boots("domains-6.1lab.kvm=stock")),
    ],
)
class TestDomains:
    """Of a real libvirt, started inside."""

    def said(self, kvm: str, name: str) -> Said:
        os.environ.setdefault("LAB_MEMORY", "4096")
        return booted("6.1", "domains-6.1", "" if kvm == "guarded" else f"lab.kvm={kvm}")[name]

    def test_what_the_kernel_holds(self, kvm: str) -> None:
        said = self.said(kvm, "domains")
        assert {vm["name"]: vm["kernel_pmu"] for vm in said.document["vms"]} == {
            domain: state for domain, (state, _) in DOMAINS.items()
        }

    @pytest.mark.parametrize(("name", "evidence"), [("audit", "observed"), ("audit-closed", "inferred")])
    def test_the_audit(self, kvm: str, name: str, evidence: str) -> None:
        """On a guarded kernel each has its own answer; on Debian's own all are slow, whatever the kernel holds."""
        said = self.said(kvm, name)
        assert said.status == 2
        found = {
            vm["name"]: (vm["in_kernel_pmu"], vm["fast_path"], vm["cause"], vm["evidence"])
            for vm in rows(said.document)
        }
        causes = {domain: cause if kvm == "guarded" else "kernel-unguarded" for domain, (_, cause) in DOMAINS.items()}
        assert found == {
            domain: (state, "yes" if causes[domain] in FAST else "no", causes[domain], evidence)
            for domain, (state, _) in DOMAINS.items()
        }


def rows(document: Any) -> list[dict[str, Any]]:
    """The domains of an audit's document."""
    return list(document if isinstance(document, list) else document["domains"])


@pytest.mark.parametrize("path", sorted(LAB.glob("corpus/*")), ids=lambda path: path.name)
def test_every_kernel_tells_where_all_is(path: Path) -> None:
    """All that is read of VMs, on every kernel that Debian has had of late: 6.1 to 7.3."""
    (module,) = path.glob("kvm.ko*")
    types = load_file(module).section(".BTF")
    assert types is not None
    layout = Layout(Btf(types, Btf((path / "vmlinux").read_bytes())))
    for name in ("enable_pmu", "stats_id", "vcpu_array"):
        assert name in layout.vm
    assert None not in (layout.mm, layout.node, layout.slots, layout.pmu)
