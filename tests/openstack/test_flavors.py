"""Flavors through the real API, and the trait in the real Placement."""

from __future__ import annotations

import json
import os
import time
import urllib.error
from typing import Any

import pytest

from tests.openstack import lab
from tests.openstack.cloud import Cloud

TRAIT = "CUSTOM_PMU_FASTPATH"
# Of a kernel that needs nothing of QEMU: which one the lab's libvirt would start is not what this is about.
WRITE = """
from pmuconf.hostfacts import Evidence, GuardFinding, HostFacts, Verdict
from pmuconf.host import factsfile, identity, kvm, root
here = root.Root()
facts = HostFacts(
    GuardFinding(Verdict.NO_CALL, "no-call", "for the test", Evidence.OBSERVED),
    identity.boot_id(here),
    identity.kvm_build_id(here),
    kvm.read_kvm(here).enable_pmu,
    kvm.read_kvm(here).mediated_pmu,
    livepatches=identity.livepatches(here),
    parameters=identity.parameters(here),
    loads=identity.loads(here),
)
print(factsfile.dump(facts))
"""


def rows(out: str) -> dict[str, Any]:
    return {row["name"]: row for row in json.loads(out)}


def test_audit_apply_and_rollback(cloud: Cloud) -> None:
    for name, specs in {"a.plain": {}, "a.set": {"hw:pmu": "true"}, "perf.a": {}}.items():
        cloud.flavor(name, specs)
    before = {name: cloud.specs(name) for name in ("a.plain", "a.set", "perf.a")}
    servers = [cloud.build(name) for name in ("a.plain", "a.set")]
    cloud.wait(servers, "ACTIVE")
    status, out, err = cloud.pmuconf("flavors", "audit", "-f", "json")
    assert status == 2, err
    standings = {name: row["standing"] for name, row in rows(out).items()}
    # The tenant's rule reads a project: what stands behind it is not asked for flavors that it may be about.
    assert (standings["a.plain"], standings["a.set"], standings["perf.a"]) == ("to-set", "explicit", "to-set")
    # Each is built into one server; that of a.plain has a copy which does not say what the flavor is to say.
    counted = {name: (row["servers"], row["older_copies"]) for name, row in rows(out).items()}
    assert (counted["a.plain"], counted["a.set"], counted["perf.a"]) == ((1, 1), (1, 0), (0, 0))
    status, out, err = cloud.pmuconf("flavors", "apply", "--dry-run", "-f", "json")
    assert {name: cloud.specs(name) for name in before} == before, err
    status, out, err = cloud.pmuconf("flavors", "apply", "-f", "json")
    assert rows(out)["a.plain"]["outcome"] == "set", err
    assert cloud.specs("a.plain") == {"hw:pmu": "false"}
    assert cloud.specs("a.set") == {"hw:pmu": "true"}
    assert cloud.specs("perf.a") == {"hw:pmu": "true"}
    lab_file = cloud.folder / "flavors.json"
    assert cloud.pmuconf("flavors", "export", "--output", str(lab_file))[0] == 0
    exported = {entry["name"]: entry["extra_specs"] for entry in json.loads(lab_file.read_text())["flavors"]}
    assert exported["a.plain"] == {"hw:pmu": "false"}
    # Nova 26 writes no extra specs into its domains: without the map, only that somebody wrote "on" can be seen.
    domain = cloud.folder / "domain.xml"
    domain.write_text(cloud.xml(servers[1]))
    for known, rule in (((), "written-on"), (("--flavors", str(lab_file)), "hw:pmu")):
        status, out, err = cloud.pmuconf("audit", "--xml", str(domain), *known, "-f", "json")
        assert [row["rule"] for row in json.loads(out)] == [rule], err
    cloud.delete(servers)
    status, out, err = cloud.pmuconf("flavors", "rollback", "--all", "-f", "json")
    assert status == 0, err
    assert {name: cloud.specs(name) for name in before} == before


def test_an_image_of_the_opposite_is_named_and_nova_does_refuse_the_two(cloud: Cloud) -> None:
    image = cloud.make_image("counts-events", hw_pmu="true")
    cloud.flavor("b.plain")
    status, out, err = cloud.pmuconf("flavors", "apply", "--dry-run", "-f", "json")
    assert status == 1, err
    assert rows(out)["b.plain"]["outcome"] == "conflict"
    assert "counts-events" in rows(out)["b.plain"]["note"]
    cloud.flavor("b.off", {"hw:pmu": "false"})
    with pytest.raises(urllib.error.HTTPError) as refused:
        cloud.build("b.off", image)
    assert refused.value.code == 400
    cloud.api("DELETE", "image", f"/v2/images/{image}")
    assert rows(cloud.pmuconf("flavors", "apply", "--dry-run", "-f", "json")[1])["b.plain"]["outcome"] == "planned"


@pytest.mark.skipif(not os.access("/dev/kvm", os.R_OK | os.W_OK), reason="needs /dev/kvm")
def test_the_trait_comes_schedules_and_goes(cloud: Cloud) -> None:
    cloud.install()
    cloud.configure("pmuconf.LibvirtDriver", "virt_type = kvm\ncpu_mode = none")
    cloud.flavor("fast", {f"trait:{TRAIT}": "required"})
    assert TRAIT not in cloud.traits()
    boot = lab.call("cat", "/proc/sys/kernel/random/boot_id").strip()
    folder = lab.LAB / "root/run/pmuconf"
    folder.mkdir(exist_ok=True)
    path = folder / "host-facts.json"
    path.write_text(lab.call("/usr/bin/python3", "-c", WRITE))
    lab.until("the trait", lambda: TRAIT in cloud.traits(), 180)
    server = cloud.build("fast")
    cloud.wait([server], "ACTIVE")
    cloud.delete([server])
    path.write_text(path.read_text().replace(boot, "another"))
    lab.until("the trait's end", lambda: TRAIT not in cloud.traits(), 180)
    server = cloud.build("fast")
    end = time.monotonic() + 120
    while cloud.show(server)["status"] != "ERROR" and time.monotonic() < end:
        time.sleep(0.5)
    assert "No valid host" in cloud.show(server)["fault"]["message"]
    cloud.delete([server])
    cloud.configure("libvirt.LibvirtDriver")
    cloud.uninstall()
