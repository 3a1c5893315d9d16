"""One host's report, checked: the rest of the fleet's code may rely on its values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from operator import itemgetter
from typing import Any, Final, NamedTuple

from pmuconf.domain.definition import Manager
from pmuconf.fastpath.cases import CASES, FastPath
from pmuconf.fleet.files import Head, Refused, inventory_name, load
from pmuconf.fleet.outlook import HostState, Needs, VmState, needed
from pmuconf.fleet.reported import CountedExits, Outlook, ReportedHost, ReportedQemu, ReportedVm
from pmuconf.hostfacts import Evidence, Verdict
from pmuconf.policy import FLAVOR_CHOICE, IMAGE_CHOICE
from pmuconf.report.groups import fast_path_group
from pmuconf.report.older import current
from pmuconf.typed import JsonObject

__all__ = ["HostReport", "of_document", "read"]


@dataclass(frozen=True)
class HostReport:
    """A host's report.

    :param host: None if the host was not looked at.
    :param exits: None if no exits were counted.
    :param document: the report itself, for outputs that show all of it.
    """

    path: str
    name: str
    at: datetime
    host: ReportedHost | None
    exits: CountedExits | None
    vms: Sequence[ReportedVm]
    document: Mapping[str, Any]

    @property
    def inventory_name(self) -> str:
        """The host's name in the inventory, from the name of the file."""
        return inventory_name(self.path)

    @property
    def kernel(self) -> tuple[str, str]:
        """Release and build ID of the host's kernel; empty where not known."""
        return ("", "") if self.host is None else self.host.kernel


def read(head: Head) -> HostReport:
    """The report in the file that a head was read from.

    :raises Refused: as files.load(); report-broken for a wrong value or a word that this pmuconf does not know.
    """
    document = load(head.path)
    if document["host"] != head.host:
        raise Refused("report-broken", "it names two hosts")
    try:
        return _checked(head, document)
    except KeyError as error:
        raise Refused("report-broken", f"{error.args[0]} is missing") from None
    except (TypeError, ValueError, AttributeError) as error:
        raise Refused("report-broken", str(error)) from None


def of_document(document: Mapping[str, Any]) -> HostReport:
    """The report that this host itself has just made."""
    return _checked(Head("", document["host"], datetime.fromisoformat(document["generated_at"])), document)


def _checked(head: Head, document: Mapping[str, Any]) -> HostReport:
    document = current(document)
    members = JsonObject(document)
    facts, worth = members.opt_object("host_facts"), members.opt_object("worth")
    host = None if facts is None else _host(facts)
    exits = None if worth is None else _exits(worth, facts)
    records = document["domains"]
    if not isinstance(records, list):
        raise ValueError("domains is no list")
    vms = []
    for number, record in enumerate(records, 1):
        try:
            vms.append(_vm(None if host is None else host.state, record))
        except KeyError as error:
            raise ValueError(f"domain {number} lacks {error.args[0]}") from None
        except (TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"domain {number}: {error}") from None
    return HostReport(head.path, head.host, head.at, host, exits, vms, document)


def _host(facts: JsonObject) -> ReportedHost:
    guard = facts.get_object("guard")
    guard.get_str("remedy")  # for the host's page
    return ReportedHost(
        release=facts.opt_str("release") or "",
        build_id=guard.opt_str("build_id") or "",
        cycles_per_exit=None if facts.opt_int("cycles_per_exit") is None else _count(facts, "cycles_per_exit"),
        state=HostState(
            guard.get_enum("verdict", Verdict).value, facts.opt_bool("enable_pmu"), facts.opt_bool("mediated_pmu")
        ),
    )


def _exits(worth: JsonObject, facts: JsonObject | None) -> CountedExits:
    cpus, capacity = (None, None) if facts is None else (_size(facts, "cpus"), _size(facts, "cycles_per_second"))
    return CountedExits(
        _count(worth, "vms"),
        _count(worth, "saved_per_second"),
        _count(worth, "savable_per_second"),
        cpus,
        capacity,
    )


def _size(facts: JsonObject, key: str) -> int | None:
    """A number that older reports lack, and that is not known of every host."""
    return None if key not in facts or facts.opt_int(key) is None else _count(facts, key)


