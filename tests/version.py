"""The version stands in pmuconf/__init__.py. Write it where else it is needed: python -m tests.version [VERSION]

With a VERSION, that is written into pmuconf/__init__.py first, and debian/changelog gets an entry for it.
"""

from __future__ import annotations

import re
import sys
import time
from email.utils import formatdate
from pathlib import Path
from typing import Final

__all__ = ["ORIGIN", "copies", "version"]

TREE: Final = Path(__file__).resolve().parents[1]
ORIGIN: Final = "pmuconf/__init__.py"
_PLACES: Final = {
    ORIGIN: r'^__version__ = "(.*)"$',
    "nova_hooks/pmuconf_nova/__init__.py": r'^__version__ = "(.*)"$',
    "nova_hooks/setup.cfg": r"^    pmuconf>=(.*)$",
    "ansible/galaxy.yml": r"^version: (.*)$",
    "debian/changelog": r"\Apmuconf \((.*)\) ",
}
_ENTRY: Final = """\
pmuconf ({version}) unstable; urgency=medium

  * See CHANGELOG.md.

 -- The pmuconf authors <pmuconf@localhost>  {date}

"""


def version() -> str:
    """The version of this tree."""
    return _found(ORIGIN).group(1)


def copies() -> dict[str, str]:
    """What each other place has: the version, or for the requirement of the plugin ``VERSION,<NEXT MINOR VERSION``."""
    return {place: _found(place).group(1) for place in _PLACES if place != ORIGIN}


def expected(place: str) -> str:
    """What a place should have."""
    now = version()
    major, minor = now.split(".")[:2]
    return f"{now},<{major}.{int(minor) + 1}" if place == "nova_hooks/setup.cfg" else now


def _found(place: str) -> re.Match[str]:
    found = re.search(_PLACES[place], (TREE / place).read_text(), re.MULTILINE)
    if found is None:
        raise ValueError(f"{place} has no version")
    return found


def _write(place: str, value: str) -> None:
    text = (TREE / place).read_text()
    found = _found(place)
    (TREE / place).write_text(text[: found.start(1)] + value + text[found.end(1) :])


def _main() -> None:
    if len(sys.argv) > 1:
        _write(ORIGIN, sys.argv[1])
    for place, value in copies().items():
        if value == expected(place):
            continue
        if place == "debian/changelog":  # an entry says what was released when, so it is not replaced
            file = TREE / place
            file.write_text(_ENTRY.format(version=version(), date=formatdate(time.time())) + file.read_text())
        else:
            _write(place, expected(place))


if __name__ == "__main__":
    _main()
