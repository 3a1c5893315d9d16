"""Write docs/causes.md from what the code declares: python -m tests.causes docs/causes.md"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final, Union

from pmuconf.causes import CAUSES, Topic
from pmuconf.fastpath.cases import CASES
from pmuconf.host.guard.cases import FUNCTION, KERNEL, FunctionFindings, GuardCase, KernelFindings

__all__ = ["guard_causes", "markdown"]

_Case = Union[GuardCase[FunctionFindings], GuardCase[KernelFindings]]
_INTRO: Final = """\
# Causes: what a code in an error or a report means

**What does this code in an error or a report mean?** Search this page for the code. Every error ends with one in
parentheses, and every verdict has one as its `cause`. Codes are stable and sentences are not, so compare codes in
scripts and alerts. Exit statuses are in [commands](commands.md#exit-status).

<!-- made by: make causes -->
"""


def guard_causes() -> frozenset[str]:
    """The causes of a kernel's verdict."""
    return frozenset({case.cause for case in FUNCTION} | {case.cause for case in KERNEL})


def markdown() -> str:
    """The page."""
    parts = [_INTRO]
    for topic in Topic:
        codes = [code for code, cause in CAUSES.items() if cause.topic is topic]
        pages = {CAUSES[code].page for code in codes} - {""}
        more = f" More: {', '.join(f'[{_title(page)}]({page})' for page in sorted(pages))}." if pages else ""
        parts.append(
            f"\n## {topic.value}\n{more and chr(10) + more.strip() + chr(10)}\n| code | meaning |\n|---|---|\n"
        )
        parts += [f"| `{code}` | {CAUSES[code].meaning} |\n" for code in codes]
    parts.append(
        "\n## The fast path of a VM\n\nMore: [fastpath](fastpath.md).\n\n| code | fast path | exit status | meaning |\n"
        "|---|---|---|---|\n"
    )
    parts += [
        f"| `{code}` | {case.fast_path.value} | {case.severity} | {case.message} |\n" for code, case in CASES.items()
    ]
    parts.append(
        "\n## The verdict on a kernel\n\nMore: [host](host.md).\n\n| code | verdict | meaning |\n|---|---|---|\n"
    )
    parts += [f"| `{case.cause}` | {case.verdict.value} | {case.message} |\n" for case in _guard_cases()]
    return "".join(parts)


def _guard_cases() -> list[_Case]:
    """The first case of each cause, in the order of the tables: it says what the code means."""
    first: dict[str, _Case] = {}
    cases: tuple[_Case, ...] = (*FUNCTION, *KERNEL)
    for case in cases:
        first.setdefault(case.cause, case)
    return list(first.values())


def _title(page: str) -> str:
    name, _, anchor = page.replace(".md", "").partition("#")
    return f"{name}, {anchor.replace('-', ' ')}" if anchor else name


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(markdown(), encoding="utf-8")
