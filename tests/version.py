"""The version stands in pmuconf/__init__.py. Write it where else it is needed: python -m tests.version [VERSION]

With a VERSION, that is written into pmuconf/__init__.py first, debian/changelog gets an entry for it, and what
CHANGELOG.md has as unreleased becomes the notes of this version. ``python -m tests.version notes`` prints the notes.
"""

from __future__ import annotations

import re
import sys
import time
from pathlib import Path
from typing import Final

__all__ = ["ORIGIN", "copies", "notes", "version"]

TREE: Final = Path(__file__).resolve().parents[1]
ORIGIN: Final = "pmuconf/__init__.py"
_PLACES: Final = {
    ORIGIN: r'^__version__ = "(.*)"$',
    "nova_hooks/pmuconf_nova/__init__.py": r'^__version__ = "(.*)"$',
    "nova_hooks/setup.cfg": r"^    pmuconf>=(.*)$",
    "ansible/galaxy.yml": r"^version: (.*)$",
    "rpm/pmuconf.spec": r"^Version: +(.*)$",
    "docs/install.md": r"pmuconf(?:-nova)?_([^_~]*)~deb12_all",
    "docs/ansible.md": r"pmuconf-kvm-(.*?)\.tar\.gz",
    "debian/changelog": r"\Apmuconf \((.*)\) ",
}
_NOTES: Final = "CHANGELOG.md"
_UNRELEASED: Final = "## Unreleased\n"
_DATE: Final = "%a, %d %b %Y %H:%M:%S +0000"
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


def notes() -> str:
    """What CHANGELOG.md says about this version, or about what is unreleased if it does not have the version.

    :raises ValueError: it has neither.
    """
    for heading in (rf"## {re.escape(version())}(?: [^\n]*)?\n", _UNRELEASED):
        found = re.search(rf"^{heading}(.*?)(?=^## |\Z)", (TREE / _NOTES).read_text(), re.MULTILINE | re.DOTALL)
        if found and found.group(1).strip():
            return f"{found.group(1).strip()}\n"
    raise ValueError(f"{_NOTES} says nothing about {version()}")


def _found(place: str) -> re.Match[str]:
    found = re.search(_PLACES[place], (TREE / place).read_text(), re.MULTILINE)
    if found is None:
        raise ValueError(f"{place} has no version")
    return found


def _write(place: str, value: str) -> None:
    text = (TREE / place).read_text()
    for found in reversed(list(re.finditer(_PLACES[place], text, re.MULTILINE))):
        text = text[: found.start(1)] + value + text[found.end(1) :]
    (TREE / place).write_text(text)


def _main() -> None:
    if sys.argv[1:] == ["notes"]:
        print(notes(), end="")
        return
    if len(sys.argv) > 1 and sys.argv[1] != version():
        _write(ORIGIN, sys.argv[1])
        file = TREE / _NOTES
        heading = f"## {sys.argv[1]} ({time.strftime('%Y-%m-%d', time.gmtime())})\n"
        file.write_text(file.read_text().replace(_UNRELEASED, heading, 1))
    for place, value in copies().items():
        if value == expected(place):
            continue
        if place == "debian/changelog":  # an entry says what was released when, so it is not replaced
            file = TREE / place
            file.write_text(
                _ENTRY.format(version=version(), date=time.strftime(_DATE, time.gmtime())) + file.read_text()
            )
        else:
            _write(place, expected(place))


if __name__ == "__main__":
    _main()