def _count(members: JsonObject, key: str) -> int:
    count = members.get_int(key)
    if not _is_count(count):
        raise ValueError(f"{key} is no count")
    return count


# A fleet has a million records. A typed getter for every value would take twice as long as json.loads() does. So texts
# and numbers are checked together for each VM. The other values are a few words each: every combination of them is
# checked once, and _outlook() keeps its conclusions.


class _Words(NamedTuple):
    """The values of a record that are one of a few words each."""

    running: bool
    live: str | None
    next_boot: str | None
    saved: str | None
    effective_pmu: str | None
    next_effective_pmu: str | None
    pmu_obeyed: bool | None
    decision: str | None
    drift: bool
    pending: bool
    overridden: bool
    transient: bool
    nova: bool
    in_kernel_pmu: str | None
    pmu_in_use: bool | None
    cpu_has_pmu: bool | None
    may_be_recreated: bool | None
    fast_path: str | None
    cause: str | None
    evidence: str | None
    severity: int


_TRUTH: Final = (True, False)
_OPTIONAL_TRUTH: Final = (True, False, None)
_STATES: Final = ("on", "off", "default", None)
_ALLOWED: Final[Mapping[str, tuple[Any, ...]]] = {
    **dict.fromkeys(("running", "drift", "pending", "overridden", "transient", "nova"), _TRUTH),
    **dict.fromkeys(("pmu_in_use", "cpu_has_pmu", "may_be_recreated", "pmu_obeyed"), _OPTIONAL_TRUTH),
    **dict.fromkeys(("live", "next_boot", "saved"), _STATES),
    **dict.fromkeys(("effective_pmu", "next_effective_pmu"), ("on", "off", None)),
    "decision": ("on", "off", "keep", "undecided", None),
    "in_kernel_pmu": ("enabled", "disabled", "unknown", None),
    "fast_path": (*(path.value for path in FastPath), None),
    "cause": (*CASES, None),
    "evidence": (*(evidence.value for evidence in Evidence), None),
    "severity": (0, 1, 2),
}
_words_of = itemgetter(*_Words._fields)
_OPTIONAL_TEXTS: Final = ("uuid", "flavor", "project", "rule", "reason", "message")
_optional_texts_of = itemgetter(*_OPTIONAL_TEXTS)
_TYPES_OF_TEXTS: Final = {str, type(None)}
_MANY: Final = 1 << 53  # JSON numbers are exact up to here
_DELETED: Final = " (deleted)"
_PLAIN: Final = (None, Manager.LIBVIRT.value, Manager.NOVA.value)
_NOT_ON_KVM: Final = ("not-running", "saved-image", "not-kvm", "not-x86")


def _vm(host: HostState | None, record: Mapping[str, Any]) -> ReportedVm:
    _text(record["name"], "name")
    if not {*map(type, _optional_texts_of(record))} <= _TYPES_OF_TEXTS:
        raise ValueError(f"one of {', '.join(_OPTIONAL_TEXTS)} is no text")
    if not _is_count(record["snapshots"]):
        raise ValueError("snapshots is no number")
    exits = record["exits_per_second"]
    if exits is not None and not (type(exits) in (int, float) and 0 <= exits < _MANY):
        raise ValueError("exits_per_second is no rate")
    error = record["error"]
    if error is not None:
        _text(error["cause"], "error's cause")
        _text(error["message"], "error's message")
    for remedy in record["remedies"]:
        _text(remedy["text"], "a remedy's text")
    qemu, next_qemu = _qemu(record["qemu"]), _qemu(record["next_qemu"])
    causes = record["causes"]
    if not isinstance(causes, list):
        raise ValueError("causes is no list")
    words = _words_of(record)
    outlook = _outlook(
        words,
        tuple(map(type, words)),
        tuple(causes),
        host,
        qemu=None if qemu is None else qemu.disables_pmu,
        next_qemu=None if next_qemu is None else next_qemu.disables_pmu,
        judged=error is None,
    )
    return ReportedVm(
        uuid=record["uuid"],
        name=record["name"],
        flavor=record["flavor"] or "",
        project=record["project"] or "",
        error="" if error is None else error["cause"],
        explicit=record["rule"] in (FLAVOR_CHOICE, IMAGE_CHOICE),
        exits_per_second=exits,
        qemu=qemu,
        next_qemu=next_qemu,
        outlook=outlook,
        managed=_optional_text(record.get("manager"), "manager") not in _PLAIN,
    )


