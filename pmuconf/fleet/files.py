"""Files of hosts' reports and markers: found, told apart, and read whole or refused with a cause.

Nothing in a file is believed unchecked. The files come from many hosts over a network, some of them half written.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Final

from pmuconf.errors import PmuconfError
from pmuconf.files.inputs import open_regular
from pmuconf.files.memory import limited
from pmuconf.report.document import FORMAT
from pmuconf.report.older import VERSIONS
from pmuconf.typed import JsonObject, TypedError

__all__ = [
    "MAX_BYTES",
    "Head",
    "Problem",
    "Refused",
    "find",
    "inventory_name",
    "load",
    "newest_first",
    "read_head",
    "same_host",
]

MAX_BYTES: Final = 1 << 26
"""As large as the report of a host with 50,000 VMs."""
_MAX_MEMORY: Final = 400 << 20
_MARKER_FORMAT: Final = "pmuconf-unreachable"
_MARKER_VERSIONS: Final = range(1, 2)
_SUFFIXES: Final = (".json", ".json.gz")
_FIRST: Final = 4096
_NAME: Final = 255
_REASON: Final = 1000
_SPACE: Final = re.compile(r"[ \t\n\r]*")


_HEAD: Final = {
    FORMAT: {"format", "version", "generated_at", "host"},
    _MARKER_FORMAT: {"format", "version", "generated_at", "host", "reason"},
}
"""The members that say what a file is about, by its format."""


@dataclass(frozen=True, order=True)
class Problem:
    """A problem with a file or a host: a cause code, and a sentence.

    :param host: the host that the file is about; empty if that is not known.
    """

    path: str
    cause: str
    message: str
    host: str = ""

    def record(self) -> dict[str, Any]:
        """The problem as JSON has it."""
        return {"path": self.path, "cause": self.cause, "message": self.message, "host": self.host or None}


class Refused(Exception):
    """The file can't be used as a report."""

    def __init__(self, cause: str, message: str) -> None:
        super().__init__(message)
        self.cause = cause
        self.message = message


@dataclass(frozen=True)
class Head:
    """Which host a file is about, and from when.

    :param unreachable: why the host could not be asked, if the file is a marker; None: it is a report.
    """

    path: str
    host: str
    at: datetime
    unreachable: str | None = None


def find(paths: Iterable[Path]) -> tuple[list[str], list[Problem]]:
    """The files that are named, or lie below a named folder, each once and in the order of their names.

    :raises PmuconfError: file-missing, for a path that does not exist.
    """
    files: dict[str, None] = {}
    problems: list[Problem] = []
    for path in paths:
        if not path.exists():
            raise PmuconfError(f"{path}: no such file or directory", cause="file-missing")
        if path.is_dir():
            try:
                files.update(dict.fromkeys(_below(path, problems)))
            except RecursionError:  # os.walk of Python before 3.12
                problems.append(Problem(os.fspath(path), "report-unreadable", "has folders within folders without end"))
        else:
            files[os.fspath(path)] = None
    return sorted(files), problems


def _below(folder: Path, problems: list[Problem]) -> Iterator[str]:
    def unreadable(error: OSError) -> None:
        problems.append(Problem(str(error.filename), "report-unreadable", error.strerror or "can't be read"))

    for place, folders, names in os.walk(folder, onerror=unreadable):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if name.endswith(_SUFFIXES) and not name.startswith("."):
                yield os.path.join(place, name)


def inventory_name(path: str) -> str:
    """The name of a file's host in the inventory, from the name of the file."""
    name = os.path.basename(path)
    for suffix in (".gz", ".json", ".unreachable"):
        name = name.removesuffix(suffix)
    return name


def same_host(name: str, other: str) -> bool:
    """Whether two names are of one host: they are equal, or equal if one lacks its domain. Their case is ignored."""
    name, other = name.casefold(), other.casefold()
    if "." in name and "." in other:
        return name == other
    return name.partition(".")[0] == other.partition(".")[0]


def read_head(path: str) -> Head | Problem:
    """What a file is about. Only the beginning of a report is read, unless its members are in an unusual order."""
    members: dict[str, Any] = {}
    try:
        members = _members(_read(path, _FIRST).decode("utf-8", "replace"))
        if not _HEAD.get(str(members.get("format")), {"format"}) <= members.keys():
            members = _whole(path)
        return _head(path, members)
    except Refused as refused:
        return Problem(path, refused.cause, refused.message, _host(members) or inventory_name(path))


def load(path: str) -> dict[str, Any]:
    """The whole report.

    :raises Refused: report-unreadable, report-truncated, report-broken, report-too-large, report-version, not-a-report.
    """
    document = _whole(path)
    if _head(path, document).unreachable is not None:
        raise Refused("not-a-report", "a marker of an unreachable host")
    return document


