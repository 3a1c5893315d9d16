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
    """Whether the guest of this command line is a TDX guest; None: it may be one.

    An option that is unknown here may have no argument, and shift the others. So each word that looks like one of the
    options counts, and all of them must agree.
    """
    names = {
        value
        for text in _values(words, "machine", "M")
        for key, _, value in map(_pair, _pieces(text))
        if key == _SUPPORT
    }
    objects = list(map(_object, _values(words, "object")))
    if not names:
        return None if any(kind == _TDX for kind, _ in objects) else False
    kinds = {kind for kind, name in objects if name in names}
    if len(names) == 1 and kinds == {_TDX}:
        return True
    return False if kinds and kinds <= _OTHERS else None


def _values(words: Sequence[str], *names: str) -> Iterator[str]:
    """The words that follow an option of one of these names."""
    wanted = {sign + name for name in names for sign in ("-", "--")}
    return (value for word, value in zip(words, words[1:]) if word in wanted)


def _object(text: str) -> tuple[str, str]:
    """The type and the name of an object; empty if it has none."""
    if text.startswith("{"):
        try:
            properties = json.loads(text)
        except (ValueError, RecursionError):
            properties = {}
        return str(properties.get("qom-type", "")), str(properties.get("id", ""))
    pairs = [_pair(piece) for piece in _pieces(text)]
    given = {key: value for key, equals, value in pairs if equals}
    first, equals, _ = pairs[0]
    return given.get("qom-type", "") if equals else first, given.get("id", "")


def _pieces(text: str) -> list[str]:
    """The pieces between commas. Two commas are one comma within a piece."""
    return [piece.replace("\0", ",") for piece in text.replace(",,", "\0").split(",")]


def _pair(piece: str) -> tuple[str, str, str]:
    return piece.partition("=")
