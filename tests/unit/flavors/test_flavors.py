"""Flavors: the judgement, and the commands against a Nova and a Glance of the test's own, over HTTP."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pmuconf.domain.definition import UNKNOWN, PmuState
from pmuconf.domain.reading import read
from pmuconf.errors import PmuconfError
from pmuconf.flavors import cloud as cloud_api
from pmuconf.flavors.cloud import Cloud
from pmuconf.flavors.judge import Embedded, ExplicitImage, Flavor, Standing, judge
from pmuconf.flavors.map import FlavorMap
from pmuconf.policy import Decision, Policy, Rule
from tests.support.domains import nova_domain
from tests.unit.conftest import Run
from tests.unit.openstack_api import FakeCloud

ON_IMAGE = ExplicitImage("i", "profiling", PmuState.ON)
PERF = Policy(
    rules=(Rule("perf", Decision.ON, flavor=("perf.*",)), Rule("p", Decision.ON, flavor=("p.*",), project=("x",)))
)


def standing(
    flavor: Flavor, *images: ExplicitImage, servers: tuple[Embedded, ...] = (), only_used: bool = False
) -> Standing:
    (judged,) = judge(PERF, [flavor], images, servers, only_used=only_used)
    return judged.standing


def test_each_standing() -> None:
    assert standing(Flavor("1", "m1", {})) is Standing.TO_SET
    assert standing(Flavor("1", "m1", {"hw:pmu": "true"}), ON_IMAGE) is Standing.EXPLICIT
    assert standing(Flavor("1", "m1", {}), ON_IMAGE) is Standing.CONFLICT
    assert standing(Flavor("1", "perf.a", {}), ON_IMAGE) is Standing.TO_SET
    assert standing(Flavor("1", "p.a", {})) is Standing.UNDECIDED
    (judged,) = judge(Policy(default=Decision.KEEP), [Flavor("1", "m1", {})], [], [])
    assert judged.standing is Standing.KEEP


def test_an_image_of_a_project_that_may_not_use_the_flavor_is_not_in_its_way() -> None:
    private = Flavor("1", "m1", {}, frozenset({"theirs"}))
    assert standing(private, ExplicitImage("i", "n", PmuState.ON, "ours")) is Standing.TO_SET
    assert standing(private, ExplicitImage("i", "n", PmuState.ON, "theirs")) is Standing.CONFLICT
    assert standing(private, ExplicitImage("i", "n", PmuState.ON, None)) is Standing.CONFLICT


def test_only_used_lets_an_image_stand_in_the_way_of_what_was_built_from_it() -> None:
    flavor = Flavor("1", "m1", {})
    assert standing(flavor, ON_IMAGE, only_used=True) is Standing.TO_SET
    assert standing(flavor, ON_IMAGE, servers=(Embedded("m1", {}, "i"),), only_used=True) is Standing.CONFLICT
    assert standing(flavor, ON_IMAGE, servers=(Embedded("m2", {}, "i"),), only_used=True) is Standing.TO_SET


def test_servers_with_an_older_copy_are_counted() -> None:
    servers = [
        Embedded("m1", {}),
        Embedded("m1", {"hw:pmu": "0"}),
        Embedded("m1", {"hw:pmu": "on"}),
        Embedded("m2", {}),
    ]
    (judged,) = judge(Policy(), [Flavor("1", "m1", {})], [], servers)
    assert (judged.servers, judged.older) == (3, 2)


def test_the_map_gives_an_old_domain_what_its_flavor_says(tmp_path: Path) -> None:
    path = tmp_path / "flavors"
    path.write_text(FlavorMap([Flavor("7", "m1.small", {"hw:pmu": "true"})]).dump())
    domain = read(nova_domain("one", flavor="m1.small"))
    assert domain.nova is not None
    assert domain.nova.extra_specs is UNKNOWN
    filled = FlavorMap.load(path).fill(domain).nova
    assert filled is not None
    assert (filled.flavor_id, filled.extra_specs) == ("7", {"hw:pmu": "true"})
    assert FlavorMap([]).fill(domain) is domain


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": "pmuconf-flavors", "version": 1, "flavors": [7]}'])
def test_a_broken_map_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "flavors"
    path.write_text(text)
    with pytest.raises(PmuconfError) as caught:
        FlavorMap.load(path)
    assert caught.value.cause == "flavors-broken"


@pytest.fixture
def cloud(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeCloud]:
    pytest.importorskip("openstack")
    with FakeCloud() as fake:
        for name, value in fake.environment.items():
            monkeypatch.setenv(name, value)
        yield fake


@pytest.fixture
def config(tmp_path: Path) -> str:
    return f"[policy]\nrules=perf\n[rule:perf]\nflavor=perf.*\npmu=on\n[journal]\npath={tmp_path}/journal\n"


def rows(out: str) -> dict[str, Any]:
    return {row["name"]: row for row in json.loads(out)}


def test_audit_apply_and_rollback(cloud: FakeCloud, run: Run, config: str) -> None:
    for number in range(25):
        cloud.flavors[f"m{number:02}"] = {}
    cloud.flavors["perf.a"] = {}
    cloud.flavors["mine"] = {"hw:pmu": "yes", "hw:other": "1"}
    outcome = run("flavors", "audit", "-f", "json", config=config)
    assert outcome.status == 2, outcome.err
    assert {row["standing"] for row in rows(outcome.out).values()} == {"to-set", "explicit"}
    assert len(rows(outcome.out)) == 27
    before = json.dumps(cloud.flavors)
    assert run("flavors", "apply", "--dry-run", config=config).status == 0
    assert json.dumps(cloud.flavors) == before
    outcome = run("flavors", "apply", "-f", "json", config=config)
    assert outcome.status == 0, outcome.err
    assert cloud.flavors["m00"] == {"hw:pmu": "false"}
    assert cloud.flavors["m24"] == {"hw:pmu": "false"}
    assert cloud.flavors["perf.a"] == {"hw:pmu": "true"}
    assert cloud.flavors["mine"] == {"hw:pmu": "yes", "hw:other": "1"}
    assert run("flavors", "audit", config=config).status == 0
    cloud.flavors["m01"]["hw:pmu"] = "true"  # somebody's choice since
    outcome = run("flavors", "rollback", "--all", "-f", "json", config=config)
    assert outcome.status == 1
    assert rows(outcome.out)["m01"]["outcome"] == "changed-since"
    after = json.loads(before)
    after["m01"] = {"hw:pmu": "true"}
    assert cloud.flavors == after


def test_flavors_in_an_image_s_way_are_left_alone_and_named(cloud: FakeCloud, run: Run, config: str) -> None:
    cloud.flavors["m1"], cloud.flavors["perf.a"] = {}, {}
    cloud.images["profiling"] = {"hw_pmu": "true"}
    outcome = run("flavors", "apply", "-f", "json", config=config)
    assert outcome.status == 1
    assert rows(outcome.out)["m1"]["outcome"] == "conflict"
    assert "profiling" in rows(outcome.out)["m1"]["note"]
    assert cloud.flavors == {"m1": {}, "perf.a": {"hw:pmu": "true"}}
    assert run("flavors", "apply", "--only-used", config=config).status == 0
    assert cloud.flavors["m1"] == {"hw:pmu": "false"}


def test_a_failure_stops_it_says_what_was_not_reached_and_the_next_run_goes_on(
    cloud: FakeCloud, run: Run, config: str
) -> None:
    for name in ("a", "b", "c"):
        cloud.flavors[name] = {}
    cloud.refuse["b"] = [500]
    outcome = run("flavors", "apply", "-f", "json", config=config)
    assert outcome.status == 2
    assert {name: row["outcome"] for name, row in rows(outcome.out).items()} == {
        "a": "set",
        "b": "failed",
        "c": "not-reached",
    }
    assert cloud.flavors == {"a": {"hw:pmu": "false"}, "b": {}, "c": {}}
    assert run("flavors", "apply", config=config).status == 0
    assert all(specs == {"hw:pmu": "false"} for specs in cloud.flavors.values())


def test_an_answer_that_is_lost_after_the_change_is_seen_by_looking(cloud: FakeCloud, run: Run, config: str) -> None:
    cloud.flavors["a"] = {}
    cloud.done_but_500.add("a")
    assert run("flavors", "apply", config=config).status == 0
    assert run("flavors", "rollback", "a", config=config).status == 0
    assert cloud.flavors == {"a": {}}


def test_busy_answers_are_tried_again(cloud: FakeCloud, run: Run, config: str) -> None:
    cloud.flavors["a"] = {}
    cloud.busy = 2
    assert run("flavors", "audit", config=config).status == 2


def test_the_limit(cloud: FakeCloud, run: Run, config: str) -> None:
    cloud.flavors["a"], cloud.flavors["b"] = {}, {}
    assert run("flavors", "apply", "--max-changes", "1", config=config).status == 2
    assert cloud.flavors == {"a": {"hw:pmu": "false"}, "b": {}}


def test_export(cloud: FakeCloud, run: Run, config: str, tmp_path: Path) -> None:
    cloud.flavors["a"] = {"hw:pmu": "true"}
    assert run("flavors", "export", "--output", tmp_path / "map", config=config).status == 0
    domain = read(nova_domain("one", flavor="a"))
    filled = FlavorMap.load(tmp_path / "map").fill(domain).nova
    assert filled is not None
    assert filled.extra_specs == {"hw:pmu": "true"}


@pytest.mark.parametrize(
    ("status", "cause", "hint"),
    [
        (
            403,
            "openstack-forbidden",
            "An administrator's role is needed for flavors and for the servers of all projects",
        ),
        (404, "openstack-not-found", ""),
        (409, "openstack-error", ""),
        (401, "openstack-auth", ""),
    ],
)
def test_what_nova_answers_is_the_cause(cloud: FakeCloud, status: int, cause: str, hint: str) -> None:
    cloud.flavors["a"] = {}
    cloud.refuse["a"] = [status] * 2  # openstacksdk asks for a new token behind the first 401
    with Cloud.open(None) as opened, pytest.raises(PmuconfError) as caught:
        opened.set_pmu("a", "false")
    assert (caught.value.cause, caught.value.hint) == (cause, hint)
    assert caught.value.message.endswith(f"/flavors/a/os-extra_specs: HTTP {status} refused")


def test_without_a_cloud_that_is_described_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openstack")
    monkeypatch.setenv("OS_CLIENT_CONFIG_FILE", "/dev/null")
    with pytest.raises(PmuconfError) as caught, Cloud.open("elsewhere"):
        pass
    assert caught.value.cause == "openstack-config"
    assert caught.value.hint == "Name one of clouds.yaml with --os-cloud"


def test_wrong_credentials_and_no_cloud(
    cloud: FakeCloud, run: Run, config: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OS_PASSWORD", "wrong")
    outcome = run("flavors", "audit", config=config)
    assert outcome.status == 255
    assert "openstack-auth" in outcome.err
    monkeypatch.setenv("OS_AUTH_URL", "http://127.0.0.1:1/v3")
    outcome = run("flavors", "audit", config=config)
    assert outcome.status == 255
    assert "openstack-unreachable" in outcome.err


def test_an_audit_takes_an_old_domain_s_extra_specs_from_the_map(run: Run, config: str, tmp_path: Path) -> None:
    (tmp_path / "map").write_text(FlavorMap([Flavor("7", "m1.small", {"trait:PERF": "required"})]).dump())
    (tmp_path / "one.xml").write_text(nova_domain("one").replace("<type ", "<type arch='x86_64' ", 1))
    config = "[policy]\nrules=perf\n[rule:perf]\nextra_spec=trait:PERF\npmu=on\n"
    decisions = []
    for more in ((), ("--flavors", tmp_path / "map")):
        outcome = run("audit", "-f", "json", "--xml", tmp_path / "one.xml", *more, config=config)
        decisions.append([row["decision"] for row in json.loads(outcome.out)])
    assert decisions == [["undecided"], ["on"]]
    outcome = run("audit", "--xml", tmp_path / "one.xml", "--flavors", tmp_path / "missing", config=config)
    assert outcome.status == 255
    assert "flavors-unreadable" in outcome.err


@pytest.mark.parametrize("wanted", [None, "7"])
def test_a_cloud_that_takes_the_connection_and_never_answers_is_given_up(
    monkeypatch: pytest.MonkeyPatch, wanted: str | None
) -> None:
    """After a time of ours, or after what clouds.yaml says."""
    import openstack

    waited: list[float | None] = []
    with socket.create_server(("127.0.0.1", 0)) as silent:
        for name, value in FakeCloud().environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("OS_AUTH_URL", f"http://127.0.0.1:{silent.getsockname()[1]}/v3")
        if wanted is not None:
            monkeypatch.setenv("OS_API_TIMEOUT", wanted)
        real = openstack.connect

        def connect(**named: Any) -> Any:
            connection = real(**named)
            waited.append(connection.session.timeout)
            if wanted is not None:
                connection.session.timeout = 0.05
            return connection

        monkeypatch.setattr(openstack, "connect", connect)
        monkeypatch.setattr(cloud_api, "_SECONDS", 0.05)
        with pytest.raises(PmuconfError) as caught, Cloud.open(None):
            pass
    assert caught.value.cause == "openstack-unreachable"
    assert waited == [None if wanted is None else 7.0]
