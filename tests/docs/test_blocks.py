"""Every block in the documents is tested, or says why not; and how blocks are read."""

from __future__ import annotations

import re

import pytest

from tests.docs.blocks import CONSOLE, ROOT, Block, Command, blocks_of, differing, pages, succeeded, summary
from tests.docs.test_examples import READ

BLOCKS = [block for page in pages() for block in blocks_of(page)]


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.place)
def test_a_block_is_tested_or_says_why_not(block: Block) -> None:
    if block.example:
        return
    if block.run_by:
        test = (ROOT / block.run_by).read_text()
        assert block.run_by.startswith("tests/")
        assert f'"{block.page}"' in test, f"{block.place}: {block.run_by} does not name the page"
    elif block.language in CONSOLE:
        assert block.commands()  # test_console.py types them
    else:
        assert block.language in READ, f"{block.place}: no test reads {block.language or 'a block of no language'}"


def test_the_documents_are_found() -> None:
    assert {"README.md", "docs/service.md", "contrib/kernel/README.md", "ansible/README.md"} <= set(pages())
    assert len(BLOCKS) > 30
    assert sum(not block.example for block in BLOCKS) > 4 * sum(bool(block.example) for block in BLOCKS)
    assert f"{len(BLOCKS)} blocks" in summary(BLOCKS)


class TestReading:
    def test_language_lines_and_place(self) -> None:
        (block,) = blocks_of("page", "text\n\n```console\n# one\n```\n")
        assert (block.place, block.language, block.lines, block.example, block.run_by) == (
            "page:3",
            "console",
            ("# one",),
            "",
            "",
        )

    def test_a_block_in_a_list_loses_its_indent(self) -> None:
        (block,) = blocks_of("page", "1. text\n\n   ```ini\n   [a]\n     b = c\n   ```\n")
        assert block.text == "[a]\n  b = c\n"

    def test_a_comment_counts_for_the_block_right_behind_it(self) -> None:
        text = "<!-- example: needs a second host -->\n\n```sh\none\n```\n\n```sh\ntwo\n```\n"
        assert [block.example for block in blocks_of("page", text)] == ["needs a second host", ""]
        text = "<!-- example: needs a second host -->\ntext\n```sh\none\n```\n"
        assert [block.example for block in blocks_of("page", text)] == [""]

    def test_a_comment_that_names_the_test(self) -> None:
        (block,) = blocks_of("page", "<!-- run by tests/system/test_docs.py -->\n```sh\none\n```\n")
        assert (block.example, block.run_by) == ("", "tests/system/test_docs.py")

    @pytest.mark.parametrize(
        "text",
        [
            "<!-- example: no -->\n```sh\none\n```\n",
            "<!-- example -->\n```sh\none\n```\n",
            "<!-- run by -->\n```sh\none\n```\n",
            "```sh\none\n",
        ],
    )
    def test_what_is_wrong_is_refused(self, text: str) -> None:
        with pytest.raises(ValueError, match="page:"):
            blocks_of("page", text)

    def test_commands_and_their_output(self) -> None:
        (block,) = blocks_of("page", "```console\n# one  # a remark\n1\n\n2\n$ two\n```\n")
        assert block.commands() == (Command("one  # a remark", ("1", "", "2")), Command("two"))

    def test_output_without_a_command_is_refused(self) -> None:
        for text in ("1\n# one\n", ""):
            (block,) = blocks_of("page", f"```console\n{text}```\n")
            with pytest.raises(ValueError, match="page:1"):
                block.commands()

    def test_in_sh_every_line_is_a_command(self) -> None:
        (block,) = blocks_of("page", "```sh\n# a remark\none\n\ntwo\n```\n")
        assert block.commands() == (Command("one"), Command("two"))


class TestOutput:
    @pytest.mark.parametrize(
        ("expected", "output"),
        [
            ([], "anything"),
            (["one", "two"], "one \ntwo"),
            (["one ... three"], "one two three\n"),
            (["one..."], "one\n"),
            (["one", "...", "two"], "one\ntwo\n"),
            (["one", "...", "two"], "one\n1\n2\ntwo\n"),
            (["(a|b)*"], "(a|b)*\n"),
        ],
    )
    def test_alike(self, expected: list[str], output: str) -> None:
        assert differing(expected, output) == ""

    @pytest.mark.parametrize(
        ("expected", "output"),
        [
            (["one"], "two\n"),
            (["one"], "one\ntwo\n"),
            (["one", "two"], "one\n"),
            (["one ... three"], "one\nthree\n"),
            (["one", "...", "two"], "one\n1\n"),
        ],
    )
    def test_not_alike(self, expected: list[str], output: str) -> None:
        assert output in differing(expected, output)

    def test_the_first_line_that_differs_is_named(self) -> None:
        assert "\ntwo\n" in differing(["one", "...", "two", "three"], "one\n1\nthree\n")
        assert "\nnothing more\n" in differing(["one"], "one\ntwo\n")


@pytest.mark.parametrize("page", pages())
def test_links_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text()
    for target in re.findall(r"\]\(([^)#\s]+)", text):
        if "://" not in target:
            assert (ROOT / page).parent.joinpath(target).exists(), target


@pytest.mark.parametrize(
    ("command", "status", "good"),
    [
        ("pmuconf audit", 2, True),
        ("pmuconf audit   # a remark; and more", 1, True),
        ("pmuconf policy check && pmuconf apply --dry-run", 2, True),
        ("pmuconf audit", 255, False),
        ("pmuconf status --check", 3, False),
        ("pmuconf audit && systemctl reload pmuconf", 1, False),
        ("systemctl reload pmuconf", 1, False),
        ("systemctl reload pmuconf", 0, True),
    ],
)
def test_a_pmuconf_that_answers_has_succeeded(command: str, status: int, good: bool) -> None:
    assert succeeded(command, status) is good