def _qemu(qemu: Mapping[str, Any] | None) -> ReportedQemu | None:
    if qemu is None:
        return None
    _text(qemu["path"], "QEMU's path")
    path = qemu["path"]
    return ReportedQemu(
        path.removesuffix(_DELETED),
        _optional_text(qemu["build_id"], "QEMU's build ID") or "",
        _optional_truth(qemu["disables_pmu"], "disables_pmu"),
    )


@lru_cache(maxsize=1 << 16)
def _outlook(
    values: tuple[Any, ...],
    types: tuple[type, ...],
    causes: tuple[str, ...],
    host: HostState | None,
    *,
    qemu: bool | None,
    next_qemu: bool | None,
    judged: bool,
) -> Outlook:
    """The conclusions about all VMs whose records have these words.

    :param types: the types of the values: 1 equals true, but is no truth value.
    :param qemu: whether the QEMU disables the PMU in KVM; so is ``next_qemu``.
    """
    words = _Words._make(values)
    _check(words, types, causes)
    needs = Needs()
    if words.fast_path is not None and words.running and causes[0] not in _NOT_ON_KVM:
        needs = needed(host, _state(words, causes, qemu=qemu, next_qemu=next_qemu))
    return Outlook(
        group=fast_path_group(words._asdict()),
        fast_path=words.fast_path,
        cause=words.cause,
        severity=words.severity,
        running=words.running,
        nova=words.nova,
        needs=needs,
        kinds=_kinds(words, judged=judged),
    )


def _check(words: _Words, types: tuple[type, ...], causes: tuple[str, ...]) -> None:
    """Check that all words are known, and that they agree with each other.

    :raises ValueError: the first of them that is wrong.
    """
    for (key, value), kind in zip(words._asdict().items(), types):
        if not any(type(word) is kind and word == value for word in _ALLOWED[key]):
            raise ValueError(f"{key} is {value!r:.40}, which this pmuconf does not know")
    for cause in causes:
        if cause not in CASES:
            raise ValueError(f"cause {cause!r:.40}, which this pmuconf does not know")
    if words.cause != (causes[0] if causes else None):
        raise ValueError("cause is not the first of causes")
    expected = None if words.cause is None else CASES[words.cause].fast_path.value
    if words.fast_path not in (None, expected):
        raise ValueError(f"fast_path {words.fast_path} for cause {words.cause}")
    if (words.live is None) == words.running:
        raise ValueError("running, and no live state; or the other way round")


def _state(words: _Words, causes: tuple[str, ...], *, qemu: bool | None, next_qemu: bool | None) -> VmState:
    assert words.live is not None  # it runs: _check()
    return VmState(
        live=words.live,
        next_boot=words.next_boot,
        effective_pmu=words.effective_pmu,
        decision=words.decision,
        in_kernel_pmu=words.in_kernel_pmu,
        pmu_in_use=words.pmu_in_use,
        cpu_has_pmu=words.cpu_has_pmu,
        may_be_recreated=words.may_be_recreated,
        qemu=qemu,
        next_qemu=next_qemu,
        nova=words.nova,
        causes=causes,
        obeyed=words.pmu_obeyed,
        next_effective=words.next_effective_pmu,
    )


def _kinds(words: _Words, *, judged: bool) -> tuple[str, ...]:
    kinds = {
        "drift": words.drift,
        "overridden": words.overridden,
        "pending": words.pending,
        "transient": words.transient,
        "undecided": words.decision == "undecided",
        "errors": not judged,
    }
    return tuple(kind for kind, applies in kinds.items() if applies)


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < _MANY


def _optional_truth(value: Any, what: str) -> bool | None:
    if value is None or isinstance(value, bool):
        return value
    raise ValueError(f"{what} is neither true, false nor null")


def _text(value: Any, what: str) -> None:
    if not isinstance(value, str):
        raise ValueError(f"{what} is no text")


def _optional_text(value: Any, what: str) -> str | None:
    if value is not None and not isinstance(value, str):
        raise ValueError(f"{what} is no text")
    return value
