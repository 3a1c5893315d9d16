"""The same figures by plain loops over plain data: the oracle of the aggregate, the ranking and the diff."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

__all__ = ["figures", "groups", "load", "promised"]

PATHS = ("yes", "partial", "no", "unknown")
VERDICTS = ("guarded", "partial", "early-out", "no-call", "unguarded", "unknown", None)
NO_FACTS = {"guard": {"verdict": None}}
_GROUP = {
    **dict.fromkeys(("drift", "pending-power-cycle", "transient", "undecided"), "change"),
    **dict.fromkeys(("cpu-overridden", "next-boot-unknown"), "change"),
    **dict.fromkeys(("qemu-keeps-pmu", "qemu-upgraded", "qemu-did-not"), "qemu"),
    **dict.fromkeys(("not-running", "saved-image", "not-kvm", "not-x86"), "outside"),
    **dict.fromkeys(("pmu-on-by-policy", "pmu-kept"), "wanted"),
    "kernel-unguarded": "kernel",
    "mediated-pmu": "change",
}


def load(folder: Path) -> list[dict[str, Any]]:
    """Every document, by plain json.load()."""
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]


def groups(vms: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """How many there are in each group."""
    found: Counter[str] = Counter()
    for vm in vms:
        by_answer = {"yes": "fast", "partial": "partial", "unknown": "unknown", None: "error"}
        found[_GROUP[vm["cause"]] if vm["fast_path"] == "no" else by_answer[vm["fast_path"]]] += 1
    return dict(found)


def figures(documents: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """What a fleet's document must say."""
    documents = list(documents)
    vms = [vm for one in documents for vm in one["domains"]]
    worths = [one["worth"] for one in documents if one["worth"]]

    def by(key: Any) -> dict[Any, dict[str, int]]:
        return {value: groups(vm for vm in vms if key(vm) == value) for value in {key(vm) for vm in vms}}

    return {
        "hosts": len(documents),
        "vms": len(vms),
        "running": len([vm for vm in vms if vm["running"]]),
        "fast_path": {path: len([vm for vm in vms if vm["fast_path"] == path]) for path in PATHS},
        "groups": groups(vms),
        "drift": len([vm for vm in vms if vm["drift"]]),
        "overridden": len([vm for vm in vms if vm["overridden"]]),
        "pending": len([vm for vm in vms if vm["pending"]]),
        "transient": len([vm for vm in vms if vm["transient"]]),
        "undecided": len([vm for vm in vms if vm["decision"] == "undecided"]),
        "errors": len([vm for vm in vms if vm["error"]]),
        "severity": max((vm["severity"] for vm in vms), default=0),
        "flavors": by(lambda vm: vm["flavor"]),
        "projects": by(lambda vm: vm["project"]),
        "causes": by(lambda vm: vm["cause"] or (vm["error"] or {}).get("cause")),
        "verdicts": {
            verdict: sum((one["host_facts"] or NO_FACTS)["guard"]["verdict"] == verdict for one in documents)
            for verdict in VERDICTS
        },
        "saved": sum(worth["saved_per_second"] for worth in worths),
        "savable": sum(worth["savable_per_second"] for worth in worths),
    }  # fmt: skip


def promised(waiting: Mapping[tuple[Any, ...], int], chosen: Iterable[Any]) -> int:
    """How many VMs have nothing in their way but what was chosen."""
    done = set(chosen)
    return sum(number for steps, number in waiting.items() if set(steps) <= done)
