"""The groups of VMs in a report: one for each VM, by whether it is fast, and by what could change that. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

__all__ = ["BY_FAST_PATH", "BY_POLICY", "KINDS", "OF_RUNNING", "Group", "fast_path_group", "policy_group"]


@dataclass(frozen=True)
class Group:
    """A group of VMs: its key, which also gives its colour and pattern on the page, its name, and its meaning."""

    key: str
    name: str
    meaning: str


BY_FAST_PATH: Final = (
    Group("fast", "fast path", "KVM skips the PMU's work at their exits"),
    Group("partial", "partly", "the kernel skips it in one place and not in another"),
    Group(
        "change",
        "to be changed",
        "they wait for the policy to be applied, for other options of QEMU, or for a power cycle",
    ),
    Group("qemu", "blocked by QEMU", "their QEMU leaves the PMU enabled in KVM"),
    Group("kernel", "blocked by the kernel", "it does the PMU's work for every VM"),
    Group("unknown", "unknown", "each VM says what would settle it"),
    Group("wanted", "PMU wanted", "they have a PMU, and the policy wants that or leaves it"),
    Group("outside", "not running or not KVM", "no exits, or none of KVM on x86"),
    Group("error", "not judged", "they could not be read, or the host was not asked"),
)
OF_RUNNING: Final = tuple(
    Group("outside", "not KVM on x86", "no exits of KVM on x86") if group.key == "outside" else group
    for group in BY_FAST_PATH
)
"""The same where only running VMs are counted."""

BY_POLICY: Final = (
    Group("fast", "as wanted", "the policy has nothing to change"),
    Group("change", "pending", "their next boot is right, the running guest or the saved image not yet"),
    Group("kernel", "drift", "their next boot is not what the policy wants"),
    Group("qemu", "transient", "they run and have no next boot"),
    Group("unknown", "undecided", "a rule needs a fact that is unknown here"),
    Group("error", "not judged", "they could not be read"),
)
"""The groups if the host was not examined: then only the policy is known."""

KINDS: Final = {
    "drift": "drift",
    "pending": "pending",
    "transient": "transient",
    "undecided": "undecided",
    "errors": "not judged",
}
"""The kinds that a summary counts beside the groups, with their names on a page; a VM may be of several kinds."""

_BY_CAUSE: Final = {
    **dict.fromkeys(
        ("drift", "pending-power-cycle", "transient", "undecided", "cpu-overridden", "next-boot-unknown"), "change"
    ),
    **dict.fromkeys(("qemu-keeps-pmu", "qemu-upgraded", "qemu-did-not"), "qemu"),
    **dict.fromkeys(("not-running", "saved-image", "not-kvm", "not-x86"), "outside"),
    **dict.fromkeys(("pmu-on-by-policy", "pmu-kept"), "wanted"),
    "kernel-unguarded": "kernel",
    "mediated-pmu": "change",
}
_BY_ANSWER: Final = {"yes": "fast", "partial": "partial", "unknown": "unknown", None: "error"}


def fast_path_group(record: Mapping[str, Any]) -> str:
    """The key of the group in BY_FAST_PATH of a domain's record."""
    return _BY_CAUSE[record["cause"]] if record["fast_path"] == "no" else _BY_ANSWER[record["fast_path"]]


def policy_group(record: Mapping[str, Any]) -> str:
    """The key of the group in BY_POLICY of a domain's record."""
    if record["error"] is not None:
        return "error"
    if record["drift"] or record["overridden"]:
        return "kernel"
    if record["pending"]:
        return "change"
    if record["transient"] and record["decision"] in ("on", "off") and record["live"] != record["decision"]:
        return "qemu"
    return "unknown" if record["decision"] == "undecided" else "fast"
