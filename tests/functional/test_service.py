"""pmuconf serve on a real libvirt: what others define is soon on policy, whatever happens to libvirt or to it."""

from __future__ import annotations

import itertools
import os
import random
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import libvirt
import pytest

from pmuconf.change.journal import writer_lock
from pmuconf.hypervisor import connection, watch
from pmuconf.hypervisor.hypervisor import Hypervisor
from pmuconf.hypervisor.watch import DefineWatch
from pmuconf.service.loop import Service
from tests.functional import moments, oracle
from tests.functional.host import OFF, ON, Host, journal_bytes
from tests.functional.served import Served, Threaded, service_settings, until
from tests.support.domains import nova_domain, plain_domain

ENFORCE = OFF + service_settings(mode="enforce")
OBSERVE = OFF + service_settings(mode="observe")
BURST, RESTARTS, KILLS = 200, 5, 5
SECRET = "geheim"


def domain(number: int) -> str:
    """One of a mixed lot, with a secret."""
    name = f"vm-{number:04}"
    return (
        nova_domain(name, version="32.0.0", vnc_password=SECRET)
        if number % 3
        else plain_domain(name, vnc_password=SECRET)
    )


def all_off(host: Host) -> bool:
    return set(host.pmus().values()) <= {"off"}


class Stream:
    """Somebody else defines domains, fifty a second at most, also over a libvirt that comes and goes.

    ``texts`` has what libvirt made of each, for those whose define it acknowledged.
    """

    def __init__(self, host: Host) -> None:
        self._uri = host.daemon.uri
        self._end = threading.Event()
        self.texts: dict[str, str] = {}
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Stream:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._end.set()
        self._thread.join()

    def _run(self) -> None:
        connection = None
        for number in itertools.count():
            if self._end.wait(0.02):
                return
            try:
                connection = connection or libvirt.open(self._uri)
                name = connection.defineXML(domain(number)).name()
                self.texts[name] = domain(number)
            except libvirt.libvirtError:
                connection = None


# ---- enforce -------------------------------------------------------------------------------------------------------


def test_what_is_there_at_the_start_and_what_others_define_later(host: Host) -> None:
    host.configure(ENFORCE)
    host.define(domain(0), domain(1))
    before = {name: oracle.rest(xml) for name, xml in host.xmls().items()}
    with Served(host.policy) as served:
        served.until_passes(1)
        assert all_off(host)
        host.define(domain(2), domain(3), plain_domain("wants-off", pmu="off"))
        before.update({name: oracle.rest(xml) for name, xml in host.xmls().items()})
        until(lambda: all_off(host), "the new domains to be off")
        served.until("changed", 4)
        assert served.metric("pmuconf_service_passes_total") == 1  # it was told of them, and did not have to look
        assert served.causes() == set()
        assert served.stop() == 0
    assert {name: oracle.rest(xml) for name, xml in host.xmls().items()} == before
    assert {line["domain"] for line in served.events("changed")} == {f"vm-{number:04}" for number in range(4)}
    assert SECRET not in str(served.lines)
    assert "<" not in "".join(line["message"] for line in served.lines)
    assert SECRET.encode() not in journal_bytes(host.journal_dir)
    assert host.json("journal").by_name("status") == {f"vm-{number:04}": "done" for number in range(4)}


def test_a_domain_that_is_redefined_again_and_again_ends_right(host: Host) -> None:
    host.configure(ENFORCE)
    with Served(host.policy) as served:
        served.until_passes(1)
        for number in range(20):
            host.define(plain_domain("web", vnc_password=f"{number}"))
        until(lambda: all_off(host), "web to be off")
        assert "passwd='19'" in host.xml("web")
        served.until("changed")
        assert served.stop() == 0


def test_a_burst(host: Host) -> None:
    host.configure(ENFORCE)
    with Served(host.policy) as served:
        served.until_passes(1)
        host.define(*(domain(number) for number in range(BURST)))
        until(lambda: served.metric('pmuconf_service_changes_total{outcome="changed"}') >= BURST, "all to be changed")
        assert all_off(host)
        assert served.metric("pmuconf_service_passes_total") == 1
        assert served.stop() == 0


