"""The commands of the documents, typed page by page as they stand, each page in a place of its own."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import datetime, timezone
from pathlib import Path
from typing import Final

import libvirt
import pytest
import yaml

from pmuconf.hypervisor import events
from tests.docs.blocks import CONSOLE, ROOT, Block, blocks_of, pages
from tests.docs.place import Place, Ran
from tests.functional import oracle
from tests.support import fleet
from tests.support.daemon import Daemon, available_daemons
from tests.support.domains import nova_domain, plain_domain
from tests.support.records import unpack
from tests.unit.openstack_api import FakeCloud

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="a place with layers above /etc and /var takes root")

STANDIN: Final = ("-m", "tests.docs.standin")


def ours(page: str) -> list[Block]:
    """The blocks of commands of a page that are run here."""
    return [block for block in blocks_of(page) if block.language in CONSOLE and block.runs_here]


def typed(place: Place, page: str, *, until: str = "") -> list[Ran]:
    """All of them, typed one after the other; none of them is left out."""
    ran = [one for block in ours(page) for one in place.type(block, until=until)]
    assert ran
    return ran


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """What the pages need is gone in the end."""
    with ExitStack() as opened:
        yield opened


@pytest.fixture
def libvirt_host(stack: ExitStack) -> tuple[Place, libvirt.virConnect]:
    """A place with a libvirt of its own, at its ordinary address, and VMs; one of them is called VM, and runs."""
    events.start()
    if not available_daemons():
        pytest.skip("needs libvirtd or virtqemud")
    daemon = stack.enter_context(Daemon(available_daemons()[0]))
    connection = libvirt.open(daemon.uri)
    stack.callback(connection.close)
    for xml in (
        plain_domain("VM"),
        plain_domain("db1", pmu="on"),
        plain_domain("web1", pmu="off"),
        nova_domain("instance-00000001", version="34.0.0", flavor="m1.small"),
    ):
        connection.defineXML(xml)
    connection.lookupByName("VM").create()
    place = Place(binds={daemon.root / "run": "/run/libvirt"})
    return stack.enter_context(place), connection


def states(connection: libvirt.virConnect) -> dict[str, str]:
    """The PMU state of each domain's next boot."""
    domains = connection.listAllDomains()
    return {one.name(): oracle.pmu(one.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)) for one in domains}


def test_readme(libvirt_host: tuple[Place, libvirt.virConnect]) -> None:
    place, connection = libvirt_host
    before = states(connection)
    assert sorted(before.values()) == ["default", "default", "off", "on"]
    typed(place, "README.md")
    assert states(connection) == before
    changes = json.loads(place.run("pmuconf journal -f json").text)
    assert {change["name"] for change in changes} == {"VM", "db1", "instance-00000001"}


def test_verification(libvirt_host: tuple[Place, libvirt.virConnect]) -> None:
    """A host without systemd: most of it can't be checked there, and says why."""
    place, _ = libvirt_host
    (ran,) = typed(place, "docs/verification.md")
    assert "not checked" in ran.text


def test_service(libvirt_host: tuple[Place, libvirt.virConnect]) -> None:
    place, connection = libvirt_host
    before = states(connection)
    (ran,) = typed(place, "docs/service.md", until="4 domains")
    assert "3 drift" in ran.text
    assert states(connection) == before


@pytest.mark.parametrize("page", ["docs/fastpath.md", "docs/host.md", "docs/report.md"])
def test_recorded_host(page: str, tmp_path: Path, stack: ExitStack) -> None:
    """A real kernel with the guard, and four VMs."""
    record = unpack("6.1-guarded", tmp_path)
    place = stack.enter_context(Place(pmuconf=(*STANDIN, "recorded", str(record))))
    place.run("mkdir -p /var/lib/prometheus/node-exporter")
    typed(place, page)
    if page == "docs/report.md":
        written = place.run("cat /var/lib/prometheus/node-exporter/pmuconf.prom").text
        assert 'pmuconf_vms{cause="qemu-keeps-pmu",fast_path="no"} 1.0' in written


def test_bench(stack: ExitStack) -> None:
    place = stack.enter_context(Place(pmuconf=(*STANDIN, "bench")))
    place.program("reboot", "rm unguarded")
    first, *others = ours("docs/bench.md")
    place.type(first)
    place.run("touch unguarded")
    before, _, after, _ = [ran for block in others for ran in place.type(block)]
    assert "makes no difference larger than" in before.text
    assert "saves" in after.text
    assert place.run("cat difference.svg").text.startswith("<svg")


def test_fleet(tmp_path: Path, stack: ExitStack) -> None:
    place = stack.enter_context(Place())
    fleet.write(tmp_path / "collected", 40, 50, at=datetime.now(timezone.utc))
    (tmp_path / "inventory.txt").write_text("".join(f"compute-{number:05}\n" for number in range(40)))
    for day, kinds in (("monday", ("unguarded", "guarded", "guarded")), ("tuesday", ("guarded", "guarded"))):
        (tmp_path / day).mkdir()
        for number, kind in enumerate(kinds, 1):
            report = fleet.host(kind, f"compute-{number}", 50, random.Random(number))
            (tmp_path / day / f"compute-{number}.json").write_text(json.dumps(report))
    place.run(f"cp -r {tmp_path}/* .")
    typed(place, "docs/fleet.md")
    assert json.loads(place.run("cat plan.json").text)["format"] == "pmuconf-fleet-plan"


def test_flavors(stack: ExitStack) -> None:
    cloud = stack.enter_context(FakeCloud())
    cloud.flavors.update({"m1.small": {}, "perf.large": {"hw:pmu": "true"}})
    place = stack.enter_context(Place(network=True, environment=cloud.environment))
    typed(place, "docs/nova.md")
    assert cloud.flavors == {"m1.small": {}, "perf.large": {"hw:pmu": "true"}}
    journal = json.loads(place.run("pmuconf journal -f json").text)
    assert [change["name"] for change in journal] == ["m1.small", "m1.small"]
    assert "perf.large" in place.run("cat flavors.json").text


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool (Debian: prometheus) is not installed")
def test_monitoring(stack: ExitStack) -> None:
    page = "docs/monitoring.md"
    place = stack.enter_context(Place())
    asked = place.recorder("systemctl")
    place.run("mkdir -p /etc/prometheus /etc/grafana/provisioning/dashboards")
    (config,) = [block for block in blocks_of(page) if block.language == "yaml"]
    place.run(f"cat >/etc/prometheus/prometheus.yml <<'END'\n{config.text}END")
    ran = typed(place, page)
    assert any("12 rules found" in one.text for one in ran)
    assert asked.read_text().split() == ["reload", "prometheus", "restart", "grafana-server"]
    board = yaml.safe_load(place.run("cat /etc/grafana/provisioning/dashboards/pmuconf.yaml").text)
    (provider,) = board["providers"]
    assert place.run(f"cmp {provider['options']['path']}/pmuconf.json {ROOT}/etc/grafana/pmuconf.json").status == 0


TESTED: Final = {
    "README.md",
    "docs/bench.md",
    "docs/fastpath.md",
    "docs/fleet.md",
    "docs/host.md",
    "docs/monitoring.md",
    "docs/nova.md",
    "docs/report.md",
    "docs/service.md",
    "docs/verification.md",
}


def test_every_page_with_commands_is_typed_here() -> None:
    assert {page for page in pages() if ours(page)} == TESTED
