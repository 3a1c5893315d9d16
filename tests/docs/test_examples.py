"""The blocks of the documents that are no commands: each is read by the program that it is for."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import jinja2
import jsonschema
import pytest
import yaml
from oslo_config import cfg
from pmuconf_nova import options

from pmuconf import conf
from pmuconf.errors import PmuconfError
from pmuconf.fleet import files
from tests.docs.blocks import ROOT, Block, blocks_of, pages
from tests.support.metrics import series_names

__all__ = ["READ"]

_HEADING: Final = re.compile(r"^# (/\S+)\n", re.MULTILINE)


def promtool(*words: str | Path) -> str:
    """What promtool says of it."""
    if shutil.which("promtool") is None:
        pytest.skip("promtool (Debian: prometheus) is not installed")
    ran = subprocess.run(["promtool", *map(str, words)], capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def read_ini(block: Block, folder: Path) -> None:
    """Of pmuconf, Nova or systemd, by what is in it."""
    if re.search(r"^\[(Service|Timer)\]$", block.text, re.MULTILINE):
        read_units(block, folder)
    elif "compute_driver" in block.text:
        read_nova_conf(block, folder)
    else:
        path = folder / "pmuconf.conf"
        path.write_text(block.text)
        chosen = conf.load([str(path)])
        assert not chosen.unused_rules
        assert replace(chosen, files=()) != replace(conf.load(["/dev/null"]), files=()), (
            "it says nothing that is not so without it"
        )


def read_nova_conf(block: Block, folder: Path) -> None:
    """By oslo.config with our options; compute_driver is Nova's. Every option is known, and its value is taken."""
    path = folder / "nova.conf"
    path.write_text(block.text)
    asked: Any = cfg.ConfigOpts()
    options.register(asked)
    asked.register_opt(cfg.StrOpt("compute_driver"))
    asked([], default_config_files=[str(path)])
    assert asked.compute_driver == "pmuconf.LibvirtDriver"
    groups: dict[str, dict[str, list[str]]] = {}
    cfg.ConfigParser(str(path), groups).parse()
    assert groups.pop("DEFAULT").keys() == {"compute_driver"}
    assert groups.keys() <= {options.GROUP}
    for name in groups.get(options.GROUP, {}):
        assert getattr(asked.pmuconf, name) is not None


def read_units(block: Block, folder: Path) -> None:
    """By systemd: whole units, each below a comment with its path, or a drop-in for our service."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("needs systemd-analyze")
    _, *parts = _HEADING.split(block.text)
    units = dict(zip((Path(path).name for path in parts[::2]), parts[1::2]))
    if not units:
        units = {"pmuconf.service": (ROOT / "etc/systemd/pmuconf.service").read_text() + block.text}
    for name, text in units.items():
        (folder / name).write_text(re.sub(r"^(ExecStart=)\S+", rf"\1{shutil.which('true')}", text, flags=re.MULTILINE))
    ran = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *(str(folder / name) for name in units)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    others = ("pmuconf-host-facts",)
    said = [line for line in ran.stderr.splitlines() if "pmuconf" in line and not any(word in line for word in others)]
    assert (ran.returncode, said) == (0, [])


def read_json(block: Block, folder: Path) -> None:
    """A plan has its schema; a marker is read as ``fleet report`` reads it."""
    document = json.loads(block.text)
    if document["format"] == "pmuconf-fleet-plan":
        whole = json.loads((ROOT / "docs/fleet-plan.schema.json").read_text())
        for name in document:
            jsonschema.validate(document[name], {**whole["properties"][name], "$defs": whole.get("$defs", {})})
        return
    path = folder / f"{document['host']}.unreachable.json"
    path.write_text(block.text)
    assert isinstance(files.read_head(str(path)), files.Head)


def read_yaml(block: Block, folder: Path) -> None:
    """A playbook, a VM of KubeVirt, or the configuration of a Prometheus."""
    document = yaml.safe_load(block.text)
    if isinstance(document, list):
        for play in document:
            read_play(play, folder)
        return
    if "spec" in document:  # a VM of KubeVirt with our sidecar
        annotations = document["spec"]["template"]["metadata"]["annotations"]
        (sidecar,) = json.loads(annotations["hooks.kubevirt.io/hookSidecars"])
        assert sidecar.keys() == {"image", "args"}
        return
    assert "scrape_configs" in document
    text = block.text.replace("/etc/prometheus/", f"{ROOT}/etc/prometheus/")
    (folder / "prometheus.yml").write_text(text)
    assert "rules found" in promtool("check", "config", folder / "prometheus.yml")


def read_play(play: dict[str, Any], folder: Path) -> None:
    """The role gets variables that it has, and writes a configuration that is taken; so do modules their options.

    tests/ansible asks Ansible itself.
    """
    (specs,) = yaml.safe_load((ROOT / "ansible/roles/pmuconf/meta/argument_specs.yml").read_text()).values()
    for role in play["roles"]:
        assert role["role"] == "pmuconf.kvm.pmuconf"
        given = {**role, **role.get("vars", {})}
        given = {name: value for name, value in given.items() if name not in ("role", "vars")}
        known = specs["main"]["options"]
        assert given.keys() <= known.keys()
        values = {name: spec["default"] for name, spec in known.items() if "default" in spec}
        (folder / "pmuconf.conf").write_text(role_configuration({**values, **given}))
        chosen = conf.load([str(folder / "pmuconf.conf")])
        assert [rule.name for rule in chosen.policy.rules] == [rule["name"] for rule in given["pmuconf_rules"]]
    for task in play.get("tasks", []):
        (name,) = [word for word in task if word != "name"]
        module = (ROOT / "ansible/plugins/modules" / f"{name.replace('pmuconf.kvm.', '')}.py").read_text()
        documentation = yaml.safe_load(module.partition('DOCUMENTATION = r"""')[2].partition('"""')[0])
        assert task[name].keys() <= documentation["options"].keys()


def role_configuration(values: dict[str, Any]) -> str:
    """What the role's template makes of its variables."""

    def combine(settings: dict[str, Any], *others: dict[str, Any], recursive: bool) -> dict[str, Any]:
        made = {group: dict(listed) for group, listed in settings.items()}
        for other in others:
            for group, listed in other.items():
                made.setdefault(group, {}).update(listed)
        return made

    environment = jinja2.Environment(trim_blocks=True)
    environment.filters["combine"] = combine
    template = environment.from_string((ROOT / "ansible/roles/pmuconf/templates/pmuconf.conf.j2").read_text())
    return template.render(ansible_managed="", **values)


