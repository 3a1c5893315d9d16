"""Reports whose every text was written by someone who wants more than to be shown."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import cycle
from typing import Any, Final

from tests.support.sample import sample

__all__ = ["PAYLOADS", "everywhere"]

PAYLOADS: Final = (
    "<script>window.hacked = 1</script>",
    "</script><script>window.hacked = 2</script>",
    '"><img src=x onerror="window.hacked = 3">',
    "' onfocus='window.hacked = 4' autofocus='",
    "javascript:window.hacked=5",
    "</style><style>* { display: none !important }</style>",
    "</title><svg onload=window.hacked=6>",
    "{{ 7 * 7 }}{% raw %}",
    "&lt;b&gt;&#60;i&#62;",
    "--><base href='https://example.org/'>",
    "\u05e9\u05dc\u05d5\u05dd \u0645\u0631\u062d\u0628\u0627 right to left",
    "\u202egnp.exe \u2066hidden",
    "\x1b[31mred\x00\x9b\n\t",
    "lone \udcff",
    "W" * 1000,
    "=HYPERLINK(1) | -- | +",
    "\u65e5\u672c \u2603 \U0001f600",
    "  ",
)

# Words of pmuconf's own, which no tenant writes.
_OURS: Final = frozenset(
    {"format", "generated_at", "default", "nova_domains", "verdict", "evidence", "decision", "live", "next_boot"}
    | {"saved", "effective_pmu", "in_kernel_pmu", "fast_path", "cause", "causes"}
)


def everywhere() -> dict[str, Any]:
    """The sample's document with a payload in place of every text that is not a word of pmuconf's own."""
    payloads = cycle(PAYLOADS)
    document: dict[str, Any] = _damaged(sample(), payloads)
    return document


def _damaged(found: Any, payloads: Iterator[str]) -> Any:
    if isinstance(found, str):
        return next(payloads)
    if isinstance(found, list):
        return [_damaged(one, payloads) for one in found]
    if isinstance(found, dict):
        return {key: one if key in _OURS else _damaged(one, payloads) for key, one in found.items()}
    return found
