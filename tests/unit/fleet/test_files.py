"""Files as they come from many hosts: cut short, broken, doubled, from the future. Each is named, the rest goes on."""

from __future__ import annotations

import gzip
import json
import os
import random
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pmuconf.errors import PmuconfError
from pmuconf.fleet.absent import severity
from pmuconf.fleet.files import Head, Problem, Refused, find, inventory_name, load, read_head
from pmuconf.fleet.hostreport import HostReport, read
from pmuconf.fleet.hosts import gather, over
from pmuconf.fleet.report import fleet
from tests.support.fleet import host
from tests.support.sample import AT
from tests.unit.fleet import naive

DOCUMENT = host("guarded", "h1", 12, random.Random(1))
TEXT = json.dumps(DOCUMENT, indent=2)
MARKER = {
    "format": "pmuconf-unreachable", "version": 1, "host": "h1", "generated_at": AT.isoformat(), "reason": "no route",
}  # fmt: skip


def write(path: Path, content: Any) -> Path:
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def changed(**members: Any) -> dict[str, Any]:
    return {**DOCUMENT, **members}


def deep(*keys: Any, to: Any) -> dict[str, Any]:
    """The document with another value at one place; a key of None takes the member away."""
    made = json.loads(TEXT)
    place = made
    for key in keys[:-1]:
        place = place[key]
    if to is KeyError:
        del place[keys[-1]]
    else:
        place[keys[-1]] = to
    return dict(made)


