"""What can be told of the Ansible collection without Ansible; make test-ansible runs the rest."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

import pmuconf

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