def read_promql(block: Block, folder: Path) -> None:
    """Every line is an expression that Prometheus takes, about series that there are."""
    asked = set(re.findall(r"\bpmuconf_\w+", block.text))
    assert asked
    assert asked <= series_names()
    rules = [{"record": f"line{number}", "expr": line} for number, line in enumerate(block.lines)]
    (folder / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "lines", "rules": rules}]}))
    assert f"{len(rules)} rules found" in promtool("check", "rules", folder / "rules.yml")


def read_text(block: Block, folder: Path) -> None:
    """Nothing reads it, so it is no command and no output of one."""
    assert not [line for line in block.lines if line.startswith(("# ", "$ "))]


READ: Final[dict[str, Callable[[Block, Path], None]]] = {
    "ini": read_ini,
    "json": read_json,
    "promql": read_promql,
    "text": read_text,
    "yaml": read_yaml,
}
"""What reads a block, by its language."""

_BLOCKS: Final = [block for page in pages() for block in blocks_of(page) if block.language in READ and block.runs_here]


@pytest.mark.parametrize("block", _BLOCKS, ids=lambda block: block.place)
def test_it_is_taken(block: Block, tmp_path: Path) -> None:
    READ[block.language](block, tmp_path)


_PLAYBOOKS: Final = [
    block for page in pages() for block in blocks_of(page) if block.language == "yaml" and "- hosts:" in block.text
]


@pytest.mark.parametrize("block", _PLAYBOOKS, ids=lambda block: block.place)
def test_a_playbook_is_read_here_even_if_ansible_s_tests_run_it(block: Block, tmp_path: Path) -> None:
    read_yaml(block, tmp_path)


def test_the_example_of_the_manual_page_is_taken(tmp_path: Path) -> None:
    """It is reStructuredText: an indented block behind "::"."""
    text = (ROOT / "docs/man/pmuconf.conf.5.rst").read_text()
    (example,) = re.findall(r"::\n\n((?:    .*\n|\n)+)", text)
    lines = tuple(line[4:] for line in example.rstrip().splitlines())
    read_ini(Block("docs/man/pmuconf.conf.5.rst", 1, "ini", lines), tmp_path)


REFUSALS: Final = (AssertionError, PmuconfError, cfg.Error, ValueError, jsonschema.ValidationError)


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("ini", "[policy]\ndefualt = on\n"),
        ("ini", "[policy]\ndefault = off\n"),
        ("ini", "[policy]\ndefault = on\n\n[rule:one]\npmu = on\nflavor = a\n"),
        ("ini", "[DEFAULT]\ncompute_driver = pmuconf.LibvirtDriver\n\n[pmuconf]\nstirct = true\n"),
        ("ini", "[DEFAULT]\ncompute_driver = pmuconf.LibvirtDriver\n\n[pmuconf]\nrecord_decision = maybe\n"),
        ("ini", "# /etc/systemd/system/pmuconf-a.service\n[Service]\nType=oneshot\nExceStart=/bin/true\n"),
        ("json", '{"format": "pmuconf-unreachable", "version": 1, "host": "a"}\n'),
        ("json", '{"format": "pmuconf-fleet-plan", "version": 1, "steps": [{"id": "a"}]}\n'),
        ("yaml", "- hosts: a\n  roles:\n    - role: pmuconf.kvm.pmuconf\n      pmuconf_rule: []\n"),
        ("yaml", "- hosts: a\n  roles: []\n  tasks:\n    - pmuconf.kvm.domain: {canaries: 1}\n"),
        ("yaml", "scrape_configs:\n  - jobname: pmuconf\n"),
        ("promql", "sum(pmuconf_vms\n"),
        ("promql", "sum(pmuconf_vmss)\n"),
        ("text", "$ rm -rf /\n"),
    ],
)
def test_what_is_wrong_is_noticed(language: str, text: str, tmp_path: Path) -> None:
    with pytest.raises(REFUSALS):
        READ[language](Block("page", 1, language, tuple(text.splitlines())), tmp_path)
