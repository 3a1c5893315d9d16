"""What changed between two collections: against plain loops, and what must not be taken for a change."""

from __future__ import annotations

import copy
import json
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pmuconf.fleet.diff import diff, diff_document
from pmuconf.fleet.hosts import gather
from tests.support.fleet import host
from tests.support.sample import AT

Documents = dict[str, dict[str, Any]]


def write(folder: Path, documents: Documents) -> Path:
    folder.mkdir()
    for name, one in documents.items():
        (folder / f"{name}.json").write_text(json.dumps(one))
    return folder


def compared(folder: Path, old: Documents, new: Documents, jobs: int = 1) -> dict[str, Any]:
    sides = [gather([write(folder / name, one)], 1) for name, one in (("old", old), ("new", new))]
    return diff_document(diff(*sides, now=AT, jobs=jobs))


def a_fleet() -> Documents:
    kinds = ("guarded", "unguarded", "early-out", "guarded", "no-call")
    return {f"h{number}": host(kind, f"h{number}", 8, random.Random(number)) for number, kind in enumerate(kinds)}


BEFORE = a_fleet()


@given(data=st.data())
def test_the_counts_are_those_of_plain_loops(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    """VMs move, go and come, change; hosts too."""
    new = copy.deepcopy(BEFORE)
    fresh = random.Random(99)
    for _ in range(data.draw(st.integers(0, 6))):
        one, other = (new[data.draw(st.sampled_from(sorted(BEFORE)))] for _ in range(2))
        what = data.draw(st.sampled_from(["move", "gone", "came", "better", "worse"]))
        vms = one["domains"]
        if what == "came":
            vms.append(host("guarded", "x", 1, fresh)["domains"][0])
        elif vms:
            vm = vms[data.draw(st.integers(0, len(vms) - 1))]
            if what in ("move", "gone"):
                vms.remove(vm)
            if what == "move":
                other["domains"].append(vm)
            if what == "better":
                vm.update(fast_path="yes", cause="no-call", causes=["no-call"], running=True, live="off", error=None)
            if what == "worse":
                vm.update(fast_path="no", cause="drift", causes=["drift"], running=True, live="on", error=None)
    for name in data.draw(st.sets(st.sampled_from(sorted(BEFORE)), max_size=2)):
        new[f"{name}-renamed"] = {**new.pop(name), "host": f"{name}-renamed"}
    where_old = {vm["uuid"]: (one["host"], vm) for one in BEFORE.values() for vm in one["domains"]}
    where_new = {vm["uuid"]: (one["host"], vm) for one in new.values() for vm in one["domains"]}
    want: Counter[str] = Counter()
    for uuid in where_old.keys() | where_new.keys():
        if uuid not in where_new:
            want["gone"] += 1
        elif uuid not in where_old:
            want["came"] += 1
        else:
            (old_host, old_vm), (new_host, new_vm) = where_old[uuid], where_new[uuid]
            fast = (old_vm["fast_path"] == "yes", new_vm["fast_path"] == "yes")
            moved = "moved" if old_host != new_host else "same"
            want[{(False, True): "gained", (True, False): "lost"}.get(fast, moved)] += 1
    made = compared(tmp_path_factory.mktemp("diff"), BEFORE, new)
    assert {key: number for key, number in made["vms"].items() if number} == dict(want)
    assert sum(one["vms"] for one in made["causes"]) == want["gained"] + want["lost"]
    assert made["hosts"]["came"] == sorted(new.keys() - BEFORE.keys())
    assert made["hosts"]["went"] == sorted(BEFORE.keys() - new.keys())
    assert len(made["listed"]) == want["gained"] + want["lost"] + want["moved"]


def test_two_processes_find_what_one_does(tmp_path: Path) -> None:
    old = {f"h{number:03}": host("guarded", f"h{number:03}", 2, random.Random(number)) for number in range(110)}
    new = copy.deepcopy(old)
    new["h000"]["domains"], new["h109"]["domains"] = new["h109"]["domains"], new["h000"]["domains"]
    one, two = (compared(_made(tmp_path / str(jobs)), old, new, jobs) for jobs in (1, 2))
    assert one == two
    assert one["vms"]["moved"] == 4


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def test_a_host_says_what_changed_about_it(tmp_path: Path) -> None:
    new = copy.deepcopy(BEFORE)
    facts = new["h1"]["host_facts"]
    facts["release"], facts["guard"]["verdict"] = "7.0.0", "guarded"
    for vm in new["h0"]["domains"]:
        vm["qemu"] = vm["next_qemu"] = None
    made = compared(tmp_path, BEFORE, new)
    first, second = made["hosts"]["changed"]
    assert (first["host"], list(first)) == ("h0", ["host", "qemus"])
    assert first["qemus"]["new"] == []
    assert second["verdict"] == {"old": "unguarded", "new": "guarded"}
    assert second["kernel"]["new"].startswith("7.0.0 ")


def _marker(folder: Path) -> None:
    marker = {"format": "pmuconf-unreachable", "version": 1, "host": "h1", "reason": "", "generated_at": AT.isoformat()}
    (folder / "h1.unreachable.json").write_text(json.dumps(marker))


@pytest.mark.parametrize(
    ("hide", "severity"),
    [
        (_marker, 1),
        (lambda folder: (folder / "h1.json").write_text("{"), 2),
        (lambda folder: (folder / "h1.json").write_text(json.dumps(BEFORE["h1"], indent=1)[:-20]), 2),
    ],
    ids=["unreachable", "broken", "truncated"],
)
def test_who_was_not_heard_of_has_not_gone_nor_have_its_vms(
    tmp_path: Path, hide: Callable[[Path], object], severity: int
) -> None:
    new = copy.deepcopy(BEFORE)
    hidden = new.pop("h1")
    new["h2"]["domains"].append(hidden["domains"][0])  # but for one that is seen elsewhere
    for sides in ((BEFORE, new), (new, BEFORE)):
        folder = _made(tmp_path / str(len(list(tmp_path.iterdir()))))
        places = [write(folder / name, one) for name, one in zip(("old", "new"), sides)]
        hide(places[0 if sides[0] is new else 1])
        made = diff(*(gather([place], 1) for place in places), now=AT)
        record = diff_document(made)
        assert record["hosts"]["unheard"] == ["h1"]
        assert record["hosts"]["went"] == record["hosts"]["came"] == []
        assert (record["vms"]["unheard"], record["vms"]["gone"], record["vms"]["came"]) == (7, 0, 0)
        assert record["vms"]["moved"] + record["vms"]["gained"] + record["vms"]["lost"] == 1
        assert made.severity >= severity


def test_a_definition_that_stays_behind_is_not_the_vm_that_moved(tmp_path: Path) -> None:
    """A persistent domain that migrated is still defined, shut off, where it was; the definition is gone then."""
    old, new = copy.deepcopy(BEFORE), copy.deepcopy(BEFORE)
    vm = running_and_fast(old["h4"])
    old["h0"]["domains"].append(stayed_behind(vm))
    for name in ("h0", "h4"):
        new[name]["domains"] = [one for one in new[name]["domains"] if one["uuid"] != vm["uuid"]]
    new["h3"]["domains"].append(vm)
    made = compared(tmp_path, old, new)
    (row,) = made["listed"]
    assert (row["change"], row["old"]["host"], row["new"]["host"]) == ("moved", "h4", "h3")
    assert made["vms"]["gone"] == 1


@pytest.mark.parametrize(
    ("before", "now", "row", "counted"),
    [
        ("h4", "h3 h4-", ("moved", "h4", "h3"), {"came": 1}),
        ("h3 h4-", "h4", ("moved", "h3", "h4"), {"gone": 1}),
        ("h3 h4-", "h4 h3-", ("moved", "h3", "h4"), {"same": 1}),
        ("h3 h4-", "h0 h3- h4-", ("moved", "h3", "h0"), {"came": 1, "same": 1}),
        ("h4", "h4-", ("lost", "h4", "h4"), {}),
        ("h4-", "h4", ("gained", "h4", "h4"), {}),
    ],
    ids=["there", "back and undefined", "back", "on", "stopped", "started"],
)
def test_a_vm_that_migrates_neither_loses_nor_gains_the_fast_path(
    tmp_path: Path, before: str, now: str, row: tuple[str, str, str], counted: dict[str, int]
) -> None:
    """Where it ran before, its definition stays (a minus sign), unless it is undefined. Only a stop or start counts."""
    vm = running_and_fast(BEFORE["h4"])
    sides = []
    for places in (before, now):
        side = copy.deepcopy(BEFORE)
        side["h4"]["domains"] = [one for one in side["h4"]["domains"] if one["uuid"] != vm["uuid"]]
        for place in places.split():
            side[place.rstrip("-")]["domains"].append(stayed_behind(vm) if place.endswith("-") else vm)
        sides.append(side)
    made = compared(tmp_path, sides[0], sides[1])
    (listed,) = made["listed"]
    assert (listed["change"], listed["old"]["host"], listed["new"]["host"]) == row
    others = {"same": 5 * 8 - 1 + counted.pop("same", 0), **counted}
    assert {key: number for key, number in made["vms"].items() if number} == {row[0]: 1, **others}


def running_and_fast(report: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = next(one for one in report["domains"] if one["fast_path"] == "yes")
    return found


def stayed_behind(vm: dict[str, Any]) -> dict[str, Any]:
    """The definition of a VM that runs elsewhere."""
    return {**vm, "running": False, "live": None, "fast_path": "no", "cause": "not-running", "causes": ["not-running"]}


def test_names_do_where_there_is_no_uuid(tmp_path: Path) -> None:
    old = copy.deepcopy(BEFORE)
    for vm in old["h0"]["domains"]:
        vm["uuid"] = None
    made = compared(tmp_path, old, copy.deepcopy(old))
    assert made["vms"]["same"] == 5 * 8
    assert sum(made["vms"].values()) == 5 * 8


def test_the_list_is_cut_and_the_counts_are_whole(tmp_path: Path) -> None:
    new = {"one": {**BEFORE["h0"], "host": "one"}}
    sides = [gather([write(tmp_path / name, one)], 1) for name, one in (("old", BEFORE), ("new", new))]
    made = diff_document(diff(*sides, now=AT), top=3)
    assert (made["vms"]["moved"], len(made["listed"]), made["not_listed"]) == (8, 3, 5)
    assert made["vms"]["gone"] == 4 * 8
