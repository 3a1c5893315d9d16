"""The links of the Markdown pages, and what is wrong with them.

``python -m tests.docs.links`` lists the links that lead out of the tree.
No test follows them: that would need the internet.
"""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final
from urllib.parse import unquote

__all__ = ["ROOT", "Link", "anchors", "fault", "links_of", "pages"]

ROOT: Final = Path(__file__).resolve().parents[2]
_FENCED: Final = re.compile(r"^ *(`{3,}|~{3,}).*?^ *\1 *$", re.MULTILINE | re.DOTALL)
_CODE: Final = re.compile(r"(`+)(?!`).*?(?<!`)\1(?!`)", re.DOTALL)
_LINK: Final = re.compile(r"\]\(<?([^)>\s]+)>?(?: \"[^\"]*\")?\)")
_HEADING: Final = re.compile(r"^#{1,6} +(.+?) *#*$", re.MULTILINE)
_EXTERNAL: Final = re.compile(r"[a-z][a-z0-9+.-]*:")


@dataclass(frozen=True)
class Link:
    """A link, and the page that has it, by its path."""

    page: str
    target: str

    @property
    def external(self) -> bool:
        """Whether it leads out of the tree."""
        return _EXTERNAL.match(self.target) is not None


def pages() -> list[str]:
    """All Markdown pages that git knows or would take."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", "*.md"]
    names = subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.PIPE, text=True).stdout.split("\n")
    return [name for name in dict.fromkeys(names) if name and (ROOT / name).exists()]


def links_of(page: str, text: str) -> Iterator[Link]:
    """The links in the text of a page, images included, without what is code."""
    for target in _LINK.findall(_CODE.sub("``", _FENCED.sub("", text))):
        yield Link(page, target)


@cache
def anchors(page: Path) -> frozenset[str]:
    """What a link may have after the sign #: the headings, as GitHub and MyST spell them there."""
    seen: Counter[str] = Counter()
    for heading in _HEADING.findall(_FENCED.sub("", page.read_text(encoding="utf-8"))):
        plain = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).lower()
        slug = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        seen[slug] += 1
        if seen[slug] > 1:
            seen[f"{slug}-{seen[slug] - 1}"] += 1
    return frozenset(seen)


def fault(link: Link) -> str | None:
    """What is wrong with a link within the tree; None if it leads somewhere."""
    path, _, anchor = link.target.partition("#")
    file = (ROOT / link.page).parent / unquote(path) if path else ROOT / link.page
    if not file.resolve().is_relative_to(ROOT):
        return "leads out of the tree"
    if not file.exists():
        return "no such file"
    if anchor and anchor not in anchors(file.resolve()):
        return "no such heading"
    return None


def _main() -> None:
    listed = [link for page in pages() for link in links_of(page, (ROOT / page).read_text(encoding="utf-8"))]
    external = [link for link in listed if link.external]
    for link in external:
        print(f"{link.page}: {link.target}")
    print(f"{len(listed) - len(external)} links within the tree, checked; {len(external)} others, not followed")


if __name__ == "__main__":
    _main()
