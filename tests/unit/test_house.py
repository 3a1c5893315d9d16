"""The house: no circle, each room described, the pictures fresh, and no name of a variable that says nothing."""

from __future__ import annotations

import ast
import re
from collections import Counter
from pathlib import Path

import pytest

from tests.house import SOURCES, TREE, House, circles, modules, vague_names

MODULES = modules()
PATHS = [path for source in SOURCES for path in sorted((TREE / source).rglob("*.py"))]
PAGE = (TREE / "docs" / "architecture.md").read_text(encoding="utf-8")


def test_files_import_each_other_in_no_circle() -> None:
    assert circles({module.name: module.imports for module in MODULES}) == []


@pytest.mark.parametrize("within", ["", "host"])
def test_nor_do_rooms(within: str) -> None:
    assert circles(House(MODULES, within).arrows) == []


def test_a_circle_is_seen() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [{"a", "b", "c"}]


@pytest.mark.parametrize("within", ["", "host"])
def test_each_room_is_described_and_no_other(within: str) -> None:
    whole, inside = PAGE.split("## Inside host/")
    described = re.findall(r"^\| `([\w./]+)` \|", inside if within else whole, re.MULTILINE)
    assert sorted(described) == sorted(House(MODULES, within).names.values())


@pytest.mark.parametrize(("name", "within"), [("architecture", ""), ("architecture-host", "host")])
def test_the_picture_shows_what_the_code_imports(name: str, within: str) -> None:
    """By the titles that Graphviz gives boxes and arrows; where the boxes lie differs from version to version."""
    drawn = (TREE / "docs" / f"{name}.svg").read_text(encoding="utf-8")
    titles = {title.replace("&#45;", "-").replace("&gt;", ">") for title in re.findall(r"<title>(.*?)</title>", drawn)}
    house = House(MODULES, within)
    assert titles - {"house"} == {*house.names.values(), *house.shown()}, "run: make architecture"


@pytest.mark.parametrize("path", PATHS, ids=lambda path: str(path.relative_to(TREE)))
def test_variables_have_names_that_say_something(path: Path) -> None:
    assert vague_names(path) == []


def test_a_class_name_stands_in_one_file() -> None:
    names = Counter(
        node.name
        for path in PATHS
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    )
    assert [name for name, number in names.items() if number > 1] == []
