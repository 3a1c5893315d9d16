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
from tests.docs.blocks import Block, blocks_of
from tests.docs.place import Place
from tests.support.domains import domain_uuid, plain_domain
from tests.support.sample import Kind, many

PAGE: Final = "docs/ansible.md"
BLOCKS: Final = [block for block in blocks_of(PAGE) if block.run_by == "tests/ansible/test_docs.py"]


def kinds() -> dict[str, list[Block]]:
    found: dict[str, list[Block]] = {}
    for block in BLOCKS:
        found.setdefault(block.language, []).append(block)
    return found


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
    console, (play,) = kinds()["console"], kinds()["yaml"]
    assert len(console) + 1 == len(BLOCKS)
    collection, gather, campaign, back = console

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

        playbook = f"cat >site.yml <<'END'\n{play.text}END\nansible-playbook --syntax-check site.yml"
        assert place.run(playbook).status == 0

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


def test_every_block_of_the_page_is_run() -> None:
    assert [block.line for block in BLOCKS] == [block.line for block in blocks_of(PAGE)]


@pytest.mark.parametrize("name", ["domain", "rollback", "host_info", "report_info", "journal_info"])
def test_the_modules_of_the_page_are_there(name: str, bin: Path) -> None:
    assert f"| `{name}` |" in (Path(__file__).parents[2] / PAGE).read_text()
