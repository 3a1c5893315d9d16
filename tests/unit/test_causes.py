"""Causes: each that the code can give is declared with a sentence, each that is declared is given and documented."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

import pmuconf
from pmuconf.causes import CAUSES, Topic
from pmuconf.fastpath.cases import CASES
from pmuconf.fastpath.inkernel import WHY_UNKNOWN
from tests.causes import guard_causes, markdown

TREE: Final = Path(pmuconf.__file__).resolve().parents[1]
CODE: Final = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
SOURCES: Final = sorted((*(TREE / "pmuconf").rglob("*.py"), *(TREE / "nova_hooks" / "pmuconf_nova").rglob("*.py")))
NAMES: Final = (
    "--continue",
    "capstone",
    "clouds.yaml",
    "hw:pmu",
    "kvm.enable_pmu",
    "libvirt",
    "libvirt's",
    "openstacksdk",
    "pmuconf",
    "pmuconf-nova",
)
KNOWN: Final = CAUSES.keys() | CASES.keys() | guard_causes()


def literals(tree: ast.AST) -> Iterator[str]:
    """The text that a ``cause=`` is given as it stands, both of an "a if ... else b" included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg == "cause":
            values = [node.value.body, node.value.orelse] if isinstance(node.value, ast.IfExp) else [node.value]
            for value in values:
                if isinstance(value, ast.Constant) and isinstance(value.value, str) and value.value:
                    yield value.value


def test_each_cause_that_the_code_gives_is_declared() -> None:
    given = {cause for path in SOURCES for cause in literals(ast.parse(path.read_text(encoding="utf-8")))}
    assert len(given) > 100
    assert sorted(given - KNOWN) == []


def test_each_reason_why_a_pmu_is_unknown_is_declared() -> None:
    assert sorted(WHY_UNKNOWN.keys() - KNOWN) == []


def test_each_cause_that_is_declared_stands_somewhere_in_the_code() -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in SOURCES if path.name != "causes.py")
    assert [code for code in CAUSES if not re.search(rf"(?<![\w-]){code}(?![\w-])", text)] == []


def seen_by_tests() -> set[str]:
    """The texts that tests compare with, and the codes in parentheses in the messages that they expect.

    Tests that need more than a host with libvirt do not count, nor does this one.
    """
    seen: set[str] = set()
    for path in (TREE / "tests").rglob("test_*.py"):
        room = path.relative_to(TREE / "tests").parts[0]
        if room in ("unit", "functional", "monitoring") and path != Path(__file__):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    seen |= {node.value.strip(), *re.findall(r"\(([a-z0-9-]+)\)", node.value), node.value.split(" ")[0]}
    return seen


def test_each_cause_is_seen_by_a_test() -> None:
    """As an answer of the code: a test that merely names it has no place here."""
    assert sorted(KNOWN - seen_by_tests()) == []


@pytest.mark.parametrize("code", sorted(CAUSES))
def test_a_cause_has_a_code_and_a_sentence_that_fits_behind_it(code: str) -> None:
    assert CODE.fullmatch(code)
    meaning = CAUSES[code].meaning
    assert meaning[0].isupper() or not meaning[0].isalpha() or meaning.split()[0].rstrip(":") in NAMES
    assert not meaning.endswith(".")
    assert len(meaning) < 110


def test_no_cause_is_declared_twice() -> None:
    """But for what a VM has of its kernel or host, which is one fact with one name."""
    assert CAUSES.keys() & CASES.keys() <= {"transient", "remote-host", "not-x86"}


def test_each_topic_has_causes() -> None:
    assert {cause.topic for cause in CAUSES.values()} == set(Topic)


def test_the_page_is_made_from_what_is_declared() -> None:
    assert (TREE / "docs" / "causes.md").read_text(encoding="utf-8") == markdown(), "run: make causes"


def test_the_pages_that_it_names_are_there() -> None:
    for cause in CAUSES.values():
        page, _, anchor = cause.page.partition("#")
        if not page:
            continue
        text = (TREE / "docs" / page).read_text(encoding="utf-8")
        anchors = {
            re.sub(r"[^\w -]", "", line.lstrip("#").strip().lower()).replace(" ", "-")
            for line in text.splitlines()
            if line.startswith("#")
        }
        assert not anchor or anchor in anchors, cause.page
