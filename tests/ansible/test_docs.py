"""The commands and the playbook of docs/ansible.md, on 22 hosts."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Final

import pytest

from pmuconf.domain.definition import PmuState
from pmuconf.hostfacts import KernelPmu
from tests.ansible.conftest import MakeFleet
from tests.docs.blocks import blocks_of
from tests.docs.place import Place
from tests.support.domains import domain_uuid, plain_domain
from tests.support.sample import Kind, many

PAGE: Final = "docs/ansible.md"
BLOCKS: Final = [block for block in blocks_of(PAGE) if block.run_by == "tests/ansible/test_docs.py"]


def report(host: str, *, pending: bool) -> dict[str, Any]:
    """Of a host with two VMs that have a PMU; ``pending``: their next boot has none."""
    next_boot = PmuState.OFF if pending else PmuState.DEFAULT
    kind = Kind(("web1", "web2"), None, PmuState.DEFAULT, next_boot, KernelPmu.ENABLED)
    made = many([kind], host=host, at=datetime.now(timezone.utc))
    for domain in made["domains"]:
        domain["uuid"] = domain_uuid(domain["name"])
    return made


def test_the_blocks_run_as_they_stand(make: MakeFleet, bin: Path) -> None:
    """The guests are emulated on one machine, so a plan is made of the reports that hosts with KVM would have given."""
    fleet = make([f"h{number:02}" for number in range(22)])
    last = fleet.names[-1]
    fleet.define({host: [plain_domain(name) for name in ("web1", "web2")] for host in fleet.names})
    inventory = json.loads(fleet.inventory.read_text())
    inventory["all"]["children"] = {"compute": {"hosts": {"h00": {}}}, "rack7": {"hosts": {"h20": {}}}}
    fleet.inventory.write_text(json.dumps(inventory))
    collection, gather, campaign, back = (block for block in BLOCKS if block.language == "console")

    def states() -> list[str]:
        return ["".join(sorted(set(fleet.pmus(host).values()))) for host in fleet.names]

    home = fleet.folder / "ansible"
    environment = {
        "ANSIBLE_HOME": str(home),
        "ANSIBLE_INVENTORY": str(fleet.inventory),
        "ANSIBLE_NOCOLOR": "1",
        "ANSIBLE_DEPRECATION_WARNINGS": "0",
        "LIBVIRT_LOG_OUTPUTS": f"3:file:{fleet.folder}/libvirt.log",
    }
    with Place(environment=environment) as place:
        for program in ("ansible-galaxy", "ansible-playbook"):
            place.program(program, f'exec {bin / program} "$@"')
        place.type(collection)
        assert (home / "collections/ansible_collections/pmuconf/kvm/MANIFEST.json").is_file()

        place.type(gather)
        assert place.run("ls /srv/pmu | wc -l").text == "22\n"
        for host in fleet.names:
            made = fleet.folder / f"{host}.json"
            made.write_text(json.dumps(report(host, pending=host == last)))
            assert place.run(f"cp {made} /srv/pmu").status == 0

        _, first, second, cycle = place.type(campaign)
        assert states() == ["off"] * 21 + ["default"]
        assert "h19" in first.text
        assert "h20" not in first.text
        assert "h20" in second.text
        assert last in cycle.text

        place.type(back)
        assert states() == ["default"] * 22


@pytest.mark.parametrize("page", [PAGE, "ansible/roles/pmuconf/README.md"])
def test_a_playbook_has_ansible_s_syntax(page: str, make: MakeFleet, bin: Path) -> None:
    fleet = make(["h00"])
    (playbook,) = [block for block in blocks_of(page) if block.language == "yaml"]
    (fleet.folder / "site.yml").write_text(playbook.text)
    ran = fleet.run("site.yml", "--syntax-check")
    assert ran.status == 0, ran.text


def test_every_block_of_the_page_is_run() -> None:
    assert [block.line for block in BLOCKS] == [block.line for block in blocks_of(PAGE)]


@pytest.mark.parametrize("name", ["domain", "rollback", "host_info", "report_info", "journal_info"])
def test_the_modules_of_the_page_are_there(name: str, bin: Path) -> None:
    assert f"| `{name}` |" in (Path(__file__).parents[2] / PAGE).read_text()