REFUSED: list[tuple[str, Any]] = [
    ("report-truncated", ""),
    ("report-truncated", TEXT[: len(TEXT) // 2]),
    ("report-truncated", TEXT[:-3]),
    ("report-truncated", TEXT[:40]),
    ("report-broken", TEXT[:5000] + "\0" + TEXT[5001:]),
    ("report-broken", TEXT + "}"),
    ("report-broken", b"\xff\xfe\xfa" + TEXT.encode()),
    ("report-broken", "[" * 100_000),
    ("report-broken", '{"format": "pmuconf-report", "version": ' + "9" * 5000 + "}"),
    ("report-broken", changed(host="")),
    ("report-broken", changed(host=7)),
    ("report-broken", changed(host="x" * 300)),
    ("report-broken", changed(generated_at="yesterday")),
    ("report-broken", changed(generated_at="2031-02-03T04:05:06")),
    ("report-broken", changed(generated_at=0)),
    ("report-broken", changed(domains={})),
    ("report-broken", changed(domains=[7])),
    ("report-broken", changed(host_facts=[])),
    ("report-broken", deep("host_facts", to=KeyError)),
    ("report-broken", deep("host_facts", "guard", "verdict", to="perhaps")),
    ("report-broken", deep("host_facts", "enable_pmu", to="Y")),
    ("report-broken", deep("host_facts", "cycles_per_exit", to=-1)),
    ("report-broken", deep("worth", to={"vms": 1})),
    ("report-broken", deep("domains", 3, "name", to=None)),
    ("report-broken", deep("domains", 3, "uuid", to=[])),
    ("report-broken", deep("domains", 3, "uuid", to=KeyError)),
    ("report-broken", deep("domains", 3, "running", to="yes")),
    ("report-broken", deep("domains", 3, "live", to={})),
    ("report-broken", deep("domains", 3, "causes", to=7)),
    ("report-broken", deep("domains", 3, "cause", to="because")),
    ("report-broken", deep("domains", 3, "severity", to=3)),
    ("report-broken", deep("domains", 3, "exits_per_second", to=-1)),
    ("report-broken", deep("domains", 3, "exits_per_second", to=float("nan"))),
    ("report-broken", deep("domains", 3, "message", to=["x"])),
    ("report-broken", deep("domains", 3, "qemu", to={"path": 1})),
    ("report-broken", deep("domains", 3, "error", to={})),
    ("report-version", changed(version=3)),
    ("report-version", changed(version="1")),
    ("report-version", changed(version=True)),
    ("not-a-report", []),
    ("not-a-report", {}),
    ("not-a-report", 7),
    ("not-a-report", changed(format="something-else")),
]


@pytest.mark.parametrize(("cause", "content"), REFUSED)
def test_what_can_not_be_used_is_named_and_the_rest_goes_on(cause: str, content: Any, tmp_path: Path) -> None:
    write(tmp_path / "h0.json", host("unguarded", "h0", 5, random.Random(2)))
    bad = write(tmp_path / "bad.json", content)
    made = fleet(gather([tmp_path], 1), now=AT)
    (problem,) = made.problems
    assert (problem.path, problem.cause) == (str(bad), cause)
    assert problem.message
    assert list(made.aggregate.hosts) == ["h0"]
    assert [one.cause for one in made.absent] == [cause]
    assert made.severity == 2


@given(data=st.data())
def test_no_damage_makes_anything_but_a_report_or_a_cause(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Any member, anywhere, replaced by anything."""
    made = json.loads(TEXT)
    place: Any = made
    while isinstance(place, (dict, list)) and place:
        keys = sorted(place) if isinstance(place, dict) else list(range(len(place)))
        key = data.draw(st.sampled_from(keys))
        inner = place[key]
        if not isinstance(inner, (dict, list)) or not inner or data.draw(st.booleans()):
            place[key] = data.draw(
                st.sampled_from([None, 1, -1, 1e400, "", "x", True, [], {}, [[]], {"a": 1}, "\ud800"])
            )
            break
        place = inner
    path = tmp_path_factory.mktemp("damaged") / "h1.json"
    path.write_text(json.dumps(made))
    found = read_head(str(path))
    if isinstance(found, Head):
        with suppress(Refused):
            report = read(found)
            assert len(report.vms) == len(report.document["domains"])


def test_a_file_without_permission_and_what_is_no_file(tmp_path: Path) -> None:
    write(tmp_path / "h1.json", TEXT)
    (tmp_path / "folder.json").mkdir()
    os.mkfifo(tmp_path / "pipe.json")
    os.symlink("/nowhere", tmp_path / "dangling.json")
    made = fleet(gather([tmp_path], 1), now=AT)
    assert sorted((Path(one.path).name, one.cause) for one in made.problems) == [
        ("dangling.json", "report-unreadable"),
        ("pipe.json", "report-unreadable"),
    ]


def test_packed_files(tmp_path: Path) -> None:
    path = tmp_path / "h1.json.gz"
    path.write_bytes(gzip.compress(TEXT.encode()))
    assert load(str(path)) == DOCUMENT
    assert inventory_name(str(path)) == "h1"
    whole = path.read_bytes()
    for cause, damaged in (("report-truncated", whole[:-20]), ("report-unreadable", b"no gzip")):
        path.write_bytes(damaged)
        assert fleet_problem(tmp_path) == cause
    path.write_bytes(whole[:200] + b"\0" * 50 + whole[250:])
    assert fleet_problem(tmp_path) in ("report-unreadable", "report-broken", "report-truncated")


def fleet_problem(folder: Path) -> str:
    write(folder / "other.json", host("no-call", "other", 1, random.Random(3)))
    (problem,) = fleet(gather([folder], 1), now=AT).problems
    return problem.cause


def test_what_is_packed_can_not_fill_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pmuconf.fleet.files.MAX_BYTES", 1 << 16)
    (tmp_path / "bomb.json.gz").write_bytes(gzip.compress(b" " * (1 << 20)))
    assert fleet_problem(tmp_path) == "report-too-large"


def test_members_in_another_order_are_found_too(tmp_path: Path) -> None:
    """As Ansible's to_json(sort_keys=True) has them: the domains come first."""
    path = write(tmp_path / "h1.json", json.dumps(DOCUMENT, sort_keys=True))
    found = read_head(str(path))
    assert isinstance(found, Head)
    assert (found.host, found.at) == ("h1", AT)
    assert len(read(found).vms) == 12


def test_a_file_that_names_two_hosts_is_believed_in_neither(tmp_path: Path) -> None:
    write(tmp_path / "other.json", host("no-call", "other", 1, random.Random(3)))
    write(tmp_path / "h1.json", TEXT.rstrip()[:-1] + ', "host": "h2"}')
    made = fleet(gather([tmp_path], 1), now=AT)
    assert [(one.cause, one.message) for one in made.problems] == [("report-broken", "it names two hosts")]


def test_of_several_reports_of_a_host_the_newest_counts_and_the_others_are_named(tmp_path: Path) -> None:
    for name, hours, vms in (("a", 0, 12), ("b", 2, 7), ("c", 1, 9)):
        made = host("guarded", "h1", vms, random.Random(1), AT + timedelta(hours=hours))
        (tmp_path / name).mkdir()
        write(tmp_path / name / "h1.json", made)
    for jobs in (1, 2):
        found = fleet(gather([tmp_path], jobs), now=AT + timedelta(hours=3), jobs=jobs)
        assert found.aggregate.hosts["h1"].vms == 7
        assert sorted((Path(one.path).parent.name, one.cause) for one in found.problems) == [
            ("a", "report-duplicate"),
            ("c", "report-duplicate"),
        ]
        assert found.severity == found.aggregate.severity  # a double is no defect of the fleet


def test_where_the_newest_can_not_be_used_the_one_before_is(tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    write(tmp_path / "h1.json", TEXT)
    newer = json.dumps(host("guarded", "h1", 7, random.Random(1), AT + timedelta(hours=1)), indent=2)
    write(tmp_path / "new" / "h1.json", newer[:-100])
    made = fleet(gather([tmp_path], 1), now=AT + timedelta(hours=2))
    assert made.aggregate.hosts["h1"].vms == 12
    assert [(Path(one.path).parent.name, one.cause) for one in made.problems] == [("new", "report-truncated")]


def test_folders_are_gone_through_and_hidden_files_are_not(tmp_path: Path) -> None:
    (tmp_path / "rack" / "deep").mkdir(parents=True)
    (tmp_path / ".hidden").mkdir()
    for name in ("a.json", "rack/deep/b.json", "c.json.gz", ".d.json", ".hidden/e.json", "f.txt"):
        write(tmp_path / name, "x")
    files, problems = find([tmp_path, tmp_path / "a.json", tmp_path / "f.txt"])
    assert [os.path.relpath(name, tmp_path) for name in files] == ["a.json", "c.json.gz", "f.txt", "rack/deep/b.json"]
    assert problems == []


# ---- whose report a file is ----------------------------------------------------------------------------------------


def test_a_file_of_another_host_does_not_replace_a_hosts_own(tmp_path: Path) -> None:
    """However new it says that it is; both are named, and the other host is one without a report."""
    write(tmp_path / "h1.json", TEXT)
    write(tmp_path / "h2.json", host("unguarded", "h1", 7, random.Random(1), AT + timedelta(hours=1)))

    made = fleet(gather([tmp_path], 1), now=AT + timedelta(hours=2))

    assert made.aggregate.hosts["h1"].vms == 12
    (problem,) = made.problems
    assert (Path(problem.path).name, problem.cause, problem.host) == ("h2.json", "report-host-claimed", "h2")
    assert all(name in problem.message for name in ("'h2'", "'h1'", "h1.json"))
    assert [(one.host, one.cause) for one in made.absent] == [("h2", "report-host-claimed")]
    assert made.severity == 2


def test_a_report_that_is_not_of_the_host_of_its_file_is_named(tmp_path: Path) -> None:
    write(tmp_path / "h2.json", TEXT)

    made = fleet(gather([tmp_path], 1), now=AT)

    (problem,) = made.problems
    assert (problem.cause, problem.host) == ("report-host-differs", "h1")
    assert made.aggregate.hosts["h1"].vms == 12
    assert severity(made.problems, (), ()) == 1


def test_one_report_does_not_stand_for_two_hosts_that_are_expected(tmp_path: Path) -> None:
    write(tmp_path / "h2.json", TEXT)

    made = fleet(gather([tmp_path], 1), now=AT, expected=["h1", "h2"])

    assert [(one.host, one.cause) for one in made.absent] == [("h1", "report-missing")]


def test_a_marker_in_the_file_of_another_host_is_not_believed(tmp_path: Path) -> None:
    write(tmp_path / "h1.json", TEXT)
    later = (AT + timedelta(hours=1)).isoformat()
    write(tmp_path / "h2.json", {**MARKER, "generated_at": later})

    made = fleet(gather([tmp_path], 1), now=AT)

    assert [(one.host, one.cause) for one in made.absent] == [("h2", "report-host-claimed")]


@pytest.mark.parametrize("name", ["h1", "H1", "h1.example.org", "H1.example.org"])
def test_a_host_is_the_same_in_any_case_and_without_its_domain(tmp_path: Path, name: str) -> None:
    write(tmp_path / f"{name}.json", TEXT)
    assert fleet(gather([tmp_path], 1), now=AT).problems == []


def test_two_domains_are_two_hosts(tmp_path: Path) -> None:
    write(tmp_path / "h1.example.org.json", host("guarded", "h1.example.com", 1, random.Random(1)))
    assert [one.cause for one in fleet(gather([tmp_path], 1), now=AT).problems] == ["report-host-differs"]


# ---- what a member may be ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["running", "drift", "pending", "transient", "nova", "cpu_has_pmu", "may_be_recreated"])
@pytest.mark.parametrize("value", [1, 0, 1.0, 0.0, "yes", "true", []])
def test_a_truth_value_is_one_and_nothing_that_equals_it(tmp_path: Path, key: str, value: object) -> None:
    """Also where the same words were seen before: 1 equals true."""
    good = write(tmp_path / "good.json", TEXT)
    found = read_head(str(good))
    assert isinstance(found, Head)
    read(found)
    made = json.loads(TEXT)
    made["domains"][0][key] = value
    bad = read_head(str(write(tmp_path / "h1.json", made)))
    assert isinstance(bad, Head)

    with pytest.raises(Refused) as refused:
        read(bad)

    assert refused.value.cause == "report-broken"


@pytest.mark.parametrize(
    ("place", "key", "value"),
    [
        ("domain", "snapshots", True),
        ("domain", "severity", True),
        ("domain", "severity", 1.0),
        ("domain", "exits_per_second", True),
        ("host", "enable_pmu", 1),
        ("host", "mediated_pmu", 0),
        ("host", "cycles_per_exit", True),
        ("qemu", "disables_pmu", 1),
    ],
)
def test_nor_is_a_truth_value_a_number(tmp_path: Path, place: str, key: str, value: object) -> None:
    made = json.loads(TEXT)
    with_qemu = next(one for one in made["domains"] if one["qemu"])
    {"domain": made["domains"][0], "host": made["host_facts"], "qemu": with_qemu["qemu"]}[place][key] = value
    bad = read_head(str(write(tmp_path / "h1.json", made)))
    assert isinstance(bad, Head)

    with pytest.raises(Refused):
        read(bad)


def test_a_marker_with_a_long_reason_keeps_its_host(tmp_path: Path) -> None:
    write(tmp_path / "h0.json", host("unguarded", "h0", 5, random.Random(2)))
    write(tmp_path / "h2.unreachable.json", {**MARKER, "host": "h2", "reason": "no route " * 2000})

    (one,) = fleet(gather([tmp_path], 1), now=AT).absent

    assert (one.host, one.cause, one.message) == ("h2", "unreachable", ("no route " * 2000)[:1000])


def test_a_marker_that_is_broken_is_about_its_host_and_no_file(tmp_path: Path) -> None:
    write(tmp_path / "h0.json", host("unguarded", "h0", 5, random.Random(2)))
    write(tmp_path / "h2.unreachable.json", "{")

    assert [one.host for one in fleet(gather([tmp_path], 1), now=AT).absent] == ["h2"]


# ---- hosts that are not there --------------------------------------------------------------------------------------


def test_an_unreachable_host_is_named_and_its_last_report_counts(tmp_path: Path) -> None:
    write(tmp_path / "h1.json", TEXT)
    write(tmp_path / "h1.unreachable.json", {**MARKER, "generated_at": (AT + timedelta(hours=1)).isoformat()})
    write(tmp_path / "h2.unreachable.json", {**MARKER, "host": "h2"})
    made = fleet(gather([tmp_path], 1), now=AT + timedelta(hours=2))
    assert [(one.host, one.cause, one.message, one.last_report) for one in made.absent] == [
        ("h1", "unreachable", "no route", AT),
        ("h2", "unreachable", "no route", None),
    ]
    assert made.aggregate.hosts["h1"].vms == 12


def test_a_marker_that_the_report_has_overtaken_says_nothing(tmp_path: Path) -> None:
    write(tmp_path / "h1.json", TEXT)
    write(tmp_path / "h1.unreachable.json", {**MARKER, "generated_at": (AT - timedelta(hours=1)).isoformat()})
    assert fleet(gather([tmp_path], 1), now=AT).absent == []


def test_hosts_are_expected_by_the_name_of_their_file_or_of_their_report(tmp_path: Path) -> None:
    write(tmp_path / "rack1-h7.json", TEXT)
    for name in ("H1", "rack1-h7"):
        made = fleet(gather([tmp_path], 1), now=AT, expected=[name, "h9"])
        assert [(one.host, one.cause) for one in made.absent] == [("h9", "report-missing")]


def test_a_marker_goes_by_the_name_of_the_file_too(tmp_path: Path) -> None:
    write(tmp_path / "inventory-name.json", TEXT)
    later = (AT + timedelta(hours=1)).isoformat()
    write(tmp_path / "inventory-name.unreachable.json", {**MARKER, "host": "inventory-name", "generated_at": later})
    (one,) = fleet(gather([tmp_path], 1), now=AT).absent
    assert (one.host, one.last_report) == ("inventory-name", AT)


@pytest.mark.parametrize(
    "damage",
    [
        lambda marker: marker.update(reason=7),
        lambda marker: marker.update(host=None),
        lambda marker: marker.pop("generated_at"),
    ],
)
def test_a_broken_marker_is_a_broken_file(damage: Callable[[dict[str, Any]], object], tmp_path: Path) -> None:
    marker = dict(MARKER)
    damage(marker)
    found = read_head(str(write(tmp_path / "h1.unreachable.json", marker)))
    assert isinstance(found, Problem)
    assert found.cause == "report-broken"


def test_stale_reports_and_such_from_the_future(tmp_path: Path) -> None:
    write(tmp_path / "h1.json", TEXT)
    for now, age, stale, ahead in (
        (AT + timedelta(hours=25), timedelta(hours=24), ["h1"], []),
        (AT + timedelta(hours=23), timedelta(hours=24), [], []),
        (AT + timedelta(days=900), None, [], []),
        (AT - timedelta(hours=1), timedelta(hours=24), [], ["report-from-future"]),
    ):
        made = fleet(gather([tmp_path], 1), now=now, stale_after=age)
        assert [row.name for row in made.stale] == stale
        assert [one.cause for one in made.problems] == ahead


def test_two_processes_find_what_one_does(tmp_path: Path) -> None:
    for number in range(120):
        made = host("unguarded", f"h{number}", 3, random.Random(number))
        write(tmp_path / f"h{number}.json", json.dumps(made)[: -5 if number % 17 == 0 else None])
    one, two = (fleet(gather([tmp_path], jobs), now=AT, jobs=jobs) for jobs in (1, 2))
    assert one == two
    assert len(two.problems) == 8
    whole = [json.loads((tmp_path / f"h{number}.json").read_text()) for number in range(120) if number % 17]
    assert sum(row.vms for row in two.aggregate.hosts.values()) == naive.figures(whole)["vms"]


def refusing(reports: Iterator[HostReport]) -> None:
    raise PmuconfError(f"no place for {next(reports).name}", cause="output-unwritable", hint="Make some")


def dying(reports: Iterator[HostReport]) -> None:
    os._exit(9)


def test_an_error_comes_out_of_another_process_whole(tmp_path: Path) -> None:
    for number in range(100):
        write(tmp_path / f"h{number:02}.json", {**DOCUMENT, "host": f"h{number:02}", "domains": []})
    hosts = gather([tmp_path], 1)
    with pytest.raises(PmuconfError, match="no place for h00") as caught:
        list(over(hosts, refusing, 2))
    assert (caught.value.cause, caught.value.hint) == ("output-unwritable", "Make some")
    with pytest.raises(PmuconfError) as caught:
        list(over(hosts, dying, 2))
    assert caught.value.cause == "worker-lost"
    assert "--jobs 1" in caught.value.hint