def _read(path: str, limit: int) -> bytes:
    """The first bytes of a regular file, unpacked if its name ends in .gz.

    :raises Refused: report-unreadable, report-truncated.
    """
    try:
        with os.fdopen(open_regular(path), "rb") as file:
            if not path.endswith(".gz"):
                return file.read(limit)
            with gzip.open(file) as unpacked:
                return unpacked.read(limit)
    except EOFError:
        raise Refused("report-truncated", "the file ends in the middle") from None
    except (OSError, zlib.error) as error:
        raise Refused("report-unreadable", getattr(error, "strerror", None) or str(error)) from None


def _whole(path: str) -> dict[str, Any]:
    try:
        with limited(_MAX_MEMORY):
            document = _parsed(path)
    except MemoryError:
        raise Refused("report-too-large", f"it would take more than {_MAX_MEMORY >> 20} MiB of memory") from None
    if not isinstance(document, dict):
        raise Refused("not-a-report", "JSON, but no report of pmuconf")
    return document


def _parsed(path: str) -> Any:
    data = _read(path, MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise Refused("report-too-large", f"more than {MAX_BYTES >> 20} MiB")
    try:
        text = data.decode("utf-8")
        del data  # json.loads() takes about twice the memory of the text
        return json.loads(text)
    except json.JSONDecodeError as error:
        ended = not error.doc[error.pos :].strip() or error.msg.startswith("Unterminated string")
        if ended:
            message = "the file ends in the middle" if error.doc.strip() else "the file is empty"
            raise Refused("report-truncated", message) from None
        raise Refused("report-broken", f"no JSON: {error.msg}: line {error.lineno} column {error.colno}") from None
    except UnicodeDecodeError:
        raise Refused("report-broken", "no JSON: not in UTF-8") from None
    except (RecursionError, ValueError) as error:  # nested without end; a number of thousands of digits
        raise Refused("report-broken", f"no JSON that can be read: {type(error).__name__}") from None


def _members(text: str) -> dict[str, Any]:
    """The first members of the object at the beginning of a text, as far as the text has them whole."""
    members: dict[str, Any] = {}
    decoder = json.JSONDecoder()

    def skip(at: int) -> int:
        matched = _SPACE.match(text, at)
        return at if matched is None else matched.end()

    at = skip(0)
    if text[at : at + 1] != "{":
        return members
    try:
        while len(members) < len(("format", "version", "generator", "generated_at", "host", "reason")):
            key, at = decoder.raw_decode(text, skip(at + 1))
            at = skip(at)
            if text[at : at + 1] != ":" or not isinstance(key, str):
                return {}
            value, at = decoder.raw_decode(text, skip(at + 1))
            at = skip(at)
            if text[at : at + 1] not in (",", "}"):
                return members
            members[key] = value
            if text[at] == "}":
                return members
    except (ValueError, RecursionError):
        pass  # the member goes on beyond what was read
    return members


def _head(path: str, members: Mapping[str, Any]) -> Head:
    form, version = members.get("format"), members.get("version")
    if form not in (FORMAT, _MARKER_FORMAT):
        raise Refused("not-a-report", "JSON, but no report of pmuconf")
    known = VERSIONS if form == FORMAT else _MARKER_VERSIONS
    if type(version) is not int or version not in known:
        newer = isinstance(version, int) and version > known[-1]
        why = "a newer pmuconf wrote it" if newer else "there is no such version"
        raise Refused(
            "report-version", f"its format has version {version!r:.40}, this pmuconf reads {known[-1]}: {why}"
        )
    host = _host(members)
    if not host:
        raise Refused("report-broken", "host is no name")
    try:
        at = _utc(JsonObject(members).get_str("generated_at"))
        reason = JsonObject(members).get_str("reason")[:_REASON] if form == _MARKER_FORMAT else None
    except TypedError as error:
        raise Refused("report-broken", str(error)) from None
    return Head(path, host, at, reason)


def _host(members: Mapping[str, Any]) -> str:
    """The name of the host that a file is about; empty if that is no name."""
    host = members.get("host")
    return host if isinstance(host, str) and len(host) <= _NAME else ""


def _utc(text: str) -> datetime:
    try:
        at = datetime.fromisoformat(text)
        if at.tzinfo is not None:
            return at.astimezone(timezone.utc)
    except (ValueError, OverflowError):
        pass
    raise Refused("report-broken", "generated_at is no time with its offset from UTC")


def newest_first(heads: Sequence[Head]) -> list[Head]:
    """The reports of one host, newest first. Of reports of the same time, the last by name counts."""
    return sorted(heads, key=lambda head: (head.at, head.path), reverse=True)
