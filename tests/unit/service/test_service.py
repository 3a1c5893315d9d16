"""The parts of the service around its loop: what systemd hears, the log, HTTP, health, and what may be changed."""

from __future__ import annotations

import json
import os
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from pmuconf import conf
from pmuconf.audit.vm import judge
from pmuconf.change.plan import Seen
from pmuconf.conf import Mode
from pmuconf.domain.definition import PmuState
from pmuconf.domain.reading import read, read_libvirt
from pmuconf.errors import PmuconfError
from pmuconf.hostfacts import HostFacts
from pmuconf.hypervisor.hypervisor import Listed
from pmuconf.policy import Decision, Policy, Rule
from pmuconf.service import loop
from pmuconf.service.enforcement import to_be_changed
from pmuconf.service.health import AREAS, Health
from pmuconf.service.log import Log
from pmuconf.service.loop import Service
from pmuconf.service.outputs import Outputs
from pmuconf.service.systemd import Systemd
from tests.support.domains import domain_uuid, plain_domain

LOST = PmuconfError("it broke", cause="libvirt-lost")


# ---- systemd -------------------------------------------------------------------------------------------------------


class Manager:
    """systemd's end of NOTIFY_SOCKET."""

    def __init__(self, address: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(address)
        self._socket.settimeout(10)

    def heard(self) -> str:
        return self._socket.recv(4096).decode()

    def left(self) -> set[str]:
        """All that is there by now."""
        found = set()
        self._socket.setblocking(False)
        while True:
            try:
                found.add(self._socket.recv(4096).decode())
            except BlockingIOError:
                self._socket.settimeout(10)
                return found


@pytest.mark.parametrize("abstract", [False, True])
def test_systemd_hears(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, abstract: bool) -> None:
    path = f"pmuconf-test-{os.getpid()}" if abstract else str(tmp_path / "n")
    manager = Manager(f"\0{path}" if abstract else path)
    monkeypatch.setenv("NOTIFY_SOCKET", f"@{path}" if abstract else path)
    monkeypatch.setenv("WATCHDOG_USEC", "3000000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    systemd = Systemd()
    assert systemd.every == 1.0
    assert "NOTIFY_SOCKET" not in os.environ
    systemd.ready()
    assert manager.heard() == "READY=1"
    systemd.reloading()
    first, second = manager.heard().split("\n")
    assert (first, second.partition("=")[0]) == ("RELOADING=1", "MONOTONIC_USEC")
    systemd.status("a name\nMAINPID=1")
    assert manager.heard() == "STATUS=a name\\nMAINPID=1"
    systemd.alive()
    systemd.alive()  # too early to be told again
    systemd.stopping()
    assert [manager.heard(), manager.heard()] == ["WATCHDOG=1", "STOPPING=1"]


def test_without_systemd_nobody_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    monkeypatch.setenv("WATCHDOG_USEC", "1000")
    systemd = Systemd()
    systemd.ready()
    systemd.alive()
    assert systemd.every is None


def test_the_watchdog_of_another_process_is_not_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", "/nonexistent")
    monkeypatch.setenv("WATCHDOG_USEC", "1000000")
    monkeypatch.setenv("WATCHDOG_PID", "1")
    assert Systemd().every is None
    Systemd().ready()  # nobody listens there: no reason to end


# ---- log -----------------------------------------------------------------------------------------------------------


def test_a_line_of_json_an_event(capsys: pytest.CaptureFixture[str]) -> None:
    Log("json").warning("busy", "web\x1b[2J: busy", cause="edit-overwritten", domain="web\n2", change=None)
    (line,) = capsys.readouterr().err.splitlines()
    told = json.loads(line)
    assert told.pop("time").endswith("+00:00")
    assert told == {
        "level": "warning",
        "event": "busy",
        "message": "web\x1b[2J: busy",
        "cause": "edit-overwritten",
        "domain": "web\n2",
    }
    assert line.isprintable()


@pytest.mark.parametrize(("journal", "begin"), [("8:1", "<4>"), ("", "")])
def test_a_sentence_an_event_with_its_level_for_the_journal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, journal: str, begin: str
) -> None:
    monkeypatch.setenv("JOURNAL_STREAM", journal)
    Log().warning("busy", "web\n<0>: busy", cause="edit-overwritten", domain="web")
    assert capsys.readouterr().err == f"{begin}web\\n<0>: busy (edit-overwritten)\n"


# ---- health and HTTP -----------------------------------------------------------------------------------------------


@pytest.fixture
def outputs() -> Iterator[Outputs]:
    made = Outputs(Health())
    made._health.configured(enforces=False, patience=1e9)
    made.listen(("127.0.0.1", 0))
    yield made
    made.close()


def get(outputs: Outputs, path: str) -> tuple[int, str]:
    assert outputs.address is not None
    host, port = outputs.address
    try:
        with urllib.request.urlopen(f"http://{host}:{port}{path}", timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_health_says_what_is_wrong_until_it_is_right(outputs: Outputs) -> None:
    health = outputs._health
    assert get(outputs, "/healthz") == (200, '{\n "status": "ok",\n "problems": []\n}\n')
    assert health.trouble("libvirt", LOST)
    assert not health.trouble("libvirt", LOST)  # no news
    status, text = get(outputs, "/healthz")
    (problem,) = json.loads(text)["problems"]
    assert (status, problem["area"], problem["cause"], problem["message"]) == (
        503,
        "libvirt",
        "libvirt-lost",
        "it broke",
    )
    assert 'pmuconf_service_trouble{area="libvirt",cause="libvirt-lost"} 1.0' in get(outputs, "/metrics")[1]
    assert health.trouble("libvirt", PmuconfError("other", cause="libvirt-timeout"))
    assert health.well("libvirt")
    assert not health.well("libvirt")
    assert get(outputs, "/healthz")[0] == 200
    assert "pmuconf_service_trouble{" not in get(outputs, "/metrics")[1]


def test_weak_facts_are_told_and_the_service_is_well(outputs: Outputs) -> None:
    outputs._health.trouble("host-facts", PmuconfError("none", cause="facts-unreadable"))
    status, text = get(outputs, "/healthz")
    assert (status, json.loads(text)["problems"][0]["cause"]) == (200, "facts-unreadable")


def test_a_loop_that_hangs_is_seen(outputs: Outputs) -> None:
    outputs._health.passed()
    assert get(outputs, "/healthz")[0] == 200
    outputs._health.configured(enforces=False, patience=-1)
    status, text = get(outputs, "/healthz")
    assert (status, json.loads(text)["problems"][0]["cause"]) == (503, "stale")
    assert "pmuconf_service_healthy 0.0" in get(outputs, "/metrics")[1]


def test_a_loop_without_a_sign_of_life_is_seen_within_half_a_minute() -> None:
    """However long the interval is, and whether or not it ever looked at anything."""
    now = [1000.0]
    health = Health(lambda: now[0])
    health.configured(enforces=False, patience=1e9)
    assert health.healthy  # not begun
    health.beat()
    now[0] += 30
    assert health.healthy
    now[0] += 1
    (problem,) = health.answer()["problems"]
    assert (health.answer()["status"], problem["area"], problem["cause"]) == ("trouble", "loop", "stuck")
    health.beat()
    assert health.healthy


class Hanging:
    """A hypervisor that never answers, once the service asks for the domains."""

    local = False
    uri = "qemu:///hanging"

    def __init__(self) -> None:
        self.asked, self.go_on = threading.Event(), threading.Event()

    @contextmanager
    def open(self, *_: object, **__: object) -> Iterator[Hanging]:
        yield self

    @contextmanager
    def listen(self, *_: object) -> Iterator[None]:
        yield

    def domains(self) -> list[Listed]:
        self.asked.set()
        self.go_on.wait()
        return []

    map = staticmethod(map)


def no_facts(_: Path | None) -> HostFacts:
    raise PmuconfError("none", cause="facts-unreadable")


def test_a_service_that_hangs_says_so_and_no_longer_quiets_the_watchdog(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hanging, now = Hanging(), [1000.0]
    manager = Manager(str(tmp_path / "n"))
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "n"))
    monkeypatch.setenv("WATCHDOG_USEC", "3")  # so each sign of life is sent
    monkeypatch.setattr(loop, "Hypervisor", hanging)
    policy = tmp_path / "pmuconf.conf"
    policy.write_text("[service]\nlisten = 127.0.0.1:0\nhost_facts =\ninterval = 86400\n")
    service = Service(lambda: conf.load([str(policy)]), no_facts, Log(), Systemd(), lambda: now[0])
    thread = threading.Thread(target=service.run)
    thread.start()
    try:
        assert hanging.asked.wait(30)
        assert get(service.outputs, "/healthz")[0] == 200
        assert "WATCHDOG=1" in manager.left()
        now[0] += 31
        status, text = get(service.outputs, "/healthz")
        assert (status, json.loads(text)["problems"][0]["cause"]) == (503, "stuck")
        assert manager.left() == set()
    finally:
        hanging.go_on.set()
        service.stop()
        thread.join(30)
    assert not thread.is_alive()
    assert "WATCHDOG=1" in manager.left()  # it went on


class Coming(Hanging):
    """A hypervisor on which a domain comes between two looks, and that reports nothing of it."""

    def __init__(self) -> None:
        super().__init__()
        self.go_on.set()
        self.looks = 0

    def domains(self) -> list[Listed]:
        super().domains()
        self.looks += 1
        come = Listed("web", domain_uuid("web"), active=False, persistent=True, saved=False, snapshots=False)
        return [come] if self.looks > 1 else []

    def next_boot_xml(self, listed: Listed, **_: object) -> str:
        return plain_domain(listed.name)


def test_a_domain_that_came_unheard_is_told_and_the_connection_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    coming = Coming()
    monkeypatch.setattr(loop, "Hypervisor", coming)
    policy = tmp_path / "pmuconf.conf"
    policy.write_text("[service]\nlisten =\nhost_facts =\ninterval = 86400\nlog_format = json\n")
    service = Service(lambda: conf.load([str(policy)]), no_facts, Log(), Systemd())
    thread = threading.Thread(target=service.run)
    thread.start()
    try:
        for _ in range(3):  # the third time on a new connection
            assert coming.asked.wait(30)
            coming.asked.clear()
            service.reload()
    finally:
        service.stop()
        thread.join(30)
    told = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    trouble = [line["message"] for line in told if line.get("cause") == "events-lost"]
    assert trouble
    assert trouble[0] == "libvirt: libvirt reports no events: connecting anew"


def test_the_areas_that_the_service_names_are_those_that_are_known() -> None:
    import re

    sources = "".join(path.read_text() for path in Path(loop.__file__).parent.glob("*.py"))
    named = set(re.findall(r'(?:trouble|well)\(\s*"([\w-]+)"', sources))
    assert named | {"loop"} == set(AREAS)


def test_nothing_else_is_served(outputs: Outputs) -> None:
    for path in ("/report.html", "//", "/metricsx", "/../etc/passwd"):
        assert get(outputs, path)[0] == 404


def test_an_address_that_is_taken_leaves_the_one_that_is_there(outputs: Outputs) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other, pytest.raises(PmuconfError) as caught:
        outputs.listen(other.getsockname())
    assert caught.value.cause == "listen-failed"
    assert get(outputs, "/healthz")[0] == 200


def test_the_same_address_stays_open_another_takes_its_place_and_none_closes(outputs: Outputs) -> None:
    before = outputs.address
    outputs.listen(("127.0.0.1", 0))
    assert outputs.address == before
    assert before is not None
    outputs.listen(("127.0.0.2", 0))
    assert outputs.address is not None
    assert get(outputs, "/healthz")[0] == 200
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(before, timeout=30)
    outputs.listen(None)
    assert outputs.address is None


# ---- what may be changed -------------------------------------------------------------------------------------------


def settings(**service: object) -> conf.Settings:
    rules = (Rule("perf", Decision.ON, domain=("perf-*",)), Rule("quiet", Decision.OFF, domain=("quiet-*",)))
    defaults = conf.load(["/dev/null"])
    return replace(
        defaults,
        policy=Policy(rules=rules),
        service=replace(defaults.service, **service),  # type: ignore[arg-type]
    )


def changed(chosen: conf.Settings, *names: str) -> list[str]:
    seen = []
    for name in names:
        domain = read_libvirt(plain_domain(name))
        listed = Listed(name, domain.uuid or "", False, True, False, False)
        seen.append(Seen(listed, judge(chosen.policy, next_boot=domain)))
    return [plan.listed.name for plan in to_be_changed(chosen, seen)]


ALL = ("web", "perf-1", "quiet-1")


@pytest.mark.parametrize(
    ("mode", "rule_modes", "names"),
    [
        (Mode.OBSERVE, {}, []),
        (Mode.ENFORCE, {}, ["web", "perf-1", "quiet-1"]),
        (Mode.ENFORCE, {"quiet": Mode.OBSERVE}, ["web", "perf-1"]),
        (Mode.OBSERVE, {"perf": Mode.ENFORCE}, ["perf-1"]),
    ],
)
def test_the_mode_of_the_rule_that_decides_counts(mode: Mode, rule_modes: dict[str, Mode], names: list[str]) -> None:
    chosen = settings(mode=mode, rule_modes=rule_modes)
    assert changed(chosen, *ALL) == names
    assert chosen.service.enforces == bool(names)


def test_a_domain_that_comes_under_an_observed_rule_meanwhile_is_left_alone() -> None:
    chosen = settings(mode=Mode.ENFORCE, rule_modes={"quiet": Mode.OBSERVE})
    domain = read_libvirt(plain_domain("web"))
    listed = Listed("web", domain.uuid or "", False, True, False, False)
    (one,) = to_be_changed(chosen, [Seen(listed, judge(chosen.policy, next_boot=domain))])
    goal = one.aim(domain)
    assert goal is not None
    assert goal.state is PmuState.OFF
    assert one.aim(read(plain_domain("quiet-now"))) is None
