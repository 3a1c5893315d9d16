"""Each link within the tree leads to a file that is there, and to a heading that it has."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs import links
from tests.docs.links import ROOT, Link, fault, links_of, pages


def test_there_are_pages_and_links() -> None:
    found = [link for page in pages() for link in links_of(page, (ROOT / page).read_text(encoding="utf-8"))]
    assert {"README.md", "docs/index.md", "nova_hooks/README.md"} <= {link.page for link in found} | set(pages())
    assert len(found) > 100


@pytest.mark.parametrize("page", pages())
def test_links_within_the_tree_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    wrong = {link.target: fault(link) for link in links_of(page, text) if not link.external and fault(link)}
    assert wrong == {}


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("there.md", None),
        ("there.md#a-heading-of-it", None),
        ("there.md#its-code-too", None),
        ("there.md#a-heading-of-it-1", None),
        ("there.md#a-comment", "no such heading"),
        ("there.md#a-heading-of-it-2", "no such heading"),
        ("#here", None),
        ("#there", "no such heading"),
        ("gone.md", "no such file"),
        ("../..", "leads out of the tree"),
    ],
)
def test_a_wrong_link_is_seen(
    target: str, expected: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(links, "ROOT", tmp_path)
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/here.md").write_text("# Here\n")
    twice = "## A heading of it?\n\n## A heading [of](x.md) it\n"
    (tmp_path / "docs/there.md").write_text(f"# There\n\n{twice}\n## Its `code`, too\n\n```sh\n# A comment\n```\n")
    assert fault(Link("docs/here.md", target)) == expected


def test_code_has_no_links() -> None:
    text = "[a](a.md) `[b](b.md)`\n\n```\n[c](c.md)\n```\n\n![d](d.png)\n[e](https://example.org/)\n"
    assert [(link.target, link.external) for link in links_of("p.md", text)] == [
        ("a.md", False),
        ("d.png", False),
        ("https://example.org/", True),
    ]
