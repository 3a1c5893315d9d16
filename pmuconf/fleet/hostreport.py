"""One host's report, looked at closely enough that all who work on it may take it at its word."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from operator import itemgetter
from typing import Any, Final

from pmuconf.fastpath.cases import CASES, FastPath
from pmuconf.fleet.files import Head, Refused, inventory_name, load
from pmuconf.fleet.outlook import HostState, Needs, VmState, needed
from pmuconf.hostfacts import Evidence, Verdict
from pmuconf.policy import FLAVOR_CHOICE, IMAGE_CHOICE
from pmuconf.report.groups import fast_path_group
from pmuconf.report.older import current

__all__ = ["HostReport", "Outlook", "explicit", "of_document", "read"]

_OUTSIDE: Final = ("not-running", "saved-image", "not-kvm", "not-x86")

# All of a domain's record that is one of few words: what is said of one that has these is said of every one.
_WORDS: Final = (
    *("running", "live", "next_boot", "effective_pmu", "decision", "drift", "pending", "transient", "nova"),
    *("next_effective_pmu", "pmu_obeyed"),
    *(
        "saved",
        "in_kernel_pmu",
        "pmu_in_use",
        "cpu_has_pmu",
        "may_be_recreated",
        "fast_path",
        "cause",
        "evidence",
        "severity",
    ),
)
_words = itemgetter(*_WORDS)
_TEXTS: Final = ("uuid", "flavor", "project", "rule", "reason", "message")
_texts = itemgetter(*_TEXTS)
_TEXT_TYPES: Final = {str, type(None)}
_MANY: Final = 1 << 53
_STATES: Final = ("on", "off", "default", None)
_TRUTH: Final = (True, False)
_MAYBE: Final = (True, False, None)
_WORDS_ALLOWED: Final[Mapping[str, tuple[Any, ...]]] = {
    **dict.fromkeys(("running", "drift", "pending", "transient", "nova"), _TRUTH),
    **dict.fromkeys(("pmu_in_use", "cpu_has_pmu", "may_be_recreated", "pmu_obeyed"), _MAYBE),
    **dict.fromkeys(("live", "next_boot", "saved"), _STATES),
    **dict.fromkeys(("effective_pmu", "next_effective_pmu"), ("on", "off", None)),
    "decision": ("on", "off", "keep", "undecided", None),
    "in_kernel_pmu": ("enabled", "disabled", "unknown", None),
    "fast_path": (*(path.value for path in FastPath), None),
    "cause": (*CASES, None),
    "evidence": (*(evidence.value for evidence in Evidence), None),
    "severity": (0, 1, 2),
}
_ALLOWED: Final = {key: frozenset((type(word), word) for word in words) for key, words in _WORDS_ALLOWED.items()}


@dataclass(frozen=True)
class Outlook:
    """What is concluded of one domain.

    :param group: a key of report.groups.BY_FAST_PATH.
    :param needs: what would give it the fast path.
    :param kinds: what the policy has to say: drift, pending, transient, undecided; errors if it was not judged.
    """

    group: str
    fast_path: str | None
    cause: str | None
    severity: int
    running: bool
    needs: Needs
    kinds: tuple[str, ...]


@dataclass(frozen=True)
class HostReport:
    """A host's report: its data, and beside each domain's record what is concluded of it."""

    path: str
    name: str
    at: datetime
    data: Mapping[str, Any]
    state: HostState | None
    domains: Sequence[Mapping[str, Any]]
    outlooks: Sequence[Outlook]

    @property
    def inventory_name(self) -> str:
        return inventory_name(self.path)


def read(head: Head) -> HostReport:
    """The report that a file's head promised.

    :raises Refused: as files.load(); report-version, if it has words that this pmuconf does not know.
    """
    data = load(head.path)
    if data["host"] != head.host:
        raise Refused("report-broken", "it names two hosts")
    try:
        return _checked(head, data)
    except KeyError as error:
        raise Refused("report-broken", f"{error.args[0]} is missing") from None
    except (TypeError, ValueError, AttributeError) as error:
        raise Refused("report-broken", str(error)) from None


def of_document(data: Mapping[str, Any]) -> HostReport:
    """The report that this host has just made itself."""
    return _checked(Head("", data["host"], datetime.fromisoformat(data["generated_at"])), data)


def explicit(record: Mapping[str, Any]) -> bool:
    """Whether the flavor or the image chose, so that Nova itself writes the state."""
    return record["rule"] in (FLAVOR_CHOICE, IMAGE_CHOICE)


def _checked(head: Head, data: Mapping[str, Any]) -> HostReport:
    data = current(data)
    state = _host(data["host_facts"])
    _worth(data["worth"])
    domains = data["domains"]
    if not isinstance(domains, list):
        raise ValueError("domains is no list")
    outlooks = []
    for at, record in enumerate(domains):
        try:
            outlooks.append(_outlook_of(state, record))
        except KeyError as error:
            raise ValueError(f"domain {at + 1} lacks {error.args[0]}") from None
        except (TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"domain {at + 1}: {error}") from None
    return HostReport(head.path, head.host, head.at, data, state, domains, outlooks)


def _host(facts: Any) -> HostState | None:
    if facts is None:
        return None
    guard = facts["guard"]
    Verdict(guard["verdict"])
    _text(guard["remedy"], "remedy")
    _maybe_text(guard["build_id"], "build_id")
    _maybe_text(facts["release"], "release")
    cycles = facts["cycles_per_exit"]
    if cycles is not None and not _is_count(cycles):
        raise ValueError("cycles_per_exit is no number of cycles")
    for key in ("enable_pmu", "mediated_pmu"):
        _maybe_truth(facts[key], key)
    return HostState(guard["verdict"], facts["enable_pmu"], facts["mediated_pmu"])


def _worth(worth: Any) -> None:
    if worth is None:
        return
    for key in ("vms", "saved_per_second", "savable_per_second"):
        if not _is_count(worth[key]):
            raise ValueError(f"worth has no number of {key}")


def _outlook_of(state: HostState | None, record: Mapping[str, Any]) -> Outlook:
    _text(record["name"], "name")
    if not {*map(type, _texts(record))} <= _TEXT_TYPES:
        raise ValueError(f"one of {', '.join(_TEXTS)} is no text")
    if not _is_count(record["snapshots"]):
        raise ValueError("snapshots is no number")
    exits = record["exits_per_second"]
    if exits is not None and not (type(exits) in (int, float) and 0 <= exits < _MANY):
        raise ValueError("exits_per_second is no rate")
    error = record["error"]
    if error is not None:
        _text(error["cause"], "error's cause")
        _text(error["message"], "error's message")
    disables = [None if qemu is None else _qemu(qemu) for qemu in (record["qemu"], record["next_qemu"])]
    for remedy in record["remedies"]:
        _text(remedy["text"], "a remedy's text")
    causes = record["causes"]
    if not isinstance(causes, list):
        raise ValueError("causes is no list")
    words = _words(record)
    return _outlook(state, words, (*map(type, words),), (*causes,), *disables, error is not None)


def _qemu(qemu: Mapping[str, Any]) -> bool | None:
    _text(qemu["path"], "QEMU's path")
    _maybe_text(qemu["build_id"], "QEMU's build ID")
    return _maybe_truth(qemu["disables_pmu"], "disables_pmu")


@lru_cache(maxsize=1 << 16)
def _outlook(
    state: HostState | None,
    words: tuple[Any, ...],
    types: tuple[type, ...],
    causes: tuple[str, ...],
    qemu: bool | None,
    next_qemu: bool | None,
    failed: bool,
) -> Outlook:
    """What is concluded of all domains whose records have these words; the first of them is looked at closely.

    :param types: those of the words: 1 is equal to true, and no truth value.
    """
    said = dict(zip(_WORDS, words))
    for (key, value), kind in zip(said.items(), types):
        if (kind, value) not in _ALLOWED[key]:
            raise ValueError(f"{key} is {value!r:.40}, which this pmuconf does not know")
    if (said["cause"],) != causes[:1] and (said["cause"] or causes):
        raise ValueError("cause is not the first of causes")
    if said["fast_path"] is not None and (
        said["cause"] is None or CASES[said["cause"]].fast_path.value != said["fast_path"]
    ):
        raise ValueError(f"fast_path {said['fast_path']} for cause {said['cause']}")
    if (said["live"] is None) == said["running"]:
        raise ValueError("running, and no live state; or the other way round")
    for cause in causes:
        if cause not in CASES:
            raise ValueError(f"cause {cause!r:.40}, which this pmuconf does not know")
    needs = Needs()
    if said["fast_path"] is not None and said["running"] and causes[0] not in _OUTSIDE:
        vm = VmState(
            said["live"], said["next_boot"], said["effective_pmu"], said["decision"], said["in_kernel_pmu"],
            said["pmu_in_use"], said["cpu_has_pmu"], said["may_be_recreated"], qemu, next_qemu, said["nova"], causes,
            said["pmu_obeyed"], said["next_effective_pmu"],
        )  # fmt: skip
        needs = needed(state, vm)
    kinds = [kind for kind in ("drift", "pending", "transient") if said[kind]]
    kinds += ["undecided"] * (said["decision"] == "undecided") + ["errors"] * failed
    return Outlook(
        fast_path_group(said), said["fast_path"], said["cause"], said["severity"], said["running"], needs, tuple(kinds)
    )


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < _MANY


def _maybe_truth(value: Any, what: str) -> bool | None:
    if value is None or isinstance(value, bool):
        return value
    raise ValueError(f"{what} is neither true, false nor null")


def _text(value: Any, what: str) -> None:
    if not isinstance(value, str):
        raise ValueError(f"{what} is no text")


def _maybe_text(value: Any, what: str) -> None:
    if value is not None and not isinstance(value, str):
        raise ValueError(f"{what} is no text")
