"""Each page of docs/ begins with the question that it answers, as docs/index.md asks it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs"
QUESTIONS = dict(
    re.findall(r"^\| \[[^]]*\]\((\w[\w-]*\.md)\) \| (.*\?) \|$", (DOCS / "index.md").read_text(), re.MULTILINE)
)


def test_the_index_has_every_page() -> None:
    assert {*QUESTIONS, "index.md"} == {path.name for path in DOCS.glob("*.md")}


@pytest.mark.parametrize("name", sorted(QUESTIONS))
def test_a_page_begins_with_its_question(name: str) -> None:
    title, question = (DOCS / name).read_text().split("\n\n", 2)[:2]
    assert title.startswith("# ")
    assert question.startswith(f"**{QUESTIONS[name]}** ")