def test_our_own_defines_do_not_wake_us(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[str] = []
    moments.before(monkeypatch, "find", lambda: looks.append("find"), call=None)
    host.configure(ENFORCE)
    with Threaded(host.policy) as served:
        served.until_passes(1)
        host.define(plain_domain("web"))
        until(lambda: all_off(host), "web to be off")
        until(lambda: served.metric('pmuconf_service_events_total{event="defined"}') == 2, "both events to be heard")
        until(lambda: served.metric("pmuconf_service_waiting_vms") == 0, "nothing to be left")
        host.define(plain_domain("other", pmu="off"))  # whose look comes behind any that there would be
        until(lambda: "other" in served.get("/metrics")[1], "other to be seen")
    assert len(looks) == 2


def test_the_mode_of_a_rule_beats_that_of_the_service(host: Host) -> None:
    rule = "rules = quiet\n[rule:quiet]\npmu = off\ndomain = quiet-*\nmode = "
    host.configure(f"{OFF}{rule}observe\n{service_settings(mode='enforce')}")
    host.define(plain_domain("web"), plain_domain("quiet-1"))
    with Served(host.policy) as served:
        served.until_passes(1)
        assert host.pmus() == {"quiet-1": "default", "web": "off"}
        host.configure(f"{ON}{rule}enforce\n{service_settings(mode='observe')}")
        served.hang_up()
        served.until_passes(2)
        assert host.pmus() == {"quiet-1": "off", "web": "off"}
        assert served.stop() == 0


def test_nova_domains_follow_the_same_option_as_the_commands(host: Host) -> None:
    host.configure(f"{OFF}nova_domains = observe\n{service_settings(mode='enforce')}")
    host.define(nova_domain("instance-1"), plain_domain("web"))
    with Served(host.policy) as served:
        served.until_passes(1)
        assert host.pmus() == {"instance-1": "default", "web": "off"}
        assert served.stop() == 0


# ---- observe -------------------------------------------------------------------------------------------------------


def test_observing_never_opens_read_write(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through a pass, an event, a reload and a reconnection, with drift to be seen all the time."""
    opened: list[str] = []
    real = {kind: getattr(libvirt, kind) for kind in ("open", "openAuth", "openReadOnly")}

    def opening(kind: str) -> Callable[..., libvirt.virConnect]:
        def record(*arguments: object) -> libvirt.virConnect:
            if threading.current_thread().name == "libvirt-connection":  # pmuconf's; the test itself opens in its own
                opened.append(kind)
            return real[kind](*arguments)

        return record

    for kind in real:
        monkeypatch.setattr(libvirt, kind, opening(kind))
    host.configure(OBSERVE)
    host.define(plain_domain("web"))
    before = host.xmls()
    with Threaded(host.policy) as served:
        served.until_passes(1)
        assert served.metric("pmuconf_vms_drift") == 1
        host.define(plain_domain("later"))
        until(lambda: served.metric("pmuconf_vms_drift") == 2, "the other domain to be seen")
        served.service.reload()
        served.until_passes(2)
        host.daemon.kill()
        until(lambda: served.metric("pmuconf_service_connected") == 0, "the loss to be seen")
        host.daemon.start()
        served.until_passes(3)
    assert len(opened) >= 2
    assert set(opened) == {"openReadOnly"}
    host.reconnect()
    assert not host.journal_dir.exists()
    assert {name: xml for name, xml in host.xmls().items() if name != "later"} == before
    # And what writes would have been seen.
    host.pmuconf("apply", "web")
    assert opened[-1] == "open"


def test_observe_on_the_command_line_beats_all(host: Host) -> None:
    host.configure(
        f"{OFF}rules = all\n[rule:all]\npmu = off\ndomain = *\nmode = enforce\n{service_settings(mode='enforce')}"
    )
    host.define(plain_domain("web"))
    with Served(host.policy, "--observe", "--connect", host.daemon.uri_ro) as served:
        served.until_passes(1)
        assert served.metric("pmuconf_vms_drift") == 1
        assert served.metric("pmuconf_service_enforces") == 0
        assert served.stop() == 0
    assert host.pmu("web") == "default"


# ---- libvirt comes and goes ----------------------------------------------------------------------------------------


def test_libvirt_is_killed_again_and_again_under_a_stream_of_defines(host: Host) -> None:
    host.configure(ENFORCE)
    with Served(host.policy) as served:
        served.until_passes(1)
        descriptors = served.metric("process_open_fds")
        with Stream(host) as stream:
            for connections in range(1, RESTARTS + 1):  # a service that is still away would not notice
                until(
                    lambda: served.metric("pmuconf_service_connections_total") >= connections,  # noqa: B023
                    "the service to be back",
                )
                enough = len(stream.texts) + 10
                until(lambda: len(stream.texts) >= enough, "more domains")  # noqa: B023
                host.daemon.kill()
                host.daemon.start()
        host.reconnect()
        until(lambda: all_off(host), "all domains to be off")
        until(lambda: served.causes() == set(), "all to be well")
        assert served.metric("pmuconf_service_connections_total") > RESTARTS
        assert served.metric("process_open_fds") < descriptors + RESTARTS  # no lost connection is kept
        assert served.stop() == 0
    check_stream(host, stream.texts)


def check_stream(host: Host, texts: Mapping[str, str]) -> None:
    """Nothing that was defined is lost, all of it is on policy, and nothing else is another."""
    xmls = host.xmls()
    assert texts.keys() <= xmls.keys()
    found = {name: oracle.rest(xml) for name, xml in xmls.items()}
    assert {oracle.pmu(xml) for xml in xmls.values()} == {"off"}
    for name, text in texts.items():
        host.define(text)
        assert oracle.rest(host.xml(name)) == found[name]


def test_what_happened_while_libvirt_was_away_is_found(host: Host) -> None:
    """Nobody hears of a domain whose file is there when libvirt starts."""
    host.configure(ENFORCE)
    host.define(plain_domain("web"), plain_domain("gone"))
    with Served(host.policy) as served:
        served.until_passes(1)
        host.daemon.stop()
        served.until("trouble")
        assert served.causes() <= {"libvirt-lost", "libvirt-unreachable"}
        assert served.causes()
        (host.daemon.config_dir / "gone.xml").unlink()
        web = (host.daemon.config_dir / "web.xml").read_text()
        (host.daemon.config_dir / "web.xml").write_text(web.replace("<pmu state='off'/>", "<pmu state='on'/>"))
        (host.daemon.config_dir / "new.xml").write_text(plain_domain("new"))
        host.daemon.start()
        host.reconnect()
        until(lambda: host.pmus() == {"new": "off", "web": "off"}, "the pass to find them")
        until(lambda: served.causes() == set(), "all to be well")
        until(lambda: 'name="gone"' not in served.get("/metrics")[1], "the report to be without what is gone")
        assert served.stop() == 0


def test_libvirt_is_not_there_at_the_start(host: Host) -> None:
    host.configure(ENFORCE)
    host.define(plain_domain("web"))
    host.daemon.stop()
    with Served(host.policy) as served:
        assert served.until("trouble")["cause"] == "libvirt-unreachable"
        assert served.get("/metrics")[0] == 200
        assert served.causes() == {"libvirt-unreachable"}
        host.daemon.start()
        host.reconnect()
        served.until_passes(1)
        assert all_off(host)
        assert served.stop() == 0


def test_libvirt_hangs_and_goes_on(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """Readers get their answers meanwhile: they don't ask libvirt."""
    for name in ("_OPEN_SECONDS", "_KEEPALIVE_SECONDS", "_KEEPALIVE_COUNT"):
        monkeypatch.setattr(connection, name, 1)
    host.configure(ENFORCE)
    host.define(plain_domain("web"))
    with Threaded(host.policy) as served:
        served.until_passes(1)
        os.kill(host.daemon.pid, signal.SIGSTOP)
        try:
            until(lambda: "libvirt-timeout" in served.causes(), "the hang to be told")
            assert 'name="web"' in served.get("/metrics")[1]
            threads = threading.active_count()
            served.service.health.well("libvirt")
            until(lambda: "libvirt-timeout" in served.causes(), "the next try")
            assert threading.active_count() <= threads + 2  # readers; a hanging try is waited for again
        finally:
            os.kill(host.daemon.pid, signal.SIGCONT)
        served.until_passes(2)
        until(lambda: served.causes() == set(), "all to be well")


def test_what_no_event_told_of_is_found_when_the_interval_is_over(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Service, "_hear", lambda *_: None)
    host.configure(OFF + service_settings(mode="enforce", interval=1))
    with Threaded(host.policy) as served:
        served.until_passes(1)
        host.define(plain_domain("web"))
        until(lambda: all_off(host), "web to be off")
        served.until_passes(3)


def test_a_connection_without_events_is_opened_anew(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """libvirt may deliver none to a new listener: a look at all domains shows it."""
    real, calls = Hypervisor.listen, iter(range(10))

    def listen(self: Hypervisor, heard: Callable[[str, str], None], lost: Callable[[], None]) -> Any:
        return real(self, heard, lost) if next(calls) else nullcontext()

    monkeypatch.setattr(Hypervisor, "listen", listen)
    host.configure(ENFORCE)
    with Threaded(host.policy) as served:
        served.until_passes(1)
        host.define(plain_domain("a"))
        served.service.reload()
        until(lambda: served.metric("pmuconf_service_connections_total") == 2, "a new connection")
        until(lambda: served.causes() == set(), "all to be well")
        host.define(plain_domain("b"))
        until(lambda: all_off(host), "both to be off")


def test_a_change_that_the_service_does_not_hear_of_shows_it_too(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "_EVENT_SECONDS", 0.2)
    with monkeypatch.context() as deaf:
        deaf.setattr(DefineWatch, "_listen", lambda *_: None)
        host.configure(ENFORCE)
        host.define(plain_domain("a"))
        with Threaded(host.policy) as served:
            until(lambda: served.metric("pmuconf_service_connections_total") == 2, "a new connection")
            assert all_off(host)


# ---- limits --------------------------------------------------------------------------------------------------------


def test_another_writer_is_waited_for(host: Host) -> None:
    host.configure(ENFORCE)
    with Served(host.policy) as served:
        served.until_passes(1)
        with writer_lock(host.journal):
            host.define(plain_domain("web"))
            until(lambda: served.metric("pmuconf_service_waiting_vms") == 1, "web to wait")
            until(lambda: served.metric("pmuconf_vms_drift") == 1, "web to be seen")
            assert host.pmu("web") == "default"
        until(lambda: all_off(host), "web to be off")
        assert served.stop() == 0


def test_no_more_changes_than_allowed(host: Host) -> None:
    limits = "[change]\nmax_changes = 3\n"
    host.configure(f"{OFF}{limits}{service_settings(mode='enforce', changes_per_minute=1)}")
    host.define(*(domain(number) for number in range(8)))
    with Served(host.policy) as served:
        served.until_passes(1)
        assert sorted(host.pmus().values()) == ["default"] * 5 + ["off"] * 3
        assert served.metric("pmuconf_service_waiting_vms") == 5
        host.define(domain(9))
        until(lambda: served.metric("pmuconf_service_waiting_vms") == 6, "the new one to wait with them")
        assert sum(state == "off" for state in host.pmus().values()) <= 4  # one a minute
        host.configure(ENFORCE)
        served.hang_up()
        until(lambda: all_off(host), "all to be off without the limit")
        assert served.stop() == 0


def test_failures_stop_changes_and_not_the_watch_until_it_is_reloaded(host: Host) -> None:
    host.configure(OFF + service_settings(mode="enforce", max_failures=1))
    host.define(*(plain_domain(name) for name in ("bad-1", "bad-2", "good")))
    for name in ("bad-1", "bad-2"):
        host.spoil(name)
    with Served(host.policy) as served:
        until(lambda: "too-many-failures" in served.causes(), "the limit to be reached")
        assert {host.pmu(name) for name in ("bad-1", "bad-2")} == {"default"}
        assert served.metric("pmuconf_service_failed_vms") == 2
        drift = served.metric("pmuconf_vms_drift")
        host.define(plain_domain("late"))
        until(lambda: served.metric("pmuconf_vms_drift") == drift + 1, "it to be seen all the same")
        assert host.pmu("late") == "default"
        for name in ("bad-1", "bad-2"):
            host.mend(name)
        served.hang_up()
        until(lambda: all_off(host), "all to be off after the reload")
        until(lambda: served.causes() == set(), "all to be well")
        assert served.stop() == 0


def test_domains_that_differ_in_more_than_their_pmu_afterwards_count_as_failures(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A libvirt that loses something with each define does not get them all."""
    real = Hypervisor.define
    monkeypatch.setattr(Hypervisor, "define", lambda self, one, xml: real(self, one, xml.replace("<acpi/>", "")))
    host.configure(OFF + "[libvirt]\nparallel = 1\n" + service_settings(mode="enforce", max_failures=1))
    host.define(*(plain_domain(f"vm-{number}") for number in range(5)))
    with Threaded(host.policy) as served:
        until(lambda: "too-many-failures" in served.causes(), "the limit to be reached")
        assert sum(state == "off" for state in host.pmus().values()) == 2


def test_one_domain_that_fails_keeps_none_of_the_others_from_its_turn(host: Host) -> None:
    host.configure(OFF + service_settings(mode="enforce", max_failures=1))
    host.define(*(plain_domain(name) for name in ("a-bad", *(f"good-{number:02}" for number in range(40)))))
    host.spoil("a-bad")
    with Served(host.policy) as served:
        until(lambda: sum(state == "off" for state in host.pmus().values()) == 40, "the others to be off")
        assert host.pmu("a-bad") == "default"
        assert served.metric('pmuconf_service_changes_total{outcome="failed"}') == 1
        assert served.stop() == 0


def test_without_a_journal_nothing_is_changed_and_all_is_seen(host: Host) -> None:
    host.configure(ENFORCE)
    host.journal_dir.write_text("a file")
    host.define(plain_domain("web"))
    with Served(host.policy) as served:
        until(lambda: served.causes() == {"journal-permission"}, "it to be told")
        host.define(plain_domain("late"))
        until(lambda: served.metric("pmuconf_vms_drift") == 2, "the other to be seen")
        assert set(host.pmus().values()) == {"default"}
        assert served.metric("pmuconf_service_waiting_vms") == 2
        host.journal_dir.unlink()
        served.hang_up()
        until(lambda: all_off(host), "both to be off")
        until(lambda: served.causes() == set(), "all to be well")
        assert served.stop() == 0


# ---- configuration, stop, crash ------------------------------------------------------------------------------------


def test_a_wrong_configuration_is_refused_and_the_old_one_stays(host: Host) -> None:
    host.configure(ENFORCE)
    with Served(host.policy) as served:
        served.until_passes(1)
        host.policy.write_text(host.policy.read_text() + "[policy]\ndefault = of\n")
        served.hang_up()
        line = served.until("reload-refused")
        assert line["cause"] == "config-invalid"
        assert "'of' is not allowed" in line["message"]
        assert served.causes() == {"config-invalid"}
        served.until_passes(2)
        host.define(plain_domain("web"))
        until(lambda: all_off(host), "web to be off by the old one")
        host.configure(ON + service_settings(mode="enforce"))
        served.hang_up()
        served.until("reloaded")
        until(lambda: served.causes() == set(), "all to be well")
        host.define(plain_domain("web2"))
        until(lambda: host.pmu("web2") == "on", "web2 to be on by the new one")
        assert served.stop() == 0


def test_a_wrong_configuration_at_the_start(host: Host) -> None:
    host.configure("[policy]\ndefault = of\n")
    ran = host.process("serve")
    assert (ran.status, ran.out) == (255, "")
    assert "(config-invalid)" in ran.err


def test_stopping_changes_nothing_even_if_libvirt_hangs(host: Host) -> None:
    """The main thread is in a call to libvirt then, which lasts as long as keepalive takes to notice."""
    host.configure(ENFORCE)
    host.define(*(domain(number) for number in range(5)))
    with Served(host.policy) as served:
        served.until_passes(1)
        before = host.xmls()
        os.kill(host.daemon.pid, signal.SIGSTOP)
        try:
            served.hang_up()
            served.until("reloaded")
            begin = time.monotonic()
            served.process.terminate()
            assert served.process.wait(15) == 0  # keepalive takes 20 seconds and more
            print(f"ended after {time.monotonic() - begin:.1f} s")
        finally:
            os.kill(host.daemon.pid, signal.SIGCONT)
    assert host.daemon.running, host.daemon.log.read_text()[-2000:]
    assert host.xmls() == before


def test_stopped_amid_a_burst_each_domain_has_its_old_or_its_new_state(host: Host) -> None:
    host.configure(ENFORCE)
    host.define(*(domain(number) for number in range(150)))
    before = {name: oracle.rest(xml) for name, xml in host.xmls().items()}
    with Served(host.policy) as served:
        served.until("changed")
        assert served.stop() == 0
    states = set(host.pmus().values())
    print(f"left: {states}")
    assert states <= {"default", "off"}
    assert {name: oracle.rest(xml) for name, xml in host.xmls().items()} == before
    assert _in_flight(host) == 0
    assert SECRET.encode() not in journal_bytes(host.journal_dir)


def test_killed_at_any_time_nothing_is_lost(host: Host) -> None:
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    chance = random.Random(seed)
    host.configure(ENFORCE)
    left_open = 0
    with Stream(host) as stream:
        for _ in range(KILLS):
            with Served(host.policy) as served:
                served.until("changed")
                time.sleep(chance.uniform(0, 0.3))
                served.kill()
            left_open += _in_flight(host) > 0
    print(f"{left_open} of {KILLS} kills left changes in flight")
    with Served(host.policy) as served:
        served.until_passes(1)
        until(lambda: all_off(host), "all to be off")
        assert served.stop() == 0
    assert _in_flight(host) == 0
    assert SECRET.encode() not in journal_bytes(host.journal_dir)
    check_stream(host, stream.texts)


def _in_flight(host: Host) -> int:
    connection = sqlite3.connect(host.journal)
    try:
        (number,) = connection.execute("SELECT count(*) FROM change WHERE status = 'in-flight'").fetchone()
        return int(number)
    finally:
        connection.close()


# ---- outputs -------------------------------------------------------------------------------------------------------


def test_files_are_kept_fresh(host: Host, tmp_path: Path) -> None:
    textfile, html = tmp_path / "pmuconf.prom", tmp_path / "report.html"
    host.configure(OFF + service_settings(mode="observe", textfile=textfile, html=html))
    with Served(host.policy) as served:
        served.until_passes(1)
        host.define(plain_domain("web"))
        until(lambda: html.exists() and ">web<" in html.read_text(), "the page to have web")
        until(lambda: "pmuconf_vms_drift 1.0" in textfile.read_text(), "the textfile to have web")
        host.daemon.kill()
        until(lambda: "pmuconf_service_connected 0.0" in textfile.read_text(), "the textfile to tell of the loss")
        assert "pmuconf_vms_drift 1.0" in textfile.read_text()
        assert served.stop() == 0
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []


def test_a_file_that_cannot_be_written_is_told_and_no_reason_to_end(host: Host, tmp_path: Path) -> None:
    host.configure(OFF + service_settings(mode="enforce", textfile=tmp_path / "none" / "pmuconf.prom"))
    with Served(host.policy) as served:
        until(lambda: served.causes() == {"output-unwritable"}, "it to be told")
        host.define(plain_domain("web"))
        until(lambda: all_off(host), "web to be off")
        (tmp_path / "none").mkdir()
        host.define(plain_domain("web2"))
        until(lambda: served.causes() == set(), "all to be well")
        assert served.stop() == 0
