"""Whether a QEMU's command line is that of a TDX guest. Pure; nothing in it is trusted to be well formed.

The machine's property confidential-guest-support names an object, whose type says what protects the guest
(qemu-options.hx, qapi/qom.json). libvirt writes objects as JSON.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Final

__all__ = ["is_tdx"]

_SUPPORT: Final = "confidential-guest-support"
_TDX: Final = "tdx-guest"
_OTHERS: Final = frozenset({"sev-guest", "sev-snp-guest"})


def is_tdx(words: Sequence[str]) -> bool | None:
    """Whether it is one; None: it may be one.

    Options that are not known here may take no argument, and shift the others. So each word that looks like one of the
    options counts, and all of them must agree.
    """
    named = {
        value
        for text in _values(words, "machine", "M")
        for key, _, value in map(_pair, _pieces(text))
        if key == _SUPPORT
    }
    objects = list(map(_object, _values(words, "object")))
    if not named:
        return None if any(kind == _TDX for kind, _ in objects) else False
    kinds = {kind for kind, name in objects if name in named}
    if len(named) == 1 and kinds == {_TDX}:
        return True
    return False if kinds and kinds <= _OTHERS else None


def _values(words: Sequence[str], *names: str) -> Iterator[str]:
    wanted = {sign + name for name in names for sign in ("-", "--")}
    return (value for word, value in zip(words, words[1:]) if word in wanted)


def _object(text: str) -> tuple[str, str]:
    """Type and name of an object; empty where they are not told."""
    if text.startswith("{"):
        try:
            said = json.loads(text)
        except (ValueError, RecursionError):
            said = {}
        return str(said.get("qom-type", "")), str(said.get("id", ""))
    pairs = [_pair(piece) for piece in _pieces(text)]
    given = {key: value for key, equals, value in pairs if equals}
    first, equals, _ = pairs[0]
    return given.get("qom-type", "") if equals else first, given.get("id", "")


def _pieces(text: str) -> list[str]:
    """What stands between commas; two commas are one within a piece."""
    return [piece.replace("\0", ",") for piece in text.replace(",,", "\0").split(",")]


def _pair(piece: str) -> tuple[str, str, str]:
    return piece.partition("=")
