"""What the kernel's package says of itself: its version, and whether its changelog mentions the guard.

A hint for a person and nothing more: no verdict is made of it. Read from dpkg's status and /usr/share/doc, or from
rpm's database in SQLite (rpm 4.16 and later).
"""

from __future__ import annotations

import re
import sqlite3
import struct
import zlib
from collections.abc import Iterator
from contextlib import closing
from typing import Final

from pmuconf.errors import PmuconfError
from pmuconf.host.root import Root

__all__ = ["hint"]

_GUARD: Final = re.compile(r"^.*(?:enable_pmu|kvm_skip_emulated_instruction).*$", re.MULTILINE)
_MAX_CHANGELOG: Final = 64 << 20
_MAX_LINES: Final = 3
_MAX_LINE: Final = 200
# Tags of an rpm header, and its two string types (rpm's rpmtag.h): one string, and several.
_NAME, _VERSION, _RELEASE, _ARCH, _CHANGELOG = 1000, 1001, 1002, 1022, 1082
_STRINGS: Final = {6: False, 8: True, 9: True}
_STATUS: Final = "/var/lib/dpkg/status"


def hint(root: Root) -> tuple[str, ...]:
    """Sentences on the package of the running kernel; none if it is not known."""
    release = root.text("/proc/sys/kernel/osrelease") or ""
    if not re.fullmatch(r"[\w.+~-]+", release):
        return ()
    found = _dpkg(root, release) or _rpm(root, release)
    if found is None:
        return ()
    package, changelog = found
    lines = [match.group().strip()[:_MAX_LINE] for match in _GUARD.finditer(changelog)]
    if not lines:
        return (f"package {package}; its changelog does not mention the guard",)
    return f"package {package}; its changelog mentions what the guard touches", *lines[:_MAX_LINES]


def _dpkg(root: Root, release: str) -> tuple[str, str] | None:
    pattern = rf"^Package: (\S*-{re.escape(release)}(?:-signed)?)\n(?:(?!\n).*\n)*?Version: (\S+)$"
    installed = {match.group(1): match.group(2) for match in re.finditer(pattern, _text(root, _STATUS), re.MULTILINE)}
    for kind in ("linux-image", "pve-kernel", "proxmox-kernel", "linux-modules"):
        for name in sorted(name for name in installed if name.startswith(kind)):
            for file in ("changelog.Debian.gz", "changelog.gz"):
                changelog = _unpacked(root, f"/usr/share/doc/{name}/{file}")
                if changelog:
                    return f"{name} {installed[name]}", changelog
            return f"{name} {installed[name]}", ""
    return None


def _text(root: Root, name: str) -> str:
    try:
        return root.text(name) or ""
    except PmuconfError:  # a link that leads out of a record
        return ""


def _unpacked(root: Root, name: str) -> str:
    try:
        data = zlib.decompressobj(31).decompress(root.read(name), _MAX_CHANGELOG)
    except (OSError, zlib.error, PmuconfError):
        return ""
    return data.decode("utf-8", "replace")


def _rpm(root: Root, release: str) -> tuple[str, str] | None:
    """The package whose version, release and architecture are the kernel's release."""
    for name in ("/usr/lib/sysimage/rpm/rpmdb.sqlite", "/var/lib/rpm/rpmdb.sqlite"):
        try:
            if not root.exists(name):
                continue
            path = root.at(name)
            with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True)) as database:
                rows = database.execute(
                    "SELECT blob FROM Packages JOIN Name USING (hnum) WHERE key LIKE '%kernel%' ORDER BY key"
                )
                for (blob,) in rows:
                    tags = dict(_header(bytes(blob)))
                    whole = "{}-{}.{}".format(*(tags.get(tag, [""])[0] for tag in (_VERSION, _RELEASE, _ARCH)))
                    if whole == release:
                        return f"{tags.get(_NAME, ['?'])[0]} {whole}", "\n".join(tags.get(_CHANGELOG, []))
        except (sqlite3.Error, struct.error, PmuconfError, TypeError, IndexError):
            continue
    return None


def _header(blob: bytes) -> Iterator[tuple[int, list[str]]]:
    """The tags of an rpm header that hold strings."""
    entries, _ = struct.unpack_from(">II", blob)
    start = 8 + 16 * entries
    for at in range(8, start, 16):
        tag, kind, offset, count = struct.unpack_from(">IIII", blob, at)
        if kind in _STRINGS and tag in (_NAME, _VERSION, _RELEASE, _ARCH, _CHANGELOG):
            several = min(count, 100_000) if _STRINGS[kind] else 1
            strings = blob[start + offset :].split(b"\0", several)[:several]
            yield tag, [one.decode("utf-8", "replace") for one in strings]
