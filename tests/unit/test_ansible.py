"""What can be told of the Ansible collection without Ansible; make test-ansible runs the rest."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

import jinja2
import pytest
import yaml

import pmuconf
from pmuconf import conf
from pmuconf.change.entry import Entry
from pmuconf.change.result import Outcome, Result
from pmuconf.conf import Settings
from pmuconf.policy import Decision

_TREE = Path(__file__).resolve().parents[2]
_COLLECTION = _TREE / "ansible"
_MODULES = sorted(file.stem for file in (_COLLECTION / "plugins/modules").glob("*.py"))


def read(path: str) -> Any:
    return yaml.safe_load((_COLLECTION / path).read_text())


def strings(module: str) -> dict[str, str]:
    """The documentation that a module carries."""
    tree = ast.parse((_COLLECTION / f"plugins/modules/{module}.py").read_text())
    found = {}
    for node in tree.body:
        if (
            isinstance(node, ast.Assign)
            and isinstance(node.targets[0], ast.Name)
            and isinstance(node.value, ast.Constant)
        ):
            found[node.targets[0].id] = str(node.value.value)
    return found


def _tasks(listed: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [task for one in listed for task in (one, *_tasks(one.get("block", [])))]


def test_it_has_pmuconf_s_version() -> None:
    assert read("galaxy.yml")["version"] == pmuconf.__version__


def test_every_module_is_in_the_group_and_in_the_docs() -> None:
    assert read("meta/runtime.yml")["action_groups"] == {"pmuconf": _MODULES}
    for text in ((_COLLECTION / "README.md").read_text(), (_TREE / "docs/ansible.md").read_text()):
        assert sorted(set(_MODULES) & set(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE))) == _MODULES


@pytest.mark.parametrize("module", _MODULES)
def test_the_documentation_can_be_read(module: str) -> None:
    told = strings(module)
    assert yaml.safe_load(told["DOCUMENTATION"])["module"] == module
    assert any(f"pmuconf.kvm.{module}" in task for task in _tasks(yaml.safe_load(told["EXAMPLES"])))
    assert "cause" in yaml.safe_load(told["RETURN"])


def returned(module: str, value: str) -> dict[str, Any]:
    """What the documentation says of the fields of each of a list that a module returns."""
    contains: dict[str, Any] = yaml.safe_load(strings(module)["RETURN"])[value]["contains"]
    return contains


@pytest.mark.parametrize("module", ["domain", "rollback"])
def test_each_field_of_a_result_is_documented(module: str) -> None:
    assert list(returned(module, "results")) == list(Result("a", "b", Outcome.CHANGED).record())


@pytest.mark.parametrize(
    ("module", "never"), [("domain", set()), ("rollback", {Outcome.OBSERVED, Outcome.OVERRIDDEN, Outcome.UNDECIDED})]
)
def test_each_outcome_is_documented(module: str, never: set[Outcome]) -> None:
    told = re.findall(r"C\(([a-z-]+)\)", " ".join(returned(module, "results")["outcome"]["description"]))
    assert set(told) - {"pmuconf"} == {one.value for one in Outcome if one not in never}


def test_each_field_of_a_change_is_documented() -> None:
    entry = Entry.of_record(
        {
            **{"change": 1, "time": "2026-01-02T03:04:05.000000+00:00", "name": "a", "old": "on", "new": "off"},
            **{"uuid": "00000000-0000-4000-8000-000000000000", "rule": "a", "kind": "apply", "status": "done"},
            **{"cause": "", "who": "root", "uri": "qemu:///system"},
        }
    )
    assert list(returned("journal_info", "changes")) == [*entry.record(), "here", "running"]


@pytest.mark.parametrize("module", _MODULES)
def test_a_module_imports_of_pmuconf_only_what_is_there(module: str) -> None:
    tree = ast.parse((_COLLECTION / f"plugins/modules/{module}.py").read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pmuconf"):
            there = __import__(str(node.module), fromlist=["x"])
            assert all(hasattr(there, alias.name) for alias in node.names)


def test_what_the_role_takes_from_etc_is_there() -> None:
    files = list((_COLLECTION / "roles/pmuconf/files").iterdir())
    assert len(files) == 6
    assert all(file.is_symlink() and file.resolve().is_relative_to(_TREE / "etc") and file.is_file() for file in files)


def test_each_default_of_the_role_is_explained() -> None:
    options = read("roles/pmuconf/meta/argument_specs.yml")["argument_specs"]["main"]["options"]
    defaults = read("roles/pmuconf/defaults/main.yml")
    assert set(defaults) <= set(options)
    for name, value in defaults.items():
        if "default" in options[name]:
            assert options[name]["default"] == value, name


def configured(tmp_path: Path, variables: str) -> Settings:
    """What pmuconf reads from the file that the role writes for these variables."""
    engine = jinja2.Environment(trim_blocks=True, keep_trailing_newline=True, autoescape=False)
    engine.filters["combine"] = lambda one, *others, recursive: _combined(one, *others)
    template = engine.from_string((_COLLECTION / "roles/pmuconf/templates/pmuconf.conf.j2").read_text())
    given = {**read("roles/pmuconf/defaults/main.yml"), **yaml.safe_load(variables), "ansible_managed": "by Ansible"}
    path = tmp_path / "pmuconf.conf"
    path.write_text(template.render(given))
    return conf.load([str(path)])


def _combined(one: dict[str, Any], *others: dict[str, Any]) -> dict[str, Any]:
    for other in others:
        one = {
            **one,
            **{
                key: _combined(one.get(key, {}), value) if isinstance(value, dict) else value
                for key, value in other.items()
            },
        }
    return one


@pytest.mark.parametrize(
    ("written", "decision"), [("off", "off"), ("on", "on"), ("'off'", "off"), ("'on'", "on"), ("keep", "keep")]
)
def test_on_and_off_need_no_quotes_in_the_role_s_variables(tmp_path: Path, written: str, decision: str) -> None:
    settings = configured(
        tmp_path,
        f"""
        pmuconf_settings:
          policy:
            default: {written}
          service:
            listen_beyond_loopback: {"on" if decision == "on" else "off"}
        pmuconf_rules:
          - name: a
            pmu: {written}
            domain: [a]
        """,
    )
    assert settings.policy.default is Decision(decision)
    assert settings.policy.rules[0].decision is Decision(decision)


def test_a_name_in_a_list_of_the_role_s_is_one_name_whatever_is_in_it(tmp_path: Path) -> None:
    names = ["a, b", "[win10] work", "x,", "web", "7", "$5", "DOM\\user", "it's"]
    listed = "".join(f"\n              - {json.dumps(name)}" for name in names)
    settings = configured(
        tmp_path,
        f"""
        pmuconf_rules:
          - name: a
            pmu: on
            domain:{listed}
          - name: b
            pmu: keep
            flavor: m1.*, m2.*
        """,
    )
    assert settings.policy.rules[0].domain == (*names,)
    assert settings.policy.rules[1].flavor == ("m1.*", "m2.*")
