"""The aggregate: what plain loops count, whatever the order and however the work is split."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

import pmuconf
from pmuconf.fleet.aggregate import Aggregate, of_host
from pmuconf.fleet.document import document
from pmuconf.fleet.files import Head
from pmuconf.fleet.hostreport import HostReport, read
from pmuconf.fleet.report import Fleet
from tests.support.fleet import FACTS_OF, fleet, host
from tests.support.sample import AT, sample
from tests.unit.fleet import naive

DOCS = Path(pmuconf.__file__).resolve().parents[1] / "docs"
HOSTS = 24


@pytest.fixture(scope="module")
def documents() -> list[dict[str, Any]]:
    every = [copy.deepcopy(one) for one in fleet(HOSTS - len(FACTS_OF), 30)]
    for kind in FACTS_OF:  # and one of each kind for certain
        every.append(host(kind, f"of-kind-{kind}", 40, random.Random(kind)))
    every.append(sample(host="with-one-that-is-not-judged"))
    every.append(sample(host="not-asked", asked=False))
    return every


@pytest.fixture(scope="module")
def reports(documents: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> list[HostReport]:
    folder = tmp_path_factory.mktemp("reports")
    return list(_read(documents, folder))


def _read(documents: list[dict[str, Any]], folder: Path) -> Iterator[HostReport]:
    for number, one in enumerate(documents):
        path = folder / f"{number}.json"
        path.write_text(json.dumps(one))
        yield read(Head(str(path), one["host"], datetime.fromisoformat(one["generated_at"])))


def joined(parts: list[Aggregate]) -> Aggregate:
    whole = Aggregate()
    for part in parts:
        whole.add(part)
    return whole


@given(data=st.data())
def test_any_order_and_any_split_give_the_same(reports: list[HostReport], data: st.DataObject) -> None:
    whole = joined([of_host(report) for report in reports])
    order = data.draw(st.permutations(reports))
    cuts = sorted(data.draw(st.sets(st.integers(0, len(reports)))))
    parts = [
        joined([of_host(report) for report in order[begin:end]])
        for begin, end in zip([0, *cuts], [*cuts, len(reports)])
    ]
    parts = data.draw(st.permutations(parts))
    assert joined(parts) == whole
    assert document(Fleet(joined(parts), AT)) == document(Fleet(whole, AT))


def test_nothing_is_the_neutral_one(reports: list[HostReport]) -> None:
    one = of_host(reports[0])
    assert joined([Aggregate(), one, Aggregate()]) == one


def test_a_host_never_counts_twice(reports: list[HostReport]) -> None:
    with pytest.raises(ValueError, match=reports[0].name):
        joined([of_host(reports[0]), of_host(reports[0])])


def test_the_figures_are_those_of_plain_loops(documents: list[dict[str, Any]], reports: list[HostReport]) -> None:
    made = document(Fleet(joined([of_host(report) for report in reports]), AT))
    want = naive.figures(documents)
    summary = made["summary"]
    kinds = ("drift", "overridden", "pending", "transient", "undecided", "errors")
    for key in ("hosts", "vms", "running", "fast_path", *kinds):
        assert summary[key] == want[key], key
    assert {key: number for key, number in summary["groups"].items() if number} == want["groups"]
    assert made["severity"] == want["severity"]
    for kind in ("flavor", "project"):
        found = {one[kind]: one["groups"] for one in made[f"{kind}s"]["listed"]}
        assert found == want[f"{kind}s"]
    assert {one["cause"]: one["groups"] for one in made["causes"]} == want["causes"]
    assert {one["verdict"]: one["hosts"] for one in made["verdicts"]} == want["verdicts"]
    assert (made["worth"]["saved_per_second"], made["worth"]["savable_per_second"]) == (want["saved"], want["savable"])
    for row, one in zip(made["hosts"], sorted(documents, key=lambda one: one["host"])):
        assert (row["host"], row["vms"], row["fast"]) == (
            one["host"], len(one["domains"]), one["summary"]["fast_path"]["yes"],
        )  # fmt: skip


def test_every_slow_or_unknown_vm_that_runs_is_in_one_place_of_what_is_to_do(
    documents: list[dict[str, Any]], reports: list[HostReport]
) -> None:
    """No VM is promised twice, and none that waits is forgotten."""
    made = joined([of_host(report) for report in reports])
    outside = ("not-x86", "not-kvm", "pmu-on-by-policy", "pmu-kept")
    waiting = [
        vm
        for one in documents
        for vm in one["domains"]
        if vm["running"]
        and vm["fast_path"] not in ("yes", None)
        and vm["cause"] not in outside
        and vm["decision"] not in ("on",)
        and not set(vm["causes"]) & {"pmu-kept"}
    ]
    remote = sum(vm["cause"] == "remote-host" and vm["decision"] == "on" for one in documents for vm in one["domains"])
    assert sum(gain.vms for gain in made.waiting.values()) == len(waiting) + remote


def test_what_is_to_be_won_is_absent_where_nothing_was_counted(documents: list[dict[str, Any]], tmp_path: Path) -> None:
    silent = copy.deepcopy(documents)
    for one in silent:
        one["worth"] = None
        for vm in one["domains"]:
            vm["exits_per_second"] = None
    made = document(Fleet(joined([of_host(report) for report in _read(silent, tmp_path)]), AT))
    assert made["worth"] is None
    assert made["rounds"]
    assert {one["brings"]["cycles_per_second_at_most"] for one in made["rounds"]} == {None}
    assert {one["brings"]["counted_vms"] for one in made["rounds"]} == {0}


def test_what_is_to_be_won_is_the_exits_of_the_vms_that_are_promised(
    documents: list[dict[str, Any]], reports: list[HostReport]
) -> None:
    made = joined([of_host(report) for report in reports])
    counted = sum(gain.counted for gain in made.waiting.values())
    cycles = sum(gain.cycles for gain in made.waiting.values())
    vms = [
        round(vm["exits_per_second"] * one["host_facts"]["cycles_per_exit"])
        for one, report in zip(documents, reports)
        for vm, reported in zip(one["domains"], report.vms)
        if reported.outlook.needs.changes and vm["fast_path"] == "no" and vm["exits_per_second"] is not None
        and one["host_facts"] and one["host_facts"]["cycles_per_exit"] is not None
    ]  # fmt: skip
    assert (counted, cycles) == (len(vms), sum(vms))


def test_the_list_is_cut_and_the_rest_is_counted(reports: list[HostReport]) -> None:
    fleet_ = Fleet(joined([of_host(report) for report in reports]), AT)
    every, some = document(fleet_), document(fleet_, top=3)
    for kind in ("flavors", "projects", "kernels", "qemus"):
        assert some[kind]["listed"] == every[kind]["listed"][:3]
        assert some[kind]["others"]["number"] == len(every[kind]["listed"]) - 3
        vms = sum(one["vms"] for one in some[kind]["listed"]) + some[kind]["others"]["vms"]
        assert vms == sum(one["vms"] for one in every[kind]["listed"])
    named = {name for one in some["rounds"] for name in one["steps"]}
    assert named <= {one["id"] for one in some["steps"]["listed"]}


def test_it_follows_its_schema(reports: list[HostReport]) -> None:
    schema = json.loads((DOCS / "fleet-report.schema.json").read_text())
    Draft202012Validator.check_schema(schema)
    at = datetime.now(timezone.utc)
    for top in (0, 2):
        made = document(Fleet(joined([of_host(report) for report in reports]), at), top)
        Draft202012Validator(schema).validate(json.loads(json.dumps(made)))
