"""The blocks of code in the documents, and how each of them is tested.

A block is run by a test here, unless a comment right before it says otherwise. Readers do not see these comments:

    <!-- example: needs a second host -->          nobody runs it, for this reason
    <!-- run by tests/system/test_docs.py -->      that test runs it, and names the page

In a console block, a line that begins with "# " or "$ " is a command, typed by root or by any user. The lines below it
are its output, and are compared. "..." stands for any text within a line; a line of "..." alone stands for any lines. A
command without output in the document may say what it likes. In a block of sh, every line is a command.

``python -m tests.docs.blocks`` lists all blocks.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["CONSOLE", "ROOT", "Block", "Command", "blocks_of", "differing", "pages", "succeeded", "summary"]

ROOT: Final = Path(__file__).resolve().parents[2]
CONSOLE: Final = frozenset({"console", "sh", "bash"})
_PAGES: Final = (
    *("README.md", "CONTRIBUTING.md", "SECURITY.md", "docs/**/*.md"),
    *("contrib/**/README.md", "ansible/**/README.md", "nova_hooks/README.md"),
)
_FENCE: Final = re.compile(r"^ *(`{3,}|~{3,})(.*)$")
_COMMENT: Final = re.compile(r"^<!-- (?:(example): (.+)|run by (\S+)) -->$")
_PMUCONF: Final = re.compile(r"(?:^|&& *|; *)pmuconf [^&|;]*$")
_FEWEST_WORDS: Final = 3


@dataclass(frozen=True)
class Command:
    """What is typed, and the lines that the document shows as its output."""

    text: str
    output: tuple[str, ...] = ()


@dataclass(frozen=True)
class Block:
    """One block: the page by its path, the number of its first line, what is in it, and what its comment says."""

    page: str
    line: int
    language: str
    lines: tuple[str, ...]
    example: str = ""
    run_by: str = ""

    @property
    def place(self) -> str:
        """The page and the line."""
        return f"{self.page}:{self.line}"

    @property
    def runs_here(self) -> bool:
        """Whether the tests beside this file have to run it."""
        return not self.example and not self.run_by

    @property
    def text(self) -> str:
        """All lines."""
        return "".join(f"{line}\n" for line in self.lines)

    def commands(self) -> tuple[Command, ...]:
        """The commands of a console block.

        :raises ValueError: there is none, or output stands before the first.
        """
        if self.language != "console":
            return tuple(Command(line) for line in self.lines if line and not line.startswith("#"))
        found: list[tuple[str, list[str]]] = []
        for line in self.lines:
            if line[:2] in ("# ", "$ "):
                found.append((line[2:], []))
            elif found:
                found[-1][1].append(line)
            else:
                raise ValueError(f"{self.place}: the first line is no command")
        if not found:
            raise ValueError(f"{self.place}: there is no command")
        return tuple(Command(text, tuple(output)) for text, output in found)


def pages() -> list[str]:
    """The documents, by their paths."""
    return sorted({str(path.relative_to(ROOT)) for pattern in _PAGES for path in ROOT.glob(pattern)})


def blocks_of(page: str, text: str | None = None) -> list[Block]:
    """The blocks of a page, in their order.

    :raises ValueError: a comment is wrong, or a block does not end.
    """
    return list(_blocks(page, (ROOT / page).read_text() if text is None else text))


def _blocks(page: str, text: str) -> Iterator[Block]:
    lines = enumerate(text.splitlines(), 1)
    before = ""
    for number, line in lines:
        fence = _FENCE.match(line)
        if fence is None:
            before = line.strip() or before
            if line.strip() and line.strip().startswith(("<!-- example", "<!-- run by")) and not _COMMENT.match(before):
                raise ValueError(f"{page}:{number}: not a comment that says how a block is tested: {line}")
            continue
        inside = list(_until(fence[1], lines, f"{page}:{number}"))
        indent = len(line) - len(line.lstrip())
        comment = _COMMENT.match(before)
        example, run_by = (comment[2] or "", comment[3] or "") if comment else ("", "")
        if comment and comment[1] and len(example.split()) < _FEWEST_WORDS:
            raise ValueError(f"{page}:{number}: {example!r} is no reason")
        yield Block(page, number, fence[2].strip(), tuple(each[indent:] for each in inside), example, run_by)
        before = ""


def _until(fence: str, lines: Iterator[tuple[int, str]], place: str) -> Iterator[str]:
    for _, line in lines:
        if line.strip() == fence:
            return
        yield line
    raise ValueError(f"{place}: the block has no end")


def differing(expected: Sequence[str], output: str) -> str:
    """Nothing if the output is what the page shows; otherwise the first line that is not, and the output."""
    lines = "".join(f"{line.rstrip()}\n" for line in output.splitlines())
    patterns = [_pattern(line.rstrip()) for line in expected]
    if not expected or re.fullmatch("".join(patterns), lines):
        return ""
    # A line of the page up to which the output is alike, or the end of the page where more came.
    alike = max(count for count in range(len(patterns) + 1) if re.match("".join(patterns[:count]), lines))
    first = expected[alike] if alike < len(expected) else "nothing more"
    return f"the page shows, where the output is another:\n{first}\nand this came:\n{lines}"


def _pattern(line: str) -> str:
    if line == "...":
        return r"(?:.*\n)*?"
    return "[^\n]*".join(map(re.escape, line.split("..."))) + r"\n"


def succeeded(command: str, status: int) -> bool:
    """Whether a command did what it is there for: a pmuconf that gives an answer did, whatever the answer is."""
    return status == 0 or (status in (1, 2) and _PMUCONF.search(re.sub(r"\s+# .*", "", command)) is not None)


def summary(blocks: Iterable[Block]) -> str:
    """How many blocks there are of each kind."""
    kinds = Counter("example" if block.example else block.run_by or "here" for block in blocks)
    others = ", ".join(f"{count} by {name}" for name, count in sorted(kinds.items()) if name not in ("example", "here"))
    return f"{kinds.total()} blocks in the documents: {kinds['here']} run here, {others}, {kinds['example']} not run"


if __name__ == "__main__":
    every = [block for page in pages() for block in blocks_of(page)]
    for block in every:
        said = f"not run: {block.example}" if block.example else f"run by {block.run_by or 'tests/docs'}"
        print(f"{block.place:28} {block.language:8} {said}")
    print(summary(every))
