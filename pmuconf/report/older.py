"""A report document of an older version, as this version writes it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from pmuconf.report.document import VERSION

__all__ = ["VERSIONS", "current"]

VERSIONS: Final = range(1, VERSION + 1)
"""The versions of the format that current() takes."""

_LATER: Final[Mapping[str, Any]] = {
    "next_effective_pmu": None,
    "pmu_obeyed": True,
    "manager": None,
    "by_process": False,
    "pid": None,
}
"""What version 1 lacks. It took the ``<pmu>`` of every definition at its word, and knew VMs by libvirt alone."""


def current(document: Mapping[str, Any]) -> Mapping[str, Any]:
    """The same report in the current version of the format.

    Nothing is checked here: members that are missing or of a wrong type are left to the reader that checks them.
    """
    if document.get("version") != 1:
        return document
    domains = document.get("domains")
    return {
        **document,
        "version": VERSION,
        "worth": _renamed(document.get("worth"), "to_win_per_second", "savable_per_second"),
        "domains": [_domain(record) for record in domains] if isinstance(domains, list) else domains,
    }


def _domain(record: Any) -> Any:
    """A record of version 1. Its remedy was one text, whatever there was to do."""
    record = _renamed(record, "remade", "may_be_recreated")
    if not isinstance(record, Mapping):
        return record
    later = {**_LATER, **record}
    remedy, causes = later.pop("remedy", None), later.get("causes")
    later.setdefault("remedies", [{"text": remedy, "causes": causes}] if remedy else [])
    later.setdefault("overridden", _overridden(later))
    return later


def _overridden(record: Mapping[str, Any]) -> bool:
    """Whether the state that the policy wants is written, and options of QEMU give the guest another PMU."""
    wanted = record.get("decision")
    if record["pmu_obeyed"] is not False or wanted not in ("on", "off"):
        return False
    return bool(record.get("next_boot") == wanted != record["next_effective_pmu"])


def _renamed(record: Any, old: str, new: str) -> Any:
    """The record with one of its keys renamed, if it has that key."""
    if not isinstance(record, Mapping) or old not in record:
        return record
    return {new if key == old else key: value for key, value in record.items()}
